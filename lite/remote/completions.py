"""Replies sampled by a server, token-exact: what `lite.models.generate.generate` is for a model that is loaded here.

Prompts go out as token ids and replies come back as token ids, so that no server renders or splits a text anew.
vLLM (and what speaks like it) takes ids as `prompt` at /v1/completions and gives `token_ids` for
`return_token_ids`; llama-server takes ids, too, and gives `tokens` for `return_tokens` at its own /completion
only. A server that gives no ids serves with its text, special tokens shown. All samplers but temperature and
top-p are said to be off, since servers have defaults of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lite.errors import LiteError
from lite.remote.client import Endpoint


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply. `ids` are as the server gave them, None where it gives text only; `ended` is False for a cut one."""

    ids: list[int] | None
    text: str
    ended: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How every reply of a call is sampled; temperature 0 is greedy."""

    max_tokens: int
    temperature: float
    top_p: float


def _body(prompt: Sequence[int], sampling: Sampling, seed: int, model: str, native: bool) -> dict[str, Any]:
    shared = {
        "model": model,
        "prompt": list(prompt),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "seed": seed,
        "stream": False,
    }
    if native:
        return shared | {"n_predict": sampling.max_tokens, "repeat_penalty": 1.0, "return_tokens": True}
    return shared | {
        "max_tokens": sampling.max_tokens,
        "repetition_penalty": 1.0,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "return_token_ids": True,
    }


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**31 for item in value)


def read(reply: dict[str, Any], num_prompt: int, seconds: float, native: bool) -> Completion:
    """The completion in a server's reply to a prompt of `num_prompt` tokens. Raises LiteError for another form."""
    try:
        if native:
            text, ids = reply["content"], reply.get("tokens")
            ended, num_read = reply["stop_type"] != "limit", reply.get("tokens_evaluated")
        else:
            choice = reply["choices"][0]
            text, ids = choice["text"], choice.get("token_ids")
            ended, num_read = choice["finish_reason"] != "length", reply.get("usage", {}).get("prompt_tokens")
        if not isinstance(text, str):
            raise TypeError
    except (KeyError, IndexError, TypeError, AttributeError):
        raise LiteError(
            f"the endpoint's reply has not the form of a completion: {str(reply)[:120]}; use vLLM or llama-server"
        ) from None
    if num_read not in (None, num_prompt):
        raise LiteError(
            f"the endpoint read a prompt of {num_prompt} tokens as {num_read}; it must take token ids as they are,"
            " as vLLM and llama-server do"
        )
    text = text.encode("utf-8", errors="replace").decode()  # JSON may hold half a character
    return Completion(ids if _is_ids(ids) else None, text, ended, seconds)


def complete(
    endpoint: Endpoint,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    done: Callable[[int, Completion], None],
    *,
    model: str = "",
    only: bool = True,
    num_vocab: int = 0,
) -> None:
    """Sample a reply to each prompt; `done(index, completion)` is called as each ends.

    `model` and `only` say which of the server's models (see Endpoint.served). `num_vocab`: where the server says how many
    tokens its model has, it must have as many at least. Raises LiteError where the server does not fit, or gives more
    than `sampling.max_tokens` and an end token.
    """
    served = endpoint.served(model, only)
    meta = served.get("meta")
    num = meta.get("n_vocab") if isinstance(meta, dict) else None  # llama-server says it
    if isinstance(num, int) and num < num_vocab:
        raise LiteError(
            f"{endpoint.url}: its model {served['id']} has {num} tokens and not {num_vocab}; serve the recipe's model"
        )
    native = served.get("owned_by") == "llamacpp"

    async def work(index: int) -> Completion:
        body = _body(prompts[index], sampling, seeds[index], str(served["id"]), native)
        started = time.monotonic()
        reply = await endpoint.post("/completion" if native else "/completions", body, root=native)
        found = read(reply, len(prompts[index]), time.monotonic() - started, native)
        if found.ids is not None and len(found.ids) > sampling.max_tokens + 1:
            raise LiteError(
                f"{endpoint.url}: a reply of {len(found.ids)} tokens where {sampling.max_tokens} were asked;"
                " use vLLM or llama-server"
            )
        return found

    endpoint.map(work, range(len(prompts)), done)


def complete_texts(
    endpoint: Endpoint,
    tokenizer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    done: Callable[[int, str], None],
) -> None:
    """`complete` for a Hugging Face tokenizer: `done(index, text)`, special tokens shown but for the one at the end."""
    if not prompts:
        return
    specials = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}

    def finish(index: int, completion: Completion) -> None:
        ids, text = completion.ids, completion.text
        if ids is not None:
            if ids and completion.ended and ids[-1] in specials:
                ids = ids[:-1]
            text = tokenizer.decode(ids, skip_special_tokens=False)
        elif completion.ended:
            text = text.removesuffix(next(filter(text.endswith, specials.values()), ""))
        done(index, text)

    complete(endpoint, prompts, sampling, seeds, finish, num_vocab=max(map(max, prompts)) + 1)
