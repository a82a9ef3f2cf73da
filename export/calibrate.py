"""How long the product thinks at each ratio, for its GGUF (see `lite.gguf.calibration`).

Two sources, the better one first:
- the replies of the evaluate stage, on held-out problems and on the GGUF itself, where a run has them: that is
  when `lite export` packs a run that is finished;
- else a measurement of the merged policy model in the export stage, which comes before evaluate: one reply per
  ratio to some of the RL problems, with the settings of the probe. The probe's own replies would cost nothing,
  but they are of the model before CHRPO, which moves lengths; this costs NUM_PROBLEMS * 5 replies, a part of
  what the probe takes.
"""

from __future__ import annotations

import json
from pathlib import Path

from lite.errors import LiteError
from lite.gguf.calibration import Calibration, summarise
from lite.models import unsloth
from lite.models.rollouts import Task, room, sample_replies
from lite.run import Run
from lite.runtime.files import read_records
from lite.schema import Problem
from lite.tokens import RATIOS, encode_prompt

NUM_PROBLEMS = 48


def measure(run: Run, journal: Path) -> Calibration:
    """Sample the merged policy model at each ratio; `journal` keeps what is done."""
    model_folder = str(run.path("merge", "policy"))
    problems = read_records(run.path("problems", "rl.jsonl"), Problem)[:NUM_PROBLEMS]
    tokenizer = unsloth.load_tokenizer(model_folder)
    tasks = [
        Task(f"{problem.id}/{ratio}", encode_prompt(tokenizer, problem.question, str(ratio)), problem.answer)
        for problem in problems
        for ratio in RATIOS
    ]
    config = run.recipe.probe
    model, _ = unsloth.load(model_folder, max_tokens=room(tasks, config), four_bit=run.recipe.sft.four_bit)
    samples = sample_replies(model, tokenizer, tasks, config, journal, seed=run.recipe.seed, name="calibrate")
    lengths: dict[float, list[int]] = {ratio: [] for ratio in RATIOS}
    for sample in samples:
        lengths[float(sample.id.rpartition("/")[2])].append(sample.num_tokens)
    return summarise(lengths)


def load(path: Path) -> Calibration:
    """What the export stage left of `measure`."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return Calibration(**{name: tuple(numbers) for name, numbers in values.items()})


def of_replies(folder: Path) -> Calibration | None:
    """From the replies that `lite.eval.evaluate` left in a folder; None where a ratio was not measured."""
    lengths: dict[float, list[int]] = {}
    for ratio in RATIOS:
        path = folder / f"replies-{ratio}.jsonl"
        if not path.is_file():
            return None
        try:
            with open(path, encoding="utf-8") as lines:
                lengths[ratio] = [int(json.loads(line)["think_tokens"]) for line in lines]
        except (ValueError, KeyError, TypeError):
            raise LiteError(f"{path}: not the replies of a report; run the stage evaluate again") from None
        if not lengths[ratio]:
            return None
    return summarise(lengths)
