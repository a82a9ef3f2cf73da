"""Arrows between rooms point right, the laptop part is free of torch, and `lite --help` is quick."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf

import export
import lite
from lite.tokens import CONTROL_TOKENS, SFT_POLICY

ROOT = Path(lite.__file__).parent
FILES = sorted(path for folder in (ROOT, Path(export.__file__).parent) for path in folder.rglob("*.py"))
# From left to right. What is not named is a base: lite/*.py and the quickstart world.
ROOMS = ("base", "lite.compress", "lite.train", "export", "lite.infer", "lite.measure", "lite.cli")
HEAVY = ("torch", "unsloth", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate")
TRAINING = (
    "lite.backend",
    "lite.train",
    "lite.compress",
    "export.merge",
)  # may load heavy packages at their top


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room_of(module: str) -> int:
    for place, room in enumerate(ROOMS):
        if module == room or module.startswith(f"{room}."):
            return place
    return 0


def imports(tree: ast.AST) -> set[str]:
    """Every module that a piece of code imports, and every name taken from one."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def imports_at_top(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return set().union(
        *(imports(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    )


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_arrows_point_right(path):
    here = module_of(path)
    backwards = {
        name
        for name in imports(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] in ("lite", "export") and room_of(name) > room_of(here)
    }
    assert backwards == set(), f"{here} (room {ROOMS[room_of(here)]}) reaches to the right"


def test_the_rooms_are_told_apart():
    assert room_of("lite.records") == room_of("lite.quickstart.world") == room_of("lite.recipe.Recipe") == 0
    assert room_of("lite.compress.units") == 1 and room_of("lite.train.sft.run") == 2
    assert (
        room_of("export.merge")
        == 3
        < room_of("lite.infer.engine")
        < room_of("lite.measure")
        < room_of("lite.cli")
    )


@pytest.mark.parametrize("path", [path for path in FILES if path != ROOT / "backend.py"], ids=module_of)
def test_only_the_backend_names_unsloth(path):
    assert not {
        name for name in imports(ast.parse(path.read_text())) if name.split(".")[0].startswith("unsloth")
    }


@pytest.mark.parametrize("path", [path for path in FILES if path != ROOT / "tokens.py"], ids=module_of)
def test_only_tokens_spells_control_tokens(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings may
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n not in prose]
    assert not [text for text in texts if isinstance(text, str) and any(t in text for t in CONTROL_TOKENS)]


@pytest.mark.parametrize("path", [path for path in FILES if path != ROOT / "tokens.py"], ids=module_of)
def test_only_tokens_spells_sft_policy(path):
    constants = [
        n.value for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)
    ]
    assert SFT_POLICY not in constants


@pytest.mark.parametrize("path", [p for p in FILES if not module_of(p).startswith(TRAINING)], ids=module_of)
def test_the_laptop_part_has_no_heavy_import_at_its_top(path):
    assert not {name for name in imports_at_top(path) if name.split(".")[0] in HEAVY}


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
    assert not modules & {*HEAVY, "numpy", "yaml", "rich", "sympy", "llama_cpp", "matplotlib", "lite.stages"}


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
    assert {"lite.grading", "lite.measure.report", "matplotlib"} <= modules
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
