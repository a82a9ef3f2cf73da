"""Requests on the wire: what becomes an Ask, and what is refused, with the field and the remedy."""

from __future__ import annotations

import json

import pytest

from lite.infer.request import Answer, Ask, Message, Piece
from lite.server.faults import Refused, read_json
from lite.server.fields import MAX_MESSAGES
from lite.server.replies import ChatWriter, CompletionWriter, ResponsesWriter
from lite.server.schema import Model, read_chat, read_completion, read_responses

MODEL = Model("tiny", created=5, has_dial=True, context_tokens=4096, max_tokens=512)
PLAIN = Model("plain", created=5, has_dial=False, context_tokens=4096, max_tokens=512)
HI = [{"role": "user", "content": "1+1?"}]
OBJECT = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": OBJECT}}


def call(served=MODEL, **fields):
    return read_chat(json.dumps({"messages": HI} | fields).encode(), served)


def respond(served=MODEL, **fields):
    return read_responses(json.dumps({"input": "1+1?"} | fields).encode(), served)


def complete(served=MODEL, **fields):
    return read_completion(json.dumps({"prompt": "1+1"} | fields).encode(), served)


def test_the_least_request():
    got = call()
    assert got.ask == Ask((Message("user", "1+1?"),), mode=None, max_tokens=512)
    assert (got.comp_ratio, got.stream, got.include_usage) == (None, False, False)
    assert respond().ask == got.ask
    assert complete().ask == Ask(mode=None, max_tokens=16, prompt="1+1")


