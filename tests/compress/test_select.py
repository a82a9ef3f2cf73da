"""Selection: budgets by hand, order, ties, and that nothing is ever cut."""

import random

import pytest

from lite.compress.select import join, owners, place, random_scores, select, token_counts
from lite.compress.units import segment


@pytest.mark.parametrize(
    "scores, counts, budget, expected",
    [
        ([0.9, 0.1, 0.8], [1, 1, 1], 2, [0, 2]),  # the best, in the original order
        ([0.1, 0.2, 0.3], [1, 1, 1], 3, [0, 1, 2]),
        ([0.5, 0.5, 0.5], [1, 1, 1], 2, [0, 1]),  # ties: the earlier
        ([0.9, 0.8, 0.1], [5, 9, 2], 7, [0, 2]),  # 9 does not fit, the smaller one goes on
        ([0.9, 0.8], [3, 3], 3, [0]),
        ([0.2, 0.9, 0.9], [9, 5, 5], 2, [1]),  # nothing fits: the smallest, the better of two
        ([0.9, 0.8], [6, 3], 8, [0, 1]),  # 9 is nearer to 8 than 6 is
        ([0.9, 0.8], [6, 4], 8, [0]),  # 10 is as far as 6: not above without need
        ([0.3, 0.2], [1, 1], 0, [0]),  # at least one
        ([], [], 5, []),
    ],
)
def test_select(scores, counts, budget, expected):
    assert select(scores, counts, budget) == expected


def test_owners_give_white_space_to_the_unit_after_it_when_one_token():
    text = "So 12+5=17. Yes"  # units at 0, 3, 12
    offsets = [(0, 2), (2, 3), (3, 5), (5, 6), (6, 7), (7, 8), (8, 10), (10, 11), (11, 15)]
    # a token of the space alone goes to the unit before it; " Yes" with its space goes to Yes
    assert owners(segment(text), offsets).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2]
    assert token_counts(segment(text), offsets) == [2, 6, 1]
    assert token_counts([], []) == []


@pytest.mark.parametrize(
    "text, kept, expected",
    [
        ("one two three four", [0, 2], "one three"),
        ("one two\nthree four", [0, 3], "one\nfour"),
        ("one two\nthree four", [1, 2], "two\nthree"),
        ("one  \t two", [0, 1], "one two"),
        ("one $$a\nb$$ two", [0, 2], "one two"),  # the new line was inside what went
        ("one two", [], ""),
        ("\u5171\u6709\u4e2a", [0, 1], "\u5171\u6709"),
        ("\u5171\u6709\u4e2a", [0, 2], "\u5171 \u4e2a"),
        ("well........ so,,, 1....2", [0, 1, 2], "well... so, 1....2"),
    ],
)
def test_join(text, kept, expected):
    assert join(text, segment(text), kept) == expected


def test_place_says_where_units_begin():
    text = "a bb\nccc d"
    assert place(text, segment(text), [1, 2, 3]) == ("bb\nccc d", [0, 3, 7])


def test_no_number_and_no_formula_is_ever_cut(random_text):
    rng = random.Random(1)
    for trial in range(300):
        text = random_text(rng)
        units = segment(text)
        counts = [rng.randint(0, 6) for _ in units]
        kept = select(random_scores(len(units), trial), counts, rng.randint(0, 40))
        short, starts = place(text, units, kept)
        for before, index, start in zip([None, *kept], kept, starts, strict=False):
            unit = units[index]
            if unit.kind != "word":
                assert short[start : start + unit.end - unit.start] == text[unit.start : unit.end]
            touched = before is not None and before == index - 1 and units[before].end == unit.start
            assert start == 0 or touched or short[start - 1] in " \n"


def test_random_scores_repeat_by_seed():
    assert random_scores(5, "a/1") == random_scores(5, "a/1") != random_scores(5, "a/2")
