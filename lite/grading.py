"""The final answer of a reply: find it and compare it with the gold answer.

An answer is taken from the first of these that is there, the last one of its kind:
1. `\\boxed{...}`, braces balanced, as the prompt asks; a box that a cut left open is none;
2. a line `#### X`, GSM8K's own form;
3. "the answer is X" or "answer: X", up to the end of the sentence;
4. the whole text, where it is one plain number and nothing else.
A number somewhere in a sentence is not an answer: taking it would reward replies that never conclude.

Plain numbers are compared here, exactly; everything else by math-verify, imported only when it is needed.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from fractions import Fraction

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"[{}]")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE)
_SAID = re.compile(  # in linear time, whatever a model repeats
    r"\banswer\b(?:\s+is\b(?:\s*:)?|\s*:)[\s*]*([^\s*](?:[^\n.]|\.(?!\s|$))*)", re.IGNORECASE
)
_STARS = "*" + "".join(filter(str.isspace, map(chr, range(0x3001))))  # of bold text, and white space
_MATHS_SIGNS = re.compile(r"\\[!,;: ]|\\left|\\right|\\displaystyle|\\\(|\\\)|\\\[|\\\]|\\?\$|[€£]|~")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:,\d{3})+)(?![\d,])")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))")
_NUMBER = re.compile(r"([-+]?)\s*(?:(\d+)\s+(?=\d+\s*/))?(\d+\.?\d*|\.\d+)(?:\s*/\s*(\d+))?")
# What may follow a number without changing it: percent, degrees, words. A single letter may be a variable.
_UNIT = re.compile(
    r"\s*(?:\^?\s*\{?\\circ\}?|°|degrees?)|\s+[A-Za-z]{2,}(?:[ /.]+[A-Za-z]+)*\.?(?:\s*\^\s*\{?[23]\}?)?"
)
_NO_UNITS = frozenset(
    "pi sqrt sin cos tan log ln exp and or to of plus minus times by over mod squared cubed factorial root"
    " half halves third thirds quarter quarters fourths fifths sixths eighths tenths hundredths"
    " pair pairs dozen dozens score hundred thousand million billion trillion mil bn".split()
)
MAX_CHARS = 400  # a longer answer is no answer
_TOWER = re.compile(r"\^\s*\{?[^{}^]*\^|\^\s*\{?\s*\d{5,}|\*\*.*\*\*|\d{3,}\s*!|!\s*!")
SECONDS = 5  # for one step of math-verify


def _boxed(text: str) -> str | None:
    """What stands in the last complete box."""
    boxes = {match.end() - 1 for match in _BOX.finditer(text)}  # their opening braces
    opened: list[int] = []
    start, end = -1, 0
    for brace in _BRACE.finditer(text):
        place = brace.start()
        if text[max(place - 1, 0) : place] == "\\" and text[max(place - 2, 0) : place] != "\\\\":
            continue  # \{ and \} are braces of the answer itself
        if brace[0] == "{":
            opened.append(place)
        elif opened and (begin := opened.pop()) in boxes and begin > start:
            start, end = begin, place
    return text[start + 1 : end].strip() if start >= 0 else None


def final_answer(text: str) -> str | None:
    """The final answer in a visible reply, or None where it does not say one. See the module for the order."""
    answer = _boxed(text)
    if answer is not None:
        return answer or None
    for pattern in (_HASHES, _SAID):
        if found := pattern.findall(text):
            return found[-1].rstrip(_STARS if pattern is _SAID else None).strip("$ ") or None
    return text.strip() if plain_number(text) is not None else None


def _clean(answer: str) -> str:
    """The answer without dollar signs, spacing commands, text commands and thousands separators."""
    answer = _MATHS_SIGNS.sub(" ", answer.replace("{,}", ",").replace("\\!", "").replace("−", "-"))
    answer = _TEXT_COMMAND.sub(r" \1 ", answer)
    answer = _THOUSANDS.sub(lambda match: match[1] + match[2].replace(",", ""), answer)
    return " ".join(answer.split()).rstrip(".").strip()


def plain_number(answer: str) -> tuple[Fraction, bool] | None:
    """The value of a plain number and whether a percent sign follows it; None where it is anything else.

    Plain: a sign, an integer, a decimal, a fraction or a mixed number, with or without a unit after it.
    """
    if len(answer) > MAX_CHARS:
        return None
    text = _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", _clean(answer)).strip()
    match = _NUMBER.match(text)
    if match is None:
        return None
    sign, whole, number, divisor = match.groups()
    if divisor and (int(divisor) == 0 or "." in number):
        return None
    rest = text[match.end() :]
    percent = bool(re.fullmatch(r"\s*\\?%|\s+percent", rest))
    if rest.strip() and not percent:
        if not _UNIT.fullmatch(rest) or _NO_UNITS.intersection(re.findall("[a-z]+", rest.lower())):
            return None
    value = int(whole or 0) + Fraction(number) / int(divisor or 1)  # 1 1/2 is a mixed number
    return (-value if sign == "-" else value), percent


def _same_by_math_verify(answer: str, gold: str) -> bool:
    """Compare expressions. math-verify stops itself by signals, which work in the main thread only."""
    if _TOWER.search(answer):  # 9^9^9 would run for ever
        return False
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    signals = os.name == "posix" and threading.current_thread() is threading.main_thread()
    seconds = SECONDS if signals else None
    configs = (LatexExtractionConfig(), ExprExtractionConfig())
    expected, given = (
        parse(f"\\boxed{{{side}}}", extraction_config=configs, parsing_timeout=seconds)
        for side in (gold, answer)
    )
    return bool(verify(expected, given, timeout_seconds=seconds))


def same(answer: str, gold: str) -> bool:
    """Whether two answers mean the same."""
    if max(len(answer), len(gold)) > MAX_CHARS:
        return False
    ours, theirs = _clean(answer), _clean(gold)
    if ours and (ours == theirs or (ours.lower() == theirs.lower() and ours.isalpha())):
        return True
    given, expected = plain_number(answer), plain_number(gold)
    if given is None or expected is None:
        return _same_by_math_verify(answer, gold)
    (given_value, given_percent), (expected_value, expected_percent) = given, expected
    if given_value == expected_value:
        return True
    if given_percent != expected_percent:  # 50 % is 0.5, too
        given_value, expected_value = (
            value / 100 if percent else value for value, percent in (given, expected)
        )
    difference = abs(given_value - expected_value)
    integers = given_value.denominator == expected_value.denominator == 1
    return difference == 0 or (not integers and difference < Fraction(1, 2_000_000))


def is_correct(reply: str, gold: str) -> bool:
    """Whether the visible reply (what follows the think span) gives the gold answer.

    A reply that says no final answer is wrong. `gold` is the answer alone, such as "72" or "\\frac{1}{2}".
    """
    answer = final_answer(reply)
    return answer is not None and same(answer, gold)
