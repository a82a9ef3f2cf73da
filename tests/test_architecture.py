"""Walls between the rooms (contracts in pyproject.toml), a laptop part without torch, and a quick `lite --help`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf

ROOT = Path(__file__).parents[1]
SPELLED = ("<COMP_20>", "<COMP_100>", "<COMP_POLICY>")
HEAVY = ("torch", "unsloth", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate")


def test_import_contracts():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_only_tokens_spells_control_tokens():
    files = [path for room in ("lite", "export") for path in (ROOT / room).rglob("*.py")]
    spelled = [path.name for path in files if any(token in path.read_text("utf-8") for token in SPELLED)]
    assert spelled == ["tokens.py"]


def loaded_by(*arguments: str, cwd: Path) -> tuple[int, set[str]]:
    """Run `lite ...` in a process of its own; give its exit code and the modules it loaded."""
    code = (
        "import atexit, sys; from lite import cli;"
        "atexit.register(lambda: sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules)));"
        "cli.main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input="1+1?\n", capture_output=True, text=True, cwd=cwd
    )
    assert "MODULES " in done.stderr, done.stderr
    return done.returncode, set(done.stderr.rpartition("MODULES ")[2].split())


def test_help_loads_almost_nothing(tmp_path):
    code, modules = loaded_by("--help", cwd=tmp_path)
    assert code == 0
    assert not modules & {*HEAVY, "numpy", "yaml", "rich", "sympy", "llama_cpp", "matplotlib", "lite.run"}


def test_help_is_quick(tmp_path):
    """Half a second from start to end, less what the process stood in line for a processor on a busy machine."""
    code = (
        "import atexit; from lite import cli;"
        "atexit.register(lambda: print('WAITED', open('/proc/self/schedstat').read().split()[1]));"
        "cli.main(['--help'])"
    )

    def seconds() -> float:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
        )
        whole = time.monotonic() - started
        return whole - int(done.stdout.rpartition("WAITED ")[2]) / 1e9

    assert min(seconds() for _ in range(3)) < 0.5


def test_the_laptop_verbs_load_no_torch(tmp_path):
    """Through generation, grading and the report, down to the grammar of answers."""
    write_tiny_gguf(tmp_path / "tiny.gguf", end_bias=3.0)  # ends its replies, so that they are graded
    (tmp_path / "p.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    arguments = ("--problems", "p.jsonl", "--out", "report", "--ratios", "0.2", "--max-tokens", "200")
    code, modules = loaded_by("eval", "tiny.gguf", *arguments, cwd=tmp_path)
    assert code == 0 and not modules & set(HEAVY)
    replies = [json.loads(line) for line in (tmp_path / "report" / "replies-1.0.jsonl").open()]
    assert [reply["stop"] for reply in replies] == ["eos"]
    assert {"lite.grading", "lite.eval.report", "matplotlib"} <= modules
    for verb in (("ask", "tiny.gguf", "1+1?"), ("chat", "tiny.gguf"), ("bench", "tiny.gguf", "--num", "1")):
        code, modules = loaded_by(*verb, "--max-tokens", "8", cwd=tmp_path)
        assert code == 0 and not modules & set(HEAVY)
    code, modules = loaded_by("verify", "tiny.gguf", cwd=tmp_path)
    assert code == 0 and not modules & {*HEAVY, "gguf"}
    graded = "import sys; from lite.grading import same; print(same('x/2', '0.5x'), 'torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", graded], text=True) == "True False\n"


@pytest.mark.parametrize(
    "arguments", [("problems", "quickstart", "--num", "1"), ("recipes", "ls"), ("plan", "quickstart")]
)
def test_small_verbs_load_no_torch(tmp_path, arguments):
    code, modules = loaded_by(*arguments, cwd=tmp_path)
    assert code == 0 and not modules & set(HEAVY)
