"""Requests on the wire: what becomes an Ask, and what is refused, with the field and the remedy."""

from __future__ import annotations

import json

import pytest

from lite.infer.request import Answer, Ask, Message, Piece
from lite.server.schema import MAX_MESSAGES, Model, Refused, Writer, read_call, read_json

MODEL = Model("tiny", created=5, has_dial=True, context_tokens=4096, max_tokens=512)
PLAIN = Model("plain", created=5, has_dial=False, context_tokens=4096, max_tokens=512)
HI = [{"role": "user", "content": "1+1?"}]


def call(served=MODEL, **fields):
    return read_call(json.dumps({"messages": HI} | fields).encode(), served)


def refused(served=MODEL, **fields) -> Refused:
    with pytest.raises(Refused) as caught:
        call(served, **fields)
    return caught.value


def test_the_least_request():
    got = call()
    assert got.ask == Ask((Message("user", "1+1?"),), mode=None, max_tokens=512)
    assert (got.comp_ratio, got.stream, got.include_usage) == (None, False, False)


@pytest.mark.parametrize(
    "fields, mode, budget, thinking",
    [
        ({"comp_ratio": 20}, "0.2", None, True),
        ({"comp_ratio": 60.0}, "0.6", None, True),
        ({"comp_ratio": 100}, "1.0", None, True),
        ({"comp_ratio": "policy"}, "policy", None, True),
        ({"reasoning_effort": "low"}, "0.2", None, True),
        ({"reasoning_effort": "high"}, "1.0", None, True),
        ({"reasoning_effort": "none"}, None, None, False),
        ({"thinking_budget": 100}, None, 100, True),
        ({"thinking_budget": 100, "comp_ratio": 40}, "0.4", 100, True),
        ({"comp_ratio": None, "thinking_budget": None}, None, None, True),
    ],
)
def test_the_dial(fields, mode, budget, thinking):
    ask = call(**fields).ask
    assert (ask.mode, ask.budget, ask.thinking) == (mode, budget, thinking)


def test_sampling_fields():
    ask = call(temperature=1, top_p=0.5, seed=-1, max_completion_tokens=7, max_tokens=7).ask
    assert (ask.temperature, ask.top_p, ask.seed, ask.max_tokens) == (1.0, 0.5, 2**64 - 1, 7)
    assert (
        len({call(temperature=1).ask.seed for _ in range(4)}) > 1
    )  # without a seed, each reply draws its own
    assert call().ask.seed == call().ask.seed


def test_messages():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    history = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "2+2?"},
        {
            "role": "assistant",
            "content": "4",
            "reasoning_content": "2+2=4",
            "refusal": None,
            "tool_calls": [],
        },
        {"role": "user", "content": parts},
    ]
    assert call(messages=history).ask.messages == (
        Message("system", "Be brief."),
        Message("user", "2+2?"),
        Message("assistant", "4"),
        Message("user", "a\nb"),
    )


def test_harmless_and_neutral_fields_pass():
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"}
    neutral = {"n": 1, "stop": [], "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0.0}
    more = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logit_bias": {},
        "audio": None,
    }
    assert call(**harmless, **neutral, **more).ask == call().ask


