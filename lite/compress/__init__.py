"""Compress chains of thought: the documented Python API.

    from lite.compress import load, shorten

    compressor = load("runs/quickstart/compressor/model")  # or the run folder
    for short in shorten(compressor, ["First, 12 + 5 = 17. So ..."], ["Mia has 12 ..."], ratios=(0.2, 0.4)):
        print(short.realised, short.think)

- `load(folder)` gives a `CompressorModel`; its `score(questions, cots)` gives one number per unit.
- `shorten(compressor, cots, questions, ratios)` gives `Compressed` records, one per chain and ratio.
- `segment(text)` cuts a text into `Unit`s: formulas, numbers and words, the atoms that are never cut.

Importing this loads no torch; calling `load` does.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "CompressorModel": "lite.compress.classifier",
    "Compressed": "lite.schema",
    "Unit": "lite.compress.units",
    "load": "lite.compress.compress",
    "segment": "lite.compress.units",
    "shorten": "lite.compress.compress",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
