"""Token-exact sampling from a server: a real llama-server over the tiny GGUF, and one that speaks like vLLM."""

from __future__ import annotations

import contextlib
import socket

import pytest
from loopback import Act, serve
from tiny_gguf import write_tiny_gguf

from lite.errors import LiteError
from lite.eval import remote
from lite.eval.evaluate import Settings, evaluate
from lite.infer.engine import Engine
from lite.infer.request import question
from lite.remote import client
from lite.remote.client import Endpoint
from lite.remote.completions import Completion, Sampling, complete, complete_texts, read
from lite.runtime.files import read_records
from lite.schema import Problem
from lite.tokens import MODES

GREEDY = Sampling(max_tokens=40, temperature=0.0, top_p=1.0)
QUESTIONS = ["What is 2+2?", "", "Say <think> and <COMP_20><|im_end|> please.", "\u00fc \u5171"]


@contextlib.contextmanager
def llama_server(path):
    """The C++ llama-server, in this process; gives its URL.

    One slot: what is computed together would else depend on when requests come, and with it the last bits of logits.
    """
    import xllamacpp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.n_ctx, params.n_parallel = str(path), port, 512, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup, params.verbosity = False, 0
    server = xllamacpp.Server(params)
    try:
        yield server.listening_address
    finally:
        del server


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny-q8_0.gguf", seed=1, end_bias=1.0)


@pytest.fixture(scope="module")
def url(path):
    with llama_server(path) as address:
        yield address


@pytest.fixture(scope="module")
def engine(path):
    with Engine(path, num_threads=1) as engine:
        yield engine


def completions(url, prompts, sampling=GREEDY, seeds=None, **settings):
    found: dict[int, Completion] = {}
    complete(Endpoint(url), prompts, sampling, seeds or [0] * len(prompts), found.__setitem__, **settings)
    return [found[index] for index in range(len(prompts))]


def has_marker(text: str) -> bool:
    return "think>" in text.lower()


def test_a_llama_server_gives_what_the_engine_gives(url, engine):
    asks = [question(text, mode, max_tokens=40) for text in QUESTIONS for mode in MODES]
    here = engine.generate(asks)
    there = completions(url, [engine.prompt(ask).ids for ask in asks], num_vocab=engine.model.num_vocab)
    assert {answer.stop for answer in here} == {"eos", "length"}
    same = 0
    for mine, theirs in zip(here, there, strict=True):
        assert theirs.seconds > 0
        if has_marker(engine.read(asks[0], theirs.ids, seconds=0.0, stop="length").text):
            continue  # the engine masks a marker that has no meaning where it stands
        same += 1
        assert theirs.ended == (mine.stop == "eos")
        assert not theirs.ended or theirs.ids[-1] in engine.model.lexicon.ends
        ids = theirs.ids[:-1] if theirs.ended else theirs.ids
        again = engine.read(asks[0], ids, seconds=0.0, stop=mine.stop)
        assert (again.text, again.total_tokens) == (mine.text, mine.total_tokens)
    assert same > len(asks) // 4


def test_a_llama_server_samples_by_temperature_and_seed_alone(url, engine):
    prompts = [engine.prompt(question("Draw.", "0.2")).ids] * 6
    hot = Sampling(30, 3.0, 1.0)
    first = [c.ids for c in completions(url, prompts, hot, [1, 1, 2, 3, 4, 5])]
    assert first[0] == first[1] and len({tuple(ids) for ids in first}) == 5
    assert max(max(ids) for ids in first) > 250  # no top-k hides the rare ones
    cold = completions(url, prompts[:2], Sampling(30, 3.0, 1e-6), [1, 2])
    assert cold[0].ids == cold[1].ids  # top-p arrives


def test_a_prompt_of_another_vocabulary_is_refused(url, engine):
    with pytest.raises(LiteError, match=r"status 400 \(Prompt contains invalid tokens\)"):
        completions(url, [[5, 9999]])
    with pytest.raises(LiteError, match="has 273 tokens and not 9999; serve the recipe's model"):
        completions(url, [[5]], num_vocab=9999)


PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(6)]


def timeless(folder, mode):
    from lite.eval.evaluate import Graded

    graded = read_records(folder / f"replies-{mode}.jsonl", Graded)
    return [(g.id, g.ratio, g.correct, g.think_tokens, g.total_tokens, g.stop, g.text) for g in graded]


def test_lite_eval_gives_the_same_report_through_a_server(url, path, tmp_path, monkeypatch):
    monkeypatch.setattr("lite.runtime.hardware.num_cores", lambda: 1)
    here = evaluate(path, PROBLEMS, ["0.2", "policy"], tmp_path / "here", Settings(max_tokens=40))
    there = evaluate(
        path, PROBLEMS, ["0.2", "policy"], tmp_path / "there", Settings(max_tokens=40, endpoint=url)
    )
    for mode in ("0.2", "1.0", "policy"):
        pairs = list(zip(timeless(tmp_path / "here", mode), timeless(tmp_path / "there", mode), strict=True))
        plain = [(mine, theirs) for mine, theirs in pairs if not has_marker(theirs[-1])]
        assert plain and all(mine == theirs for mine, theirs in plain)
    assert here["settings"]["endpoint"] == "" and there["settings"]["endpoint"] == f"{url}/v1"


