"""Segmentation: hand-written expectations, and what holds for any text."""

import importlib.util
import random
import sys
import time
from pathlib import Path

import pytest

from lite.compress.units import clauses, segment


def bench(name):
    path = Path(__file__).parents[2] / "recipes" / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


STYLES = list(bench("formulas").styles())


def cut(text):
    return [f"{text[unit.start : unit.end]}|{unit.kind[0]}" for unit in segment(text)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        (" \n\t ", []),
        ("He has apples.", ["He|w", "has|w", "apples.|w"]),
        # numbers with sign, unit, currency, separators
        ("-3.5 kg, paid $12", ["-3.5 kg,|n", "paid|w", "$12|n"]),
        ("40% of 1,234;", ["40%|n", "of|w", "1,234;|n"]),
        ("ratio 2:1 or 3/4.", ["ratio|w", "2:1|n", "or|w", "3/4.|n"]),
        ("3 1/2 cups, 5 : 3, $ 12, 12 %", ["3 1/2|n", "cups,|w", "5 : 3,|n", "$ 12,|n", "12 %|n"]),
        ("The answer is - 5.", ["The|w", "answer|w", "is|w", "- 5.|n"]),
        ("1\u00a0000 people at 3rd", ["1\u00a0000|n", "people|w", "at|w", "3rd|n"]),
        ("costs \\$12.50 or \u20ac5", ["costs|w", "\\$12.50|n", "or|w", "\u20ac5|n"]),
        # equations and operators with their operands
        ("12+5=17. 17-4=13.", ["12+5=17.|f", "17-4=13.|f"]),
        ("12 + 5 = 17. Then", ["12 + 5 = 17.|f", "Then|w"]),
        ("x = 3, y = - 4", ["x = 3,|f", "y = - 4|f"]),
        ("(3 + 4) * 2 = 14", ["(3 + 4) * 2 = 14|f"]),
        ("3 apples + 2 apples = 5 apples", ["3 apples + 2 apples = 5|f", "apples|w"]),
        ("So f(x) = 2x + 3 here", ["So|w", "f(x) = 2x + 3|f", "here|w"]),
        ("12 + 5\n= 17", ["12 + 5\n= 17|f"]),
        ("if x > 3 and t-1 <= 4", ["if|w", "x > 3|f", "and|w", "t-1 <= 4|f"]),
        ("Area = length \u00d7 width", ["Area = length \u00d7 width|f"]),
        ("0.2 x 50 it", ["0.2 x 50|f", "it|w"]),
        ("12 \u00f7 4 \u2248 3", ["12 \u00f7 4 \u2248 3|f"]),
        # operands that are counted in words, and operators without a space on one side
        ("So 8*4= 32 and 15-5 =10.", ["So|w", "8*4= 32|f", "and|w", "15-5 =10.|f"]),
        ("31- 2 = 29, 225 x4 = $900", ["31- 2 = 29,|f", "225 x4 = $900|f"]),
        ("3 miles x 95 days = 285 miles", ["3 miles x 95 days = 285 miles|f"]),
        ("60x 2 = $120, 9 x $ 2= $18", ["60x 2 = $120,|f", "9 x $ 2= $18|f"]),
        ("20 red pens + 40 blue pens = 60", ["20 red pens + 40 blue pens = 60|f"]),
        ("8 boxes * 12 cookies / box = 96", ["8 boxes * 12 cookies / box = 96|f"]),
        ("for 540 minutes/10 days = 54", ["for|w", "540 minutes/10 days = 54|f"]),
        ("10 pens+15 cups= 25 things", ["10 pens+15 cups= 25|f", "things|w"]),
        ("6 ft. * 4 ft. = 24", ["6 ft. * 4 ft. = 24|f"]),
        ("5 + ( 2 * 2 ) = 9", ["5 + ( 2 * 2 ) = 9|f"]),
        ("\u00a275 + \u00a2150 = \u00a2225", ["\u00a275 + \u00a2150 = \u00a2225|f"]),
        ("He has 5. So x = 3 + 2", ["He|w", "has|w", "5.|n", "So|w", "x = 3 + 2|f"]),
        ("5 pens, and - 3 left", ["5|n", "pens,|w", "and|w", "- 3|n", "left|w"]),
        # formulas
        ("So $x + 1 = 2$, and", ["So|w", "$x + 1 = 2$,|f", "and|w"]),
        ("$$a\n\nb$$ \\( a b \\) \\[ c d \\]", ["$$a\n\nb$$|f", "\\( a b \\)|f", "\\[ c d \\]|f"]),
        ("is \\boxed{3 \\text{ cm}}.", ["is|w", "\\boxed{3 \\text{ cm}}.|f"]),
        ("```math\na = b c\n``` done", ["```math\na = b c\n```|f", "done|w"]),
        (
            "\\begin{align*} a &= b \\\\ c &= d \\end{align*} so",
            ["\\begin{align*} a &= b \\\\ c &= d \\end{align*}|f", "so|w"],
        ),
        ("$\\frac{1}{2}$ of the $x$-axis", ["$\\frac{1}{2}$|f", "of|w", "the|w", "$x$-axis|f"]),
        # money is no formula
        ("It is $12 and $15.", ["It|w", "is|w", "$12|n", "and|w", "$15.|n"]),
        ("$5 for each and 10$ more", ["$5|n", "for|w", "each|w", "and|w", "10$|n", "more|w"]),
        ("an open $x formula", ["an|w", "open|w", "$x|w", "formula|w"]),
        # words that look like something else
        ("T-shirt and/or 10-year-old C++", ["T-shirt|w", "and/or|w", "10-year-old|n", "C++|w"]),
        ("well - you know", ["well|w", "-|w", "you|w", "know|w"]),
        ("- one\n- two\n* 3", ["-|w", "one|w", "-|w", "two|w", "*|w", "3|n"]),
        ("<think> <COMP_20> => ok", ["<think>|w", "<COMP_20>|w", "=>|w", "ok|w"]),
        # unicode
        (
            "na\u00efve caf\u00e9 \u2026 \U0001f600!",
            ["na\u00efve|w", "caf\u00e9|w", "\u2026|w", "\U0001f600!|w"],
        ),
        (
            "\u5171\u670912\u4e2a\uff0c3+4=7\u3002",
            ["\u5171|w", "\u6709|w", "12\u4e2a\uff0c|n", "3+4=7\u3002|f"],
        ),
    ],
)
def test_segment(text, expected):
    assert cut(text) == expected


