"""Kinds of compressors on one run's labels: what each learns, keeps of a chain's meaning, and costs.

    lite train quickstart --until annotate
    python recipes/bench/encoders.py runs/quickstart "encoder=tiny" "encoder=base rank=16 learning_rate=1e-3"

Each setting, keys of the recipe's section `compressor`, is trained on the run's labels under --out, scores the run's
traces, and is measured on problems of the run's source by `lite fidelity`'s measures at --ratio. Prints a Markdown row each.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from lite import config
from lite.compress.classifier import CompressorModel
from lite.data.problems import load
from lite.eval.fidelity import Judge, measure
from lite.models import unsloth
from lite.run import Run
from lite.runtime import hardware
from lite.runtime.files import read_records
from lite.schema import Trace
from lite.train import classifier


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("run", type=Path, help="a run folder whose stage annotate is done")
    options.add_argument("settings", nargs="+", help='such as "encoder=base rank=16"')
    options.add_argument("--num", type=int, default=100, help="problems for fidelity")
    options.add_argument("--ratio", type=float, default=0.2)
    options.add_argument("--seed", type=int, default=99, help="of the problems")
    options.add_argument("--out", type=Path, default=Path("runs/encoders"))
    asked = options.parse_args()

    whole = config.load(asked.run / "recipe.yaml")
    problems = load(whole.problems.source[0].name, asked.num, asked.seed)
    traces = read_records(asked.run / "traces/traces.jsonl", Trace)
    unsloth.prepare()
    judge = Judge.load(whole.model)
    print("| setting | macro-F1 | answer | step | result | training s | peak GB | compressing tokens/s |")
    print("|---|---|---|---|---|---|---|---|")
    for place, setting in enumerate(asked.settings):
        changes = [f"compressor.{change}" for change in setting.split()]
        run = Run(config.load(asked.run / "recipe.yaml", changes), asked.out / str(place))
        labels = run.path("annotate", "labels.jsonl")
        labels.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(asked.run / "annotate/labels.jsonl", labels)
        hardware.reset_peak_memory()
        started = time.monotonic()
        measured = classifier.run(run)
        seconds = time.monotonic() - started
        peak = hardware.peak_gpu_memory_gb() or hardware.peak_memory_gb()
        model = CompressorModel.load(run.path("compressor", "model"))
        thinks = [trace.think for trace in traces]
        num_tokens = sum(map(len, model.tokenizer(thinks, add_special_tokens=False)["input_ids"]))
        started = time.monotonic()
        model.score([trace.question for trace in traces], thinks, run.recipe.compress.batch_size)
        rate = num_tokens / (time.monotonic() - started)
        made = measure(model, judge, problems, [asked.ratio], cohesion=whole.compress.cohesion)
        [row] = [row for row in made["rows"] if row["method"] == "trained"]
        cells = []
        for name in ("answer", "step", "result"):
            mean, (low, high) = row[name]["mean"], row[name]["ci95"]
            cells.append(f"{mean:.2f} ({low:.2f} to {high:.2f})")
        print(
            f"| {setting} | {measured['macro_f1']} | {' | '.join(cells)} | {seconds:.0f} | {peak:.2f} | {rate:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