def test_the_verb(url, path, tmp_path, lite):
    (tmp_path / "p.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    command = (
        "eval",
        str(path),
        "--problems",
        "p.jsonl",
        "--ratios",
        "0.2",
        "--max-tokens",
        "20",
        "--out",
        "r",
    )
    code, out, _ = lite(*command, "--endpoint", url)
    assert code == 0 and "| 0.2 |" in out
    code, _, err = lite(*command, "--endpoint", "http://127.0.0.1:9", "--overwrite")
    assert code == 2 and "nothing answers" in err
    code, _, err = lite(*command, "--endpoint", "nowhere", "--overwrite")
    assert code == 2 and "give one such as" in err
    code, _, err = lite("train", "quickstart", "--endpoint", url)
    assert code == 2 and "add --stage with one of traces, annotate, probe, evaluate" in err


MODELS = {"data": [{"id": "served", "owned_by": "vllm", "max_model_len": 100}]}


class Tokens:
    """A tokenizer of letters: 0 is the end, 1 a control token."""

    eos_token = "<end>"
    added_tokens_decoder = {
        id: type("T", (), {"special": True, "content": content}) for id, content in ((0, "<end>"), (1, "<C>"))
    }

    def decode(self, ids, skip_special_tokens):
        assert not skip_special_tokens
        return "".join({0: "<end>", 1: "<C>"}.get(id) or chr(95 + id) for id in ids)


def texts(url, prompts):
    found: dict[int, str] = {}
    complete_texts(Endpoint(url), Tokens(), prompts, GREEDY, [7] * len(prompts), found.__setitem__)
    return [found[index] for index in range(len(prompts))]


def vllm(text, token_ids, finish="stop", num_prompt=2):
    choice = {"index": 0, "text": text, "finish_reason": finish, "token_ids": token_ids}
    return {"choices": [choice], "usage": {"prompt_tokens": num_prompt}}


def test_vllm_s_form():
    """Its protocol: vllm/entrypoints/openai/completion/protocol.py."""

    def answer(path, body, number):
        if path == "/v1/models":
            return MODELS
        cut = {"finish": "length"} if body["prompt"][0] == 3 else {}
        return vllm("<C>ab", [1, 2, 3] if cut else [1, 2, 3, 0], **cut)

    with serve(answer) as server:
        assert texts(server.url, [[3, 4], [5, 6]]) == ["<C>ab", "<C>ab"]
    assert [path for path, _, _ in server.asked] == ["/v1/models", "/v1/completions", "/v1/completions"]
    body = server.asked[1][1]
    assert body["model"] == "served" and body["prompt"] in ([3, 4], [5, 6]) and body["max_tokens"] == 40
    assert body["skip_special_tokens"] is False and body["return_token_ids"] is True
    assert (body["top_k"], body["min_p"], body["repetition_penalty"], body["seed"]) == (0, 0.0, 1.0, 7)


def test_a_server_without_token_ids_serves_with_its_text():
    for text in ("<C>ab", "<C>ab<end>"):
        with serve(lambda path, *_, text=text: MODELS if "models" in path else vllm(text, None)) as server:
            assert texts(server.url, [[3, 4]]) == ["<C>ab"]


@pytest.mark.parametrize(
    "reply, message",
    [
        (vllm("x", [2], num_prompt=3), "read a prompt of 2 tokens as 3; it must take token ids as they are"),
        ({"choices": []}, "has not the form of a completion"),
        ({"object": "error"}, "has not the form of a completion"),
        ({"choices": [{"text": None, "finish_reason": "stop"}]}, "has not the form of a completion"),
        ({"choices": "x"}, "has not the form of a completion"),
    ],
)
def test_a_reply_that_does_not_fit(reply, message):
    with pytest.raises(LiteError, match=message):
        read(reply, 2, 0.1, native=False)


@pytest.mark.parametrize("ids", [[2, -1], [2, 2**31], [True], "ab"])
def test_what_are_no_token_ids(ids):
    assert read(vllm("ab", ids), 2, 0.1, native=False).ids is None


def test_more_tokens_than_were_asked():
    with serve(lambda path, *_: MODELS if path == "/v1/models" else vllm("a", [2] * 42)) as server:
        with pytest.raises(LiteError, match="a reply of 42 tokens where 40 were asked"):
            texts(server.url, [[3, 4]])


def test_a_token_that_the_gguf_has_not(engine):
    """llama.cpp would end the process on it."""
    ask = question("One?", "0.2", max_tokens=40)
    num_prompt = len(engine.prompt(ask).ids)
    other = vllm("x", [2, engine.model.num_vocab], num_prompt=num_prompt)
    with serve(lambda path, *_: MODELS if path == "/v1/models" else other) as server:
        with pytest.raises(
            LiteError, match=f"token {engine.model.num_vocab} is none of .*; serve that model"
        ):
            remote.generate(engine, Endpoint(server.url), [ask], print, only=True)


def test_half_a_character_is_replaced():
    reply = {"choices": [{"text": "a\ud800", "finish_reason": "stop"}]}
    assert read(reply, 2, 0.1, native=False) == Completion(None, "a?", True, 0.1)


def test_a_busy_server(monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)

    def answer(path, body, number):
        if number in (0, 2, 3):
            return Act("loading model", status=503)
        return MODELS if path == "/v1/models" else vllm("ab", [2, 3, 0])

    with serve(answer) as server:
        assert texts(server.url, [[3, 4]]) == ["ab"]
