"""Buckets, strict intersection, cleaning, difficulty and rows: expectations by hand."""

from collections import Counter

import pytest

from lite.compress.mixture import (
    bucket,
    build_rows,
    complete,
    difficulties,
    features,
    fill,
    is_clean,
    quintile_ratios,
)
from lite.data import word_problems
from lite.schema import Compressed, Trace


@pytest.mark.parametrize(
    "realised, expected",
    [
        (0.2, 0.2), (0.15, 0.2), (0.25, 0.2), (0.149, None), (0.251, None), (0.3, None),
        (0.44, 0.4), (0.56, 0.6), (0.85, 0.8), (0.86, None), (0.97, 1.0), (0.0, None),
    ],
)  # fmt: skip
def test_bucket(realised, expected):
    assert bucket(realised, 0.05) == expected


def version(id, realised, think="t"):
    return Compressed(id, realised, realised, think, 9)


def test_fill_takes_the_closest_and_complete_wants_all():
    versions = [
        *(version("a", realised) for realised in (0.17, 0.21, 0.24, 0.41, 0.6, 0.79, 0.99)),
        *(version("b", realised) for realised in (0.2, 0.4, 0.8)),
    ]
    found = fill(versions, 0.05)
    assert {ratio: v.realised for ratio, v in found["a"].items()} == {
        0.2: 0.21,
        0.4: 0.41,
        0.6: 0.6,
        0.8: 0.79,
    }
    assert complete(found) == ["a"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("12+5=17. 17-4=13. 13*2=26.", True),
        ("1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", True),  # digits are not words
        ("2+2=4 2+2=4 2+2=4 2+2=4 2+2=4 2+2=4 2+2=4", True),
        ("the the the the cat", True),
        ("the the the the the cat", False),  # a run of five
        ("so 1 so 2 so 3 so 4 so 5 so 6", True),  # numbers between end the run, and few words say nothing
        (" ".join(f"so {n} word{'abcdefghijk'[n]}" for n in range(11)), False),  # one word of two
        ("I need to check it again. " * 12, False),  # a loop
        ("one two three four five six seven eight nine ten eleven twelve " * 2, True),  # said twice
    ],
)
def test_is_clean(text, expected):
    assert is_clean(text) is expected


def test_honest_chains_are_clean():
    assert all(is_clean(problem.cot) for problem in word_problems.problems(60, seed=3))


def test_features_by_hand():
    # units: So | 12+5=17. | Then | so | 17*2=34. | 3/4   -> operators + = *; words so, then
    assert features("So 12+5=17. Then so 17*2=34. 3/4") == (6, 2, 3, 2)
    assert features("") == (0, 0, 0, 0)


def test_difficulty_by_hand():
    texts = ["a b", "a b c 1+1=2", "a b c d 1+1=2 2*2=4"]
    # features: (2,0,0,2) (4,1,2,3) (6,2,3,4); normalised: 0, (1/2, 1/2, 2/3, 1/2), 1
    middle = 0.35 / 2 + 0.25 / 2 + 0.20 * 2 / 3 + 0.20 / 2
    assert difficulties(texts) == pytest.approx([0.0, middle, 1.0])
    assert difficulties(["a b", "c d"]) == [0.0, 0.0]


def test_quintiles():
    assert quintile_ratios([0.9, 0.1, 0.5, 0.3, 0.7]) == [1.0, 0.2, 0.6, 0.4, 0.8]
    assert quintile_ratios([0.5] * 10) == [0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8, 1.0, 1.0]
    assert quintile_ratios([]) == []


def test_rows():
    traces = [Trace(f"p{n}/0", f"q{n}", "1", "word " * (n + 1), "v") for n in range(5)]
    versions = [version(t.id, r, f"{t.id} at {r}") for t in traces for r in (0.2, 0.4, 0.6, 0.8)]
    rows = build_rows(traces, fill(versions, 0.05), policy_share=0.2, seed=0)
    # 25 fixed rows; 25 * 0.2 / 0.8 = 6.25, so 6 POLICY rows: one of each trace, and one again
    assert Counter(row.mode for row in rows) == {
        "0.2": 5,
        "0.4": 5,
        "0.6": 5,
        "0.8": 5,
        "1.0": 5,
        "policy": 6,
    }
    by = {(row.id, row.mode): row for row in rows}
    assert by["p1/0", "0.4"].think == "p1/0 at 0.4" and by["p1/0", "0.4"].ratio == 0.4
    assert by["p1/0", "1.0"].think == "word word " and by["p1/0", "1.0"].visible == "v"
    assert [by[f"p{n}/0", "policy"].ratio for n in range(5)] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert by["p0/0", "policy"].think == "p0/0 at 0.2"
    assert (
        rows
        == build_rows(traces, fill(versions, 0.05), 0.2, seed=0)
        != build_rows(traces, fill(versions, 0.05), 0.2, 1)
    )
