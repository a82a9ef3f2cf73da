"""Are formulas and numbers whole? Units of `lite.compress` against expressions that are not the segmentation's own.

    python recipes/bench/formulas.py                              # the styles of formula_styles.txt
    python recipes/bench/formulas.py gsm8k_train.jsonl --num 300  # and worked solutions: `answer` or `solution`
    python recipes/bench/formulas.py gsm8k_train.jsonl --show 20  # and some of what is in several units

What it looks for, each of which must lie in one unit:

- styles: what formula_styles.txt marks by hand;
- marked: GSM8K's equations, by their <<48/2=24>> marks. A mark stands between an equation's equals sign and its result.
  Its left side's numbers are looked for in the text before it, from the last to the first, with an operator between any
  two; from the first of them to the end of the result is one equation;
- delimited: LaTeX between dollars, `\\[ \\]`, `\\( \\)` and `\\begin \\end` (in solutions that hold a backslash);
- bare: terms with operators between them, outside of those; scaled: a number with its multiplier, unit or half of the day;
- numbers: every run of digits.

Every text is cut, too, to 0.2, 0.4 and 0.6 of its units at random: a number of what is left that is none of the text's
is a changed number.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lite.compress.select import join, random_scores, select
from lite.compress.units import segment
from lite.runtime.files import located_lines, parse_object

STYLES = Path(__file__).with_name("formula_styles.txt")
MARK = re.compile(r"<<([^<>]*)>>")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
OPERATOR = re.compile(r"[-+*/x\u00d7\u00f7\u2013\u2212=(]", re.IGNORECASE)
DELIMITED = re.compile(
    r"\$\$.+?\$\$|(?<![\\$])\$(?!\$)(?:\\.|[^$\\])+\$|\\\[.+?\\\]|\\\(.+?\\\)|\\begin\{(\w+\*?)\}.+?\\end\{\1\}",
    re.DOTALL,
)
TERM = r"(?:[$\u20ac\u00a3]?\d[\d,]*(?:\.\d+)?%?!?|\\(?:frac|sqrt|text)(?:\{[^{}]*\})+|(?<![A-Za-z'\\])[b-zB-HJ-Z](?![A-Za-z'])(?:[\u00b2\u00b3]|[_^]\w)?)"
SIGN = r"[ \t]*(?:[-+*/=\u00d7\u00f7\u2264\u2265\u2248\u2208\u222a]|\\(?:times|div|cdot|leq?|geq?|approx|in|cup)(?![a-z]))[ \t]*"
BARE = re.compile(rf"{TERM}(?:{SIGN}{TERM})+")
SCALED = re.compile(
    r"\d[\d,.]*[ ]?(?:million|billion|dozen|thousand|kg|km|cm|mph|km/h|m/s|\u4e07|\u4ebf|\u5143|\u4e2a|\u5343\u514b)(?![A-Za-z])|\d{1,2}:\d\d [AP]M"
)


def unmarked(line: str) -> tuple[str, list[tuple[int, str]]]:
    """A line without its marks, and where each stood."""
    text, marks, end = "", [], 0
    for mark in MARK.finditer(line):
        text += line[end : mark.start()]
        marks.append((len(text), mark[1]))
        end = mark.end()
    return text + line[end:], marks


def equation(text: str, begin: int, at: int, mark: str) -> tuple[int, int] | None:
    """Characters of the equation marked at `at`, which begins after `begin`; None if the text has it otherwise."""
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


def styles(path: Path = STYLES) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Each line of a file of styles, as (text, what must lie in one unit)."""
    for line in path.read_text("utf-8").splitlines():
        if line and not line.startswith("# "):
            spans, text = [], ""
            for index, part in enumerate(re.split("[\u27e6\u27e7]", re.sub(r"\\n(?![a-z])", "\n", line))):
                spans += [(len(text), len(text) + len(part))] if index % 2 else []
                text += part
            yield text, spans


def expressions(solution: str) -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
    """(text, what is looked for, where it is) for a worked solution with or without marks."""
    lines = [unmarked(line) for line in solution.partition("\n####")[0].split("\n")]
    for text, marks in lines:
        begin, found = 0, []
        for at, mark in marks:
            span = equation(text, begin, at, mark)
            begin = span[1] if span else at
            found.append(span)
        if found:
            yield text, "marked", [span for span in found if span]
    whole = "\n".join(text for text, _ in lines)
    delimited = [match.span() for match in DELIMITED.finditer(whole)] if "\\" in whole else []
    yield whole, "delimited", delimited
    for kind, pattern in (("bare", BARE), ("scaled", SCALED), ("numbers", NUMBER)):
        spans = [match.span() for match in pattern.finditer(whole)]
        yield (
            whole,
            kind,
            [(a, b) for a, b in spans if kind == "numbers" or not any(x < b and a < y for x, y in delimited)],
        )


def changed_numbers(text: str, seed: str) -> Iterator[tuple[str, bool]]:
    """Each number of the text cut at random, and whether the text does not have it."""
    known, units = set(NUMBER.findall(text)), segment(text)
    for ratio in (0.2, 0.4, 0.6):
        kept = select(random_scores(len(units), f"{seed}/{ratio}"), [1] * len(units), int(ratio * len(units)))
        for number in NUMBER.findall(join(text, units, kept)):
            yield number, number not in known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "file", type=Path, nargs="?", help="JSONL with worked solutions under answer or solution"
    )
    parser.add_argument("--num", type=int, help="only the first so many rows")
    parser.add_argument("--show", type=int, default=0, help="so many of those that are cut, of each kind")
    options = parser.parse_args()
    checked: Counter[str] = Counter()
    cut: dict[str, list[str]] = {}
    looked_for = [(text, "styles", spans) for text, spans in styles()]
    texts = [text for text, _, _ in looked_for]
    for where, line in itertools.islice(located_lines(options.file), options.num) if options.file else ():
        row = parse_object(line, where)
        looked_for += expressions(row.get("solution") or row["answer"])
        texts.append(looked_for[-1][0])
    for text, kind, spans in looked_for:
        units = segment(text) if spans else []
        for start, end in spans:
            own = [text[unit.start : unit.end] for unit in units if unit.start < end and unit.end > start]
            checked[kind] += 1
            if len(own) > 1:
                cut.setdefault(kind, []).append(" | ".join(own))
    for index, text in enumerate(texts):
        for number, changed in changed_numbers(text, str(index)):
            checked["changed"] += 1
            if changed:
                cut.setdefault("changed", []).append(f"{number} in {text[:80]!r}")
    for kind, number in checked.items():
        broken = cut.get(kind, [])
        print(f"{kind:10} {number - len(broken):8,} of {number:8,} whole ({1 - len(broken) / number:.2%})")
        for pieces in broken[:: max(1, len(broken) // max(1, options.show))][: options.show]:
            print("   ", pieces)


if __name__ == "__main__":
    main()