@pytest.mark.parametrize(
    "fields, mode, budget, thinking",
    [
        ({"comp_ratio": 20}, "0.2", None, True),
        ({"comp_ratio": 60.0}, "0.6", None, True),
        ({"comp_ratio": "100"}, "1.0", None, True),
        ({"comp_ratio": "policy"}, "policy", None, True),
        ({"comp_ratio": 0.2}, "0.2", None, True),
        ({"comp_ratio": "0.4"}, "0.4", None, True),
        ({"comp_ratio": "auto"}, "policy", None, True),
        ({"reasoning_effort": "minimal"}, "0.2", None, True),
        ({"reasoning_effort": "low"}, "0.2", None, True),
        ({"reasoning_effort": "medium"}, "0.6", None, True),
        ({"reasoning_effort": "xhigh"}, "1.0", None, True),
        ({"reasoning_effort": "max"}, "1.0", None, True),
        ({"reasoning_effort": "none"}, None, None, False),
        ({"reasoning_effort": "off"}, None, None, False),
        ({"reasoning": {"effort": "low"}}, "0.2", None, True),
        ({"reasoning": {"max_tokens": 64}}, None, 64, True),
        ({"reasoning": {"enabled": False}}, None, None, False),
        ({"reasoning": "off"}, None, None, False),
        ({"reasoning": "on"}, None, None, True),
        ({"thinking": {"type": "enabled", "budget_tokens": 64}}, None, 64, True),
        ({"thinking": {"type": "disabled"}}, None, None, False),
        ({"think": False}, None, None, False),
        ({"think": "high"}, "1.0", None, True),
        ({"enable_thinking": False, "comp_ratio": 40}, "0.4", None, False),
        ({"chat_template_kwargs": {"comp_ratio": 20}}, "0.2", None, True),
        ({"chat_template_kwargs": {"comp_ratio": "60", "enable_thinking": False}}, "0.6", None, False),
        ({"chat_template_kwargs": {"thinking_budget": 64}}, None, 64, True),
        ({"chat_template_kwargs": {"thinking": False}}, None, None, False),
        ({"chat_template_kwargs": {"reasoning_effort": "low"}}, "0.2", None, True),
        ({"thinking_budget": 100}, None, 100, True),
        ({"thinking_budget_tokens": 100}, None, 100, True),
        ({"thinking_token_budget": 100}, None, 100, True),
        ({"reasoning_budget": 100}, None, 100, True),
        ({"reasoning_budget_tokens": 10**9}, None, 10**9, True),
        ({"thinking_token_budget": -1}, None, None, True),
        ({"thinking_budget": 0}, None, None, False),
        ({"thinking_budget": 100, "comp_ratio": 40}, "0.4", 100, True),
        ({"thinking_budget": 64, "reasoning": {"max_tokens": 64}, "think": True}, None, 64, True),
        ({"comp_ratio": 20, "reasoning_effort": "low"}, "0.2", None, True),
        ({"comp_ratio": None, "thinking_budget": None}, None, None, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("read", [call, respond])
def test_the_dial_under_every_engines_names(read, fields, mode, budget, thinking):
    ask = read(**fields).ask
    assert (ask.mode, ask.budget, ask.thinking) == (mode, budget, thinking)


def test_sampling_and_limits():
    ask = call(temperature=1, top_p=0.5, seed=-1, max_completion_tokens=7, max_tokens=7).ask
    assert (ask.temperature, ask.top_p, ask.seed, ask.max_tokens) == (1.0, 0.5, 2**64 - 1, 7)
    # Without a seed each reply draws its own; greedy ones need none.
    assert len({call(temperature=1).ask.seed for _ in range(4)}) > 1 and call().ask.seed == call().ask.seed
    assert [call(max_tokens=num).ask.max_tokens for num in (-1, 512, 513, 10**30)] == [512] * 4
    assert respond(max_output_tokens=9).ask.max_tokens == complete(max_tokens=9).ask.max_tokens == 9
    assert call(stop="a").ask.stop == ("a",) and call(stop=["a", "\n"]).ask.stop == ("a", "\n")
    assert call(stop=[]).ask.stop == ()
    served = Model("tiny", 5, True, 4096, 512, instruction="Be brief.", lean=1.5)
    assert (call(served).ask.instruction, call(served).ask.lean) == ("Be brief.", 1.5)
    asked = call(served, instruction="", comp_ratio=20).ask
    assert (asked.instruction, asked.lean) == ("", 0.0) and call(served, lean=-2).ask.lean == -2


def test_messages():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    echoed = {"reasoning_content": "2+2=4", "reasoning": "2+2=4", "refusal": None, "tool_calls": []}
    history = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "2+2?", "name": "me"},
        {"role": "assistant", "content": "4", "annotations": [], **echoed},
        {"role": "user", "content": parts},
    ]
    expected = (
        Message("system", "Be brief."),
        Message("user", "2+2?"),
        Message("assistant", "4"),
        Message("user", "a\nb"),
    )
    assert call(messages=history).ask.messages == expected
    thought = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "4"}],
    }
    said = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant"}
    said["content"] = [{"type": "output_text", "text": "4", "annotations": [], "logprobs": []}]
    last = {"role": "user", "content": [{"type": "input_text", "text": "a\nb"}]}
    got = respond(instructions="Be brief.", input=[{"role": "user", "content": "2+2?"}, thought, said, last])
    assert got.ask.messages == expected


