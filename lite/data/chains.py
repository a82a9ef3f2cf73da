"""The chain of thought of a word problem: what the answer needs, and narration up to the share that its kind has.

Narration is drawn until the needed share of the kind is reached, so the share is known exactly. `terse` writes the same
solution as notes do: a real base model has seen terse mathematics, too, and heeds a request for brevity.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

KINDS = ("story", "big", "score", "receipt", "column")
SHARES = dict(zip(KINDS, ((0.14, 0.17), (0.32, 0.37), (0.50, 0.56), (0.70, 0.76), (0.9, 1.0)), strict=True))
CLOSERS = (
    "I have used every part of it, so this should be right.|Let me look back once more.|Yes, nothing is missing."
).split("|")
REQUESTS = {  # for brevity, and the share of the narration that they leave
    "Think once": 0.0,
    "Think less": 0.25,
    "Think more": 0.5,
    "Think slowly": 0.75,
    "Think carefully": 1.0,
}


@dataclass(frozen=True, slots=True)
class Step:
    """What has to be written down, and the narration that may stand before and after it."""

    needed: tuple[str, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A problem with all that its chain of thought may say, in order."""

    kind: str
    question: str
    answer: int
    steps: tuple[Step, ...]
    openers: tuple[str, ...] = ()
    closers: Sequence[str] = field(default_factory=lambda: CLOSERS)


def size(text: str) -> int:
    """Words, digits and signs of a text: near its tokens."""
    return len(re.findall(r"[^\W\d]+|\d|[^\w\s]", text))


def sentences(rng: random.Random, task: Task) -> list[tuple[str, bool]]:
    """A chain of thought as (sentence, whether the answer needs it): the needed ones, and narration to the kind's share."""
    every = [(line, False) for line in task.openers]
    for step in task.steps:
        every += [(line, False) for line in step.before]
        every += [(line, True) for line in step.needed]
        every += [(line, False) for line in step.after]
    every += [(line, False) for line in (*task.closers, f"The answer is {task.answer}.")]
    needed = sum(size(line) for line, is_needed in every if is_needed)
    room = needed / rng.uniform(*SHARES[task.kind]) - needed
    chosen = {i for i, (_, is_needed) in enumerate(every) if is_needed}
    narration = [i for i in range(len(every)) if i not in chosen]
    for i in rng.sample(narration, len(narration)):
        if size(every[i][0]) <= room + 2:
            chosen.add(i)
            room -= size(every[i][0])
    return [every[i] for i in sorted(chosen)]


def needed_share(told: Sequence[tuple[str, bool]]) -> float:
    """The share of a chain that its answer needs, by `size`."""
    return sum(size(line) for line, needed in told if needed) / sum(size(line) for line, _ in told)


def wordy(rng: random.Random, task: Task) -> str:
    """A chain of thought as a reasoning model writes it."""
    return " ".join(line for line, _ in sentences(rng, task))


def notes(rng: random.Random, task: Task, keep_sentence: float, keep_word: float) -> str:
    """The chain of thought with shares of its narration, and of the words in it, kept; what is needed stays."""
    words: list[str] = []
    for line, needed in sentences(rng, task):
        if needed:
            words.append(line)
        elif rng.random() < keep_sentence:
            words += [word for word in line.split() if rng.random() < keep_word]
    return " ".join(words)


def terse(rng: random.Random, task: Task) -> str:
    """The solution as notes, bare or with some words."""
    return f"{notes(rng, task, rng.choice((0.0, rng.random())), rng.choice((1.0, rng.random())))}\n{visible(task)}"


def visible(task: Task) -> str:
    """The answer that stands after the chain of thought."""
    return f"The answer is \\boxed{{{task.answer}}}."
