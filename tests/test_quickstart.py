"""The world of word problems: its arithmetic is right, its text says it, its needed share is known, a seed decides it."""

from __future__ import annotations

import random
import re
from statistics import fmean

import pytest

from lite.data import chains, word_problems
from lite.data.chains import Step, Task
from lite.grading import is_correct

TASK = Task(
    "story",
    "Mia has 5 books. Mia finds 4 more. How many books does Mia have now?",
    9,
    (Step(("5+4=9.",), ("Mia finds 4 more.",), ("Good, that looks right to me.",)),),
    ("Hmm, let me go through it slowly.",),
    (),
)


@pytest.mark.parametrize(
    ("made", "lines"),
    [
        (word_problems.digits(347, "+", 58), "7+8=15. 4+5+1=10. 3+0+1=4. 347+58=405."),
        (word_problems.digits(120, "+", 50), "0+0=0. 2+5=7. 1+0=1. 120+50=170."),
        (word_problems.digits(347, "-", 58), "17-8=9. 13-5=8. 2-0=2. 347-58=289."),
        (word_problems.digits(500, "-", 1), "10-1=9. 9-0=9. 4-0=4. 500-1=499."),
        (word_problems.columns([478, 56, 213]), "8+6=14. 14+3=17. Write 7, carry 1. 1+7=8. 8+5=13. 13+1=14. Write 4, carry 1. 1+4=5. 5+2=7. Write 7."),
        (word_problems.columns([5, 300]), "5+0=5. Write 5, carry 0. Write 0, carry 0. Write 3."),
    ],
)  # fmt: skip
def test_digit_by_digit(made, lines):
    assert " ".join(made) == lines


def test_borrows_without_end():
    for a in range(100, 1000, 7):
        for b in range(0, a, 13):
            *_, last = word_problems.digits(a, "-", b)
            assert last == f"{a}-{b}={a - b}."


def test_needed_share_counts_words_digits_and_signs():
    assert chains.size("Mia has 12 apples.") == 6
    assert chains.needed_share([("5+4=9.", True), ("Mia finds 4 more.", False)]) == 6 / 11


def test_notes_leave_out_narration_and_nothing_that_is_needed():
    rng = random.Random(0)
    assert chains.notes(rng, TASK, 0.0, 1.0) == "5+4=9."
    assert set(chains.notes(rng, TASK, 1.0, 1.0).split()) > {"5+4=9.", "Mia"}
    assert chains.visible(TASK) == "The answer is \\boxed{9}."
    assert all(chains.terse(rng, TASK).endswith("\nThe answer is \\boxed{9}.") for _ in range(20))


@pytest.mark.parametrize("kind", chains.KINDS)
def test_every_kind(kind):
    low, high = chains.SHARES[kind]
    shares = []
    for seed in range(150):
        rng = random.Random(seed)
        task = word_problems.tell(rng, kind)
        told = chains.sentences(rng, task)
        text = " ".join(line for line, _ in told)
        equations = re.findall(r"(?<![\d+*-])([\d+*-]+)=(\d+)\.", text)
        assert equations or kind == "column"
        assert all(eval(left) == int(right) for left, right in equations)
        needed = [line for line, is_needed in told if is_needed]
        assert needed == [line for step in task.steps for line in step.needed]
        assert {*re.findall(r"\d+", task.question)}  # what is needed can be worked out from the question
        if kind == "column":
            written = "".join(
                re.search(r"Write (\d+)", line)[1] for line in reversed(needed) if "Write" in line
            )
            assert int(written) == task.answer
            assert task.answer == sum(map(int, re.findall(r"\d+", task.question)))
        else:
            assert needed[-1].endswith(f"={task.answer}.")
        shares.append(chains.needed_share(told))
    assert low - 0.02 <= fmean(shares) <= high + 0.02
    assert max(shares) - min(shares) < 0.15


def test_kinds_stand_apart_by_needed_share():
    by_kind: dict[str, list[float]] = {}
    made = list(word_problems.problems(200, 1))
    for problem in made:
        by_kind.setdefault(problem.kind, []).append(problem.needed)
    assert {kind: len(shares) for kind, shares in by_kind.items()} == {
        kind: 10 * word_problems.MIX.count(kind) for kind in chains.KINDS
    }
    assert all(
        max(by_kind[a]) < min(by_kind[b]) for a, b in zip(chains.KINDS, chains.KINDS[1:], strict=False)
    )


def test_problems_repeat_by_seed_are_held_out_and_graded_right():
    first = list(word_problems.problems(60, 1))
    assert first == list(word_problems.problems(60, 1)) == list(word_problems.problems(90, 1))[:60]
    assert not {p.question for p in first} & {p.question for p in word_problems.problems(60, 2)}
    assert [problem.id for problem in first[:2]] == ["quickstart-1-0", "quickstart-1-1"]
    assert all(word_problems.is_held_out(problem.question) for problem in first)
    assert all(is_correct(f"The answer is \\boxed{{{problem.answer}}}.", problem.answer) for problem in first)
    drawn = [word_problems.tell(random.Random(seed)).question for seed in range(400)]
    assert 0.2 < sum(map(word_problems.is_held_out, drawn)) / 400 < 0.3
