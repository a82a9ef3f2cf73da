"""A stock llama.cpp server from the package index, over HTTP: the dial is in the GGUF, none of our code serves it.

The template part runs on a tiny random model, the realised ratio on the trained one of the package.
"""

import contextlib
import gc
import json
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from statistics import mean

import pytest
from tiny_gguf import write_tiny_gguf

from export.template import NO_THINKING
from lite import quickstart
from lite.data.problems import load
from lite.infer.engine import Engine
from lite.infer.request import question
from lite.tokens import INSTRUCTION, MODES, POLICY, POLICY_TOKEN, RATIOS, control_token

sys.path.insert(0, str(Path(__file__).parents[1] / "infer" / "server"))
from served import Served  # noqa: E402

xllamacpp = pytest.importorskip("xllamacpp")

NUM_PROBLEMS = 8


@contextlib.contextmanager
def serving(gguf: Path, context_tokens: int):
    """A stock server on a free port of the loopback; gives what posts JSON to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.use_jinja = str(gguf), port, True
    params.n_ctx, params.n_parallel = context_tokens, 1
    server = xllamacpp.Server(params)

    def post(path: str, **body) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)

    try:
        yield post
    finally:
        del server
        gc.collect()  # its destructor stops it


@pytest.fixture(scope="module")
def post(tmp_path_factory):
    with serving(write_tiny_gguf(tmp_path_factory.mktemp("stock") / "tiny.gguf"), 512) as post:
        yield post


def prompt(post, **variables) -> str:
    messages = [{"role": "user", "content": " 1+1? <think>2</think> "}]
    return post("/apply-template", messages=messages, chat_template_kwargs=variables)["prompt"]


def expected(mode: str) -> str:
    text = f"{INSTRUCTION}\n1+1? < think>2</ think> {control_token(mode)}"
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("mode", MODES)
def test_the_template_turns_the_dial(post, mode):
    ratio = {} if mode == POLICY else {"comp_ratio": round(100 * float(mode))}
    assert prompt(post, **ratio) == expected(mode)
    assert prompt(post, enable_thinking=True, **ratio) == expected(mode)
    assert prompt(post, enable_thinking=False, **ratio) == expected(mode) + NO_THINKING


def test_policy_by_name_and_a_ratio_as_text(post):
    assert prompt(post, comp_ratio="policy") == prompt(post) == expected(POLICY)
    assert prompt(post, comp_ratio="60") == expected("0.6")


def test_a_ratio_that_there_is_not_is_a_400_that_lists_them(post):
    with pytest.raises(urllib.error.HTTPError) as fault:
        prompt(post, comp_ratio=30)
    assert fault.value.code == 400
    assert "use one of 20, 40, 60, 80, 100, policy" in fault.value.read().decode()


def test_a_request_is_answered_under_its_ratio(post):
    """The prompt that is decoded is the one of /apply-template: as many tokens as the engine counts."""
    messages = [{"role": "user", "content": "1+1?"}]
    reply = post(
        "/v1/chat/completions", messages=messages, max_tokens=4, chat_template_kwargs={"comp_ratio": 20}
    )
    assert reply["usage"]["completion_tokens"] == 4
    counted = post(
        "/tokenize", content=expected("0.2").replace("1+1? < think>2</ think>", "1+1?"), parse_special=True
    )
    assert reply["usage"]["prompt_tokens"] == len(counted["tokens"])
    assert POLICY_TOKEN not in expected("0.2")


def test_one_body_turns_the_dial_here_and_there(tmp_path):
    """The very body of the README, sent to `lite serve` and to the stock server: the same prompt on both."""
    gguf = write_tiny_gguf(tmp_path / "tiny.gguf")
    ours, bodies = Served(gguf, "--threads", "1"), []
    for kwargs in ({"comp_ratio": 20}, {"comp_ratio": "60"}, {"enable_thinking": False}, {}):
        messages = [{"role": "user", "content": "1+1?"}]
        bodies.append({"messages": messages, "max_tokens": 1, "chat_template_kwargs": kwargs})
    try:
        with serving(gguf, 512) as post, Engine(gguf, num_threads=1) as engine:
            for body in bodies:
                request = urllib.request.Request(
                    f"{ours.url}/v1/chat/completions",
                    json.dumps(body).encode(),
                    {"Content-Type": "application/json"},
                )
                with urllib.request.urlopen(request, timeout=120) as reply:
                    here = json.load(reply)
                there = post("/v1/chat/completions", **body)
                shown = post("/apply-template", **body)["prompt"]
                assert here["usage"]["prompt_tokens"] == there["usage"]["prompt_tokens"]
                kwargs = body["chat_template_kwargs"]
                ratio = kwargs.get("comp_ratio")
                mode = POLICY if ratio is None else str(int(ratio) / 100)
                ask = question("1+1?", mode, thinking=kwargs.get("enable_thinking", True))
                assert engine.model.bytes_of(engine.prompt(ask).ids).decode() == shown
    finally:
        ours.end()


def test_the_realised_ratio_follows_the_dial_as_in_our_engine():
    """Greedy, the same problems: mean think tokens per ratio in the server against our engine."""
    problems = load("quickstart", NUM_PROBLEMS, 4242)

    with Engine(quickstart.GGUF) as engine, serving(quickstart.GGUF, 1024) as post:

        def asked_there(text: str, ratio: float) -> int:
            reply = post(
                "/v1/chat/completions",
                messages=[{"role": "user", "content": text}],
                max_tokens=520,
                temperature=0,
                chat_template_kwargs={"comp_ratio": round(100 * ratio)},
            )
            think = reply["choices"][0]["message"].get("reasoning_content") or ""
            return len(engine.model.tokenise(think.strip(), special=False))

        ours, theirs = {}, {}
        for ratio in RATIOS:
            asks = [question(problem.question, str(ratio), max_tokens=520) for problem in problems]
            ours[ratio] = mean(answer.think_tokens for answer in engine.generate(asks))
            theirs[ratio] = mean(asked_there(problem.question, ratio) for problem in problems)
    print({ratio: (ours[ratio], theirs[ratio]) for ratio in RATIOS})
    assert theirs[0.2] < 0.5 * theirs[1.0]
    for ratio in RATIOS:  # another build, and an f16 cache: in one reply a near tie may go the other way
        assert theirs[ratio] / theirs[1.0] == pytest.approx(ours[ratio] / ours[1.0], abs=0.1)
