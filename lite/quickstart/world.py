"""A procedural world of word problems: 1 to 6 steps of small arithmetic, with a wordy chain of thought.

The chain of thought reads like a reasoning model's: it restates, narrates, re-checks and doubts, so there
is much to compress; every further step adds an equation that the answer needs, so harder problems need more.
`terse` writes the same solution the way notes and textbooks do; the tiny reasoner is pretrained on both,
because a real base model has seen terse mathematics too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from lite.records import Problem

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
    "Okay, let me think about this one step by step. I need to find how many {items} {name} has at the end.",
    "Alright, let me read this carefully. The question asks how many {items} {name} has at the end.",
    "Hmm, let me go through the story slowly. I want to know how many {items} {name} has at the end.",
)
CLOSERS = (
    "I have used every part of the story, so this should be right. The answer is {n}.",
    "That was the last thing in the story, so I am done here. The answer is {n}.",
    "Let me look back once more. Yes, nothing is missing in the story. The answer is {n}.",
)


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


def wordy(rng: random.Random, story: Story) -> str:
    """A chain of thought that restates, narrates and re-checks every step."""
    name, items = story.name, story.items
    lines = [rng.choice(OPENERS).format(name=name, items=items)]
    if story.aside:
        lines.append(f"It says that {story.aside}, but that does not matter for the question.")
    lines.append(f"At the start, {name} has {story.start} {items}.")
    undo = {"+": "-", "-": "+"}
    for day, step in zip(DAYS, story.steps, strict=False):
        lines.append(f"On {day}, {step.event}. {rng.choice(WHY[step.op])}")
        lines.append(f"{step.equation()}.")
        doubt = rng.randrange(4)
        if doubt == 0 and step.op in undo:
            lines.append(
                f"Let me check that: {step.after}{undo[step.op]}{step.k}={step.before}. Yes, that fits."
            )
        elif doubt == 1:
            lines.append(
                rng.choice(("Wait, is that right? Yes, I think it is.", "Good, that looks right to me."))
            )
        if rng.random() < 0.5:
            lines.append(f"So now {name} has {step.after} {items}.")
    lines.append(rng.choice(CLOSERS).format(n=story.steps[-1].after))
    return " ".join(lines)


def terse(rng: random.Random, story: Story) -> str:
    """The solution as bare notes, in one of three styles."""
    style = rng.randrange(3)
    if style == 0:
        notes = " ".join(f"{step.equation()}." for step in story.steps)
    elif style == 1:
        notes = " ".join(
            f"On {day}, {s.event}: {s.equation()}." for day, s in zip(DAYS, story.steps, strict=False)
        )
    else:
        notes = f"{story.name} {story.start} {story.items}\n" + "\n".join(
            step.equation() for step in story.steps
        )
    return f"{notes}\n{visible(story)}"


def visible(story: Story) -> str:
    """The answer that stands after the chain of thought."""
    return f"The answer is \\boxed{{{story.steps[-1].after}}}."


def problems(num: int, seed: int) -> Iterator[Problem]:
    """Yield `num` problems with worked chains of thought; steps cycle through 1 to 6. Repeatable by seed."""
    for index in range(num):
        rng = random.Random(f"{seed}/{index}")
        story = tell(rng, index % MAX_STEPS + 1)
        yield Problem(
            f"quickstart-{seed}-{index}", story.question, str(story.steps[-1].after), wordy(rng, story)
        )
