"""Replies of a GGUF from a server that serves it: the engine here tokenises, the server there generates."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from lite.errors import LiteError
from lite.infer.engine import Engine
from lite.infer.request import Answer, Ask, Stop
from lite.remote.client import Endpoint
from lite.remote.completions import Completion, Sampling, complete


def generate(
    engine: Engine,
    endpoint: Endpoint,
    asks: Sequence[Ask],
    on_done: Callable[[int, Answer], None],
    *,
    only: bool,
) -> None:
    """Like `Engine.generate`, on a server that lists the GGUF's name without its suffix.

    All requests are sampled alike. `only`: one that serves a single model under another name will do, too.
    `seconds` are those of the request. Raises LiteError for a budget, which only the engine here can enforce.
    """
    if asks[0].budget is not None:
        raise LiteError(f"--budget {asks[0].budget} is enforced by the engine here; leave out --endpoint")

    def finish(index: int, completion: Completion) -> None:
        ids = completion.ids
        if ids is None:
            ids = engine.model.tokenise(completion.text, special=True)
        elif any(id >= engine.model.num_vocab for id in ids):  # llama.cpp would end the process
            raise LiteError(
                f"{endpoint.url}: token {max(ids)} is none of {engine.path.name}; serve that model"
            )
        elif ids and ids[-1] in engine.model.lexicon.ends:
            ids = ids[:-1]
        stop: Stop = "eos" if completion.ended else "length"
        on_done(index, engine.read(asks[index], ids, seconds=completion.seconds, stop=stop))

    complete(
        endpoint,
        [engine.prompt(ask).ids for ask in asks],
        Sampling(asks[0].max_tokens, asks[0].temperature, asks[0].top_p),
        [zlib.crc32(str(ask.seed).encode()) for ask in asks],
        finish,
        model=engine.path.stem,
        only=only,
        num_vocab=engine.model.num_vocab,
    )
