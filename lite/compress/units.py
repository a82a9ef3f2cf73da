"""Cut a chain of thought into atomic units: formula, number, word.

Takes a text, gives spans that cover all of it except white space. Compression keeps or drops whole units, so
no formula and no number is ever cut. The paper (arXiv 2602.08324, section on the compressor) makes a formula
one word for annotation only and then selects token by token; here the same units serve both.

`lite.compress.lexer` reads the text as tokens, `lite.compress.grammar` finds what holds together: an operator and its
operands (`12 + 5 = 17`), a number and its unit of measure (`3.5 kg`), brackets with mathematics in them, LaTeX, code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lite.compress.grammar import Grammar

_CLAUSE_ENDS = ".,;:!?\u3002\uff0c\uff01\uff1f\uff1a\uff1b"


@dataclass(frozen=True, slots=True)
class Unit:
    """Characters `[start, end)` of a text, without the white space before them."""

    start: int
    end: int
    kind: Literal["formula", "number", "word"]


def segment(text: str) -> list[Unit]:
    """Cut `text` into units, ascending; everything between them is white space.

    Punctuation belongs to the unit it follows. A unit that holds an operator with its operands or a formula is a
    formula, else one that holds a number is a number. Markers such as `<think>` are plain words. Linear time.
    """
    grammar = Grammar(text)
    units: list[Unit] = []
    open_bonds, first, formula, number = 0, 0, False, False
    for i, (_, end) in enumerate(grammar.spans):
        open_bonds += grammar.bonds[i]
        formula |= grammar.formulas[i]
        number |= grammar.numbers[i]
        if open_bonds == 0:
            kind = "formula" if formula else "number" if number else "word"
            units.append(Unit(grammar.spans[first][0], end, kind))
            first, formula, number = i + 1, False, False
    return units


def clauses(text: str, units: Sequence[Unit]) -> list[list[int]]:
    """Indices of units grouped: a formula by itself, and words and numbers up to punctuation or a new line."""
    groups: list[list[int]] = []
    fresh = True
    for index, unit in enumerate(units):
        formula = unit.kind == "formula"
        broken = index > 0 and "\n" in text[units[index - 1].end : unit.start]
        if fresh or formula or broken:
            groups.append([])
        groups[-1].append(index)
        at = unit.end
        while at > unit.start and not (text[at - 1].isalnum() or text[at - 1] in _CLAUSE_ENDS):
            at -= 1
        fresh = formula or text[at - 1] in _CLAUSE_ENDS
    return groups
