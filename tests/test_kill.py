"""Real runs, killed with SIGKILL and started again, end whole and with the numbers of a run that was left alone.

A start's dear part is importing Unsloth, so one process imports it, and every start is a fork of that one: about a
minute and a half of processor time in all.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lite import config, tokens
from lite.data import word_problems
from lite.run import READS, Run
from lite.runtime.files import read_records, write_json, write_records
from lite.runtime.provenance import sha256
from lite.schema import Compressed, Labels, Problem, Row, TeacherRatio, Trace

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

RECIPE = """
name: killed
problems: {num_train: 12, num_rl: 4, num_eval: 2}
traces: {max_tokens: 320, batch_size: 4}
annotate: {num_traces: 4, num_rounds: 1}
compressor: {encoder: tiny, epochs: 3, batch_size: 1, learning_rate: 1e-3, max_tokens: 1024}
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
    ("compressor", "**/checkpoint-1/*"),
    ("sft", "**/checkpoint-1/*"),
    ("probe", "samples.jsonl"),
    ("chrpo", "**/checkpoint-2/*"),
    ("export", ".*/*"),
)
# For each line (a folder, a step, arguments): forks `lite` there, tells its pid, then its exit status. Where there is
# a step, the process is killed within it: after its first rollouts and gradients, before its update.
SERVER = """
import json, os, signal, sys
from lite import cli
from lite.models import unsloth
unsloth.prepare()
from transformers import Trainer
training_step = Trainer.training_step
for line in sys.stdin:
    folder, last, arguments = json.loads(line)
    def step(self, *given, **named):
        loss = training_step(self, *given, **named)
        if self.state.global_step + 1 == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        Trainer.training_step = step
        cli.main(arguments)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""
NAMES = tuple(READS)
SECONDS = 600  # at most, for one start


class Starts:
    """Starts one `lite` after the other in a folder, each a process of its own."""

    def __init__(self, server: subprocess.Popen, folder: Path):
        self.server, self.folder = server, folder

    def start(self, *arguments: str, killed_in: int = 0) -> int:
        """Start one, to be killed in a training step if it is named; give its pid."""
        self.server.stdin.write(json.dumps([str(self.folder), killed_in, arguments]) + "\n")
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
        return (self.folder / "log").read_text()[-3000:]


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


@pytest.fixture(scope="module")
def server():
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # One thread: what a fork inherits of an OpenMP pool does not work.
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    yield server
    server.kill()
    server.wait()


@pytest.fixture
def starts(server, tmp_path):
    return Starts(server, tmp_path)


def test_killed_in_six_stages_and_whole_at_the_end(starts, tmp_path):
    (tmp_path / "killed.yaml").write_text(RECIPE)
    train = ("train", "killed.yaml", "--out", "run")
    folder = tmp_path / "run"
    before: dict[str, int] = {}
    for stage, sign in KILLS:
        pid = starts.start(*train)
        while not at_work(folder, stage, sign):
            assert starts.is_running(pid), f"ended before {stage} was seen at work:\n{starts.told()}"
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        assert starts.end() == -signal.SIGKILL
        now = done(folder)
        assert set(now) == set(NAMES[: NAMES.index(stage)]), f"{stage} was not killed at work"
        assert now.items() >= before.items(), "a stage that was done ran again"
        before = now

    starts.start(*train)
    assert starts.end() == 0, starts.told()
    after = done(folder)
    assert after.items() >= before.items(), "a stage that was done ran again"
    assert set(after) == set(NAMES)

    run = Run(config.load(tmp_path / "killed.yaml"), folder)
    for name in NAMES:
        assert run.is_done(name)
        manifest = run.manifest(name)
        assert {file: sha256(run.path(name, file)) for file in manifest["sha256"]} == manifest["sha256"]
    for file, cls in RECORDS.items():
        records = read_records(folder / file, cls)
        assert records and len({(r.id, getattr(r, "asked", getattr(r, "mode", ""))) for r in records}) == len(
            records
        )
    left = [path for path in folder.rglob("*") if path.suffix in (".tmp", ".part", ".old")]
    assert left == [], "a kill's half file is left"

    starts.start(*train)
    assert starts.end() == 0
    assert starts.told().count("done before, skipped") >= len(NAMES)
    assert done(folder) == after


SHORT = """
compressor: {encoder: base, rank: 4, epochs: 2, batch_size: 2, learning_rate: 1e-2, max_tokens: 1024}
sft: {max_steps: 6, save_steps: 3, batch_size: 2, accumulation: 2, learning_rate: 1e-3, rank: 4, alpha: 8}
chrpo: {steps: 6, save_steps: 3, prompts: 6, group: 2, batch_size: 3, learning_rate: 1e-3, max_tokens: 60,
        fixed_share: 0.67, temperature: 1.5, top_p: 1.0}
