"""`lite serve` as its users have it: a process with a real GGUF, and the official OpenAI client."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pydantic
import pytest
from served import Served
from test_architecture import HEAVY
from tiny_gguf import write_tiny_gguf

from lite.infer.engine import Engine
from lite.infer.request import question
from lite.tokens import CONTROL_TOKENS, THINK_CLOSE

BENCH = Path(__file__).parents[2] / "recipes" / "bench" / "server.py"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", end_bias=1.0)


@pytest.fixture(scope="module")
def served(gguf):
    served = Served(gguf, "--threads", "1")
    yield served
    code, err = served.end()
    modules = set(err.partition("MODULES ")[2].split())
    assert code == 0 and err.startswith("MODULES ")  # no word of complaint
    assert "lite.infer.engine" in modules and not modules & set(HEAVY)


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client, text="What is 3 times 7?", **fields):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="tiny", messages=messages, **fields)


@pytest.mark.parametrize("mode, ratio", [("0.2", 20), ("1.0", 100), ("policy", "policy")])
def test_replies_are_the_engines(client, gguf, mode, ratio):
    with Engine(gguf, num_threads=1) as engine:
        (answer,) = engine.generate([question("What is 3 times 7?", mode, max_tokens=60)])
    reply = chat(client, max_tokens=60, extra_body={"comp_ratio": ratio})
    (choice,) = reply.choices
    assert choice.message.content == answer.visible and choice.message.reasoning_content == answer.think
    assert choice.finish_reason == {"eos": "stop", "length": "length"}[answer.stop]
    assert reply.usage.completion_tokens == answer.total_tokens
    assert reply.usage.prompt_tokens == answer.prompt_tokens
    assert reply.usage.completion_tokens_details.reasoning_tokens == answer.think_tokens
    assert reply.lite["comp_ratio_asked"] == ratio

    chunks = [*chat(client, max_tokens=60, extra_body={"comp_ratio": ratio}, stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas).strip() == answer.visible
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas).strip() == answer.think
    assert deltas[0].role == "assistant" and chunks[-1].choices[0].finish_reason == choice.finish_reason


def test_usage_at_the_end_of_a_stream(client):
    options = {"include_usage": True}
    *chunks, last = chat(client, max_tokens=9, stream=True, stream_options=options)
    assert last.choices == [] and 0 < last.usage.completion_tokens <= 9
    assert {chunk.usage for chunk in chunks} == {None}


def test_the_budget_holds(client):
    reply = chat(client, max_tokens=300, extra_body={"thinking_budget": 16})
    assert reply.usage.completion_tokens_details.reasoning_tokens <= 16
    assert reply.lite["thinking_budget"] == 16


@pytest.mark.parametrize("api", ["chat", "responses", "completions"])
def test_one_reply_over_every_route(client, gguf, api):
    """Whole and streamed, by the official client: the same text, which is the engine's."""
    fields = {"extra_body": {"thinking_budget": 8}, "temperature": 0.8, "seed": 3} if api == "chat" else {}
    if api == "chat":
        whole = chat(client, max_tokens=150, **fields)
        think, text = whole.choices[0].message.reasoning, whole.choices[0].message.content
        deltas = [chunk.choices[0].delta for chunk in chat(client, max_tokens=150, stream=True, **fields)]
        assert "".join(getattr(delta, "reasoning", "") for delta in deltas).strip() == think
        assert "".join(delta.content or "" for delta in deltas).strip() == text
        assert whole.usage.completion_tokens_details.reasoning_tokens <= 8 and "think>" not in text
    elif api == "responses":
        asked = {
            "model": "tiny",
            "input": "What is 3 times 7?",
            "instructions": "Be brief.",
            "max_output_tokens": 60,
        }
        whole = client.responses.create(**asked, reasoning={"effort": "low"})
        with client.responses.stream(**asked, reasoning={"effort": "low"}) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        assert final.output_text.strip() == whole.output_text and whole.output_text
        assert kinds[0] == "response.created" and "response.output_text.delta" in kinds
        assert final.usage.output_tokens == whole.usage.output_tokens <= 60
        echoed = [{"role": "user", "content": "1?"}, *whole.output, {"role": "user", "content": "2?"}]
        again = client.responses.create(model="tiny", input=echoed, max_output_tokens=5)
        assert again.status == "incomplete" and again.incomplete_details.reason == "max_output_tokens"
    else:
        asked = {"model": "tiny", "prompt": "What is 3 times", "max_tokens": 40}
        whole = client.completions.create(**asked)
        chunks = [*client.completions.create(**asked, stream=True)]
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        assert whole.usage.completion_tokens <= 40 and whole.choices[0].finish_reason in ("stop", "length")


def test_json_is_parsed_by_the_client(client):
    class Answer(pydantic.BaseModel):
        answer: int
        sure: bool

    messages = [{"role": "user", "content": "What is 3 times 7?"}]
    for extra in ({}, {"thinking_budget": 8}, {"enable_thinking": False}):
        asked = {"model": "tiny", "messages": messages, "max_tokens": 300, "extra_body": extra}
        reply = client.chat.completions.parse(**asked, response_format=Answer)
        assert isinstance(reply.choices[0].message.parsed, Answer)
    found = client.responses.parse(
        model="tiny", input=messages, text_format=Answer, reasoning={"effort": "none"}, max_output_tokens=200
    )
    assert isinstance(found.output_parsed, Answer)


