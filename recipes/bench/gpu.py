"""Acceptance of the training path on a graphics card: numbers that must hold, peaks against the plan, speed.

    python recipes/bench/gpu.py --card-gb 24 --out DIR                      # any CUDA card, offline where models are here
    python recipes/bench/gpu.py --card-gb 24 --out DIR --model FOLDER       # your model in place of random weights
    python recipes/bench/gpu.py --dry-run --out DIR                         # every part on a CPU, with a tiny shape

Every part runs in a process of its own under a time limit (--limit) and writes one JSON line per check to
DIR/checks.jsonl at once; a part that fails does not stop the next, and DIR/checks.md holds the table at the end.
Parts on the quickstart's real weights: `numbers` and `pipeline` in bf16 and NF4, `resume`. Parts on a large model, with
the process held to --card-gb: `sft`, `chrpo`, `decode`, and `plain`, which is TRL, PEFT and bitsandbytes without
Unsloth on the rows of `sft`. Without --model the large model has random weights in the shape of a Qwen3
(--shape 0.6b, 1.7b, 4b) and Qwen's tokenizer: right for memory and speed, useless for replies.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PARTS = (
    "versions",
    "numbers-bf16",
    "numbers-nf4",
    "pipeline-bf16",
    "pipeline-nf4",
    "resume",
    "sft",
    "chrpo",
    "decode",
    "plain",
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--card-gb", type=float, default=24.0, help="GB (1e9 bytes) that a large model may take"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of checks.jsonl, checks.md and the logs"
    )
    parser.add_argument("--model", default="", help="a model folder or hub name in place of random weights")
    parser.add_argument("--tokenizer", default="Qwen/Qwen3-1.7B", help="of the random weights")
    parser.add_argument("--shape", default="1.7b", choices=("tiny", "0.6b", "1.7b", "4b"))
    parser.add_argument("--work", type=Path, help="where models and runs go; default: DIR/work")
    parser.add_argument("--rows", type=int, default=8, help="rows in one pass of SFT and CHRPO")
    parser.add_argument("--tokens", type=int, default=6144, help="of the longest SFT row")
    parser.add_argument("--rollouts", type=int, default=64, help="of a CHRPO step")
    parser.add_argument("--rollout-tokens", type=int, default=2048)
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="those to run; parts joined by + run at once"
    )
    parser.add_argument("--limit", type=float, default=300, help="seconds for each part")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with a tiny shape")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    options.work = (options.work or options.out / "work").resolve()
    if options.dry_run:
        options.shape, options.tokenizer = "tiny", "quickstart"
        options.rows, options.tokens, options.rollouts, options.rollout_tokens = 2, 64, 8, 32
    if options.part is None and not options.dry_run and subprocess.call(["nvidia-smi", "-L"]) != 0:
        parser.error("no CUDA card is here; --dry-run runs every part on a CPU")
    return options


def start(options: argparse.Namespace, part: str) -> tuple[subprocess.Popen, Path]:
    """A part in a process of its own; its output goes to DIR/<part>.log."""
    log = options.out / f"{part}.log"
    environment = dict(os.environ)
    if options.dry_run:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), *sys.argv[1:], "--part", part]
    with open(log, "w") as handle:
        process = subprocess.Popen(
            command, stdout=handle, stderr=subprocess.STDOUT, env=environment, preexec_fn=os.setpgrp
        )
    return process, log


def finish(
    options: argparse.Namespace, part: str, process: subprocess.Popen, log: Path, began: float
) -> None:
    """Wait for a part; a check `finished` says how it ended."""
    try:
        code: int | str = process.wait(max(1.0, options.limit - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        code = f"cut off after {options.limit:.0f} s"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    line = {"part": part, "check": "finished", "ok": code == 0, "seconds": round(time.monotonic() - began, 1)}
    if code != 0:
        line |= {"exit": code, "last": " / ".join(lines[-3:])[-400:]}
    with open(options.out / "checks.jsonl", "a") as handle:
        handle.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def table(checks: list[dict]) -> str:
    """The checks as Markdown."""
    lines = ["| part | check | ok | measured |", "|---|---|---|---|"]
    for check in checks:
        rest = {name: value for name, value in check.items() if name not in ("part", "check", "ok")}
        told = ", ".join(f"{name} {value}" for name, value in rest.items()).replace("|", "\\|")
        mark = {True: "yes", False: "NO"}.get(check.get("ok"), "")
        lines.append(f"| {check['part']} | {check['check']} | {mark} | {told} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "checks.jsonl").unlink(missing_ok=True)
    for together in options.parts.split(","):
        began = time.monotonic()
        started = [(part, *start(options, part)) for part in together.split("+")]
        for part, process, log in started:
            finish(options, part, process, log, began)
    checks = [json.loads(line) for line in (options.out / "checks.jsonl").read_text().splitlines()]
    (options.out / "checks.md").write_text(table(checks))
    print(table(checks))
    return 0 if all(check.get("ok", True) for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
