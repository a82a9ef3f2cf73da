"""A procedural world of word problems: 1 to 6 steps of small arithmetic, with a wordy chain of thought.

The chain of thought reads like a reasoning model's: it restates, narrates, re-checks and doubts, so there
is much to compress; every further step adds an equation that the answer needs, so harder problems need more.
`terse` writes the same solution the way notes and textbooks do, at any length; the tiny reasoner is pretrained
on both, because a real base model has seen terse mathematics too, and it heeds a request for brevity, as real ones
do. A quarter of all questions is held out:
`problems` gives only these, pretraining sees only the others.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from lite.schema import Problem

MAX_STEPS = 6
NAMES = "Mia Tom Anna Ben Lena Paul Sara Max Nora Leo Ida Finn".split()
ITEMS = "apples books coins shells stamps cards stones pens".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday".split()
GAIN = ("finds {k} more", "buys {k} more", "gets {k} more as a gift", "wins {k} more in a game")
LOSS = ("gives {k} away", "loses {k} on the way", "sells {k} of them", "leaves {k} at home")
TIMES = (2, 3)
GROW = "makes {k} times as many by trading"
ASIDES = ("{other} is {age} years old", "the walk takes {age} minutes", "there are {age} trees on the road")
WHY = {
    "+": ("So I have to add here.", "That is more, so I add."),
    "-": ("So I have to subtract here.", "That is less, so I subtract."),
    "*": ("So I have to multiply here.", "That is a factor, so I multiply."),
}
OPENERS = (
    "Okay, let me think about this one step by step.|I need to find how many {items} {name} has at the end.",
    "Alright, let me read this carefully.|The question asks how many {items} {name} has at the end.",
    "Hmm, let me go through the story slowly.|I want to know how many {items} {name} has at the end.",
)
CLOSERS = (
    "I have used every part of the story, so this should be right.|The answer is {n}.",
    "That was the last thing in the story, so I am done here.|The answer is {n}.",
    "Let me look back once more.|Yes, nothing is missing in the story.|The answer is {n}.",
)

REQUESTS = {
    "Think once": 0.0,
    "Think less": 0.25,
    "Think more": 0.5,
    "Think slowly": 0.75,
    "Think carefully": 1.0,
}


@dataclass(frozen=True, slots=True)
class Step:
    """`before op k = after`, told as `event`."""

    event: str
    op: str
    k: int
    before: int
    after: int

    def equation(self) -> str:
        return f"{self.before}{self.op}{self.k}={self.after}"


@dataclass(frozen=True, slots=True)
class Story:
    name: str
    items: str
    start: int
    steps: tuple[Step, ...]
    aside: str
    question: str


def tell(rng: random.Random, num_steps: int) -> Story:
    """Draw a story of `num_steps` steps, one a day, no operand twice; every number stays within 2 to 99."""
    name, other = rng.sample(NAMES, 2)
    items = rng.choice(ITEMS)
    start = n = rng.randint(5, 40)
    steps: list[Step] = []
    while len(steps) < num_steps:
        op = rng.choice("++--*")
        k = rng.choice(TIMES) if op == "*" else rng.randint(2, 9)
        after = n + k if op == "+" else n - k if op == "-" else n * k
        if not 2 <= after <= 99 or k in [step.k for step in steps]:
            continue
        event = GROW if op == "*" else rng.choice(GAIN if op == "+" else LOSS)
        steps.append(Step(f"{name} {event.format(k=k)}", op, k, n, after))
        n = after
    aside = rng.choice(ASIDES).format(other=other, age=rng.randint(2, 60)) if rng.random() < 0.3 else ""
    told = [f"{aside[0].upper()}{aside[1:]}."] if aside else []
    told.append(f"{name} has {start} {items}.")
    told += [f"On {day}, {step.event}." for day, step in zip(DAYS, steps, strict=False)]
    told.append(f"How many {items} does {name} have at the end?")
    return Story(name, items, start, tuple(steps), aside, " ".join(told))


def is_held_out(question: str) -> bool:
    """Whether a question is kept from pretraining."""
    return zlib.crc32(question.encode()) % 4 == 0


def sentences(rng: random.Random, story: Story) -> list[tuple[str, bool]]:
    """A chain of thought that restates, narrates and re-checks every step; True marks the steps' equations."""
    name, items = story.name, story.items
    told: list[tuple[str, bool]] = []

    def say(*lines: str, needed: bool = False) -> None:
        told.extend((line, needed) for line in lines)

    say(*rng.choice(OPENERS).format(name=name, items=items).split("|"))
    if story.aside:
        say(f"It says that {story.aside}, but that does not matter for the question.")
    say(f"At the start, {name} has {story.start} {items}.")
    undo = {"+": "-", "-": "+"}
    for day, step in zip(DAYS, story.steps, strict=False):
        say(f"On {day}, {step.event}.", rng.choice(WHY[step.op]))
        say(f"{step.equation()}.", needed=True)
        doubt = rng.randrange(4)
        if doubt == 0 and step.op in undo:
            say(f"Let me check that: {step.after}{undo[step.op]}{step.k}={step.before}.", "Yes, that fits.")
        elif doubt == 1:
            say(rng.choice(("Wait, is that right? Yes, I think it is.", "Good, that looks right to me.")))
        if rng.random() < 0.5:
            say(f"So now {name} has {step.after} {items}.")
    say(*rng.choice(CLOSERS).format(n=story.steps[-1].after).split("|"))
    return told


def wordy(rng: random.Random, story: Story) -> str:
    """The whole chain of thought, as a reasoning model writes it."""
    return " ".join(sentence for sentence, _ in sentences(rng, story))


def notes(rng: random.Random, story: Story, keep_sentence: float, keep_word: float) -> str:
    """The chain of thought with shares of its sentences, and of their words, kept; the steps' equations stay."""
    words: list[str] = []
    for sentence, needed in sentences(rng, story):
        if needed:
            words.append(sentence)
        elif rng.random() < keep_sentence:
            words += [word for word in sentence.split() if rng.random() < keep_word]
    return " ".join(words)


def terse(rng: random.Random, story: Story) -> str:
    """The solution as notes, bare or with some words, in one of four styles."""
    style = rng.randrange(6)
    if style == 0:
        text = " ".join(f"{step.equation()}." for step in story.steps)
    elif style == 1:
        text = " ".join(
            f"On {day}, {s.event}: {s.equation()}." for day, s in zip(DAYS, story.steps, strict=False)
        )
    elif style == 2:
        text = f"{story.name} {story.start} {story.items}\n" + "\n".join(
            step.equation() for step in story.steps
        )
    else:
        text = notes(rng, story, rng.random(), rng.choice((1.0, rng.random())))
    return f"{text}\n{visible(story)}"


def visible(story: Story) -> str:
    """The answer that stands after the chain of thought."""
    return f"The answer is \\boxed{{{story.steps[-1].after}}}."


def problems(num: int, seed: int) -> Iterator[Problem]:
    """Yield `num` held-out problems with worked chains of thought; steps cycle through 1 to 6. Repeatable by seed."""
    for index in range(num):
        rng = random.Random(f"{seed}/{index}")
        story = tell(rng, index % MAX_STEPS + 1)
        while not is_held_out(story.question):
            story = tell(rng, index % MAX_STEPS + 1)
        yield Problem(
            f"quickstart-{seed}-{index}", story.question, str(story.steps[-1].after), wordy(rng, story)
        )