def test_stop_texts(client):
    for seed in range(50):  # until something legible is said
        asked = {"max_tokens": 60, "temperature": 1.5, "seed": seed}
        message = chat(client, **asked).choices[0].message
        text = message.content
        if not message.reasoning_content and (found := re.search(r"[!-~]{2}", text[2:])):
            break
    stop = found[0]
    for stream in (False, True):
        reply = chat(client, **asked, stop=[stop, "never said"], stream=stream)
        if stream:
            said = "".join(chunk.choices[0].delta.content or "" for chunk in reply)
        else:
            said = reply.choices[0].message.content
            assert reply.choices[0].finish_reason == "stop"
        assert said.strip() == text[: text.index(stop)].strip()


@pytest.mark.parametrize("name", ["litellm", "llm"])
def test_other_clients(served, name, tmp_path):
    """As their users call them; both are optional here."""
    pytest.importorskip(name)
    if name == "litellm":
        import litellm

        reply = litellm.completion(
            model="openai/tiny",
            api_base=f"{served.url}/v1",
            api_key="none",
            messages=[{"role": "user", "content": "1+1?"}],
            max_tokens=40,
            stop=["never said"],
            extra_body={"reasoning": {"max_tokens": 8}},
        )
        assert reply.choices[0].message.content and reply.usage.completion_tokens <= 40
        return
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: tiny\n  model_name: tiny\n  api_base: {served.url}/v1\n"
    )
    command = [sys.executable, "-m", "llm", "-m", "tiny", "-o", "max_tokens", "40", "--no-stream", "1+1?"]
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_no_thinking(client):
    reply = chat(client, max_tokens=40, reasoning_effort="none")
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0
    assert reply.choices[0].message.reasoning_content == ""


def test_a_seed_repeats_a_reply(client):
    def text(seed):
        return chat(client, max_tokens=40, temperature=1.5, seed=seed).choices[0].message.content

    assert text(7) == text(7) != text(8)


def test_control_tokens_in_a_question_are_text(client):
    plain = chat(client, "hi", max_tokens=1).usage.prompt_tokens
    for text in (*CONTROL_TOKENS, "<|im_end|>", THINK_CLOSE):
        assert chat(client, f"hi{text}", max_tokens=1).usage.prompt_tokens > plain + 3  # not one id


def test_a_knob_it_cannot_honour(client):
    with pytest.raises(openai.BadRequestError, match="n 2: not supported") as caught:
        chat(client, n=2)
    assert caught.value.param == "n" and caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="comp_ratio 30: use one of 20, 40"):
        chat(client, extra_body={"comp_ratio": 30})
    with pytest.raises(openai.BadRequestError, match="maximum context length is 512 tokens") as caught:
        chat(client, "so " * 600)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="no room for a budget and an answer") as caught:
        chat(client, max_tokens=20, extra_body={"reasoning_budget": 8})
    assert caught.value.param == "reasoning_budget"
    with pytest.raises(openai.NotFoundError, match="use tiny"):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="use tiny"):
        client.models.retrieve("gpt-5")


def test_a_key_from_the_environment(gguf):
    served = Served(gguf, "--api-key-env", "MY_KEY", MY_KEY="secret")
    try:
        for key, works in (("secret", True), ("guess", False)):
            with openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0) as client:
                if works:
                    assert chat(client, max_tokens=3).choices
                else:
                    with pytest.raises(openai.AuthenticationError, match="no valid API key"):
                        chat(client, max_tokens=3)
    finally:
        code, err = served.end(signal.SIGINT)
    assert code == 0 and err.startswith("MODULES ")


def test_addresses_that_cannot_be_had(lite, gguf, monkeypatch):
    monkeypatch.delenv("LITE_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", ""):
        code, _, err = lite("serve", str(gguf), "--host", host)
        assert code == 2 and "others can reach it; put an API key into the variable LITE_API_KEY" in err
    monkeypatch.setenv("LITE_API_KEY", "two words")
    code, _, err = lite("serve", str(gguf))
    assert code == 2 and "variable LITE_API_KEY: an API key is printable ASCII without blanks" in err
    monkeypatch.delenv("LITE_API_KEY")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = lite("serve", str(gguf), "--port", str(taken.getsockname()[1]))
    assert code == 2 and "address already in use; choose another" in err
    code, _, err = lite("serve", str(gguf), "--host", "no..such.host")
    assert code == 2 and "no such address" in err


def test_the_benchmark_in_small(gguf):
    """Many clients, some of which vanish, and malformed bodies: what recipes/bench/server.py finds at fault."""
    command = [sys.executable, str(BENCH), str(gguf), "--clients", "8", "--seconds", "3", "--bodies", "150"]
    command += ["--questions", "12", "--max-tokens", "60", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
