"""Measuring a random tiny GGUF: modes, denominators, resuming, and the stage."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny_gguf import write_tiny_gguf

from lite.cli.options import mode_of
from lite.config import parse
from lite.errors import LiteError
from lite.eval import evaluate as module
from lite.eval.evaluate import Settings, evaluate, grade, measure
from lite.eval.modes import modes_of
from lite.infer.request import Answer
from lite.run import Run
from lite.runtime.files import write_records
from lite.runtime.provenance import sha256
from lite.schema import Problem
from lite.tokens import MODES, parse_reply

PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(7)]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Tests may share their cores with others; llama.cpp's threads wait for each other at every step."""
    monkeypatch.setattr("lite.runtime.hardware.num_cores", lambda: 1)


@pytest.fixture(scope="module")
def dial(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "dial.gguf", seed=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "base.gguf", dial=False)


def test_evaluate_measures_the_full_mode_even_when_not_asked(dial, tmp_path):
    made = evaluate(dial, PROBLEMS, ["policy", "0.2"], tmp_path, Settings(max_tokens=20))
    assert [row["mode"] for row in made["rows"]] == ["0.2", "1.0", "policy"]
    assert made["model"] == "dial.gguf" and made["sha256"] == sha256(dial)
    assert made["seed"] == 0 and "python" in made["versions"] and made["command"]
    assert all(row["num_problems"] == 7 for row in made["rows"])
    for name in ("report.json", "report.md", "report.png", "replies-0.2.jsonl", "replies-1.0.jsonl"):
        assert (tmp_path / name).is_file()


def test_a_model_without_a_dial(base, tmp_path):
    made = evaluate(base, PROBLEMS, ["base"], tmp_path / "out", Settings(max_tokens=20))
    assert [row["mode"] for row in made["rows"]] == ["base"] and made["rows"][0]["act_ratio"] is None
    with pytest.raises(LiteError, match="no dial"):
        evaluate(base, PROBLEMS, ["base", "0.2"], tmp_path / "other", Settings(max_tokens=20))
    assert not (tmp_path / "other").exists()


def test_no_problems(dial, tmp_path):
    with pytest.raises(LiteError, match="no problems"):
        evaluate(dial, [], ["0.2"], tmp_path, Settings(max_tokens=20))


def test_a_question_that_is_too_long_is_named(dial, tmp_path):
    problems = [*PROBLEMS, Problem("the long one", "so " * 600, "1")]
    with pytest.raises(
        LiteError, match="problem the long one: a prompt of .* leaves no room in 512; shorten"
    ):
        evaluate(dial, problems, ["0.2"], tmp_path, Settings(max_tokens=20))


def reply(text, stop="eos", think_tokens=0):
    parsed = parse_reply(text)
    fields = dict(
        think=parsed.think, visible=parsed.visible, has_think=parsed.has_think, closed=parsed.closed
    )
    counts = dict(think_tokens=think_tokens, total_tokens=20, prompt_tokens=9, seconds=0.1)
    return Answer(mode="policy", ratio=parsed.ratio, budget=None, stop=stop, text=text, **fields, **counts)


def test_grading_of_replies():
    problem = Problem("p", "2+2?", "4")

    def graded(text, stop="eos"):
        return grade(problem, reply(text, stop, 3), 0.5)

    good = graded("<COMP_20>\n<think>\n2+2\n</think>\n\n\\boxed{4}")
    assert good.correct and good.ratio == 0.2 and good.think_tokens == 3 and not good.unclosed
    assert good.finished == 0.5
    assert graded("<COMP_20>\n<think>\n2+2\n</think>\n\n\\boxed{4}", "budget").correct
    assert not graded("<COMP_20>\n<think>\n2+2\n</think>\n\n\\boxed{5}").correct
    assert not graded("<COMP_20>\n<think>\n2+2\n</think>\n\n\\boxed{4}", "length").correct
    open_ended = graded("<COMP_20>\n<think>\n\\boxed{4}")
    assert not open_ended.correct and open_ended.unclosed
    bare = graded("\\boxed{4}")
    assert bare.correct and not bare.unclosed


