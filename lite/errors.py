"""What reaches a user: a single line with the value and the remedy."""

from __future__ import annotations

import re
import reprlib
from typing import Any

_HARMLESS = str.maketrans({code: None for code in (*range(9), *range(11, 32), *range(127, 160))})

# Pydantic's words for our users.
_PLAIN = {
    "a valid tuple": "a list, such as [a, b]",
    "a valid array": "a list",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return text.translate(_HARMLESS)


class LiteError(Exception):
    """A fault a user can reach and mend. The CLI prints it as one line and exits with code 2."""


class Unreachable(LiteError):
    """A server that is away for now. What it gave before stays: the same command goes on from there."""


def shown(value: Any) -> str:
    """A value for a message; only the beginning of a long one."""
    return reprlib.repr(value)[:200]


def first_fault(fault: Any) -> tuple[str, str, str]:
    """What pydantic's ValidationError found first: its kind, the key ("sft.rank"), and " = 0: must be ..." for a line.

    A key that is missing reads ": missing".
    """
    error = fault.errors(include_url=False)[0]
    key = ".".join(name for name in error["loc"] if isinstance(name, str))
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = re.sub(r"a dictionary or an instance of \w+", "a section of key: value lines", message)
    for technical, plain in _PLAIN.items():
        message = message.replace(technical, plain)
    return (
        error["type"],
        key,
        ": missing" if error["type"] == "missing" else f" = {shown(error['input'])}: {message}",
    )
