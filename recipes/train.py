"""Qwen3-0.6B on one 8 GB card: GSM8K, MATH and MetaMathQA from the Hub, a smaller share of each.

The whole pipeline in one file, to copy and change: the recipe is qwen3-0.6b-8gb.yaml, and the lines below are those of
its values that are changed first. A run that was cut goes on from where it was with the same command. Not yet run on a
GPU; see the recipe's header for what it should take.

    python qwen3-0.6b-8gb.py
"""

import sys
from pathlib import Path

from lite import config, pipeline
from lite.cli import recipes
from lite.errors import LiteError

NAME = "qwen3-0.6b-8gb"
CHANGES = [  # any key of the recipe
    "model=Qwen/Qwen3-0.6B",
    "problems.num_train=4000",
    "traces.method=sample",
    "sft.rank=32",
    "seed=0",
]

if __name__ == "__main__":
    try:
        run = pipeline.train(config.load(recipes.find(NAME), CHANGES), Path("runs") / NAME)
    except LiteError as fault:
        sys.exit(f"error: {fault}")
    print(run.path("evaluate", "report.md").read_text(encoding="utf-8"))
    print(f"model: {run.gguf('policy')}")
