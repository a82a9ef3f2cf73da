"""The recipe: a YAML file whose sections are the stages; `--set section.key=value` overrides one value.

Everything wrong with it is a LiteError that names the value and the remedy, before any work starts.
"""

from lite.config.read import build, dump, load, parse
from lite.config.sections import (
    Annotate,
    Chrpo,
    Compress,
    Compressor,
    Evaluate,
    Export,
    Merge,
    Mixture,
    Probe,
    Problems,
    Recipe,
    Sft,
    Source,
    Traces,
)

__all__ = [
    "Annotate", "Chrpo", "Compress", "Compressor", "Evaluate", "Export", "Merge", "Mixture", "Probe", "Problems",
    "Recipe", "Sft", "Source", "Traces", "build", "dump", "load", "parse",
]  # fmt: skip