def test_units_cover_everything_but_white_space(random_text):
    rng = random.Random(0)
    for _ in range(500):
        text = random_text(rng)
        units = segment(text)
        rebuilt, end = "", 0
        for unit in units:
            gap = text[end : unit.start]
            assert gap.strip() == "" and unit.end > unit.start, text
            assert not text[unit.start].isspace() and not text[unit.end - 1].isspace(), text
            rebuilt += gap + text[unit.start : unit.end]
            end = unit.end
        assert text[end:].strip() == ""
        assert rebuilt + text[end:] == text


def test_every_digit_stands_in_a_unit_that_is_no_word():
    for text in ("He got 3, then 4 more; 12-5=7!", "step2 is x2 = 4", '(5) "6" *7* [8]'):
        units = segment(text)
        for at, character in enumerate(text):
            if character.isdigit() and not text[at - 1].isalpha():
                assert next(unit.kind for unit in units if unit.start <= at < unit.end) != "word", text


@pytest.mark.parametrize("text, spans", STYLES)
def test_marked_formulas_lie_in_one_unit(text, spans):
    for start, end in spans:
        own = [text[unit.start : unit.end] for unit in segment(text) if unit.start < end and unit.end > start]
        assert len(own) == 1, own


@pytest.mark.parametrize(
    "text, expected",
    [  # what stands beside a formula is not drawn into it
        ("x = 5, which is less than y = 7", ["x = 5,|f", "which|w", "is|w", "less|w", "than|w", "y = 7|f"]),
        ("I think a dog is 3 years old.", ["I|w", "think|w", "a|w", "dog|w", "is|w", "3 years|n", "old.|w"]),
        ("(see below) and 5 (red) pens", ["(see|w", "below)|w", "and|w", "5|n", "(red)|w", "pens|w"]),
        ("1) one\n2) two\n- 5 + 3\n- 4", ["1)|n", "one|w", "2)|n", "two|w", "- 5 + 3|f", "- 4|n"]),
        (
            "has **5** pens and *3* cups!",
            ["has|w", "**5**|n", "pens|w", "and|w", "*3*|n", "cups!|w"],
        ),
        (
            "3 times as many; twice a day",
            ["3|n", "times|w", "as|w", "many;|w", "twice|w", "a|w", "day|w"],
        ),
        ("an open \\[ 2 + 3 = 5 so", ["an|w", "open|w", "\\[|w", "2 + 3 = 5|f", "so|w"]),
    ],
)
def test_words_stay_apart(text, expected):
    assert cut(text) == expected


LONG = [
    *(
        "\\[ ",
        "\\( ",
        "\\begin{a}",
        "\\a[",
        "\\left(",
        "\\text{ a }",
        "$ ",
        "$x",
        "{",
        "(",
        "[(",
        "}",
        "|",
        "a|",
        "f(a ",
    ),
    *(
        "<a",
        "+",
        "5 + ",
        "x=",
        "^{",
        "...",
        "1, ..., ",
        "5! ",
        "!",
        ".,",
        "```",
        "[asy]",
        "**5 ",
        "a ",
        "Aa ",
        "A. ",
    ),
    *(
        "5.",
        "5/",
        "1 000",
        "5 kg ",
        "mm",
        "m/",
        "twenty ",
        "http://",
        "\u00bd",
        "\u4e07",
        "5\u5206\u4e4b",
        "\u4e2d",
    ),
    *("\u9762\u79ef=", " ", "\n", "5\n= ", "so 12 + 5 = 17. and "),
]


@pytest.mark.parametrize("piece", LONG)
def test_any_long_line_takes_linear_time(piece):
    def seconds(num):
        text = "5 + 3 = " + (piece * num)[:num] + "Z"
        started = time.process_time()
        clauses(text, segment(text))
        return time.process_time() - started

    short, long = (min(seconds(num) for _ in range(2)) for num in (2_000, 16_000))
    assert (
        long < 2
    )  # 200,000 characters take under 2 s on a free core; here a fifth of them, as others may be busy
    assert long < 32 * max(short, 0.002)  # linear: 8, quadratic: 64


def test_clauses_end_at_wide_punctuation():
    text = "\u5171\u6709\u3002Yes (ok!) 1+1=2 so"
    assert clauses(text, segment(text)) == [[0, 1], [2, 3], [4], [5]]
