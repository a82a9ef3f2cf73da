"""The teacher: chunks and parsing by hand, labels from a real server on loopback that misbehaves."""

from __future__ import annotations

import json
import random
import re

import pytest
from loopback import Act, serve

from lite import config as recipe
from lite.compress import annotate, teacher
from lite.compress.teacher import Answer, Chunk, Teacher, ask, chunks, sentences
from lite.compress.teacher_reply import parse_ranges
from lite.compress.units import segment
from lite.errors import LiteError
from lite.remote import client
from lite.run import Run
from lite.runtime.files import read_records, write_records
from lite.schema import Labels, Trace

THINK = "First, he has 12 apples. Then he buys 5 more, so 12 + 5 = 17 in all. Well, that was easy enough."


def trace(think=THINK, id="p/0"):
    return Trace(id, "How many apples?", "17", think, "\\boxed{17}")


def by_units(text, units):
    """A stand-in for a tokenizer: one token for a word."""
    return [len(text[unit.start : unit.end].split()) for unit in units]


def chat(text, tokens_in=100, tokens_out=10, **choice):
    return {
        "choices": [{"message": {"content": text}, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out},
    }


KEEP = chat('{"keep": [[3, 5], [11, 14]]}')


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(client, "LONGEST_PAUSE_S", 0.01)


def test_sentences():
    text = "He has 3.5 kg (of it). So\nnow 12+5=17! Yes"
    units = segment(text)
    parts = [text[units[a].start : units[b - 1].end] for a, b in sentences(text, units)]
    assert parts == ["He has 3.5 kg (of it).", "So", "now 12+5=17!", "Yes"]
    assert sentences("", []) == []


def chunk_sizes(sentence_sizes):
    text = " ".join(" ".join(["w"] * (size - 1) + ["w."]) for size in sentence_sizes)
    units = segment(text)
    return [chunk.end - chunk.begin for chunk in chunks(text, units, [1] * len(units))]


@pytest.mark.parametrize(
    "sentences, expected",
    [
        ([100], [100]),
        ([200, 200, 200], [600]),  # 88 from the target; cut, one would be 112 and one 312 away
        ([300, 300, 300], [300, 600]),
        ([250, 250, 250, 250], [500, 500]),
        ([100] * 8, [400, 400]),  # even, where filling up would leave 600 and 200
        ([1500], [640, 640, 220]),  # a sentence above the cap is cut between words
        ([], []),
    ],
)
def test_chunks_by_hand(sentences, expected):
    assert chunk_sizes(sentences) == expected


def brute_force(sizes):
    """The least cost over all ways to cut a list of sizes."""
    if not sizes:
        return 0
    return min(
        (sum(sizes[:n]) - teacher.TARGET_TOKENS) ** 2 + brute_force(sizes[n:])
        for n in range(1, len(sizes) + 1)
        if n == 1 or sum(sizes[:n]) <= teacher.MOST_TOKENS
    )


def test_chunks_are_the_best_and_whole(random_text):
    rng = random.Random(3)
    for _ in range(60):
        sizes = [rng.randint(1, 400) for _ in range(rng.randint(1, 9))]
        found = chunk_sizes(sizes)
        assert sum((size - teacher.TARGET_TOKENS) ** 2 for size in found) == brute_force(sizes)
        assert sum(found) == sum(sizes) and max(found) <= teacher.MOST_TOKENS
    for _ in range(200):
        text = random_text(rng)
        units = segment(text)
        counts = [rng.choice([1, 30, 300, 700]) for _ in units]
        found = chunks(text, units, counts)
        assert [c.begin for c in found] + [len(units)] == [0] + [c.end for c in found] or not units
        for chunk in found:
            assert sum(counts[chunk.begin : chunk.end]) <= 640 or chunk.end - chunk.begin == 1


def test_the_floor_is_for_chunks_that_can_have_two_ranges():
    text = "w " * 12 + "w. " + "w " * 3 + "w."
    assert chunks(text, segment(text), [1] * 17)[0].floor == 2
    for text in ("w " * 20 + "w.", "Yes. 3+4=7."):  # one sentence; few words
        units = segment(text)
        assert [chunk.floor for chunk in chunks(text, units, [1] * len(units))] == [1]


def test_ask_numbers_units_and_shows_a_formula_as_one():
    units = segment(THINK)
    shown = ask(trace(), units, Chunk(0, len(units), 2))
    assert shown.startswith(
        "Problem:\nHow many apples?\n\nSolution:\n[1] First, [2] he [3] has [4] 12 [5] apples. [6]"
    )
    assert "[11] so [12] 12 + 5 = 17 [13] in" in shown
    assert "Part of the solution:\n[1] 12 + 5 = 17 [2] in" in ask(trace(), units, Chunk(11, 13, 1))


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"keep": [[1, 3], [7, 7]]}', [[1, 3], [7, 7]]),
        ("```json\n{'keep': [[1, 3], [7, 7],]}\n```", [[1, 3], [7, 7]]),
        ('Sure [as asked]! Here: {"keep": [[1,3],[7,7]]} Word [1] matters.', [[1, 3], [7, 7]]),
        ('<think>{"keep": [[9, 9]]} no</think>[[1, 3], [7, 7]]', [[1, 3], [7, 7]]),
        ('{"keep": [[7, 7], [1, 3]]}', [[1, 3], [7, 7]]),  # out of order
        ('{"keep": [[3, 1], ["7", "7"]]}', [[1, 3], [7, 7]]),  # swapped, text
        ('{"keep": [[-5, 3], [7, 99], [40, 50]]}', [[1, 3], [7, 10]]),  # out of range
        ('{"keep": [[1, 4], [3, 6], [7, 8], [10, 10]]}', [[1, 8], [10, 10]]),  # overlapping, touching
        ('{"keep": ["1-3", 7]}', [[1, 3], [7, 7]]),
        ('{"keep": [{"start": 1, "end": 3}, {"start": 7, "end": 7}]}', [[1, 3], [7, 7]]),
        ('[{"first": 1, "last": 3}, {"first": 7, "last": 7.0}]', [[1, 3], [7, 7]]),
        ('{"keep": [1, 3]}', [[1, 3]]),
        ('{"keep": [1, 2, 3, 7]}', [[1, 3], [7, 7]]),
        ('{"answer": "x", "ranges": [[1, 3]]}', [[1, 3]]),
        ('{"drop": [[2, 5], [9, 9]]}', []),
        ('{"not_keep": [[2, 5]], "removed_ranges": [[1, 2]]}', []),
        ('{"drop": [[4, 6]], "keep": [[1, 3], [7, 7]]}', [[1, 3], [7, 7]]),
        (
            '{"keep": [{"range": [1, 3], "why": "it\'s given"}, {"range": "7-7", "why": "b"}]}',
            [[1, 3], [7, 7]],
        ),
        ('{"keep": [[1, 3, "given"], ["result", 7, 7]]}', [[1, 3], [7, 7]]),
        ('{"keep": ["1\u20133", "7 to 8", "10\u22122"]}', [[1, 10]]),
        ('{"keep": [[1, 3], // given, see http://a.b\n[7, 7] /* the result */]}', [[1, 3], [7, 7]]),
        ('{"keep": [[1, 2], [5, 6]]}\nBetter:\n{"keep": [[1, 3], [7, 7]]} as asked', [[1, 3], [7, 7]]),
        ('<think>perhaps {"keep": [[1, 3], [7, 9]]} and', []),
        ('{"keep": [[1, 3], [7, 7]]', [[1, 3], [7, 7]]),  # the list is whole
        ('{"keep": [[1, 3], [7, 7]', []),  # it is not
        ('{"keep": [[1, 3], [7,', []),
        ('{"keep": [1, 3', []),
        ('{"keep": []}', []),
        ('{"keep": [[null, 3], [1, 2, 3], [true, 4], ["a", "b"], {}, [1e999, 2], [[1, 2]]]}', []),
        ('{"keep": 3}', []),
        ("", []),
        ("I keep 1 to 3.", []),
        ("[" * 50_000, []),
        ("{" * 50_000, []),
        ('{"a":' * 5_000, []),
        ('{"keep": [[1, ' + "9" * 5_000 + "]]}", []),
        ("\x00\ud800[[", []),
    ],
)
def test_parse_ranges(text, expected):
    assert parse_ranges(text, 10) == expected


