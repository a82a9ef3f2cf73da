"""Peak memory of the stage `sft`: what lite/plan/estimate.py expects against what is measured.

    python recipes/bench/memory.py                                                            # the tiny reasoner
    python recipes/bench/memory.py --model FOLDER --source gym:gsm_symbolic --batch-size 4 --accumulation 4 --steps 5

The stage runs for real, in a run folder that holds nothing but a mixture (see recipes/bench/sft.py). A bar of 25 %
is asked of the difference.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from sft import make_rows

from lite.config import Recipe, Sft
from lite.models import unsloth
from lite.plan import lengths
from lite.plan.estimate import Planner
from lite.plan.machine import this_machine
from lite.plan.model_shape import PlainTokenizer, read_shape
from lite.run import Run
from lite.runtime import hardware
from lite.runtime.files import write_records
from lite.train import sft


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="quickstart", help="a model folder or hub name")
    parser.add_argument("--source", default="quickstart", help="of problems with worked solutions")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16, help="rows in one pass")
    parser.add_argument("--accumulation", type=int, default=2, help="passes in one step")
    parser.add_argument("--max-tokens", type=int, default=640, help="longer rows are left out")
    parser.add_argument("--four-bit", action="store_true")
    options = parser.parse_args()
    config = Sft(
        max_steps=options.steps,
        batch_size=options.batch_size,
        accumulation=options.accumulation,
        learning_rate=1e-3,
        max_tokens=options.max_tokens,
        four_bit=options.four_bit,
    )
    tokenizer = unsloth.load_tokenizer(options.model)
    rows = make_rows(options.source, options.steps * options.batch_size * options.accumulation, tokenizer, 0)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Recipe(model=options.model, sft=config), Path(folder))
        write_records(run.path("mixture", "rows.jsonl"), rows)
        known = lengths.of_run(
            run.recipe, run.folder, PlainTokenizer(options.model), lambda stage: stage == "mixture"
        )
        planner = Planner(run.recipe, read_shape(options.model), known, this_machine(), None)
        expected = planner.all()["sft"].shown()
        hardware.reset_peak_memory()
        told = sft.run(run)
        measured = hardware.peak_memory_gb()
    share = expected["memory_gb"] / measured - 1
    print(f"expected {expected['memory_gb']:.2f} GB, measured {measured:.2f} GB: {share:+.0%}; {told}")


if __name__ == "__main__":
    main()