"""  # hot, so that rewards differ, and with them what is learnt and sampled next


def test_killed_between_checkpoints_and_the_same_numbers_at_the_end(starts, tmp_path):
    """Killed in the fifth step, on from the checkpoint of the third, which is in CHRPO's second epoch."""
    (tmp_path / "short.yaml").write_text(SHORT)
    problems = list(word_problems.problems(4, seed=5))
    modes = [*tokens.MODES, *tokens.MODES]
    rows = [
        Row(p.id, mode, p.question, tokens.RATIOS[place % 5], p.cot, f"\\boxed{{{p.answer}}}")
        for place, (mode, p) in enumerate(zip(modes, problems * 3, strict=True))
    ]
    teachers = [
        TeacherRatio(p.id, p.question, p.answer, 0.4, full_tokens=60 + 20 * place)
        for place, p in enumerate(problems)
    ]
    labels = [
        Labels(
            p.id, p.question, p.cot, [[match.start(), match.end()] for match in re.finditer(r"\d+", p.cot)]
        )
        for p in word_problems.problems(7, seed=6)  # one held out, three steps an epoch
    ]
    alone, killed = (
        Run(config.load(tmp_path / "short.yaml"), tmp_path / name) for name in ("alone", "killed")
    )
    for run in (alone, killed):
        write_records(run.path("mixture", "rows.jsonl"), rows)
        write_records(run.path("probe", "ratios.jsonl"), teachers)
        write_records(run.path("annotate", "labels.jsonl"), labels)
        for name in ("annotate", "mixture", "probe"):
            write_json(run.path(name, "manifest.json"), {"fingerprint": run.fingerprint(name), "bytes": {}})

    before = b""
    for stage, log, adapter in (
        ("compressor", "loss.jsonl", "model"),
        ("sft", "loss.jsonl", "adapter"),
        ("chrpo", "rewards.jsonl", "adapter"),
    ):
        curves = []
        for run, killed_in in ((alone, 0), (killed, 5), (killed, 0)):
            starts.start(
                "train", "short.yaml", "--out", run.folder.name, "--stage", stage, killed_in=killed_in
            )
            code = starts.end()
            if killed_in:
                assert code == -signal.SIGKILL and not run.is_done(stage)
                checkpoints = run.path(stage, "checkpoints").glob("checkpoint-*/whole")
                assert {path.parent.name for path in checkpoints} == {"checkpoint-1", "checkpoint-3"}
                continue
            assert code == 0 and run.is_done(stage), starts.told()
            curves.append([json.loads(line) for line in run.path(stage, log).read_text().splitlines()])
        assert [point["step"] for point in curves[0] if "macro_f1" not in point] == [1, 2, 3, 4, 5, 6]
        assert curves[1] == curves[0]
        weights = [
            run.path(stage, adapter, "adapter_model.safetensors").read_bytes() for run in (alone, killed)
        ]
        assert weights[1] == weights[0] != before
        before = weights[0]
