"""The acceptance run for a card, dry: its large parts on a CPU, with a tiny shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.train
def test_the_large_parts_run_dry(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "recipes" / "bench" / "gpu.py"),
        "--dry-run",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, "--parts", "versions,sft,chrpo,plain", "--limit", "600"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    checks = [json.loads(line) for line in (tmp_path / "checks.jsonl").read_text().splitlines()]
    losses = {check["part"]: check["loss"] for check in checks if "loss" in check}
    assert losses["sft"] == pytest.approx(
        losses["plain"], rel=0.01
    )  # the same rows through Unsloth and without
    assert "| chrpo | finished | yes |" in (tmp_path / "checks.md").read_text()