def test_a_budget(dial, tmp_path):
    made = evaluate(dial, PROBLEMS, [None], tmp_path, Settings(max_tokens=200, budget=30))
    (row,) = made["rows"]
    assert row["mode"] == "policy"  # this GGUF carries no calibration
    assert row["act_ratio"] is None and made["settings"]["budget"] == 30 and row["cut"] == 0
    text = (tmp_path / "report.md").read_text()
    assert "thinking held to 30." in text and "held to 30 tokens; where a problem needs more" in text
    assert "sft-policy" not in text and "realised ratio |" not in text
    made = evaluate(dial, PROBLEMS[:1], ["0.2"], tmp_path / "capped", Settings(max_tokens=4096))
    assert made["settings"]["max_tokens"] == 512  # the model's context


def test_thinking_off_caps_and_leans(dial, tmp_path):
    modes = modes_of(["none", "cap:8", "cap:16", "lean:-100", "lean:100", "0.2"], mode_of)
    made = evaluate(dial, PROBLEMS, modes, tmp_path, Settings(max_tokens=150))
    rows = {row["mode"]: row for row in made["rows"]}
    assert [*rows] == ["none", "0.2", "1.0", "cap:8", "cap:16", "lean:-100", "lean:100"]
    assert rows["none"]["think_tokens"] == 0 and rows["cap:8"]["think_tokens"] <= 8
    assert rows["lean:100"]["chosen_ratios"]["1.0"] == 7 and not rows["lean:-100"]["chosen_ratios"]["1.0"]
    assert all(row["markers"] == 0 and row["visible_tokens"] <= row["total_tokens"] for row in rows.values())
    for wrong in ("cap:", "cap:x", "lean:nan", "lean:1000", "0.3", "../x"):
        with pytest.raises(LiteError):
            modes_of([wrong], mode_of)


def test_samples(dial, tmp_path):
    with pytest.raises(LiteError, match="--samples 3: greedy replies are all alike"):
        evaluate(dial, PROBLEMS, ["0.2"], tmp_path, Settings(max_tokens=9, samples=3))
    settings = Settings(max_tokens=9, samples=3, temperature=1.0)
    made = evaluate(dial, PROBLEMS, ["1.0"], tmp_path / "three", settings)
    (row,) = made["rows"]
    assert row["num_problems"] == 7 and len(row["vote"]) == len(row["accuracy_by_seed"]) == 3
    replies = [json.loads(line) for line in (tmp_path / "three" / "replies-1.0.jsonl").open()]
    assert len({reply["text"] for reply in replies}) > 14  # each has draws of its own
    single = evaluate(dial, PROBLEMS, ["1.0"], tmp_path / "one", replace(settings, samples=1))
    first = [json.loads(line)["text"] for line in (tmp_path / "one" / "replies-1.0.jsonl").open()]
    assert first == [reply["text"] for reply in replies if reply["sample"] == 0] and single["rows"]


def test_finished_modes_are_not_run_again(dial, tmp_path, monkeypatch):
    settings = Settings(max_tokens=15, num_threads=1)
    models = dict.fromkeys(("0.2", "0.4", "1.0"), dial)
    ran = []
    run_mode = module.run_mode

    def killed_at_full(engine, problems, mode, settings, *others):
        ran.append(mode)
        if mode == "1.0" and ran.count("1.0") == 1:
            raise KeyboardInterrupt
        return run_mode(engine, problems, mode, settings, *others)

    monkeypatch.setattr(module, "run_mode", killed_at_full)
    with pytest.raises(KeyboardInterrupt):
        measure(models, PROBLEMS, tmp_path, settings)
    assert not (tmp_path / "report.json").exists()
    resumed = measure(models, PROBLEMS, tmp_path, settings)
    assert ran == ["0.2", "0.4", "1.0", "1.0"]

    fresh = measure(models, PROBLEMS, tmp_path / "fresh", settings)

    def timeless(made):
        rows = json.loads(json.dumps(made["rows"]))
        return [{key: value for key, value in row.items() if key != "seconds_per_problem"} for row in rows]

    assert timeless(resumed) == timeless(fresh)


