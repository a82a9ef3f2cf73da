"""Compare the method with its rivals and its ablations: the same problems, the same model, the same training budget.

    python recipes/bench/methods.py --out methods [--seeds 0,1,2] [--rows ours,random] [--set KEY=VALUE]

Every row is a run of the recipe `quickstart` with the keys that its line in ROWS changes; stages that the change does
not touch are shared with the row "ours". Rows of SFT alone stop before CHRPO. Writes methods.json and methods.md:
accuracy, tokens, and what a row does worse or better than "ours", problem by problem (paired bootstrap, 95 %). Rows of SFT alone are compared with "our compressor", ours without CHRPO.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from lite.errors import LiteError
from lite.eval import report
from lite.eval.evaluate import Graded, grade
from lite.infer.engine import Engine
from lite.infer.request import question
from lite.runtime.files import read_records, write_json
from lite.schema import Problem
from lite.tokens import BASE, POLICY, SFT_POLICY

NO_LENGTH = ["chrpo.use_mode=false", "chrpo.use_ctrl=false", "chrpo.use_cal=false"]
ROWS: dict[str, list[str]] = {  # what each run changes; the first is the method
    "ours": [],
    "our compressor": [],
    "random drop": ["compress.method=random"],
    "self-information drop": ["compress.method=self-information"],
    "rules": ["compress.method=rules"],
    "token-wise": ["compress.method=token-wise"],
    "without R_ctrl": ["chrpo.use_ctrl=false"],
    "without R_mode and R_ctrl": ["chrpo.use_mode=false", "chrpo.use_ctrl=false"],
    "without R_cal": ["chrpo.use_cal=false"],
    "correct_only": ["chrpo.correct_only=true"],
    "GRPO with a length penalty": [*NO_LENGTH, "chrpo.length_penalty=0.4"],
}
SFT_ROWS = ("our compressor", "random drop", "self-information drop", "rules", "token-wise")
SHARED = ("problems", "traces", "annotate", "compressor", "compress", "mixture", "sft", "probe")


def train(name: str, seed: int, out: Path, overrides: list[str]) -> Path:
    """Run a row to its report; returns its run folder."""
    folder, ours = out / f"{name.replace(' ', '-')}-{seed}", out / f"ours-{seed}"
    if not folder.exists() and ours.exists():
        for stage in SHARED:  # those that the change touches are made anew
            if (ours / stage).exists():
                shutil.copytree(ours / stage, folder / stage)
    changes = [*overrides, *ROWS[name], f"seed={seed}"]
    if name in SFT_ROWS:
        changes += [
            "chrpo.steps=1",
            f"evaluate.modes=[0.2, 0.4, {SFT_POLICY}]",
        ]  # one step: no training to speak of
    call = [sys.executable, "-m", "lite.cli", "train", "quickstart", "--out", str(folder)]
    for change in changes:
        call += ["--set", change]
    subprocess.run(call, check=True)
    return folder


def replies(folder: Path) -> dict[str, list[Graded]]:
    found = (folder / "evaluate").glob("replies-*.jsonl")
    return {path.stem.removeprefix("replies-"): read_records(path, Graded) for path in found}


def ask_base(folder: Path, budget: int, max_tokens: int) -> dict[str, list[Graded]]:
    """The untrained model, greedy: asked in words to be brief, with thinking off, and held to a budget."""
    problems = read_records(folder / "problems" / "eval.jsonl", Problem)
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "base, asked to be brief": (" Think once", {}),
        "base, thinking off": ("", {"thinking": False}),
        "base, capped": ("", {"budget": budget}),
    }
    [gguf] = (folder / "export").glob("*-base-*.gguf")
    found: dict[str, list[Graded]] = {}
    with Engine(gguf, batch_size=16) as engine:
        for way, (words, settings) in ways.items():
            asks = [question(p.question + words, BASE, max_tokens=max_tokens, **settings) for p in problems]
            graded: dict[int, Graded] = {}

            def on_done(index: int, reply, graded=graded) -> None:
                graded[index] = grade(problems[index], reply, 0.0)

            engine.generate(asks, on_done)
            found[way] = [graded[index] for index in range(len(problems))]
    return found


def line(name: str, seed: int, mine: list[Graded], ours: list[Graded]) -> dict[str, Any]:
    """A row of the table, with its paired differences from "ours"."""
    row = report.row(name, mine, {})
    return {
        "name": name,
        "seed": seed,
        **{key: row[key] for key in ("accuracy", "accuracy_ci95", "think_tokens", "total_tokens")},
        "chosen": {
            str(r): sum(reply.ratio == r for reply in mine) for r in sorted({m.ratio or 0 for m in mine})
        },
        "less_ours": report.compare(mine, ours),
    }


def measure(seed: int, names: list[str], out: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """All rows of a seed."""
    folder = train("ours", seed, out, overrides)
    main = replies(folder)
    policy = main[POLICY]
    mean = round(sum(reply.think_tokens for reply in policy) / len(policy))
    extra = ask_base(folder, mean, 520)
    lines = [line(mode, seed, main[mode], policy) for mode in (BASE, SFT_POLICY, POLICY)]
    lines += [line(way, seed, found, policy) for way, found in extra.items()]
    first = replies(train("our compressor", seed, out, overrides)) if {*names} & {*SFT_ROWS} else {}
    for name in names:
        if name == "ours":
            continue
        made = first if name == "our compressor" else replies(train(name, seed, out, overrides))
        if name in SFT_ROWS:
            lines += [
                line(f"{name}, SFT at {m}", seed, made[m], first[m]) for m in ("0.2", "0.4", SFT_POLICY)
            ]
        else:
            lines.append(line(name, seed, made[POLICY], policy))
    return lines


def to_markdown(lines: list[dict[str, Any]]) -> str:
    text = [
        "| row | seed | accuracy | think tokens | all tokens | accuracy less ours, points (95 %) | think tokens less ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in lines:
        less = row["less_ours"]
        low, high = (100 * bound for bound in less["accuracy_ci95"])
        few, many = less["think_tokens_ci95"]
        text.append(
            f"| {row['name']} | {row['seed']} | {row['accuracy']:.1%} | {row['think_tokens']:.1f} | {row['total_tokens']:.1f} "
            f"| {100 * less['accuracy']:+.1f} ({low:+.1f} to {high:+.1f}) | {less['think_tokens']:+.1f} ({few:+.1f} to {many:+.1f}) |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and the table")
    parser.add_argument("--seeds", default="0", help="training seeds, separated by commas")
    parser.add_argument("--rows", default=",".join(ROWS), help="rows, separated by commas")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    names = options.rows.split(",")
    for name in names:
        if name not in ROWS:
            raise LiteError(f"row {name!r} is unknown; the rows are {', '.join(ROWS)}")
    lines: list[dict[str, Any]] = []
    for seed in map(int, options.seeds.split(",")):
        lines += measure(seed, names, options.out, options.overrides)
        write_json(options.out / "methods.json", lines)
        (options.out / "methods.md").write_text(to_markdown(lines), encoding="utf-8")
    print(to_markdown(lines))


if __name__ == "__main__":
    main()
