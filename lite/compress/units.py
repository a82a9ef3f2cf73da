"""Cut a chain of thought into atomic units: formula, number, word.

Takes a text, gives spans that cover all of it except white space. Compression keeps or drops whole units, so
no formula and no number is ever cut. The paper (arXiv 2602.08324, section on the compressor) makes a formula
one word for annotation only and then selects token by token; here the same units serve both.

A text is first cut at white space that lies outside formulas (CJK characters stand alone). Chunks are then
glued where one of them means nothing without the other: an operator and its operands (`12 + 5 = 17`), a
number and its unit of measure (`3.5 kg`), its currency or its sign.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True, slots=True)
class Unit:
    """Characters `[start, end)` of a text, without the white space before them."""

    start: int
    end: int
    kind: Literal["formula", "number", "word"]


_CLAUSE_END = re.compile(r"[.,;:!?]\W*$")
_BRACES = r"\{[^{}]*\}"
for _ in range(4):  # nesting that real LaTeX reaches
    _BRACES = r"\{(?:[^{}]|" + _BRACES + r")*\}"

# A single $ opens a formula only before a non-space, and closes one after a non-space and not before a digit
# (Pandoc's rule), so that "$12 and $15" are two prices; nor does "$5 for each" open one.
_FORMULA = (
    r"```(?:math|latex|tex)\b.*?```"
    r"|\\begin\{(?P<env>[A-Za-z]+\*?)\}.*?\\end\{(?P=env)\}"
    r"|\$\$.+?\$\$|\\\[.*?\\\]|\\\(.*?\\\)"
    r"|(?<!\\)\$(?![\s$]|\d[\d,.]*\s+[A-Za-z]{2})(?:[^$\\\n]|\\.|\n(?!\s*\n))*(?<!\s)\$(?!\d)"
    rf"|\\[A-Za-z]+(?:\[[^\]\s]*\])?(?:\s*{_BRACES})+"
)
_CJK, _CJK_PUNCTUATION = "\u3040-\u30ff\u3400-\u9fff", "\u3001\u3002\uff0c\uff01\uff1f\uff1a\uff1b\uff09"
_CHUNK = re.compile(
    rf"[{_CJK}][{_CJK_PUNCTUATION}]*|(?:{_FORMULA}|[^\s{_CJK}])+[{_CJK_PUNCTUATION}]*", re.DOTALL
)
_HAS_FORMULA = re.compile(_FORMULA, re.DOTALL)

_OPENERS, _CLOSERS = (
    "([{\"'\u201c\u2018*_",
    ".,;:!?)]}\"'\u201d\u2019*_\u2026" + "\u3002\uff0c\uff01\uff1f\uff1b\uff1a\uff09",
)
_ABBREVIATED = re.compile(r"(?:sq|ft|in|yds?|lbs?|oz|gal|hrs?|mins?|secs?)\.")
_PAUSE = re.compile(r"[.,;:!?\u2026\u3002\uff0c\uff01\uff1f\uff1b\uff1a][)\]}\"'\u201d\u2019*_]*$")
_CURRENCY = r"\\?[$\u20ac\u00a3\u00a5\u00a2\u20b9]"
_NUMBER = re.compile(rf"[-+\u2212\u2013\u00b1~\u2248]?(?:{_CURRENCY})?[-+\u2212]?\.?\d")
_RATIO = re.compile(r"[-+\u2212]?\d[\d,.]*(?:[/:]\d[\d,.]*)+[A-Za-z%]*")  # 3/4, 2:1, 12/5/2024
_RELATIONS = "=\u2248\u2260\u2264\u2265\u221d"
_EQUATION = re.compile(
    rf"\w.*[{_RELATIONS}\u00d7\u00f7^]|[{_RELATIONS}\u00d7\u00f7^\u221a].*\w"  # x=3, 2^3, =17
    r"|(?:\d|(?<![A-Za-z])[A-Za-z]|[)\]}%\u00b2\u00b3])[-+\u2212\u2013*/<>\u00b7]+"  # 12-5, x+y, but not T-shirt
    r"(?:[$(\[{]*\d|[A-Za-z](?![A-Za-z])|[(\\])"
)
_VARIABLE = re.compile(r"[A-Za-z\u03b1-\u03c9](?:\d|_\w|_\{\w+\}|')?|\w+\(\S*\)")  # x, x_1, f(x)
_BINDS_WORDS = re.compile(  # Area = length × width; =$ 5
    rf"(?:[{_RELATIONS}]|==|:=|<=|>=|!=|\u00d7|\u00f7)(?:{_CURRENCY})?"
)
_SIGNS = ("-", "+", "\u2212", "\u00b1")
_TIMES = ("x", "X")
_LONGEST = 400  # characters of a chunk that are looked at: the patterns' time grows with their square
_OPERAND_WORDS = 8  # between a number and the operator behind what it counts: 8 slices of a pizza * 2
_BINDS_MATH = re.compile(r"[-+*/^<>\u2212\u2013\u00b7\u00b1]")
_ENDS_OPEN = re.compile(
    rf"[\w)\]}}%][{_RELATIONS}*/+^<>\u00d7\u00f7\u00b7\u2212-]$|\d[xX]$|^[(\[]+$"
)  # 8*4=, 60x, (
_BEGINS_OPEN = re.compile(  # =32, -5, x4, minutes/10, )
    rf"[{_RELATIONS}*/+^<>\u00d7\u00f7\u00b7\u2212-]\W?[\w.]|[A-Za-z/]+\)*[*/+=\u00d7\u00f7](?:\W?[\d.]|$)|[xX]\W?\d|[)\]]+$"
)
_MEASURE = re.compile(
    r"%|\u00b0[CF]?|percent|degrees?|dollars?|cents?|euros?|pounds?|hundred|thousand|million|billion|trillion"
    r"|(?:k|c|m|n|\u00b5|d)?(?:m|g|l|L|s|W|V|A|Hz)(?:[\u00b2\u00b3]|\^?[23])?"
    r"|(?:kilo|centi|milli)?(?:meters?|metres?|grams?|lit(?:er|re)s?)|km/h|m/s|mph|mi|miles?|ft|feet|foot|inch(?:es)?"
    r"|yards?|yd|lbs?|oz|ounces?|gal|gallons?|tons?|h|hrs?|hours?|min|mins|minutes?|sec|secs|seconds?|days?|weeks?"
    r"|months?|years?|a\.?m|p\.?m|USD|EUR|GB|MB|KB"
)


def _core(chunk: str) -> str:
    """A chunk without the brackets, quotes and punctuation around it; of an endless one the beginning."""
    return chunk.lstrip(_OPENERS).rstrip(_CLOSERS)[:_LONGEST]


def _kind(chunk: str) -> Literal["formula", "number", "word"]:
    core = _core(chunk)
    if _HAS_FORMULA.search(chunk):
        return "formula"
    if _RATIO.fullmatch(core):
        return "number"
    if _NUMBER.match(core):
        return "formula" if _EQUATION.search(core[1:]) else "number"
    # <think>, control tokens, URLs and query strings are words
    return "formula" if _EQUATION.search(core) and not re.match(r"</?\w|\w+://", chunk) else "word"


def _is_operator(chunk: str) -> bool:
    return bool(_BINDS_WORDS.fullmatch(chunk) or _BINDS_MATH.fullmatch(chunk))


def _stands_before_number(chunk: str) -> bool:
    return _is_operator(chunk) or bool(re.fullmatch(rf"{_CURRENCY}|[(\[]", chunk))


class _Chunks:
    """The chunks of a text and which of them hold together."""

    def __init__(self, text: str):
        spans = [match.span() for match in _CHUNK.finditer(text)]
        self.spans = spans
        self.chunks = [text[start:end] for start, end in spans]
        self.kinds = [_kind(chunk) for chunk in self.chunks]
        self.gaps = [text[left[1] : right[0]] for left, right in pairwise(spans)]
        self.glued = [False] * len(self.gaps)  # [i]: chunk i holds to chunk i + 1

    def is_math(self, i: int) -> bool:
        if not 0 <= i < len(self.chunks):
            return False
        chunk = self.chunks[i].lstrip(_OPENERS).rstrip(".,;:!?")  # a closing bracket stays: f(x)
        return self.kinds[i] != "word" or bool(_VARIABLE.fullmatch(chunk))

    def is_number(self, i: int) -> bool:
        return 0 <= i < len(self.chunks) and self.kinds[i] == "number"

    def reaches(self, i: int, lines: bool = False) -> bool:
        """Whether a bond may cross the gap after chunk i: no pause before it, no new line in it (or one)."""
        return (
            0 <= i < len(self.gaps)
            and (not _PAUSE.search(self.chunks[i]) or bool(_ABBREVIATED.fullmatch(self.chunks[i])))
            and self.gaps[i].count("\n") <= (1 if lines else 0)
        )

    def operand(self, i: int) -> int | None:
        """Where the operand before chunk i begins: a variable, or a number or formula with the words that count it."""
        if self.reaches(i - 1) and self.is_math(i - 1):
            return i - 1
        for j in range(i - 1, max(i - 2 - _OPERAND_WORDS, -1), -1):
            if not self.reaches(j):
                return None
            if self.kinds[j] != "word":
                return j
        return None

    def bind(self, first: int, last: int) -> None:
        """Make one unit of chunks first ... last."""
        self.glued[first:last] = [True] * (last - first)

    def bind_operator(self, i: int) -> None:
        """Hold an operator to its operands: one that stands alone, or that ends or begins a chunk."""
        chunk, last = self.chunks[i], len(self.chunks) - 1
        if not _is_operator(chunk) and chunk not in _TIMES:
            self.bind_part(i)
            return
        after = i + 2 if i < last and _stands_before_number(self.chunks[i + 1]) else i + 1  # x = - 3, 9 x $ 2
        begin = self.operand(i)
        if _BINDS_WORDS.fullmatch(chunk):
            right = self.reaches(i)
            if begin is None and self.reaches(i - 1, lines=True) and not _is_operator(self.chunks[i - 1]):
                begin = i - 1
        else:
            words = (
                chunk in "*/\u00b7" and begin is not None and self.kinds[begin] != "word"
            )  # 12 cookies / box
            right = self.reaches(i) and (self.is_math(after) or (words and after <= last))
            begin = begin if right else None
            right = right and (begin is not None or chunk in _SIGNS)
        if begin is not None:
            self.bind(begin, i)
        if right:
            self.glued[i] = True
        if begin is not None or right:
            signed = chunk in _SIGNS and begin is None and self.is_number(after)
            self.kinds[i] = "number" if signed else "formula"

    def bind_part(self, i: int) -> None:
        """Hold a chunk such as `8*4=`, `=32`, `-5` or `minutes/10` to what its operator needs."""
        chunk = self.chunks[i]
        if _ENDS_OPEN.search(chunk) and self.reaches(i) and self.is_math(i + 1):
            self.glued[i] = True
            self.kinds[i] = "formula"
        if _BEGINS_OPEN.match(chunk):
            begin = self.operand(i)
            if begin is not None and self.kinds[begin] != "word":
                self.bind(begin, i)
                self.kinds[i] = "formula"

    def bind_number(self, i: int) -> None:
        """Hold a number to what follows and belongs to it."""
        if not self.reaches(i):
            return
        this, following = self.chunks[i], self.chunks[i + 1]
        if re.fullmatch(_CURRENCY, this):
            if self.kinds[i + 1] != "word":
                self.glued[i] = True
                self.kinds[i] = "number"
        elif following == ":":  # 2 : 1
            if self.is_number(i) and self.is_number(i + 2) and "\n" not in self.gaps[i + 1]:
                self.bind(i, i + 2)
                self.kinds[i + 1] = "number"
        elif self.kinds[i] == "word":
            return
        elif _MEASURE.fullmatch(following.rstrip(_CLOSERS)):
            self.glued[i] = True
        elif self.is_number(i) and self.is_number(i + 1):
            mixed = this.isdigit() and re.match(r"\d+/\d+", following)  # 3 1/2
            grouped = self.gaps[i] in ("\u00a0", "\u2009", "\u202f") and re.match(r"\d{3}", following)
            self.glued[i] |= bool(mixed or grouped)


def segment(text: str) -> list[Unit]:
    """Cut `text` into units, ascending; everything between them is white space.

    Punctuation belongs to the unit it follows. A unit glued of several chunks is a formula where one of them
    is an operator or a formula, else a number. Markers such as `<think>` are plain words.
    """
    chunks = _Chunks(text)
    for i in range(len(chunks.chunks)):
        chunks.bind_operator(i)
    for i in range(len(chunks.chunks)):
        chunks.bind_number(i)
    units: list[Unit] = []
    first = 0
    for i, (_, end) in enumerate(chunks.spans):
        if i < len(chunks.glued) and chunks.glued[i]:
            continue
        kinds = chunks.kinds[first : i + 1]
        kind = "formula" if "formula" in kinds else "number" if "number" in kinds else "word"
        units.append(Unit(chunks.spans[first][0], end, kind))
        first = i + 1
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
        fresh = formula or bool(_CLAUSE_END.search(text[unit.start : unit.end]))
    return groups
