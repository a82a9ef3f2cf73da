"""The gold equations of a worked solution, and what a compression has cut of its numbers and formulas."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lite.compress.units import segment

_RESULT = re.compile(r"=\s*\\?[$\u20ac\u00a3]?\s*(-?\d[\d,]*(?:\.\d+)?|-?\.\d+)[^=]*$")


@dataclass(frozen=True, slots=True)
class Equation:
    """A gold equation: which unit of the chain it is, its result, and the unit's characters from the result on."""

    unit: int
    result: str
    tail: int


def equations(cot: str) -> list[Equation]:
    """The gold equations of a worked solution: formulas that end in `= number`."""
    found = []
    for index, unit in enumerate(segment(cot)):
        if unit.kind == "formula" and (match := _RESULT.search(cot[unit.start : unit.end])):
            found.append(Equation(index, match[1], unit.end - unit.start - match.start(1)))
    return found


def num_cut(cot: str, short: str) -> int:
    """Numbers and formulas of a compressed chain that are no whole units of the original, one after the other."""
    pieces = {"".join(cot[unit.start : unit.end].split()) for unit in segment(cot)}
    longest = max(map(len, pieces), default=0)
    cut = 0
    for unit in segment(short):
        if unit.kind == "word":
            continue
        text = "".join(short[unit.start : unit.end].split())
        reached = {0}  # ends of what whole units can spell
        for end in range(1, len(text) + 1):
            if any(text[at:end] in pieces for at in range(max(0, end - longest), end) if at in reached):
                reached.add(end)
        cut += len(text) not in reached
    return cut
