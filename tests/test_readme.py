"""The README's commands exist: every `lite` line parses, and every path in the architecture is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from lite.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0].split(">")[0].strip()
    for block in BLOCKS
    for line in block.splitlines()
    if re.match(r"(uv run )?lite ", line)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command):
    words = shlex.split(command.removeprefix("uv run "))[1:]
    group = get_command(app)
    while hasattr(group, "commands"):
        group = group.commands[words.pop(0)]
    group.make_context("lite", words)  # raises on an unknown option or a missing argument


def test_there_are_commands():
    assert len(COMMANDS) >= 6


def test_first_screen():
    first = BLOCKS[0]
    assert "pip install uv && uv run lite quickstart" in first
    assert "pip install uv && uv run pytest" in first


def test_test_command_is_what_ci_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install uv" in script and "uv run pytest" in script