def test_whatever_is_parsed_is_ranges():
    """Good replies with signs taken out, doubled and put in at random."""
    rng = random.Random(0)
    num_read = 0
    for _ in range(3000):
        signs = list('{"keep": [[1, 3], [7, 7], [9, 22], [4, 5]]}')
        for _ in range(rng.randint(0, 4)):
            at = rng.randrange(len(signs))
            signs[at] = rng.choice(["", signs[at] * 2, *"[]{},:-'0 "])
        found = parse_ranges("".join(signs), 12)
        num_read += bool(found)
        assert all(1 <= first <= last <= 12 for first, last in found)
        assert all(before[1] + 1 < after[0] for before, after in zip(found, found[1:], strict=False))
    assert 1000 < num_read < 2990


def make(server, tmp_path, **keys):
    config = recipe.Annotate(method="teacher", endpoint=server.url, teacher="t", **keys)
    return Teacher(config, tmp_path / "teacher.jsonl", by_units)


def label(teacher, traces):
    found, notes = {}, []

    def done(pairs, note):
        found.update((trace.id, kept) for trace, kept in pairs)
        notes.append(note)

    return found, teacher.label(traces, done), notes


def test_labels(tmp_path):
    with serve(lambda *_: KEEP) as server:
        found, measured, notes = label(make(server, tmp_path, price_in=2.5, price_out=10.0), [trace()])
    assert found == {"p/0": [2, 3, 4, 10, 11, 12, 13]}
    assert measured == {
        "tokens_in": 100,
        "tokens_out": 10,
        "price": 0.0003,
    }  # 100 * 2.5 + 10 * 10, in millionths
    assert notes == ["tokens_in 100, tokens_out 10, price 0.0003"]
    labels = annotate.to_labels(trace(), found["p/0"])
    assert [THINK[a:b] for a, b in labels.keep] == ["has 12 apples.", "so 12 + 5 = 17 in all."]
    [(path, body, _)] = server.asked
    assert path == "/v1/chat/completions" and body["model"] == "t" and body["temperature"] == 0
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


