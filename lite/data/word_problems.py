"""A procedural world of word problems in which some need a fifth of the chain of thought, and others all of it.

| kind | question | needed share of its chain |
|---|---|---|
| story | a story of 1 to 3 events, or a plain sum of small numbers | about 0.16 |
| big | a story with numbers up to 999, or a plain difference, worked digit by digit | about 0.35 |
| score | a game of 4 to 6 rounds, told in a list | about 0.54 |
| receipt | 5 to 7 prices | about 0.74 |
| column | 2 to 4 numbers up to 999, added digit by digit with carries | above 0.9 |

A chain consists of the equations that the answer needs and of narration: restating, doubts, dead ends, re-checks.
The share is known exactly (lite/data/chains.py), and which kind it is can be seen in the question. A quarter of all
questions is held out: `problems` gives only these, pretraining sees only the others.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence

from lite.data.chains import Step, Task, needed_share, sentences
from lite.schema import Problem

MIX = (  # kinds of successive problems: half are stories
    "story big story score story column story score story receipt "
    "story big story column story score story receipt story big"
).split()
NAMES = (
    "Mia Tom Anna Ben Lena Paul Sara Max Nora Leo Ida Finn Emma Noah Olivia Liam Sophia James Alice Bob Lucy Jack Maria John"
).split()
ITEMS = (
    "apples books coins shells stamps cards stones pens marbles cookies balls eggs oranges candies toys flowers stickers pencils"
).split()
GOODS = "bread milk tea cheese rice soap butter honey coffee jam salt fish".split()
DAYS = "Monday Tuesday Wednesday Thursday".split()
GAIN = ("finds {k} more", "buys {k} more", "gets {k} more as a gift", "wins {k} more in a game")
LOSS = "gives {k} away|loses {k} on the way|sells {k} of them|eats {k} of them|leaves {k} at home".split("|")
GROW = "makes {k} times as many by trading"
ASIDES = ("{other} is {k} years old", "the walk takes {k} minutes", "there are {k} trees on the road")
WORDS = {
    "+": ("add", "plus", "more"),
    "-": ("subtract", "minus", "less"),
    "*": ("multiply", "times", "a factor"),
}
OPENERS = (
    "Okay, let me think about this one step by step.|Alright, let me read this carefully.|"
    "Hmm, let me go through it slowly.|I do not want to miss anything here."
).split("|")
ASKED = (
    "What is {0}{1}{3}?|What is {0} {2} {3}?|Calculate {0}{1}{3}.|{0}{1}{3}=?|How much is {0}{1}{3}?".split(
        "|"
    )
)
DOUBTS = ("Wait, is that right? Yes, I think it is.", "Good, that looks right to me.", "Okay, let me go on.")


def compute(a: int, op: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[op]


def digits(a: int, op: str, b: int) -> list[str]:
    """The equations of `a op b` (+ or -, b not above a) worked from the ones up, with carries or borrows."""
    lines, carry = [], 0
    for place in range(len(str(a))):
        x, y = a // 10**place % 10, b // 10**place % 10
        if op == "+":
            lines.append(f"{x}+{y}" + (f"+{carry}" if carry else "") + f"={x + y + carry}.")
            carry = (x + y + carry) // 10
        else:
            top = x - carry
            carry = int(top < y)
            lines.append(f"{top + 10 * carry}-{y}={top + 10 * carry - y}.")
    return [*lines, f"{a}{op}{b}={compute(a, op, b)}."]


def columns(numbers: Sequence[int]) -> list[str]:
    """A sum of numbers, column by column from the ones: running sums, and what is written and carried."""
    lines, carry = [], 0
    for place in range(max(len(str(n)) for n in numbers)):
        column = [n // 10**place % 10 for n in numbers if n >= 10**place]
        total, *rest = [carry, *column] if carry else column
        for digit in rest:
            lines.append(f"{total}+{digit}={total + digit}.")
            total += digit
        carry = total // 10
        last = all(n < 10 ** (place + 1) for n in numbers)
        lines.append(f"Write {total}." if last else f"Write {total % 10}, carry {carry}.")
    return lines


def _step(
    rng: random.Random, big: bool, n: int, op: str, k: int, before: tuple[str, ...], result: str
) -> Step:
    """`n op k`, big numbers digit by digit, with what may be said around it."""
    after, back = compute(n, op, k), {"+": "-", "-": "+"}.get(op)
    check = f"Let me check that: {after}{back}{k}={n}. Yes, that fits." if back else rng.choice(DOUBTS)
    needed = digits(n, op, k) if big else [f"{n}{op}{k}={after}."]
    return Step(tuple(needed), before, (check, rng.choice(DOUBTS), result))


def _story(rng: random.Random, kind: str) -> Task:
    """A story; of kind "big" with large numbers, which are worked digit by digit."""
    name, other = rng.sample(NAMES, 2)
    items, big = rng.choice(ITEMS), kind == "big"
    start = n = rng.randint(100, 900) if big else rng.randint(5, 60)
    steps: list[Step] = []
    told: list[str] = []
    used: set[int] = set()
    num_steps = rng.choice((1, 1, 2)) if big else rng.randint(1, 3)
    with_days = num_steps > 2 or rng.random() < 0.6
    while len(steps) < num_steps:
        op = rng.choice("+-" if big else "++--*")
        if big:
            k = rng.choice((rng.randint(2, 99), rng.randint(100, 800)))
        else:
            k = rng.choice((2, 3)) if op == "*" else rng.randint(2, 19)
        after = compute(n, op, k)
        if k in used or (big and k > n) or not (100 if big else 2) <= after <= (999 if big else 99):
            continue
        used.add(k)
        event = GROW if op == "*" else rng.choice(GAIN if op == "+" else LOSS)
        event = f"{name} {event.format(k=k)}"
        told.append(f"On {DAYS[len(steps)]}, {event}." if with_days else f"{event}.")
        verb, _, sign = WORDS[op]
        before = (told[-1], rng.choice((f"So I have to {verb} here.", f"That is {sign}, so I {verb}.")))
        steps.append(_step(rng, big, n, op, k, before, f"So now {name} has {after} {items}."))
        n = after
    has = f"{name} has {start} {items}."
    asked = f"How many {items} does {name} have {rng.choice(('at the end', 'now'))}?"
    facts = [has, *told]
    openers = [rng.choice(OPENERS), f"I need to find how many {items} {name} has.", f"At the start, {has}"]
    if rng.random() < 0.3:
        aside = rng.choice(ASIDES).format(other=other, k=rng.randint(2, 60))
        facts.insert(rng.randint(0, 1), f"{aside[0].upper()}{aside[1:]}.")
        openers.append(f"It says that {aside}, but that does not matter.")
    facts.insert(0 if rng.random() < 0.3 else len(facts), asked)
    return Task(kind, " ".join(facts), n, tuple(steps), tuple(openers))


def _plain(rng: random.Random, kind: str) -> Task:
    """One operation without a story: small numbers, or of kind "big" a difference worked digit by digit."""
    big = kind == "big"
    op = "-" if big else rng.choice("++-*")
    a, b = (rng.randint(100, 999), rng.randint(2, 999)) if big else (rng.randint(2, 99), rng.randint(2, 60))
    a, b = (rng.randint(2, 33), rng.choice((2, 3))) if op == "*" else (max(a, b), min(a, b))
    n = compute(a, op, b)
    verb, word, _ = WORDS[op]
    asked = rng.choice(ASKED).format(a, op, word, b)
    before = (f"The numbers are {a} and {b}.", f"The question says {word}, so I have to {verb} here.")
    step = _step(rng, big, a, op, b, before, f"So the result is {n}.")
    return Task(kind, asked, n, (step,), (rng.choice(OPENERS), "There is no story here, just two numbers."))


def _score(rng: random.Random) -> Task:
    name = rng.choice(NAMES)
    start = n = rng.randint(5, 40)
    steps: list[Step] = []
    told: list[str] = []
    used: set[int] = set()
    num_steps = rng.randint(4, 6)
    while len(steps) < num_steps:
        op, k = rng.choice("++-"), rng.randint(2, 19)
        after = compute(n, op, k)
        if k in used or not 2 <= after <= 99:
            continue
        used.add(k)
        told.append(f"Round {len(steps) + 1}: {op}{k}.")
        before = (f"Next comes round {len(steps) + 1}.", f"It is {WORDS[op][1]} {k}.")
        steps.append(Step((f"{n}{op}{k}={after}.",), before, (f"That was round {len(steps) + 1}.",)))
        n = after
    facts = [f"{name} starts a game with {start} points.", *told]
    facts.insert(rng.choice((0, len(facts))), f"How many points does {name} have in the end?")
    openers = (rng.choice(OPENERS), f"{name} starts with {start}.")
    return Task("score", " ".join(facts), n, tuple(steps), openers)


def _receipt(rng: random.Random) -> Task:
    num = rng.randint(5, 7)
    goods, prices = rng.sample(GOODS, num), rng.sample(range(3, 30), num)
    steps, n = [], prices[0]
    for thing, price in zip(goods[1:], prices[1:], strict=True):
        steps.append(Step((f"{n}+{price}={n + price}.",), (f"Now the {thing}.",), ("Okay.",)))
        n += price
    items = ", ".join(f"{thing} {price}" for thing, price in zip(goods, prices, strict=True))
    facts = [f"Receipt: {items}."]
    facts.insert(rng.choice((0, 1)), rng.choice(("What is the total?", "How much is it in all?")))
    return Task("receipt", " ".join(facts), n, tuple(steps), (f"I start with the {goods[0]}, {prices[0]}.",))


def _column(rng: random.Random) -> Task:
    num = rng.choice((2, 2, 3, 3, 4))
    sizes = ((2, 99), (100, 999), (100, 999))
    numbers = [rng.randint(100, 999)]
    numbers += [rng.choice([rng.randint(*size) for size in sizes]) for _ in range(num - 1)]
    rng.shuffle(numbers)
    plus = "+".join(map(str, numbers))
    added = f"Add {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}."
    asked = rng.choice((f"What is {plus}?", added, f"Calculate {plus}.", added))
    steps = (Step(tuple(columns(numbers))),)
    return Task("column", asked, sum(numbers), steps, ("Digit by digit.",), ("Done.",))


def tell(rng: random.Random, kind: str | None = None) -> Task:
    """Draw a task of a kind, or of one drawn from the mixture."""
    kind = kind or rng.choice(MIX)
    if kind in ("story", "big"):
        return (_plain if rng.random() < 0.2 else _story)(rng, kind)
    return {"score": _score, "receipt": _receipt, "column": _column}[kind](rng)


def is_held_out(question: str) -> bool:
    """Whether a question is kept from pretraining."""
    return zlib.crc32(question.encode()) % 4 == 0


def problems(num: int, seed: int) -> Iterator[Problem]:
    """Yield `num` held-out problems with worked chains of thought; kinds go round as in MIX. Repeatable by seed."""
    for index in range(num):
        rng = random.Random(f"{seed}/{index}")
        task = tell(rng, MIX[index % len(MIX)])
        while not is_held_out(task.question):
            task = tell(rng, task.kind)
        told = sentences(rng, task)
        cot = " ".join(line for line, _ in told)
        share = round(needed_share(told), 3)
        yield Problem(
            f"quickstart-{seed}-{index}", task.question, str(task.answer), cot, kind=task.kind, needed=share
        )
