"""What is a loop, and what only repeats itself."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from lite.infer.loops import Loops

TOKENS = re.compile(r"\s?\w+|\s|[^\w\s]")


def loops_at(text: str) -> int | None:
    """The token at which a text is found to loop; words and signs are tokens here."""
    loops = Loops()
    for place, match in enumerate(TOKENS.finditer(text)):
        if loops.read(hash(match[0]), match[0].encode()):
            return place
    return None


SENTENCES = [
    "Wait, let me check that again.",
    "So 12 plus 5 is 17, and 17 minus 4 is 13.",
    "The question asks how many apples Mia has at the end of the day.",
]
WORDS = (
    "the apples are in boxes and each box has room for more so we add them to what was there before".split()
)


@pytest.mark.parametrize("loop", [*SENTENCES, " ".join(SENTENCES), "\n".join(SENTENCES) + "\n", "so ", "we we are ",
                                  "Warte, das prüfe ich. ", "让我再检查一遍这个答案。", "- check\n", " ".join(SENTENCES * 2)])  # fmt: skip
@pytest.mark.parametrize("before", ["", "Mia has 12 apples. She finds 5 more, and gives 4 away.\n\n"])
def test_loops_are_found_within_three_rounds_and_a_while(loop, before):
    text = before + (loop if loop[-1].isspace() else loop + " ") * 400
    size = len(TOKENS.findall(loop))
    assert loops_at(text) is not None and loops_at(text) < len(TOKENS.findall(before)) + 3 * size + 260


def test_blanks_without_end_are_a_loop_soon():
    assert loops_at("So\n" + "\n" * 200) < 90


def _table(rows: int) -> str:
    return "| day | apples | pears |\n|---|---|---|\n" + "".join(
        f"| {i % 7} | {i * 3 % 5} | {i * 5 % 7} |\n" for i in range(rows)
    )


TRUTH = "| a | b | c | d | out |\n" + "".join(
    "| " + " | ".join("TF"[bit] for bit in bits) + " | F |\n" for bits in itertools.product((0, 1), repeat=4)
)
CODE = "```python\n" + "".join(f"    assert add({i}, {i}) == {2 * i}\n" for i in range(60)) + "```\n"
SAME_CODE = "```python\n" + "    counter += 1\n" * 40 + "```\n"
ZEROS = "[" + ", ".join(["0"] * 120) + "]"


@pytest.mark.parametrize(
    "text",
    [
        _table(40), TRUTH, CODE, SAME_CODE, ZEROS, "-" * 300, "0." + "3" * 500, "| no | no | no |\n" * 30,
        "".join(f"{i} x 7 = {7 * i}\n" for i in range(1, 120)),
        "".join(f"{i}. Add {i} apples to the box, then count the apples again.\n" for i in range(60)),
        (" ".join(SENTENCES * 2) + " " + " ".join(WORDS * 3) + "\n") * 2,  # a draft, and its fair copy
        ("Row, row, row your boat, gently down the stream.\n" * 3 + "Merrily we sing along.\n") * 2,
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
def test_what_repeats_itself_by_its_nature_is_no_loop(text):
    assert loops_at(text) is None


def test_no_false_alarm_in_a_thousand_wordy_replies():
    """Of few words and few sentences, as small models write; each says something else."""
    for seed in range(1000):
        rng = random.Random(seed)
        lines = [
            f"{rng.choice(SENTENCES)} {' '.join(rng.sample(WORDS, 6))} {rng.randint(0, 99)}."
            for _ in range(30)
        ]
        assert loops_at("\n".join(lines)) is None, seed
