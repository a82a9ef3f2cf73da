"""The world of word problems: its arithmetic is right, its text says it, and a seed decides it."""

from __future__ import annotations

import random
import re

import pytest

from lite.data import word_problems
from lite.data.word_problems import Step, Story
from lite.grading import is_correct

STORY = Story(
    name="Mia",
    items="books",
    start=5,
    steps=(Step("finds 4 more", "+", 4, 5, 9), Step("loses 2 on the way", "-", 2, 9, 7)),
    aside="",
    question="Mia has 5 books. Mia finds 4 more. Mia loses 2 on the way. How many books does Mia have at the end?",
)


def test_equation():
    assert [step.equation() for step in STORY.steps] == ["5+4=9", "9-2=7"]


def test_visible():
    assert word_problems.visible(STORY) == "The answer is \\boxed{7}."


def test_terse_has_three_bare_styles_and_notes():
    texts = {word_problems.terse(random.Random(seed), STORY) for seed in range(100)}
    assert texts >= {
        "5+4=9. 9-2=7.\nThe answer is \\boxed{7}.",
        "On Monday, finds 4 more: 5+4=9. On Tuesday, loses 2 on the way: 9-2=7.\nThe answer is \\boxed{7}.",
        "Mia 5 books\n5+4=9\n9-2=7\nThe answer is \\boxed{7}.",
    }
    assert all(re.search(r"5\+4=9.*9-2=7", text, re.DOTALL) for text in texts)
    assert all(text.endswith("\nThe answer is \\boxed{7}.") for text in texts)


def test_notes_leave_out_words_and_no_equation():
    lengths = []
    for seed in range(100):
        story = word_problems.tell(random.Random(seed), 3)
        words = word_problems.notes(random.Random(seed), story, seed / 100, 1.0).split()
        assert [word for word in words if word in {f"{step.equation()}." for step in story.steps}] == [
            f"{step.equation()}." for step in story.steps
        ]
        lengths.append(len(words))
    assert min(lengths) == 3 and max(lengths) > 50


def test_problems_are_held_out_from_pretraining():
    assert all(word_problems.is_held_out(problem.question) for problem in word_problems.problems(100, 5))
    drawn = [word_problems.tell(random.Random(seed), 3).question for seed in range(400)]
    assert 0.2 < sum(map(word_problems.is_held_out, drawn)) / 400 < 0.3


@pytest.mark.parametrize("num_steps", range(1, word_problems.MAX_STEPS + 1))
def test_stories_compute(num_steps):
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for seed in range(100):
        story = word_problems.tell(random.Random(seed), num_steps)
        assert len(story.steps) == num_steps
        n = story.start
        for step in story.steps:
            assert step.before == n
            n = operations[step.op](n, step.k)
            assert step.after == n and 2 <= n <= 99
            assert str(step.k) in step.event and step.event in story.question
        assert f"{story.name} has {story.start} {story.items}. On Monday, " in story.question
        assert len({step.k for step in story.steps}) == num_steps
        assert story.question.endswith(f"How many {story.items} does {story.name} have at the end?")


def test_every_wordy_equation_is_right_and_every_step_is_there():
    for seed in range(200):
        rng = random.Random(seed)
        story = word_problems.tell(rng, seed % word_problems.MAX_STEPS + 1)
        told = word_problems.wordy(rng, story)
        equations = re.findall(r"(\d+)([-+*])(\d+)=(\d+)", told)
        assert all(eval(f"{a}{op}{b}") == int(c) for a, op, b, c in equations)
        assert all(f"{step.equation()}." in told for step in story.steps)
        assert told.endswith(f"The answer is {story.steps[-1].after}.")


def test_problems_repeat_by_seed_and_differ_between_seeds():
    first = list(word_problems.problems(60, 1))
    assert first == list(word_problems.problems(60, 1)) == list(word_problems.problems(90, 1))[:60]
    assert len({problem.question for problem in first}) == 60
    assert not {problem.question for problem in first} & {
        problem.question for problem in word_problems.problems(60, 2)
    }
    assert [problem.id for problem in first[:2]] == ["quickstart-1-0", "quickstart-1-1"]


def test_problems_cycle_through_the_difficulties_and_harder_ones_take_longer():
    lengths: dict[int, list[int]] = {}
    for index, problem in enumerate(word_problems.problems(300, 1)):
        lengths.setdefault(index % word_problems.MAX_STEPS, []).append(len(problem.cot.split()))
    means = [sum(of) / len(of) for _, of in sorted(lengths.items())]
    assert means == sorted(means) and means[-1] > 2 * means[0]


def test_the_gold_answer_is_the_one_the_solution_gives():
    assert all(is_correct(problem.cot, problem.answer) for problem in word_problems.problems(60, 3))
