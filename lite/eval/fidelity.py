"""What a compressor keeps of a chain of thought's meaning, against controls at the same realised ratio.

Takes problems with worked solutions, a trained compressor and a reasoner, gives fidelity.json and fidelity.md. Every
solution is cut to every ratio by each method; the reasoner then judges what is left, by three measures in nats:

- answer fidelity: log p(gold answer | question, compressed chain);
- step fidelity: mean over the gold equations of log p(result | question, compressed chain before the equation's
  place). A compressor that keeps the last equation only looks perfect on the first measure, not on this one;
- result fidelity: the same, with the compressed chain before the *result's* place: the equation's own left side stands
  there if it was kept. Without that left side a small reasoner hardly tells a whole chain from none (docs/log.md).

Beside them: the share of gold equations kept whole, the numbers and formulas that were cut (found by reading the
text again, not from the selection; must be 0), and the realised ratio in the reasoner's tokens. Intervals are 95 %
bootstraps over problems; differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lite import config
from lite.compress.baselines import rule_scores, self_information
from lite.compress.classifier import CompressorModel
from lite.compress.compress import Scores, choose, cohere, encoder
from lite.compress.compress import load as load_compressor
from lite.compress.logprobs import Scored, log_p
from lite.compress.select import join, random_scores
from lite.compress.units import segment
from lite.errors import LiteError
from lite.eval.equations import equations, num_cut
from lite.eval.report import bootstrap_mean
from lite.models import pretrained
from lite.runtime.files import atomic_write, write_json
from lite.runtime.progress import progress
from lite.schema import Problem

TRAINED, CONTROLS = "trained", ("random", "self-information", "rules")
FULL, NONE = "whole", "nothing"  # the chain as it is, and none: what the measures can reach
ANSWER_CUE, STEP_CUE = "\nThe answer is ", " = "
_PROBLEMS = 8  # judged together
_NUM_TOKENS = 1024  # in one forward pass


@dataclass(frozen=True, slots=True)
class Judged:
    """One chain after one method at one ratio."""

    answer: float  # nats
    step: float  # nats; nan where there is no gold equation
    result: float  # the same
    whole_equations: float  # share; nan where there is none
    cut: int
    realised: float


def _ask(tokenizer: Any, context: str, target: str) -> Scored:
    """`target` behind `context`, asked for the tokens that reach into it."""
    coded = tokenizer(
        context + target, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    targets = [at for at, (_, end) in enumerate(coded["offset_mapping"]) if end > len(context)]
    return Scored(coded["input_ids"], targets)


class Judge:
    """The reasoner: a causal language model of Hugging Face and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(cls, name: str) -> Judge:
        """Load it without the training backend. Raises LiteError where there is none.

        In float32 on a CPU: bfloat16 adds tenths of a nat of noise to each log p.
        """
        import torch
        from transformers import AutoModelForCausalLM

        cuda = torch.cuda.is_available()
        folder, what = pretrained.resolve(name), f"model {name!r}"
        tokenizer = pretrained.load_tokenizer(folder, what)
        dtype = "auto" if cuda else torch.float32
        model = pretrained.load_model(AutoModelForCausalLM, folder, what, dtype=dtype)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return cls(model.to("cuda" if cuda else "cpu").eval(), tokenizer)

    def judge(self, problems: Sequence[Problem], kept: Sequence[Sequence[list[int]]]) -> list[list[Judged]]:
        """What each selection of units of each problem's solution is worth; `kept[i]` are those of problem i."""
        asked: list[Scored] = []
        for problem, own in zip(problems, kept, strict=True):
            cot, units, found = problem.cot, segment(problem.cot), equations(problem.cot)
            for chosen in own:
                head = f"{problem.question}\n{join(cot, units, chosen)}"
                asked.append(_ask(self.tokenizer, f"{head}{ANSWER_CUE}", problem.answer))
                for equation in found:
                    before = join(cot, units, [index for index in chosen if index < equation.unit]) + STEP_CUE
                    reached = join(cot, units, [index for index in chosen if index <= equation.unit])
                    behind = reached[: -equation.tail] if equation.unit in chosen else before
                    for context in (before, behind):
                        asked.append(_ask(self.tokenizer, f"{problem.question}\n{context}", equation.result))
        values = log_p(self.model, self.tokenizer.pad_token_id, asked, _NUM_TOKENS)
        nats = iter([float(own.sum()) for own in values])
        return [
            [self._judged(problem, chosen, nats) for chosen in own]
            for problem, own in zip(problems, kept, strict=True)
        ]

    def _judged(self, problem: Problem, chosen: list[int], nats: Iterator[float]) -> Judged:
        cot, found = problem.cot, equations(problem.cot)
        short = join(cot, segment(cot), chosen)
        answer = next(nats)
        steps = np.array([[next(nats), next(nats)] for _ in found]).reshape(-1, 2)
        step, result = steps.mean(0) if found else (float("nan"), float("nan"))
        whole = [equation.unit in chosen for equation in found]
        tokens = [len(self.tokenizer.encode(text, add_special_tokens=False)) for text in (short, cot)]
        return Judged(
            answer,
            float(step),
            float(result),
            float(np.mean(whole)) if whole else float("nan"),
            num_cut(cot, short),
            tokens[0] / tokens[1],
        )


def _scores(
    compressor: CompressorModel, judge: Judge, problems: Sequence[Problem], cohesion: float, seed: int
) -> dict[str, Sequence[Scores]]:
    """Each method's scores of the units of each solution."""
    questions, cots = [p.question for p in problems], [p.cot for p in problems]
    return {
        TRAINED: [
            cohere(cot, own, cohesion)
            for cot, own in zip(cots, compressor.score(questions, cots), strict=True)
        ],
        "random": [random_scores(len(segment(p.cot)), f"{seed}/{p.id}") for p in problems],
        "self-information": self_information(judge.model, judge.tokenizer, questions, cots, _NUM_TOKENS),
        "rules": [rule_scores(cot) for cot in cots],
    }


