"""A real run, killed with SIGKILL in five stages and started again each time, ends whole.

A start's dear part is importing Unsloth, so one process imports it, and every start is a fork of that one: about a
minute of processor time in all.
"""

from __future__ import annotations

import os
import signal
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
problems: {num_train: 12, num_rl: 4, num_eval: 2}
traces: {max_tokens: 320, batch_size: 4}
annotate: {num_traces: 4, num_rounds: 1}
compressor: {encoder: tiny, epochs: 1, learning_rate: 1e-3, max_tokens: 1024}
mixture: {tolerance: 0.1, min_tokens: 1}
sft: {max_steps: 3, save_steps: 1, batch_size: 2, learning_rate: 1e-3, max_tokens: 640}
probe: {num_samples: 1, min_success: 0.5, max_tokens: 320, batch_size: 5}
chrpo: {steps: 4, save_steps: 1, prompts: 1, group: 2, batch_size: 2, max_tokens: 60}
merge: {dtype: float32}
evaluate: {modes: ['0.2', policy], max_tokens: 60}
"""
# A stage, and a file with something in it that says that it is at work: journals, a first checkpoint that is not
# whole, a second one, a GGUF half made.
KILLS = (
    ("traces", "samples.jsonl"),
    ("sft", "**/checkpoint-1/*"),
    ("probe", "samples.jsonl"),
    ("chrpo", "**/checkpoint-2/*"),
    ("export", ".*/*"),
)
# For each line: forks `lite`, tells its pid, then its exit status.
SERVER = """
import os, sys
from lite import backend, cli
backend.prepare()
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.dup2(2, 1)
        cli.main(sys.argv[1:])
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""
SECONDS = 600  # at most, for one start


class Starts:
    """Starts one `lite train` after the other, each a process of its own."""

    def __init__(self, arguments: list[str], log: Path):
        self.log = log
        with open(log, "w") as out:
            self.server = subprocess.Popen(
                [sys.executable, "-c", SERVER, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
                # One thread: what a fork inherits of an OpenMP pool does not work.
                env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                cwd=log.parent,
            )

    def start(self) -> int:
        """Start one; give its pid."""
        self.server.stdin.write("\n")
        self.server.stdin.flush()
        self.deadline = time.monotonic() + SECONDS
        return int(self.server.stdout.readline())

    def is_running(self, pid: int) -> bool:
        assert time.monotonic() < self.deadline, self.told()
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def end(self) -> int:
        """Wait for the newest one; give its exit code, -9 where it was killed."""
        return os.waitstatus_to_exitcode(int(self.server.stdout.readline()))

    def told(self) -> str:
        return self.log.read_text()[-3000:]


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


@pytest.fixture
def starts(tmp_path):
    (tmp_path / "killed.yaml").write_text(RECIPE)
    starts = Starts(["train", "killed.yaml", "--out", "run"], tmp_path / "log")
    yield starts
    starts.server.kill()
    starts.server.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_in_five_stages_and_whole_at_the_end(starts, tmp_path):
    folder = tmp_path / "run"
    before: dict[str, int] = {}
    for stage, sign in KILLS:
        pid = starts.start()
        while not at_work(folder, stage, sign):
            assert starts.is_running(pid), f"ended before {stage} was seen at work:\n{starts.told()}"
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        assert starts.end() == -signal.SIGKILL
        now = done(folder)
        assert set(now) == set(NAMES[: NAMES.index(stage)]), f"{stage} was not killed at work"
        assert now.items() >= before.items(), "a stage that was done ran again"
        before = now

    starts.start()
    assert starts.end() == 0, starts.told()
    after = done(folder)
    assert after.items() >= before.items(), "a stage that was done ran again"
    assert set(after) == set(NAMES)

    run = Run(recipe.load(tmp_path / "killed.yaml"), folder)
    for name in NAMES:
        assert run.is_done(name)
        manifest = run.manifest(name)
        assert {file: sha256(run.path(name, file)) for file in manifest["sha256"]} == manifest["sha256"]
    for file, cls in RECORDS.items():
        records = read_records(folder / file, cls)
        assert records and len({(r.id, getattr(r, "asked", getattr(r, "mode", ""))) for r in records}) == len(
            records
        )
    left = [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".part", ".before")]
    assert left == [], "a kill's half file is left"

    starts.start()
    assert starts.end() == 0
    assert starts.told().count("done before, skipped") >= len(NAMES)
    assert done(folder) == after