@pytest.mark.parametrize(
    "fields, expected, param",
    [
        ({"n": 2}, "n 2: not supported", "n"),
        ({"n": True}, "n true: not supported", "n"),
        ({"logprobs": True}, "logprobs true: not supported", "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs 3: not supported", "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "not supported", "tools"),
        ({"response_format": {"type": "json_object"}}, "not supported", "response_format"),
        ({"stop": "\n"}, "not supported", "stop"),
        ({"presence_penalty": 0.5}, "not supported", "presence_penalty"),
        ({"top_k": 5}, '"top_k": no such field here', "top_k"),
        ({"comp_ratio": 30}, "comp_ratio 30: use one of 20, 40, 60, 80, 100 or 'policy'", "comp_ratio"),
        ({"comp_ratio": 0.2}, "comp_ratio 0.2: use one of", "comp_ratio"),
        ({"comp_ratio": "20"}, 'comp_ratio "20": use one of', "comp_ratio"),
        ({"comp_ratio": True}, "comp_ratio true", "comp_ratio"),
        ({"comp_ratio": [20]}, "comp_ratio [20]", "comp_ratio"),
        ({"reasoning_effort": "max"}, 'reasoning_effort "max": use one of none, low', "reasoning_effort"),
        ({"reasoning_effort": ["low"]}, 'reasoning_effort ["low"]', "reasoning_effort"),
        ({"comp_ratio": 20, "reasoning_effort": "low"}, "both set the ratio", "reasoning_effort"),
        ({"thinking_budget": 9, "reasoning_effort": "none"}, "contradict", "thinking_budget"),
        ({"thinking_budget": 0}, "must be a whole number in 1..512", "thinking_budget"),
        ({"thinking_budget": 9.0}, "thinking_budget 9.0: must be a whole number", "thinking_budget"),
        ({"thinking_budget": 90, "max_tokens": 90}, "leaves no room", "thinking_budget"),
        ({"max_tokens": 513}, "max_tokens 513: must be a whole number in 1..512", "max_tokens"),
        ({"max_tokens": -1}, "max_tokens -1", "max_tokens"),
        ({"max_tokens": True}, "max_tokens true", "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "differ; give one", "max_tokens"),
        ({"temperature": 2.1}, "temperature 2.1: must lie in [0, 2]", "temperature"),
        ({"temperature": 10**400}, "must lie in [0, 2]", "temperature"),
        ({"temperature": "0"}, 'temperature "0"', "temperature"),
        ({"top_p": 0}, "top_p 0: must lie in (0, 1]", "top_p"),
        ({"seed": 2**63}, "seed 9223372036854775808", "seed"),
        ({"stream": 1}, "stream 1: must be true or false", "stream"),
        ({"stream_options": {"include_usage": True}}, "needs stream: true", "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options", "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "include_usage 1", "include_usage"),
        ({"messages": None}, "must be a list of 1..256", "messages"),
        ({"messages": []}, "must be a list", "messages"),
        ({"messages": {}}, "must be a list", "messages"),
        ({"messages": HI * (MAX_MESSAGES + 1)}, "must be a list of 1..256", "messages"),
        ({"messages": ["hi"]}, 'messages[0] "hi"', "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 'role "tool"', "messages[0].role"),
        ({"messages": [{"role": {}, "content": "x"}]}, "role {}", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "content null: must be a text", "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "content 5", "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "not supported", "messages[0].name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "only parts of type text",
            "messages[0].content",
        ),
        ({"messages": [*HI, {"role": "assistant", "content": "2"}]}, "must be the user's", "messages"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "is empty", "messages"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_refusals_name_the_field_and_say_why(fields, expected, param):
    fault = refused(**fields)
    assert expected in fault.message and (fault.status, fault.param) == (400, param)
    error = fault.body()["error"]
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]
    assert len(error["message"]) < 250


def test_another_model_is_not_found():
    fault = refused(model="gpt-5")
    assert (fault.status, fault.code, fault.param) == (404, "model_not_found", "model")
    assert 'model "gpt-5": not served here; use tiny' == fault.message
    assert call(model="tiny").ask == call().ask


def test_a_model_without_a_dial():
    assert call(PLAIN).ask.mode is None
    for field in ({"comp_ratio": 20}, {"reasoning_effort": "low"}, {"comp_ratio": "policy"}):
        assert "plain has no dial" in refused(PLAIN, **field).message
    assert PLAIN.card()["comp_ratios"] == [] and MODEL.card()["comp_ratios"][-2:] == [100, "policy"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'"text"',
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a": "\x00"}',
    ],
    ids=lambda body: str(body[:16]),
)
def test_what_is_no_json_object(body):
    with pytest.raises(Refused) as caught:
        read_json(body)
    assert caught.value.status == 400
    caught.value.message.encode("ascii")


ANSWER = Answer(
    mode="policy",
    ratio=0.4,
    budget=None,
    think="1+1=2",
    visible="It is 2.",
    think_tokens=5,
    total_tokens=12,
    prompt_tokens=30,
    seconds=0.5,
    stop="eos",
    has_think=True,
    closed=True,
    text="",
)


def test_the_whole_reply():
    writer = Writer(call(comp_ratio="policy"), MODEL, "chatcmpl-1", 9)
    reply = writer.whole(ANSWER)
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "It is 2.",
                "reasoning_content": "1+1=2",
                "refusal": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert reply["usage"] == {
        "prompt_tokens": 30,
        "completion_tokens": 12,
        "total_tokens": 42,
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    lite = reply["lite"]
    assert (lite["comp_ratio_asked"], lite["comp_ratio_used"], lite["tokens_per_second"]) == (
        "policy",
        40,
        24.0,
    )


def test_the_chunks():
    writer = Writer(call(stream=True, stream_options={"include_usage": True}), MODEL, "chatcmpl-1", 9)
    think, words = writer.piece(Piece("think", "1+1", 3)), writer.piece(Piece("answer", "2", 1))
    assert think["choices"][0]["delta"] == {"reasoning_content": "1+1", "num_tokens": 3}
    assert words["choices"][0]["delta"] == {"content": "2", "num_tokens": 1} and words["usage"] is None
    last, usage = writer.closing(ANSWER)
    assert last["choices"][0]["finish_reason"] == "stop" and last["lite"]["comp_ratio_used"] == 40
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 12
    (last,) = Writer(call(stream=True), MODEL, "chatcmpl-1", 9).closing(ANSWER)
    assert "usage" not in last