def measure(
    compressor: CompressorModel,
    judge: Judge,
    problems: Sequence[Problem],
    ratios: Sequence[float],
    *,
    cohesion: float = config.Compress.cohesion,
    seed: int = 0,
) -> dict[str, Any]:
    """Every method at every ratio on the problems that have a worked solution; what fidelity.json holds."""
    problems = [problem for problem in problems if problem.cot.strip()]
    if not problems:
        raise LiteError("fidelity: no problem has a worked solution (cot); give problems that have one")
    cells = [
        (NONE, 0.0),
        *((method, ratio) for method in (TRAINED, *CONTROLS) for ratio in ratios),
        (FULL, 1.0),
    ]
    judged: dict[tuple[str, float], list[Judged]] = {cell: [] for cell in cells}
    encode = encoder(judge.tokenizer)
    with progress("fidelity", len(problems), "problems") as meter:
        for start in range(0, len(problems), _PROBLEMS):
            batch = problems[start : start + _PROBLEMS]
            cots = [problem.cot for problem in batch]
            kept: list[list[list[int]]] = [[[]] for _ in batch]
            for scores in _scores(compressor, judge, batch, cohesion, seed).values():
                for own, row in zip(kept, choose(cots, scores, ratios, encode), strict=True):
                    own += [chosen for chosen, _, _ in row]
            for own, cot in zip(kept, cots, strict=True):
                own.append(list(range(len(segment(cot)))))
            for found in judge.judge(batch, kept):
                for cell, one in zip(cells, found, strict=True):
                    judged[cell].append(one)
            meter.advance(len(batch))
    return {
        "num_problems": len(problems),
        "rows": [_row(method, ratio, own) for (method, ratio), own in judged.items()],
        "differences": [
            _difference(other, ratio, judged[TRAINED, ratio], judged[other, ratio])
            for ratio in ratios
            for other in CONTROLS
        ],
    }


def _column(judged: Sequence[Judged], name: str) -> np.ndarray:
    """One measure of all problems, without those that have none."""
    values = np.array([getattr(one, name) for one in judged], float)
    return values[~np.isnan(values)]


def _mean(values: np.ndarray) -> dict[str, Any]:
    return {
        "mean": float(values.mean()) if values.size else None,
        "ci95": bootstrap_mean(values) if values.size > 1 else None,
    }


def _row(method: str, ratio: float, judged: Sequence[Judged]) -> dict[str, Any]:
    realised = _column(judged, "realised")
    whole = _column(judged, "whole_equations")
    return {
        "method": method,
        "asked": ratio,
        "realised": float(realised.mean()),
        "miss": float(np.abs(realised - ratio).mean()),
        "answer": _mean(_column(judged, "answer")),
        "step": _mean(_column(judged, "step")),
        "result": _mean(_column(judged, "result")),
        "whole_equations": float(whole.mean()) if whole.size else None,
        "cut": int(sum(one.cut for one in judged)),
    }


def _difference(
    other: str, ratio: float, trained: Sequence[Judged], theirs: Sequence[Judged]
) -> dict[str, Any]:
    """Trained minus another method, problem by problem."""
    return {"against": other, "asked": ratio} | {
        name: _mean(_column(trained, name) - _column(theirs, name)) for name in ("answer", "step", "result")
    }


def report(
    model: str, folder: Path, problems: Sequence[Problem], ratios: Sequence[float], out: Path, seed: int = 0
) -> dict[str, Any]:
    """Measure and write fidelity.json and fidelity.md into `out`. `folder` is a compressor's or a run's."""
    made = measure(load_compressor(folder), Judge.load(model), problems, ratios, seed=seed)
    made = {"model": model, "compressor": str(folder), "seed": seed, **made}
    write_json(out / "fidelity.json", made)
    with atomic_write(out / "fidelity.md") as handle:
        handle.write(to_markdown(made))
    return made


def _shown(value: Mapping[str, Any], sign: str = "") -> str:
    if value["mean"] is None:
        return "none"
    if value["ci95"] is None:
        return f"{value['mean']:{sign}.2f}"
    low, high = value["ci95"]
    return f"{value['mean']:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def to_markdown(made: Mapping[str, Any]) -> str:
    """The report for people: what is left at each ratio, then the trained compressor against each control."""
    lines = [
        f"# Fidelity under {Path(made['model']).name}, {made['num_problems']} problems",
        "",
        "Log p in nats, mean and 95 % interval over problems.",
        "",
        "| method | asked | realised | answer fidelity | step fidelity | result fidelity | whole equations | cut |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in made["rows"]:
        whole = "" if row["whole_equations"] is None else f"{row['whole_equations']:.0%}"
        lines.append(
            f"| {row['method']} | {row['asked']} | {row['realised']:.3f} | {_shown(row['answer'])} "
            f"| {_shown(row['step'])} | {_shown(row['result'])} | {whole} | {row['cut']} |"
        )
    lines += [
        "",
        "| trained minus | asked | answer fidelity | step fidelity | result fidelity |",
        "|---|---|---|---|---|",
    ]
    for row in made["differences"]:
        lines.append(
            f"| {row['against']} | {row['asked']} | {_shown(row['answer'], '+')} | {_shown(row['step'], '+')} "
            f"| {_shown(row['result'], '+')} |"
        )
    return "\n".join([*lines, ""])
