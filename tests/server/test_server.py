"""`lite serve` as its users have it: a process with a real GGUF, and the official OpenAI client."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
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
    with pytest.raises(openai.BadRequestError, match="leaves no room in 512; shorten"):
        chat(client, "so " * 600)
    with pytest.raises(openai.NotFoundError, match="use tiny"):
        client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]


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