USELESS = {
    "empty": chat(""),
    "none": chat(None),
    "no choices": {"choices": []},
    "another form": {"choices": [{"text": "x"}]},
    "parts": chat([{"type": "text", "text": "x"}, {"type": "image"}, 5]),
    "prose": chat("I would keep most of it."),
    "cut": chat('{"keep": [[3, 5], [11, 14]]}', finish_reason="length"),
    "broken": chat('{"keep": [[3, 5], [11'),
    "out of range": chat('{"keep": [[50, 60], [70, 80]]}'),
    "all of it": chat('{"keep": [[1, 19]]}'),  # one span is below the floor
    "bad usage": chat("", tokens_in="many", tokens_out=-1),
}


@pytest.mark.parametrize("reply", USELESS)
def test_a_useless_reply_is_asked_for_again_warmer(reply, tmp_path):
    """One that came again word for word only once more, at the highest temperature."""
    with serve(lambda path, body, number: USELESS[reply] if number < 2 else KEEP) as server:
        found, measured, _ = label(make(server, tmp_path), [trace()])
    assert found == {"p/0": [2, 3, 4, 10, 11, 12, 13]}
    assert [body["temperature"] for _, body, _ in server.asked] == [0, 0.1, 0.9]
    used = 3 if "usage" in USELESS[reply] and reply != "bad usage" else 1
    assert measured == {
        "tokens_in": 100 * used,
        "tokens_out": 10 * used,
    }  # what was useless was paid for, too


GOOD_TEXT = '{"keep": [[3, 5], [11, 14]]}'


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": GOOD_TEXT[:9]}, {"type": "text", "text": GOOD_TEXT[9:]}]},
        {"content": None, "reasoning_content": f"First a draft: {GOOD_TEXT[:20]}. Then {GOOD_TEXT}"},
        {"content": "\n", "reasoning": GOOD_TEXT},
        {"content": GOOD_TEXT, "reasoning_content": '{"keep": [[1, 1], [3, 3]]}'},
    ],
)
def test_forms_of_a_message(message, tmp_path):
    with serve(lambda *_: chat("", message=message)) as server:
        assert label(make(server, tmp_path), [trace()])[0] == {"p/0": [2, 3, 4, 10, 11, 12, 13]}
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "num_asked", "reason"),
    [
        (
            chat(None, message={"content": None, "refusal": "I cannot help."}),
            1,
            "1 x refused (I cannot help.)",
        ),
        (chat("", finish_reason="content_filter"), 1, "1 x refused (content_filter)"),
        (USELESS["cut"], 3, "1 x a reply that was cut"),
        (USELESS["none"], 3, "1 x an empty reply"),
        (USELESS["no choices"], 3, "1 x a reply without a message"),
        (USELESS["prose"], 3, "1 x fewer than 2 ranges, as in 'I would keep most of it.'"),
    ],
)
def test_the_same_refusal_is_not_paid_for_again(reply, num_asked, reason, tmp_path, capsys):
    with serve(lambda *_: reply) as server:
        assert label(make(server, tmp_path), [trace()])[0] == {}
    assert len(server.asked) == num_asked
    assert f"no usable ranges of 1 chunks: {reason}" in " ".join(capsys.readouterr().err.split())


