"""Traces: graded, journalled, resumed."""

from __future__ import annotations

import dataclasses

import pytest
from loopback import Act, serve

from lite.data import traces
from lite.errors import LiteError
from lite.models import generate as generate_module
from lite.models import rollouts, unsloth
from lite.runtime.files import read_records, write_records
from lite.schema import Problem, Trace
from lite.tokens import encode_prompt

REPLIES = {
    "one": "<think>\n1 + 1 = 2\n</think>\n\n\\boxed{2}",
    "two": "<think>\nhm\n</think>\n\n\\boxed{3}",  # wrong
    "three": "<think>\n\\boxed{2} is what I think",  # never closed
}


def test_only_correct_and_closed_ones_go_on_and_a_cut_run_resumes(make_run, monkeypatch):
    run = make_run("traces: {batch_size: 1, max_tokens: 50}")
    write_records(run.path("problems", "train.jsonl"), [Problem(name, name, "2") for name in REPLIES])
    monkeypatch.setattr(unsloth, "load", lambda model, **_: (None, unsloth.load_tokenizer(model)))
    asked = []

    def generate(model, tokenizer, prompts, **_):
        if len(asked) == 2 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        names = [name for name in REPLIES if f"\n{name}<|im_end|>" in tokenizer.decode(prompts[0])]
        asked.extend(names)
        return [tokenizer.encode(REPLIES[names[0]], add_special_tokens=False)]

    interrupted: list[bool] = []
    monkeypatch.setattr(generate_module, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        traces.run(run)
    assert traces.run(run) == {"sampled": 3, "correct": 0.3333, "traces": 1, "think_tokens": 9.0}
    assert sorted(asked) == ["one", "three", "two"]  # each once
    assert read_records(run.path("traces", "traces.jsonl"), Trace) == [
        Trace("one/0", "one", "2", "1 + 1 = 2", "\\boxed{2}")
    ]


def test_through_an_endpoint_and_resumed(make_run, model_folder):
    """The same traces as sampled here, though the server fails in between; prompts arrive token-exact."""
    run = dataclasses.replace(make_run("traces: {batch_size: 2, max_tokens: 50}"))
    write_records(run.path("problems", "train.jsonl"), [Problem(name, name, "2") for name in REPLIES])
    tokenizer = unsloth.load_tokenizer(model_folder)
    broken = []

    def answer(path, body, number):
        if path == "/v1/models":
            return {"data": [{"id": "base"}]}
        [name] = [n for n in REPLIES if f"\n{n}<|im_end|>" in tokenizer.decode(body["prompt"])]
        if name == "two" and not broken:
            broken.append(name)
            return Act("no", status=400)
        assert body["prompt"] == encode_prompt(tokenizer, name, "base")
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.95, 50)
        ids = tokenizer.encode(REPLIES[name], add_special_tokens=False)
        ids += [tokenizer.eos_token_id] if name != "three" else []
        finish = "length" if name == "three" else "stop"
        return {"choices": [{"text": "", "token_ids": ids, "finish_reason": finish}]}

    with serve(answer) as server:
        run = dataclasses.replace(run, endpoint=server.url)
        with pytest.raises(LiteError, match="status 400"):
            traces.run(run)
        assert traces.run(run) == {"sampled": 3, "correct": 0.3333, "traces": 1, "think_tokens": 9.0}
    assert read_records(run.path("traces", "traces.jsonl"), Trace) == [
        Trace("one/0", "one", "2", "1 + 1 = 2", "\\boxed{2}")
    ]
    assert traces.run(run)["traces"] == 1  # all is in the journal: the server may be gone
    seeds = [body["seed"] for _, body, _ in server.asked if body]
    assert len(set(seeds)) == 3  # one for each task


def test_no_correct_trace_is_one_clear_line(make_run):
    run = make_run("traces: {batch_size: 4, max_tokens: 3}")
    write_records(run.path("problems", "train.jsonl"), [Problem("p", "2 + 3", "5")])
    with pytest.raises(LiteError, match="none of 1 replies"):
        traces.run(run)


def test_a_base_without_a_think_span_learns_it_from_its_own_replies():
    problem = Problem("p", "1 + 1?", "2")

    def sample(think, visible, closed, correct=True):
        return rollouts.Sample("p/0", correct, closed, 3, think, visible)

    plain = traces.sampled_trace(sample("", "1 + 1 = 2, so \\boxed{2}", False), problem, ())
    assert plain == Trace("p/0", "1 + 1?", "2", "1 + 1 = 2, so \\boxed{2}", "The answer is \\boxed{2}.")
    assert traces.sampled_trace(sample("hm", "\\boxed{2}", True), problem, ()).visible == "\\boxed{2}"
    for other in (
        sample("hm", "", False),
        sample("", "\\boxed{3}", False, False),
        sample("", "\\boxed{2}", True),
        sample("<think> hm", "\\boxed{2}", True),  # would teach two spans
    ):
        assert traces.sampled_trace(other, problem, {"<think>"}) is None


def test_gold_traces_are_the_worked_solutions(make_run):
    run = make_run("traces: {method: gold}")
    given = [
        Problem("a", "q", "72", "48/2 = 24\n48+24 = 72"),
        Problem("b", "q", "\\frac{1}{2}", "So $x=\\boxed{\\frac12}$."),
        Problem("c", "q", "3", "So $x=\\boxed{4}$."),  # contradicts its answer
        Problem("d", "q", "3"),
        Problem("e", "q", "3", "<COMP_20> So 3."),  # would train the dial
        Problem("f", "q", "5", "<think>\n2 + 3 = 5\n</think>\n\nIt is 5."),  # a reasoning model's
        Problem("g", "q", "5", "<think>\n2 + 3 = 5"),
        Problem("i", "q", "5", "<think>\n2 + 3 = 5\n</think>\n\nFive, then."),
        Problem("h", "q", "5", "2 + 3 = 5<|im_end|>"),  # would end replies in the middle
    ]
    write_records(run.path("problems", "train.jsonl"), given)
    assert traces.run(run)["traces"] == 4
    found = read_records(run.path("traces", "traces.jsonl"), Trace)
    assert [trace.id for trace in found] == ["a/gold", "b/gold", "f/gold", "i/gold"]
    assert (found[0].think, found[0].visible) == ("48/2 = 24\n48+24 = 72", "The answer is \\boxed{72}.")
    assert (found[2].think, found[2].visible) == ("2 + 3 = 5", "It is 5.\n\nThe answer is \\boxed{5}.")
    assert found[3].visible == "Five, then.\n\nThe answer is \\boxed{5}."
    write_records(run.path("problems", "train.jsonl"), given[3:5])
    with pytest.raises(LiteError, match="traces.method = gold: none of 2 problems has a worked solution"):
        traces.run(run)
