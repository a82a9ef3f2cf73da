"""The whole pipeline in one file, to copy and change: train a packaged recipe or a recipe file.

    python train.py qwen3-0.6b-8gb sft.rank=16 seed=1

A run that was cut off goes on with the same command. Run folder: runs/ and the recipe's name.
"""

import sys
from pathlib import Path

from lite import config, pipeline
from lite.cli import recipes
from lite.errors import LiteError

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} NAME [KEY=VALUE ...], with NAME one of {', '.join(recipes.names())}")
    try:
        recipe = config.load(recipes.find(sys.argv[1]), sys.argv[2:])
        run = pipeline.train(recipe, Path("runs") / recipe.name)
    except LiteError as fault:
        sys.exit(f"error: {fault}")
    print(run.path("evaluate", "report.md").read_text(encoding="utf-8"))
    print(f"model: {run.gguf('policy')}")
