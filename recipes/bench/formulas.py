"""Are formulas whole? Units of `lite.compress.units` against the equations that GSM8K's authors marked by hand.

    python recipes/bench/formulas.py gsm8k_train.jsonl            # the Hub's own file, with its <<48/2=24>> marks
    python recipes/bench/formulas.py gsm8k_train.jsonl --show 20  # and some of those that are in several units

A mark stands in the text between an equation's equals sign and its result. Its left side's numbers are looked for in
the text before it, from the last to the first, with an operator between any two; from the first of them to the end of the
result is one equation, and all of it must lie in one unit. Nothing of the segmentation is used to find it.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from lite.compress.units import segment
from lite.runtime.files import located_lines, parse_object

MARK = re.compile(r"<<([^<>]*)>>")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
OPERATOR = re.compile(r"[-+*/x\u00d7\u00f7\u2013\u2212=(]", re.IGNORECASE)


def unmarked(line: str) -> tuple[str, list[tuple[int, str]]]:
    """A line without its marks, and where each stood."""
    text, marks, end = "", [], 0
    for mark in MARK.finditer(line):
        text += line[end : mark.start()]
        marks.append((len(text), mark[1]))
        end = mark.end()
    return text + line[end:], marks


def equation(text: str, begin: int, at: int, mark: str) -> tuple[int, int] | None:
    """Characters of the equation marked at `at`, which begins behind `begin`; None where the text has it otherwise."""
    left, equals, _ = mark.rpartition("=")
    result = NUMBER.search(text, at)
    if not equals or result is None or result.start() > at + 3:
        return None
    places = list(NUMBER.finditer(text, begin, at))
    found: list[re.Match] = []
    for wanted in reversed(NUMBER.findall(left.replace(",", ""))):
        while places and places[-1][0].replace(",", "") != wanted:
            places.pop()
        if not places:
            return None
        found.insert(0, places.pop())
    between = [text[a.end() : b.start()] for a, b in itertools.pairwise([*found, result])]
    if not found or not all(OPERATOR.search(gap) for gap in between):
        return None
    return found[0].start(), result.end()


def equations(answer: str) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Each marked equation of a worked solution, as (line without marks, characters in it)."""
    for line in answer.partition("\n####")[0].split("\n"):
        text, marks = unmarked(line)
        begin = 0
        for at, mark in marks:
            span = equation(text, begin, at, mark)
            yield text, span
            begin = span[1] if span else at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="GSM8K in JSONL, with its marks")
    parser.add_argument("--show", type=int, default=0, help="so many of the broken ones")
    options = parser.parse_args()
    whole, broken, unlike = 0, [], 0
    for where, line in located_lines(options.file):
        row = parse_object(line, where)
        for text, span in equations(row["answer"]):
            if span is None:
                unlike += 1
                continue
            units = [unit for unit in segment(text) if unit.start < span[1] and unit.end > span[0]]
            whole += len(units) == 1
            if len(units) > 1:
                broken.append(" | ".join(text[unit.start : unit.end] for unit in units))
    for pieces in broken[:: max(1, len(broken) // max(1, options.show))][: options.show]:
        print(pieces)
    share = whole / max(1, whole + len(broken))
    print(
        f"{whole:,} of {whole + len(broken):,} in one unit ({share:.2%}); {unlike:,} not found in their text"
    )


if __name__ == "__main__":
    main()
