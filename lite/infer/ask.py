"""One question to a GGUF, or the same question cheaply first: up the ratios until two replies agree."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lite.errors import LiteError, printable
from lite.grading import final_answer, same
from lite.infer.engine import Engine
from lite.infer.request import Answer, Ask
from lite.infer.terminal import Screen, counts
from lite.tokens import RATIOS

SAMPLE_TEMPERATURE = 0.7  # of the second opinion


def ask(model: Path, asked: Ask, *, escalating: bool, as_json: bool, hide_thinking: bool) -> None:
    """Print the reply to one question as it comes, or as one JSON object; counts go to stderr."""
    with Engine(model, batch_size=2 if escalating else 1) as engine:
        if escalating:
            answer, tried = escalate(engine, asked, None if as_json else _say)
            if as_json:
                shown = {**answer.to_json(), "tried": [each.to_json() for each in tried]}
                return print(json.dumps(shown, ensure_ascii=False))
            if answer.think and not hide_thinking:
                print(printable(f"{answer.think}\n"))
            print(printable(answer.visible), flush=True)
            return print(_sum(tried), file=sys.stderr)
        stream = engine.submit(asked)
        if as_json:
            return print(json.dumps(stream.answer().to_json(), ensure_ascii=False))
        print(counts(Screen(thinking=not hide_thinking).show(stream)), file=sys.stderr)


def escalate(
    engine: Engine, ask: Ask, on_try: Callable[[list[Answer]], None] | None = None
) -> tuple[Answer, list[Answer]]:
    """Ask at the smallest ratio, twice; go up the ladder while an answer is missing or the two disagree.

    At every ratio one reply is as `ask` wants it and one is sampled; they are decoded together, and share their
    prompt with those before. The largest ratio is asked once, and what it says stands. `on_try` is told the replies
    of each ratio. Gives the answer and all replies, in their order. Raises LiteError where the GGUF has no dial.
    """
    if not engine.has_dial:
        raise LiteError(f"{engine.path.name} has no dial to escalate on; ask it once")
    tried: list[Answer] = []
    for ratio in RATIOS:
        first = replace(ask, mode=str(ratio))
        second = replace(first, temperature=SAMPLE_TEMPERATURE, seed=ask.seed + 1)
        answers = engine.generate([first] if ratio == RATIOS[-1] else [first, second])
        tried += answers
        if on_try:
            on_try(answers)
        if len(answers) == 2 and agree(*answers):
            break
    return answers[0], tried


def _say(answers: list[Answer]) -> None:
    if len(answers) == 2 and not agree(*answers):
        print(f"{answers[0].mode}: two replies do not agree; going up", file=sys.stderr)


def _sum(tried: list[Answer]) -> str:
    """One line on what all replies took, and why the last ratio's stands."""
    last = [answer for answer in tried if answer.mode == tried[-1].mode]
    why = "two replies agree" if len(last) == 2 else "the largest ratio, asked once"
    seconds = sum(max(pair) for pair in _seconds(tried))
    return (
        f"[{last[0].mode}, {why}: {last[0].think_tokens} think tokens, {last[0].total_tokens} in all;"
        f" {len(tried)} replies took {sum(each.total_tokens for each in tried)} tokens, {seconds:.1f} s]"
    )


def _seconds(tried: list[Answer]) -> list[list[float]]:
    """The seconds of the replies of each ratio; these are decoded together."""
    modes = dict.fromkeys(answer.mode for answer in tried)
    return [[answer.seconds for answer in tried if answer.mode == mode] for mode in modes]


def agree(one: Answer, other: Answer) -> bool:
    """Whether two replies are whole, and give the same final answer."""
    if "length" in (one.stop, other.stop):
        return False
    ours, theirs = final_answer(one.visible), final_answer(other.visible)
    return ours is not None and theirs is not None and same(ours, theirs)
