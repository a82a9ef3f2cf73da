"""Random texts for the tests of compression."""

from __future__ import annotations

import random

import pytest

PIECES = (
    "word and/or Wait, -3.5 kg $12 40% 1,234 3/4 2:1 12+5=17. = + - * / x y ( ) $x+1$ $$ $ \\( \\) \\[ \\] \\boxed{3} { } "
    "\\ ``` ```math\u00a0 \u5171\u6709\u3002 \u00bd <think> ... ,, \U0001f600 a\u0301 0 \\frac{1}{2} \\begin{a} \\end{a}"
).split(" ")


@pytest.fixture(scope="session")
def random_text():
    """Draw a text of hard pieces from a random.Random."""

    def draw(rng: random.Random) -> str:
        gaps = (" ", " ", " ", "\n", "", "  ", "\t")
        return "".join(rng.choice(PIECES) + rng.choice(gaps) for _ in range(rng.randint(0, 40)))

    return draw
