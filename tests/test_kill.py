"""A real run, killed with SIGKILL in four stages and started again each time, ends whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lite import recipe
from lite.records import Compressed, Labels, Problem, Row, TeacherRatio, Trace, read_records
from lite.stages import NAMES, Run, sha256

RECIPE = """
name: killed
problems: {num_train: 60, num_rl: 6, num_eval: 4}
traces: {max_tokens: 320, batch_size: 12}
annotate: {num_traces: 6, num_rounds: 1}
compressor: {encoder: tiny, epochs: 1, learning_rate: 1e-3, max_tokens: 1024}
sft: {max_steps: 4, save_steps: 1, batch_size: 4, learning_rate: 1e-3, max_tokens: 640}
probe: {num_samples: 1, min_success: 0.5, max_tokens: 320, batch_size: 32}
chrpo: {steps: 3, save_steps: 1, prompts: 2, group: 2, batch_size: 4, max_tokens: 120}
merge: {dtype: float32}
evaluate: {modes: [base, '0.2', policy, sft-policy], max_tokens: 200}
"""
# A stage, and a file with something in it that says that it is at work: a journal, a first checkpoint that is
# not whole, a second one, a GGUF half made.
KILLS = (
    ("traces", "*.jsonl"),
    ("sft", "**/checkpoint-1/*"),
    ("chrpo", "**/checkpoint-2/*"),
    ("export", ".*/*"),
)
RECORDS = {
    "problems/train.jsonl": Problem,
    "problems/rl.jsonl": Problem,
    "problems/eval.jsonl": Problem,
    "traces/traces.jsonl": Trace,
    "annotate/labels.jsonl": Labels,
    "compress/compressed.jsonl": Compressed,
    "mixture/rows.jsonl": Row,
    "probe/ratios.jsonl": TeacherRatio,
}


def start(recipe_file: Path, folder: Path, log: Path) -> subprocess.Popen:
    with open(log, "a") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "lite.cli", "train", str(recipe_file), "--out", str(folder)],
            stdout=out,
            stderr=out,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            cwd=log.parent,
        )


def size(path: Path) -> int:
    """Bytes in a file that may be gone by now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def at_work(folder: Path, stage: str, sign: str) -> bool:
    at = folder / stage
    return not (at / "manifest.json").exists() and any(size(path) for path in at.glob(sign))


def done(folder: Path) -> dict[str, int]:
    """The stages that are done, and when their manifests were written."""
    manifests = {name: folder / name / "manifest.json" for name in NAMES}
    return {name: path.stat().st_mtime_ns for name, path in manifests.items() if path.exists()}


@pytest.mark.skipif(
    "LITE_KILL_TEST" not in os.environ, reason="minutes long, and not yet seen to pass; set LITE_KILL_TEST=1"
)
def test_killed_in_four_stages_and_whole_at_the_end(tmp_path):
    recipe_file, folder, log = tmp_path / "killed.yaml", tmp_path / "run", tmp_path / "log"
    recipe_file.write_text(RECIPE)
    before: dict[str, int] = {}
    for stage, sign in KILLS:
        process = start(recipe_file, folder, log)
        try:
            while not at_work(folder, stage, sign):
                assert process.poll() is None, (
                    f"ended before {stage} was seen at work:\n{log.read_text()[-3000:]}"
                )
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
        now = done(folder)
        assert stage not in now, f"{stage} was done before the kill came; it was not killed at work"
        assert now.items() >= before.items(), "a stage that was done ran again"
        assert set(now) == set(NAMES[: NAMES.index(stage)])
        before = now

    process = start(recipe_file, folder, log)
    assert process.wait(timeout=300) == 0, log.read_text()[-3000:]
    after = done(folder)
    assert after.items() >= before.items(), "a stage that was done ran again"
    assert set(after) == set(NAMES)

    run = Run(recipe.load(recipe_file), folder)
    for name in NAMES:
        assert run.is_done(name)
        manifest = run.manifest(name)
        assert {file: sha256(run.path(name, file)) for file in manifest["sha256"]} == manifest["sha256"]
    for file, cls in RECORDS.items():
        records = read_records(folder / file, cls)
        assert records and len({(r.id, getattr(r, "asked", getattr(r, "mode", ""))) for r in records}) == len(
            records
        )
    left = [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".part")]
    assert left == [], "a kill's half file is left"

    log.write_text("")
    assert start(recipe_file, folder, log).wait(timeout=60) == 0
    assert log.read_text().count("done before, skipped") == len(NAMES)
    assert done(folder) == after