def test_harmless_and_neutral_fields_pass():
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"}
    neutral = {"n": 1, "stop": [], "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0.0}
    more = {"tools": [], "tool_choice": "none", "logit_bias": {}, "audio": None}
    form = {"response_format": {"type": "text"}}
    assert call(**harmless, **neutral, **more, **form).ask == call().ask
    assert respond(text={"format": {"type": "text"}}, truncation="disabled", tools=[]).ask == respond().ask


def test_json():
    of_any, of_schema = (
        call(response_format={"type": "json_object"}).ask,
        call(response_format=JSON_SCHEMA).ask,
    )
    assert "root ::= object" in of_any.grammar and "answer" in of_schema.grammar
    flat = {"type": "json_schema", "name": "x", "schema": OBJECT, "strict": True}
    assert respond(text={"format": flat}).ask.grammar == of_schema.grammar


def _schema(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@pytest.mark.parametrize(
    "fields, expected, param",
    [
        ({"n": 2}, "n 2: not supported", "n"),
        ({"n": True}, "n true: not supported", "n"),
        ({"logprobs": True}, "logprobs true: not supported", "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs 3: not supported", "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "not supported", "tools"),
        ({"presence_penalty": 0.5}, "not supported", "presence_penalty"),
        ({"top_k": 5}, '"top_k": no such field here', "top_k"),
        ({"Foo": 5}, '"Foo": no such field here', "Foo"),
        ({"thinking_budgets": 5}, "did you mean thinking_budget?", "thinking_budgets"),
        ({"chat_template_kwargs": {"foo": 1}}, "no such field", "chat_template_kwargs.foo"),
        ({"reasoning": {"exclude": True}}, "reasoning.exclude true", "reasoning.exclude"),
        ({"comp_ratio": 30}, "comp_ratio 30: use one of 20, 40, 60, 80, 100 or 'policy'", "comp_ratio"),
        ({"comp_ratio": 0.3}, "comp_ratio 0.3: use one of", "comp_ratio"),
        ({"comp_ratio": "base"}, 'comp_ratio "base": use one of', "comp_ratio"),
        ({"comp_ratio": True}, "comp_ratio true", "comp_ratio"),
        ({"comp_ratio": [20]}, "comp_ratio [20]", "comp_ratio"),
        ({"chat_template_kwargs": {"comp_ratio": 30}}, "use one of 20", "chat_template_kwargs.comp_ratio"),
        (
            {"reasoning_effort": "huge"},
            'reasoning_effort "huge": use one of none, off, min',
            "reasoning_effort",
        ),
        ({"reasoning": {"effort": "huge"}}, "use one of none", "reasoning.effort"),
        ({"reasoning_effort": ["low"]}, 'reasoning_effort ["low"]', "reasoning_effort"),
        ({"comp_ratio": 40, "reasoning_effort": "low"}, "disagree; give one", "reasoning_effort"),
        ({"thinking_budget": 9, "reasoning_effort": "none"}, "disagree; give one", "reasoning_effort"),
        ({"thinking_budget": 9, "reasoning": {"max_tokens": 8}}, "disagree", "reasoning.max_tokens"),
        ({"thinking_budget": -1, "reasoning_budget": 8}, "disagree", "reasoning_budget"),
        (
            {"think": True, "enable_thinking": False},
            "think true and enable_thinking false",
            "enable_thinking",
        ),
        ({"thinking_budget": 0, "think": True}, "disagree", "think"),
        ({"thinking_budget": -2}, "greater than or equal to -1", "thinking_budget"),
        ({"thinking_budget": 9.0}, "thinking_budget 9.0: input should be a valid integer", "thinking_budget"),
        ({"thinking_budget": 90, "max_tokens": 90}, "leaves no room", "thinking_budget"),
        ({"reasoning_budget": 90, "max_tokens": 90}, "leaves no room", "reasoning_budget"),
        ({"max_tokens": 0}, "max_tokens 0", "max_tokens"),
        ({"max_tokens": -2}, "max_tokens -2", "max_tokens"),
        ({"max_tokens": True}, "max_tokens true", "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "differ; give one", "max_tokens"),
        ({"temperature": 2.1}, "temperature 2.1: input should be less than or equal to 2", "temperature"),
        ({"temperature": 10**400}, "temperature", "temperature"),
        ({"temperature": "0"}, 'temperature "0"', "temperature"),
        ({"top_p": 0}, "top_p 0: input should be greater than 0", "top_p"),
        ({"seed": 2**63}, "seed 9223372036854775808", "seed"),
        ({"stream": 1}, "stream 1: input should be a valid boolean", "stream"),
        ({"stream_options": {"include_usage": True}}, "needs stream: true", "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "no such field", "stream_options.x"),
        ({"stop": ""}, "stop", "stop"),
        ({"stop": ["a"] * 17}, "up to 16", "stop"),
        ({"stop": [1]}, "stop[0] 1", "stop[0]"),
        ({"lean": 1e9}, "lean", "lean"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "response_format.type"),
        (_schema({"type": "nope"}), "the schema cannot be made a grammar", "response_format"),
        (_schema({"type": "array", "items": {}, "maxItems": 10**9}), "repeats more than", "response_format"),
        (_schema({"$ref": "https://example.org/x.json"}), "remote", "response_format"),
        ({"messages": None}, "messages: is missing", "messages"),
        ({"messages": []}, "messages []", "messages"),
        ({"messages": {}}, "messages {}", "messages"),
        ({"messages": HI * (MAX_MESSAGES + 1)}, "at most 256", "messages"),
        ({"messages": ["hi"]}, 'messages[0] "hi"', "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 'role "tool"', "messages[0].role"),
        ({"messages": [{"role": {}, "content": "x"}]}, "role {}", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: is missing", "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "content 5", "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "y": 1}]}, "no such field", "messages[0].y"),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}, *HI]},
            "not supported",
            "messages[0].tool_calls",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
            "input should be 'text'",
            "messages[0].content[0].type",
        ),
        ({"messages": [*HI, {"role": "assistant", "content": "2"}]}, "must be the user's", "messages"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "is empty", "messages"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_refusals_name_the_field_and_say_why(fields, expected, param):
    with pytest.raises(Refused) as caught:
        call(**fields)
    fault = caught.value
    assert expected in fault.message and (fault.status, fault.param) == (400, param)
    error = fault.body()["error"]
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]
    assert len(error["message"]) < 300


@pytest.mark.parametrize(
    "read, fields, param",
    [
        (respond, {"previous_response_id": "resp_1"}, "previous_response_id"),
        (respond, {"input": []}, "input"),
        (respond, {"input": [{"type": "function_call_output", "output": "x"}]}, None),
        (respond, {"messages": HI}, "messages"),
        (complete, {"prompt": ["a", "b"]}, "prompt"),
        (complete, {"prompt": ""}, "prompt"),
        (complete, {"prompt": [True]}, None),
        (complete, {"echo": True}, "echo"),
        (complete, {"thinking_budget": 5}, "thinking_budget"),
    ],
    ids=str,
)
def test_refusals_of_the_other_routes(read, fields, param):
    with pytest.raises(Refused) as caught:
        read(**fields)
    assert caught.value.status == 400 and caught.value.param == (param or caught.value.param)


def test_prompts_of_completions():
    for given, prompt in (("a", "a"), (["a"], "a"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2))):
        assert complete(prompt=given).ask.prompt == prompt


def test_another_model_is_not_found():
    with pytest.raises(Refused) as caught:
        call(model="gpt-5")
    fault = caught.value
    assert (fault.status, fault.code, fault.param) == (404, "model_not_found", "model")
    assert 'model "gpt-5": not served here; use tiny' == fault.message
    assert call(model="tiny").ask == call().ask


def test_a_model_without_a_dial():
    assert call(PLAIN).ask.mode is None and not call(PLAIN, enable_thinking=False).ask.thinking
    for field in ({"comp_ratio": 20}, {"reasoning_effort": "low"}, {"comp_ratio": "policy"}):
        with pytest.raises(Refused, match="plain has no dial"):
            call(PLAIN, **field)
    assert PLAIN.card()["comp_ratios"] == [] and MODEL.card()["comp_ratios"][-2:] == [100, "policy"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"null", b"[1]", b'"text"', b"{'a': 1}", b'{"a": NaN}', b'{"a": -Infinity}'),
        *(b'{"a": 1, "a": 2}', b'{"a": "\\ud800"}', b'{"\\udfff": 1}', b'{"a": "\xff"}', b"\xef\xbb\xbf{}"),
        *('{"a": 1}'.encode("utf-16"), b'{"a": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 100_000),
        *(b"[" * 100_000 + b"]" * 100_000, b'{"a": "\x00"}'),
    ],
    ids=lambda body: str(body[:16]),
)
def test_what_is_no_json_object(body):
    with pytest.raises(Refused) as caught:
        read_json(body)
    assert caught.value.status == 400
    caught.value.message.encode("ascii")


COUNTS = {"think_tokens": 5, "total_tokens": 12, "prompt_tokens": 30, "seconds": 0.5, "visible_tokens": 4}
ANSWER = Answer(
    mode="policy",
    ratio=0.4,
    budget=None,
    think="1+1=2",
    visible="It is 2.",
    stop="eos",
    has_think=True,
    closed=True,
    text="",
    **COUNTS,
)
PIECES = [Piece("think", "1+1", 2), Piece("think", "=2", 3), Piece("answer", "It is 2.", 4)]


def events(writer):
    found = [*writer.opening()]
    for piece in PIECES:
        found += writer.piece(piece)
    return found + [*writer.closing(ANSWER)]


def test_the_whole_reply():
    reply = ChatWriter(call(comp_ratio="policy"), MODEL, "1", 9).whole(ANSWER)
    (choice,) = reply["choices"]
    assert reply["id"] == "chatcmpl-1" and choice["finish_reason"] == "stop"
    message = {"role": "assistant", "content": "It is 2.", "refusal": None}
    assert choice["message"] == message | {"reasoning_content": "1+1=2", "reasoning": "1+1=2"}
    assert reply["usage"] == {
        "prompt_tokens": 30,
        "completion_tokens": 12,
        "total_tokens": 42,
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    lite = reply["lite"]
    assert (lite["comp_ratio_asked"], lite["comp_ratio_used"], lite["visible_tokens"]) == ("policy", 40, 4)


def test_the_chunks():
    streamed = call(stream=True, stream_options={"include_usage": True})
    *chunks, last, usage = events(ChatWriter(streamed, MODEL, "1", 9))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[1] == {"reasoning_content": "1+1", "reasoning": "1+1", "num_tokens": 2}
    assert deltas[3] == {"content": "It is 2.", "num_tokens": 4} and chunks[3]["usage"] is None
    assert last["choices"][0]["finish_reason"] == "stop" and last["lite"]["comp_ratio_used"] == 40
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 12
    assert "usage" not in events(ChatWriter(call(stream=True), MODEL, "1", 9))[-1]


def test_completions_are_text():
    reply = CompletionWriter(complete(), MODEL, "1", 9).whole(ANSWER)
    assert reply["object"] == "text_completion" and reply["choices"][0]["text"] == "It is 2."
    chunks = [*CompletionWriter(complete(stream=True), MODEL, "1", 9).piece(PIECES[2])]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["It is 2."]


def test_responses_have_items():
    writer = ResponsesWriter(respond(stream=True), MODEL, "1", 9)
    found = events(writer)
    assert [event["sequence_number"] for event in found] == [*range(len(found))]
    names = [event["type"].removeprefix("response.") for event in found]
    item = ["output_item.added", "content_part.added"]
    ended = ["content_part.done", "output_item.done"]
    assert names == [
        *("created", "in_progress", *item, "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", *ended, *item, "output_text.delta", "output_text.done", *ended, "completed"),
    ]
    whole = ResponsesWriter(respond(), MODEL, "1", 9).whole(ANSWER)
    assert found[-1]["response"] | {"output": []} == whole | {"output": []}
    texts = [(each["type"], each["content"][0]["text"]) for each in whole["output"]]
    assert texts == [("reasoning", "1+1=2"), ("message", "It is 2.")]
    assert [each["content"] for each in found[-1]["response"]["output"]] == [
        each["content"] for each in whole["output"]
    ]
    assert writer.frame(found[0]).startswith(b"event: response.created\ndata: {")