def picky(path, body, number):
    """As OpenAI's reasoning models: other names, no temperature, no schema."""
    faults = {
        "max_tokens": "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
        "temperature": "Unsupported value: 'temperature' does not support 0.1 with this model.",
        "response_format": "This response_format type is unavailable now",
    }
    for name, text in faults.items():
        if name in body:
            return Act({"error": {"message": text, "param": name}}, status=400)
    return KEEP if body["max_completion_tokens"] == 4096 else Act("no limit", status=400)


def test_parameters_that_a_server_does_not_take(tmp_path, capsys):
    with serve(picky) as server:
        labeller = make(server, tmp_path, num_parallel=1)
        assert set(label(labeller, [trace(), trace(THINK.replace("12", "13"), "q/0")])[0]) == {"p/0", "q/0"}
    assert len(server.asked) == 5  # three refusals, once
    assert "takes no max_tokens; asked with max_completion_tokens" in capsys.readouterr().err
    with serve(lambda *_: Act({"error": {"message": "max_tokens: at most 2048"}}, status=400)) as server:
        with pytest.raises(LiteError, match="status 400 .max_tokens: at most 2048"):
            label(make(server, tmp_path / "other"), [trace()])
    assert len(server.asked) == 1


def test_the_schema_is_what_is_read(tmp_path):
    with serve(lambda *_: KEEP) as server:
        label(make(server, tmp_path), [trace()])
    form = server.asked[0][1]["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["schema"]["required"] == ["keep"]


def test_a_trace_without_a_usable_reply_is_left_out_and_asked_about_next_time(tmp_path):
    bad = trace("He thinks of melons. " * 4, "bad/0")

    def answer(path, body, number):
        return chat(f"no {number}") if "melons" in body["messages"][1]["content"] else KEEP

    with serve(answer) as server:
        found, _, notes = label(make(server, tmp_path), [bad, trace()])
        assert set(found) == {"p/0"} and len(notes) == 2
        assert len(server.asked) == teacher.ROUNDS + 1
        label(make(server, tmp_path), [bad, trace()])
        assert len(server.asked) == 2 * teacher.ROUNDS + 1


def test_a_server_in_every_bad_mood(tmp_path, monkeypatch):
    """Each request may be slow, refused, cut, broken or useless; the labels come out right."""
    rng = random.Random(1)
    moods = [
        Act("slow down", status=429),
        Act("slow down", status=429, headers={"Retry-After": "0.05"}),
        Act("oops", status=500),
        Act(KEEP, cut_after=30),
        Act(KEEP, wait_s=5.0),
        Act('{"choices": ['),
    ]
    monkeypatch.setattr(teacher, "ROUNDS", 40)
    monkeypatch.setattr(client, "ATTEMPTS", 20)

    def answer(path, body, number):
        if rng.random() < 0.5:
            return rng.choice([*moods, chat(f"no {number}"), chat(f"cut {number}", finish_reason="length")])
        numbers = [int(n) for n in re.findall(r"\[(\d+)\] (?:\d|has)", body["messages"][1]["content"])]
        return chat(json.dumps({"keep": [[n, n] for n in reversed(numbers)]}))

    traces = [trace(THINK.replace("12", str(12 + i)), f"p/{i}") for i in range(12)]
    with serve(answer) as server:
        labeller = make(server, tmp_path, num_parallel=6)
        labeller.endpoint.timeout_s = 0.5
        found, _, _ = label(labeller, traces)
    lenient = [found[t.id] for t in traces]
    assert all(
        kept in ([2, 3, 8, 11], [2, 3, 4, 10, 11, 12, 13]) for kept in lenient
    )  # KEEP came through, too
    assert lenient.count([2, 3, 8, 11]) >= 8


LONG = " ".join(f"In step {i} he adds {i} and gets {i} + 1 = {i + 1} so far." for i in range(100))


def test_long_traces_are_asked_in_chunks_and_put_together(tmp_path):
    def answer(path, body, number):
        words = re.findall(r"\[(\d+)\] (\S+)", body["messages"][1]["content"])
        return chat(json.dumps({"keep": [[int(n), int(n)] for n, word in words if word in ("adds", "gets")]}))

    with serve(answer) as server:
        found, _, _ = label(make(server, tmp_path), [trace(LONG)])
    assert len(server.asked) == 3  # 100 sentences of 15 words
    units = segment(LONG)
    kept = [LONG[units[i].start : units[i].end] for i in found["p/0"]]
    assert kept == ["adds", "gets"] * 100


def test_what_was_answered_is_not_asked_again(tmp_path):
    traces = [trace(THINK, "a/0"), trace(THINK.replace("12", "13"), "b/0")]

    def answer(path, body, number):
        return KEEP if number == 0 else Act("gone", status=400)

    with serve(answer) as server:
        with pytest.raises(LiteError, match="status 400"):
            label(make(server, tmp_path, num_parallel=1), traces)
        cache = tmp_path / "teacher.jsonl"
        with open(cache, "a") as handle:
            handle.write('{"key": "half a li')  # a kill
    with serve(lambda *_: KEEP) as server:
        found, measured, _ = label(make(server, tmp_path, num_parallel=1), traces)
        assert set(found) == {"a/0", "b/0"} and len(server.asked) == 1
        assert measured == {"tokens_in": 200, "tokens_out": 20}  # both, as paid for in this folder
        label(make(server, tmp_path), traces)
        assert len(server.asked) == 1
        other = make(server, tmp_path)
        other.config = recipe.Annotate(method="teacher", teacher="another")
        label(other, traces[:1])
        assert len(server.asked) == 2  # another model's answers are others
    assert len(read_records(cache, Answer)) == 3


def make_run(tmp_path, url, **keys):
    keys = {"method": "teacher", "num_traces": 4, **keys}
    text = f"annotate: {json.dumps(keys)}"
    write_records(tmp_path / "traces" / "traces.jsonl", [trace(id=f"p/{i}") for i in range(4)])
    return Run(recipe.parse(text), tmp_path, url)


@pytest.fixture
def plain_tokens(monkeypatch):
    """A tokenizer of words; the real one would load torch."""

    def tokenize(text, **_):
        return {"offset_mapping": [match.span() for match in re.finditer(r"\S+", text)]}

    monkeypatch.setattr(annotate.unsloth, "load_tokenizer", lambda model: tokenize)


def test_the_stage_names_the_served_model_and_writes_no_key(tmp_path, monkeypatch, plain_tokens):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")

    def answer(path, body, number):
        return {"data": [{"id": "only-one"}]} if path == "/v1/models" else KEEP

    with serve(answer) as server:
        run = make_run(tmp_path, "", endpoint=server.url, key_env="MY_KEY")
        measured = annotate.run(run)
    assert measured == {"labels": 4, "kept_characters": 0.375, "tokens_in": 400, "tokens_out": 40}
    assert {body["model"] for path, body, _ in server.asked if body} == {"only-one"}
    assert all(headers["Authorization"] == "Bearer sk-very-secret" for _, _, headers in server.asked)
    assert [labels.id for labels in read_records(tmp_path / "annotate" / "labels.jsonl", Labels)] == [
        f"p/{i}" for i in range(4)
    ]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-very-secret" not in written
    assert "sk-very-secret" not in recipe.dump(run.recipe)


def test_an_endpoint_of_the_run_comes_before_the_recipe_s(tmp_path, plain_tokens):
    with serve(lambda *_: KEEP) as server:
        annotate.run(make_run(tmp_path, server.url, endpoint="http://127.0.0.1:9/v1", teacher="t"))
    assert len(server.asked) >= 1


def test_an_endpoint_is_of_no_use_to_other_annotators(tmp_path):
    with pytest.raises(LiteError, match="annotate.method = rules asks no server"):
        annotate.run(make_run(tmp_path, "http://127.0.0.1:9/v1", method="rules"))


def test_a_trace_with_half_a_character(tmp_path):
    with serve(lambda *_: KEEP) as server:
        found, _, _ = label(make(server, tmp_path), [trace(THINK.replace("easy", "\ud800"))])
    assert set(found) == {"p/0"}


def test_a_teacher_that_is_not_up_to_it(tmp_path, plain_tokens):
    with serve(lambda *_: chat("no")) as server, pytest.raises(LiteError) as raised:
        annotate.run(make_run(tmp_path, server.url, teacher="t"))
    assert "only 0 of 4 traces got usable ranges from the teacher" in str(raised.value)


def test_a_key_that_is_not_there(tmp_path, monkeypatch, plain_tokens):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(LiteError, match="environment variable NO_KEY is not set"):
        annotate.run(make_run(tmp_path, "", key_env="NO_KEY"))