@pytest.mark.parametrize("change", ["settings", "problems", "model"])
def test_replies_to_something_else_are_dropped(dial, base, tmp_path, monkeypatch, change):
    settings, problems, models = Settings(max_tokens=10, num_threads=1), PROBLEMS, {"1.0": dial}
    measure(models, problems, tmp_path, settings)
    ran = []
    run_mode = module.run_mode

    def spy(engine, problems, mode, settings, *others):
        ran.append(mode)
        return run_mode(engine, problems, mode, settings, *others)

    monkeypatch.setattr(module, "run_mode", spy)
    measure(models, problems, tmp_path, settings)
    assert ran == []
    if change == "settings":
        settings = Settings(max_tokens=9, num_threads=1)
    elif change == "problems":
        problems = PROBLEMS[1:]
    else:
        models = {"1.0": write_tiny_gguf(tmp_path / "other.gguf", seed=5)}
    measure(models, problems, tmp_path, settings)
    assert ran == ["1.0"]


def test_more_ratios_of_the_same_keep_what_is_there(dial, tmp_path):
    settings = Settings(max_tokens=10, num_threads=1)
    measure({"0.2": dial, "1.0": dial}, PROBLEMS, tmp_path, settings)
    before = (tmp_path / "replies-0.2.jsonl").read_bytes()
    made = measure({"0.4": dial, "1.0": dial}, PROBLEMS, tmp_path, settings)
    assert [row["mode"] for row in made["rows"]] == ["0.4", "1.0"]
    assert (tmp_path / "replies-0.2.jsonl").read_bytes() == before
    measure({"0.4": dial, "1.0": dial}, PROBLEMS[1:], tmp_path, settings)
    assert not (tmp_path / "replies-0.2.jsonl").exists()


def test_files_of_others_stay(dial, tmp_path):
    settings = Settings(max_tokens=10, num_threads=1)
    others = {"replies-mine.jsonl": "mine", "replies-0.4.jsonl": "mine, too", "inputs.json": "[1, 2]"}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    measure({"1.0": dial}, PROBLEMS, tmp_path, settings)
    measure({"1.0": dial}, PROBLEMS[1:], tmp_path, settings)  # drops its own
    with pytest.raises(LiteError, match="replies-0.4.jsonl: is there and not lite's; choose another folder"):
        measure({"0.4": dial, "1.0": dial}, PROBLEMS, tmp_path, settings)
    assert {name: (tmp_path / name).read_text() for name in others} == others


@pytest.mark.parametrize("state", ["[1, 2]", '{"modes": 3}', "{", "\xff"])
def test_a_state_that_is_none_of_ours(dial, tmp_path, state):
    (tmp_path / ".lite-inputs.json").write_text(state, encoding="latin-1")
    made = measure({"1.0": dial}, PROBLEMS, tmp_path, Settings(max_tokens=5, num_threads=1))
    assert [row["mode"] for row in made["rows"]] == ["1.0"]


def test_the_stage(dial, base, tmp_path):
    run = Run(parse("name: tiny\nevaluate: {max_tokens: 20, num_threads: 1}\n"), tmp_path)
    write_records(run.path("problems", "eval.jsonl"), PROBLEMS)
    run.path("export").mkdir()
    sft = write_tiny_gguf(tmp_path / "sft.gguf", seed=2)
    for which, source in (("base", base), ("sft", sft), ("policy", dial)):
        run.gguf(which).write_bytes(source.read_bytes())
    shown = module.run(run)
    assert set(shown) == {
        f"{mode}_{what}" for mode in ("base", "sft_policy", "policy") for what in ("accuracy", "think_tokens")
    }
    made = json.loads(run.path("evaluate", "report.json").read_text())
    assert [row["mode"] for row in made["rows"]] == ["base", *MODES[:-1], "sft-policy", "policy"]
    assert made["model"] == "tiny-q8_0.gguf" and made["sha256"] == sha256(dial)
    assert made["models"]["sft-policy"]["file"] == "tiny-sft-q8_0.gguf"
    assert "policy_vs_sft" in made
    full = next(row for row in made["rows"] if row["mode"] == "1.0")
    assert full["act_ratio"] in (None, 1.0)
