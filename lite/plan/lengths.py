"""How long a run's texts are, in tokens: from its SFT rows where they are there, else from its problems."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from lite import tokens
from lite.config import Recipe
from lite.plan.estimate import Lengths
from lite.plan.model_shape import PlainTokenizer
from lite.runtime.files import read_records
from lite.schema import Problem, Row

SAMPLE = 200  # texts whose tokens are counted for a mean, and as many of the longest
CHARACTERS = 3.0  # a token, where there is no tokenizer: mathematics takes more tokens than prose


def reply_of(row: Row) -> str:
    """The text that the model shall write, without its end token."""
    return tokens.write_reply(row.ratio, row.think, row.visible)


def rows_of(problem: Problem) -> list[Row]:
    """The rows of a problem as if its worked solution were the trace: at 1.0, and POLICY's."""
    visible = f"\\boxed{{{problem.answer}}}"
    return [
        Row(problem.id, mode, problem.question, 1.0, problem.cot, visible) for mode in ("1.0", tokens.POLICY)
    ]


def _sample(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows drawn for means, and the longest by their characters."""
    drawn = random.Random(0).sample(rows, min(SAMPLE, len(rows)))
    return drawn, sorted(rows, key=lambda row: -len(row.question) - len(row.think) - len(row.visible))[
        :SAMPLE
    ]


def _count(row: Row, tokenizer: PlainTokenizer | None) -> tuple[int, int]:
    """Tokens of a row's prompt and of its reply with its end."""
    if tokenizer is None:
        return int(len(tokens.user_text(row.question)) / CHARACTERS) + 12, int(
            len(reply_of(row)) / CHARACTERS
        ) + 1
    prompt = tokens.encode_prompt(tokenizer, row.question, row.mode)
    return len(prompt), len(tokenizer.encode(reply_of(row))) + 1


def of_rows(rows: Sequence[Row], tokenizer: PlainTokenizer | None, max_tokens: int, num_rows: int) -> Lengths:
    """Lengths of SFT rows; those longer than `max_tokens` are left out of training."""
    drawn, longest = _sample(rows)
    counts = [_count(row, tokenizer) for row in drawn]
    most = [_count(row, tokenizer) for row in longest]
    whole = [reply for row, (_, reply) in zip(drawn, counts, strict=True) if row.ratio == 1.0]
    fitting = [prompt + reply for prompt, reply in most + counts if prompt + reply <= max_tokens]
    return Lengths(
        prompt=max(prompt for prompt, _ in most + counts),
        row=max(fitting, default=max_tokens),
        mean_prompt=fmean(prompt for prompt, _ in counts),
        mean_row=fmean(prompt + reply for prompt, reply in counts),
        mean_reply=fmean(whole or [reply for _, reply in counts]),
        num_rows=num_rows,
    )


def of_problems(problems: Sequence[Problem], tokenizer: PlainTokenizer | None, recipe: Recipe) -> Lengths:
    """Lengths to expect from problems. A row of mean ratio keeps 0.6 of a chain of thought.

    Worked solutions stand for traces where they will be the traces, and for the tiny reasoner, which writes like its
    world's. Any other model thinks at another length: up to the limit, and a third of it on average.
    """
    rows = [row for problem in problems for row in rows_of(problem)[:1]]
    found = of_rows(rows, tokenizer, recipe.sft.max_tokens, _num_rows(recipe))
    known = recipe.traces.method == "gold" or recipe.model == "quickstart"
    longest, reply = found.row, found.mean_reply
    if not (known and any(problem.cot.strip() for problem in problems)):
        longest = min(found.prompt + recipe.traces.max_tokens, recipe.sft.max_tokens)
        reply = recipe.traces.max_tokens / 3
    return replace(found, row=longest, mean_row=found.mean_prompt + 0.6 * reply, mean_reply=reply)


def at_most(recipe: Recipe) -> Lengths:
    """Lengths where nothing is known but the recipe's limits."""
    reply, row = recipe.traces.max_tokens, recipe.sft.max_tokens
    prompt = max(1, row // 16)
    longest = min(prompt + reply, row)
    return Lengths(prompt, longest, prompt / 2, prompt / 2 + 0.2 * reply, reply / 3, _num_rows(recipe))


def _num_rows(recipe: Recipe) -> int:
    """SFT rows if every trace is right and stays in the mixture."""
    traces = recipe.problems.num_train * recipe.traces.num_samples
    return round(traces * len(tokens.RATIOS) / (1 - recipe.mixture.policy_share))


def of_run(
    recipe: Recipe, folder: Path, tokenizer: PlainTokenizer | None, is_done: Callable[[str], bool]
) -> Lengths | None:
    """Lengths of what a run folder holds of stages that are done: its rows, else its problems; None for neither."""
    if is_done("mixture") and (rows := read_records(folder / "mixture" / "rows.jsonl", Row)):
        return of_rows(rows, tokenizer, recipe.sft.max_tokens, len(rows))
    if is_done("problems") and (problems := read_records(folder / "problems" / "train.jsonl", Problem)):
        return of_problems(problems, tokenizer, recipe)
    return None
