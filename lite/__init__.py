"""Extra-CoT Lite: small reasoning models with a thinking dial.

The Python API. Importing it is quick; torch is loaded only by `load_compressor`.

    from lite import Engine, ask, load_compressor, shorten

    answer = ask("quickstart", "Mia has 5 books and finds 4 more. How many has she?", ratio=0.4)
    print(answer.visible, answer.think_tokens)

    compressor = load_compressor("runs/quickstart")
    for short in shorten(compressor, ["First, 12 + 5 = 17. So ..."], ["Mia has 12 ..."], ratios=(0.2, 0.4)):
        print(short.realised, short.think)

`Engine` decodes many requests together and streams; see `Engine.submit` and `Engine.generate`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Threads of torch and llama.cpp that wait by spinning nearly stop each other beside another job: docs/log.md. It is
# read when those libraries are loaded, so it is set here; a setting of the user stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from lite.compress.compress import load as load_compressor
    from lite.compress.compress import shorten
    from lite.infer.engine import Engine
    from lite.infer.request import Answer

__all__ = ["Engine", "ask", "load_compressor", "shorten"]


def ask(model: str | Path, question: str, *, ratio: float | None = None, **settings: Any) -> Answer:
    """The reply of a GGUF to one question.

    `model` is a file, or "quickstart" for the one in this package. `ratio` is one of 0.2, 0.4, 0.6, 0.8, 1.0; None
    lets the model choose. `settings` are fields of `lite.infer.request.Ask`, such as `budget` (think tokens, at most),
    `max_tokens` or `temperature`. Loads the model for this one question; an `Engine` keeps it. Raises LiteError.
    """
    from lite import quickstart
    from lite.infer.engine import Engine
    from lite.infer.request import question as request
    from lite.tokens import POLICY, mode_of

    if ratio is not None or "budget" not in settings:
        settings["mode"] = POLICY if ratio is None else mode_of(str(ratio))
    with Engine(quickstart.GGUF if model == "quickstart" else model, batch_size=1) as engine:
        return engine.submit(request(question, **{"mode": None, **settings})).answer()


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from lite.infer.engine import Engine

        return Engine
    if name in ("load_compressor", "shorten"):
        from lite.compress import compress

        return {"load_compressor": compress.load, "shorten": compress.shorten}[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
