"""Replies of a GGUF from a server that serves it: the engine here tokenises, the server there generates."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from lite.completions import Completion, Sampling, complete
from lite.endpoint import Endpoint
from lite.infer.engine import Engine, Generation


def generate(
    engine: Engine,
    endpoint: Endpoint,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    on_done: Callable[[int, Generation], None],
    only: bool,
) -> None:
    """Like `Engine.generate`, on a server that lists the GGUF's name without its suffix.

    `only`: one that serves a single model under another name will do, too. `seconds` are those of the request.
    """

    def finish(index: int, completion: Completion) -> None:
        text, ids = completion.text, completion.ids
        if ids is not None:
            ids = ids[:-1] if ids and engine.is_end(ids[-1]) else ids
            text = engine.detokenise(ids)
        stop = "eos" if completion.ended else "length"
        ids = engine.tokenise(text, special=True) if ids is None else ids
        on_done(index, Generation(ids, text, completion.seconds, stop))

    complete(
        endpoint,
        prompts,
        Sampling(max_tokens, temperature, top_p),
        [zlib.crc32(f"{seed}/{index}".encode()) for index in range(len(prompts))],
        finish,
        model=engine.path.stem,
        only=only,
        num_vocab=engine.num_vocab,
    )
