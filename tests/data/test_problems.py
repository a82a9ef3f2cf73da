"""Problems from every source, and sets that share no question."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest

from lite.config import Problems, Recipe, Source, parse
from lite.data import problems, sources
from lite.data.problems import load, pool, split, titles
from lite.errors import LiteError
from lite.run import Run
from lite.runtime.files import read_records
from lite.schema import Problem


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
        ([{"question": "q", "answer": "1"}, 5], "line 2: not an object: '5'"),
        (
            [{"answer": "1", "meta": {"a": [{"b": 1}]}}],
            "line 1: no question; there are answer, meta.a[0].b; name",
        ),
        ([{"question": "q"}], "line 1: no answer; there are question; name"),
        (
            [{"question": "q", "answer": "He needs 3 boxes of 12."}],
            "is a sentence with 2 numbers; give the answer",
        ),
        (
            [{"question": "q", "answer": "It is the blue one."}],
            "is a sentence with no number; give the answer",
        ),
        ([{"question": ["q"], "answer": "1"}], 'line 1: question = ["q"]: expected text'),
        ([{"question": "q", "answer": float("nan")}], "line 1: answer = NaN: expected text"),
        ([{"question": "q", "answer": float("-inf")}], "line 1: answer = -Infinity: expected text"),
        ([{"question": "q \ud83d", "answer": "1"}], "line 1: Invalid JSON"),
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
        load(str(path))


def test_too_few(write):
    path = write(*({"question": f"{n}?", "answer": n} for n in range(5)))
    with pytest.raises(LiteError, match="7 problems are asked, 5 different ones"):
        load(path, 7)
    with pytest.raises(
        LiteError, match=r"asks for 6 problems \(num_eval 1 \+ num_rl 2 \+ num_train 3\), 5 different"
    ):
        cut(path, {"eval": 1, "rl": 2, "train": 3}, 0)


@pytest.mark.parametrize(
    "source", ["nix.jsonl", "quickstrat", ".", "", "some/nix.jsonl", "/nix/nix:train", "a/b"]
)
def test_no_such_source(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        LiteError, match="no such file; give a JSONL, JSON, CSV or Parquet file, a Hub data set"
    ):
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


def cut(source, sizes, seed):
    return split((Source(source),), sizes, seed, set())


def questions(sets):
    return [problem.question for made in sets.values() for problem in made]


@pytest.mark.parametrize("seed", [0, 1])
def test_quickstart_sets_share_nothing(seed):
    sets = cut("quickstart", {"eval": 500, "rl": 300, "train": 900}, seed)
    assert {name: len(made) for name, made in sets.items()} == {"eval": 500, "rl": 300, "train": 900}
    assert len(set(questions(sets))) == 1700
    assert sets == cut("quickstart", {"eval": 500, "rl": 300, "train": 900}, seed)
    assert sets["eval"] != cut("quickstart", {"eval": 500}, seed + 1)["eval"]


def test_file_sets_share_nothing(write):
    path = write(*({"question": f"{n}?", "answer": n} for n in range(30)))
    sets = cut(path, {"eval": 5, "rl": 5, "train": 10}, 0)
    assert [len(made) for made in sets.values()] == [5, 5, 10] and len(set(questions(sets))) == 20
    assert (
        cut(path, {"eval": 5, "rl": 5, "train": 20}, 0)["eval"] == sets["eval"]
    )  # more training, the same test


def test_gym():
    pytest.importorskip("reasoning_gym")
    made = load("gym:gsm_symbolic", 3, 5)
    assert [problem.id for problem in made] == [f"gsm_symbolic-5-{n}" for n in range(3)]
    assert all(problem.answer and problem.cot for problem in made)
    assert made == load("gym:gsm_symbolic", 3, 5)
    with pytest.raises(LiteError, match="gym:nix: reasoning-gym has no such task"):
        load("gym:nix", 3)


def test_gym_s_seeds_share_no_problem():
    pytest.importorskip("reasoning_gym")
    sets = [{problem.question for problem in load("gym:chain_sum", 50, seed)} for seed in (5, 6, 40)]
    assert len(set.union(*sets)) == 150
    recipe = Recipe(problems=Problems(source=(Source("gym:chain_sum"),)))
    assert recipe.problems.num_eval > 2
    made = split(recipe.problems.source, {"eval": 300, "rl": 100}, 0, set())
    assert [len(made[name]) for name in ("eval", "rl")] == [300, 100]


def test_gym_is_silent():
    pytest.importorskip("reasoning_gym")
    command = [sys.executable, "-m", "lite", "problems", "gym:gsm_symbolic", "--num", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_stage(tmp_path):
    recipe = Recipe(problems=Problems(num_train=3, num_rl=2, num_eval=1))
    run = Run(recipe, tmp_path)
    assert problems.run(run) == {"num_eval": 1, "num_rl": 2, "num_train": 3}
    for name, num in (("train", 3), ("rl", 2), ("eval", 1)):
        assert len(read_records(run.path("problems", f"{name}.jsonl"), Problem)) == num


def test_a_file_is_text(tmp_path):
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(LiteError, match="not UTF-8"):
        load(str(tmp_path / "binary.jsonl"))


METAMATH = {
    "query": "How much?",
    "response": "He has 5+6=11 left.\n#### 11\nThe answer is: 11",
    "original_question": "What?",
    "type": "GSM_Rephrased",
}


def test_metamath(write):
    (problem,) = load(write(METAMATH))
    assert (problem.question, problem.answer, problem.cot) == ("How much?", "11", "He has 5+6=11 left.")
    plain = {"query": "x?", "response": "So $x=\\boxed{3}$.\nThe answer is: 3"}
    assert load(write(plain))[0].cot == "So $x=\\boxed{3}$."


def test_columns_by_name(write):
    path = write({"q": "1+1?", "gold": 2, "question": "not this", "work": "1+1=2"})
    assert pool(Source(path, question="q", answer="gold", cot="work"), 0)[0].cot == "1+1=2"
    assert pool(Source(path, question="q", answer="gold"), 0)[0].question == "1+1?"
    with pytest.raises(
        LiteError, match="line 1: no column 'nix', which the recipe names for answer; there are q, gold"
    ):
        pool(Source(path, question="q", answer="nix"), 0)


VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How much?"}],
    "reward_model": {"style": "rule", "ground_truth": "11"},
    "extra_info": {"index": 0},
}
MESSAGES = {
    "messages": [
        VERL["prompt"][1],
        {"role": "assistant", "content": "<think>\n5+6=11\n</think>\n\n\\boxed{11}"},
    ]
}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "How much?"},
        {"from": "gpt", "value": "5+6=11\nThe answer is: 11"},
    ]
}


@pytest.mark.parametrize(
    ("row", "columns", "cot"),
    [
        (VERL, {}, ""),
        (VERL, {"question": "prompt[1].content", "answer": "reward_model.ground_truth"}, ""),
        (VERL | {"extra_info": {"question": "How much?", "answer": "no"}, "prompt": "More words"}, {}, ""),
        (MESSAGES, {}, "5+6=11"),
        (
            MESSAGES | {"gold": {"a.b": [7, 11]}},
            {"question": "messages[0].content", "answer": "gold.a.b"},
            "",
        ),
        (SHAREGPT, {}, "5+6=11"),
        (SHAREGPT, {"question": "conversations[-2].value", "cot": "conversations[-1].value"}, "5+6=11"),
    ],
)
def test_nested_columns(write, row, columns, cot):
    if columns.get("answer") == "gold.a.b":  # a name with a dot inside another is no path
        with pytest.raises(
            LiteError, match=r"no column 'gold.a.b', .*there are messages\[0\].role, .*gold.a.b\[0\]"
        ):
            pool(Source(write(row), **columns), 0)
        return
    [problem] = pool(Source(write(row), **columns), 0)
    assert (problem.question, problem.answer, problem.cot) == ("How much?", "11", cot)


@pytest.mark.parametrize("path", ["a.c", "a[0]", "b[2].c", "b[user].c", "b.c", "a..b", "b[", "", "c.d"])
def test_no_such_path(path):
    row = {"a": {"b": 1}, "b": [{"c": 2}], "c": "text"}
    assert (
        sources.at(row, "a.b") == 1 and sources.at(row, "b[-1].c") == 2 and sources.at({"a.b": 3}, "a.b") == 3
    )
    with pytest.raises(KeyError):
        sources.at(row, path)


JSON_LINES = "".join(
    json.dumps({"question": f"{n}?", "answer": answer}) + "\n" for n, answer in enumerate(["007", "NA", 3])
)
FILES = {
    "a.jsonl": JSON_LINES,
    "a.json": json.dumps([json.loads(line) for line in JSON_LINES.splitlines()], indent=1),
    "a.csv": 'question,answer\r\n0?,007\r\n"1?",NA\n2?,3',
    "semicolons.csv": "\ufeffanswer;question\n007;0?\nNA;1?\n3;2?\n",
    "a.tsv": "question\tanswer\n0?\t007\n1?\tNA\n2?\t3\n",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("zipped", [False, True])
def test_files(tmp_path, name, zipped):
    path, data = tmp_path / (name + ".gz" * zipped), FILES[name].encode()
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert [(one.question, one.answer) for one in load(str(path))] == [
        ("0?", "007"),
        ("1?", "NA"),
        ("2?", "3"),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'[{"question": "q"', "not a JSON array"),
        ("a.json", b'[{"question": "q", "answer": 1}, 5]', "item 1: '5' is not an object"),
        ("a.csv", b"question,answer\nq,1,2\n", "line 2: not as many values as the 2 columns"),
        ("a.csv", b'question,answer\n"q,1\n', "not CSV"),
        ("a.csv", b"answer,answer\n1,2\n", "two columns have the same name"),
        ("a.csv", b"", "no problems in it"),
        ("a.csv", b"q,gold\n1,2\n", "line 2: no question; there are q, gold"),
        ("a.jsonl.gz", gzip.compress(b"x" * 500)[:-9], "cannot be read"),
    ],
)
def test_damaged_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LiteError, match=message):
        load(str(tmp_path / name))


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("She has 5+6 = 11 rolls.", "11"),
        ("She has $1,250 left.", "1,250"),
        ("So the answer is 7 of the 12.", "7"),
        ("There are 5 + 6 = 11 rolls, \\boxed{12}", "12"),
        ("The value is $\\frac{3}{4}$.", "\\frac{3}{4}"),
        ("12 square meters per second", None),
        ("x = 3 or x = 5", None),
        ("5 hours and 20 minutes", None),
        ("\\text{no real solution is possible}", None),
        ("the Great Wall", None),
        ("\\frac{1}{2}", None),
    ],
)
def test_a_gold_that_is_a_sentence(write, answer, gold, capsys):
    [problem] = load(write({"question": "How much?", "answer": answer}), 1)
    assert problem.answer == (gold or answer)
    told = "1 answers are sentences, their number is taken: " in capsys.readouterr().err.replace("\n", " ")
    assert told == (gold not in (None, "12"))


def test_hashes_inside_a_solution(write):
    worked = "Ticket #### is free. 5+6=11\n#### 11"
    assert load(write({"question": "q", "answer": worked}))[0].cot == "Ticket #### is free. 5+6=11"
    assert (
        load(write({"question": "q", "answer": "11", "cot": worked}))[0].cot == "Ticket #### is free. 5+6=11"
    )
    assert load(write({"question": "q", "answer": "11", "cot": "5+6=11 #### 11"}))[0].cot == "5+6=11"


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(
        pyarrow.Table.from_pylist([METAMATH, METAMATH | {"query": "And?"}]), tmp_path / "p.parquet"
    )
    assert [problem.question for problem in load(str(tmp_path / "p.parquet"))] == ["How much?", "And?"]
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(LiteError, match="bad.parquet: not a Parquet file"):
        load(str(tmp_path / "bad.parquet"))


def fake_hub(monkeypatch, answer):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*arguments, **keywords):
        asked.append((*arguments, keywords))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(5)] + [{"question": "no answer"}]
    asked = fake_hub(monkeypatch, rows)
    assert len(load("openai/gsm8k:main:test")) == 5  # a bad row of the Hub is left out
    assert len(load("a/b:test", 3)) == 3
    assert asked == [("openai/gsm8k", "main", {"split": "test"}), ("a/b", None, {"split": "test"})]
    fake_hub(monkeypatch, [{"id": "one", "question": f"{n}?", "answer": f"{n}"} for n in (1, 2, 2)])
    first, second, again = [problem.id for problem in pool(Source("a/b:test"), 0)] + ["-"]
    assert first == "one" and second != "one" and again == "-"  # ids that repeat cannot be mended by a user
    fake_hub(monkeypatch, [{"text": "nothing of ours"}])
    with pytest.raises(LiteError, match="a/b:test, row 0: no question; there are text; name the problem's"):
        load("a/b:test")


@pytest.mark.parametrize(
    "fault, message",
    [
        (
            ConnectionError("Couldn't reach"),
            "cannot be reached; put the split's file at data/openai/gsm8k/main/test.jsonl or ",
        ),
        (
            ValueError("Unknown split\n'test'"),
            r"does not give it \(Unknown split 'test'\); check owner/name, config and split",
        ),
        (FileNotFoundError("no data set"), r"does not give it \(no data set\)"),
    ],
)
def test_hub_faults(monkeypatch, tmp_path, fault, message):
    monkeypatch.chdir(tmp_path)
    fake_hub(monkeypatch, fault)
    with pytest.raises(LiteError, match=f"source openai/gsm8k:main:test: the Hub {message}"):
        load("openai/gsm8k:main:test")


def test_a_file_serves_for_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for place in ("data/openai/gsm8k/main/test.jsonl", "data/a/b-1.5/train.jsonl"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(json.dumps({"question": place, "answer": "1"}) + "\n")
    fake_hub(monkeypatch, AssertionError("the Hub was asked"))
    assert load("openai/gsm8k:main:test")[0].question == "data/openai/gsm8k/main/test.jsonl"
    assert load("a/b-1.5:train")[0].question == "data/a/b-1.5/train.jsonl"
    run = Run(Recipe(problems=Problems(source=(Source("openai/gsm8k:main:test"),))), tmp_path / "run")
    before = run.fingerprint("problems")
    (tmp_path / "data/openai/gsm8k/main/test.jsonl").write_text("")
    assert run.fingerprint("problems") != before


def test_titles():
    names = [
        "openai/gsm8k:main:test",
        "HuggingFaceH4/MATH-500:test",
        "some/mine.jsonl",
        "gym:gsm_symbolic",
        "quickstart",
    ]
    assert titles([Source(n) for n in names]) == [
        "gsm8k",
        "MATH-500",
        "mine",
        "gym:gsm_symbolic",
        "quickstart",
    ]
    assert titles([Source("a/x:t"), Source("b/x:t")]) == ["a/x:t", "b/x:t"]


def test_joined_sources(tmp_path):
    def write(name, *questions):
        rows = [{"id": n, "question": q, "answer": 1} for n, q in enumerate(questions)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    one, two = (
        write("one.jsonl", *(f"a{n}" for n in range(6))),
        write("two.jsonl", "a0", *(f"b{n}" for n in range(9))),
    )
    three = write("three.jsonl", "b0", "B0", "c0", "c1")
    text = (
        f"problems: {{source: [{one}, {{name: {two}, num: 8}}, {{name: quickstart, num: 5}}],"
        f" eval: [{three}, {{name: gym:gsm_symbolic, num: 2}}], num_train: 9, num_rl: 3, num_eval: 2}}"
    )
    run = Run(parse(text), tmp_path / "run")
    assert problems.run(run) == {"num_eval": 7, "num_rl": 3, "num_train": 9}
    sets = {n: read_records(run.path("problems", f"{n}.jsonl"), Problem) for n in ("eval", "rl", "train")}
    asked = [problem.question.casefold() for made in sets.values() for problem in made]
    assert len(set(asked)) == len(asked) == 19 and asked.count("b0") == 1
    ids = [problem.id for made in sets.values() for problem in made]
    assert len(set(ids)) == 19
    assert [p.data_set for p in sets["eval"]] == ["three"] * 3 + ["gym:gsm_symbolic"] * 2 + ["held-out"] * 2
    assert {p.id.split("/")[0] for p in sets["train"]} == {"one", "two", "quickstart"}
    with pytest.raises(LiteError, match="source quickstart makes as many problems as asked; give its num"):
        problems.run(Run(parse(f"problems: {{source: [{one}, quickstart]}}"), tmp_path / "run"))
