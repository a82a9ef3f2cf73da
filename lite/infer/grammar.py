"""JSON by llama.cpp's grammar: which tokens may come next, so that an answer is an object of a schema."""

from __future__ import annotations

import ctypes
import json
import math
import re
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf

from lite.errors import LiteError

ANY_OBJECT = {"type": "object"}
MAX_SCHEMA_BYTES = 32_768
MAX_REPEATS = 2_000  # over a whole schema: the converter writes a rule out as often as it may repeat
_BOUNDS = ("minItems", "maxItems", "minLength", "maxLength")
_EMPTY_RULE = re.compile(r"::=\s*$", re.MULTILINE)
_REPEAT = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")


def of_schema(schema: dict[str, Any]) -> str:
    """The grammar (GBNF) of a JSON schema. Raises LiteError for one that cannot be honoured."""
    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise LiteError(f"a schema of {len(text)} bytes; give {MAX_SCHEMA_BYTES} at most")
    try:
        if _repeats(schema) > MAX_REPEATS:
            raise LiteError(
                f"the schema repeats more than {MAX_REPEATS} things; lower its {', '.join(_BOUNDS)}"
            )
        grammar = json_schema_to_gbnf(text)
        if _EMPTY_RULE.search(grammar):
            raise ValueError("it allows nothing")
    except LiteError:
        raise
    except Exception as fault:  # the converter raises what Python does
        raise LiteError(f"the schema cannot be made a grammar ({str(fault)[:120]}); simplify it") from None
    return grammar


def _repeats(schema: Any) -> int:
    """How many times a schema lets its parts be repeated, in all."""
    if isinstance(schema, list):
        return sum(map(_repeats, schema))
    if not isinstance(schema, dict):
        return 0
    own = sum(max(0, int(schema[name])) for name in _BOUNDS if isinstance(schema.get(name), (int, float)))
    if isinstance(pattern := schema.get("pattern"), str):
        own += math.prod(int(num) for pair in _REPEAT.findall(pattern) for num in pair if num.strip("0"))
    return own + sum(map(_repeats, schema.values()))


class Grammar:
    """Where a text stands in a grammar. `vocab` is llama.cpp's. Raises LiteError for a grammar that it refuses."""

    def __init__(self, vocab: int, text: str):
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        if not self._sampler:
            raise LiteError("llama.cpp refuses the grammar of this schema; simplify it")

    def __del__(self) -> None:
        if self._sampler:
            llama_cpp.llama_sampler_free(self._sampler)
            self._sampler = None

    def allows(self, token: int) -> bool:
        """Whether this token may come next; an end token where the text is whole."""
        logits = np.zeros(1, np.float32)
        self._mask(np.array([token], np.int32), logits)
        return bool(np.isfinite(logits[0]))

    def mask(self, logits: np.ndarray) -> None:
        """Set the logits (V,) of every other token to minus infinity."""
        self._mask(np.arange(len(logits), dtype=np.int32), logits)

    def accept(self, token: int) -> None:
        """This token was written; it must be allowed."""
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def _mask(self, ids: np.ndarray, logits: np.ndarray) -> None:
        data = np.zeros(len(ids), np.dtype(llama_cpp.llama_token_data))
        data["id"], data["logit"] = ids, logits
        pointer = data.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data=pointer, size=len(ids), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        logits[:] = data["logit"]
