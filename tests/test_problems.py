"""Problems from every source, and sets that share no question."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lite import problems
from lite.errors import LiteError
from lite.problems import load, read_file, split
from lite.recipe import Problems, Recipe
from lite.records import Problem, read_records
from lite.stages import Run


@pytest.fixture
def write(tmp_path):
    def write(*rows) -> str:
        path = tmp_path / "problems.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


def test_plain_file(write):
    path = write(
        {"id": "a", "question": " 1+1? ", "answer": 2, "cot": "1+1=2"}, {"question": "2+2?", "answer": "4"}
    )
    first, second = load(path)
    assert first == Problem("a", "1+1?", "2", "1+1=2")
    assert (second.question, second.answer, second.cot) == ("2+2?", "4", "")
    assert len(second.id) == 12 and load(path)[1].id == second.id  # made from the question


def test_gsm8k(write):
    worked = "She sold 48/2 = <<48/2=24>>24 clips.\nIn all 1,000+24 = <<1000+24=1024>>1,024.\n#### 1,024"
    (problem,) = load(write({"question": "How many?", "answer": worked}))
    assert problem.answer == "1,024"
    assert problem.cot == "She sold 48/2 = 24 clips.\nIn all 1,000+24 = 1,024."


def test_math500(write):
    row = {
        "problem": "x?",
        "solution": "So $\\boxed{\\frac{1}{2}}$.",
        "level": 2,
        "unique_id": "test/algebra/1.json",
    }
    expected = Problem("test/algebra/1.json", "x?", "\\frac{1}{2}", "So $\\boxed{\\frac{1}{2}}$.")
    assert load(write(row | {"answer": "\\frac{1}{2}"})) == [expected]
    assert load(write(row)) == [expected]  # the answer is in the solution's box


def test_the_same_question_counts_once(write):
    path = write(
        {"question": "How  many apples?", "answer": "1"},
        {"question": "how many\napples?", "answer": "2"},
        {"question": "How many pears?", "answer": "3"},
    )
    assert [problem.answer for problem in load(path)] == ["1", "3"]


def test_a_file_is_drawn_from_by_seed(write):
    path = write(*({"id": str(n), "question": f"{n}+0?", "answer": n} for n in range(20)))
    drawn = [problem.id for problem in load(path, 5, 1)]
    assert len(set(drawn)) == 5
    assert drawn == [problem.id for problem in load(path, 5, 1)]
    assert drawn != [problem.id for problem in load(path, 5, 2)]
    assert [problem.id for problem in load(path)] == [str(n) for n in range(20)]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "no problems in it"),
        ([{"question": "q", "answer": "1"}, 5], "line 2: '5' is not an object"),
        ([{"answer": "1"}], "line 1: no question"),
        ([{"question": "q"}], "line 1: no answer"),
        ([{"question": ["q"], "answer": "1"}], 'line 1: question = ["q"]: expected text'),
        ([{"question": "q", "answer": float("nan")}], "line 1: answer = NaN: expected text"),
        ([{"question": "q", "answer": float("-inf")}], "line 1: answer = -Infinity: expected text"),
        ([{"question": "q \ud83d", "answer": "1"}], "line 1: question has half a character, '\\ud83d'"),
        (
            [{"id": 1, "question": "q", "answer": "1"}, {"id": 1, "question": "r", "answer": "1"}],
            "line 2: id '1' stands for two questions",
        ),
    ],
)
def test_bad_files(write, rows, message):
    path = write(*rows)
    with pytest.raises(LiteError) as fault:
        load(path)
    assert message in str(fault.value) and path in str(fault.value)


def test_blank_lines_count(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('\n\n{"question": "q"}\n')
    with pytest.raises(LiteError, match="line 3: no answer"):
        read_file(path)


def test_too_few(write):
    path = write(*({"question": f"{n}?", "answer": n} for n in range(5)))
    with pytest.raises(LiteError, match="7 problems are asked, 5 different ones"):
        load(path, 7)
    with pytest.raises(
        LiteError, match=r"asks for 6 problems \(num_eval 1 \+ num_rl 2 \+ num_train 3\), 5 different"
    ):
        split(path, {"eval": 1, "rl": 2, "train": 3}, 0)


@pytest.mark.parametrize("source", ["nix.jsonl", "quickstrat", ".", ""])
def test_no_such_source(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LiteError, match="no such file; give a JSONL file, 'quickstart' or 'gym:<task>'"):
        load(source, 1)


def test_how_many():
    with pytest.raises(LiteError, match="say how many with --num"):
        load("quickstart")
    with pytest.raises(LiteError, match="num = 0"):
        load("quickstart", 0)


def test_quickstart_is_the_world():
    made = load("quickstart", 12, 99)
    assert [problem.id for problem in made] == [f"quickstart-99-{n}" for n in range(12)]
    assert made == load("quickstart", 12, 99)


def questions(sets):
    return [problem.question for made in sets.values() for problem in made]


@pytest.mark.parametrize("seed", [0, 1])
def test_quickstart_sets_share_nothing(seed):
    sets = split("quickstart", {"eval": 500, "rl": 300, "train": 900}, seed)
    assert {name: len(made) for name, made in sets.items()} == {"eval": 500, "rl": 300, "train": 900}
    assert len(set(questions(sets))) == 1700
    assert sets == split("quickstart", {"eval": 500, "rl": 300, "train": 900}, seed)
    assert sets["eval"] != split("quickstart", {"eval": 500}, seed + 1)["eval"]


def test_file_sets_share_nothing(write):
    path = write(*({"question": f"{n}?", "answer": n} for n in range(30)))
    sets = split(path, {"eval": 5, "rl": 5, "train": 10}, 0)
    assert [len(made) for made in sets.values()] == [5, 5, 10] and len(set(questions(sets))) == 20
    assert (
        split(path, {"eval": 5, "rl": 5, "train": 20}, 0)["eval"] == sets["eval"]
    )  # more training, the same test


def test_gym():
    pytest.importorskip("reasoning_gym")
    made = load("gym:gsm_symbolic", 3, 5)
    assert [problem.id for problem in made] == [f"gsm_symbolic-5-{n}" for n in range(3)]
    assert all(problem.answer and problem.cot for problem in made)
    assert made == load("gym:gsm_symbolic", 3, 5)
    with pytest.raises(LiteError, match="gym:nix: reasoning-gym has no such task"):
        load("gym:nix", 3)


def test_gym_is_silent():
    pytest.importorskip("reasoning_gym")
    command = [sys.executable, "-m", "lite.cli", "problems", "gym:gsm_symbolic", "--num", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_stage(tmp_path):
    recipe = Recipe(problems=Problems(num_train=3, num_rl=2, num_eval=1))
    run = Run(recipe, tmp_path)
    assert problems.run(run) == {"num_eval": 1, "num_rl": 2, "num_train": 3}
    for name, num in (("train", 3), ("rl", 2), ("eval", 1)):
        assert len(read_records(run.path("problems", f"{name}.jsonl"), Problem)) == num


def test_read_file_wants_text(tmp_path):
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(LiteError, match="not UTF-8"):
        read_file(tmp_path / "binary.jsonl")
