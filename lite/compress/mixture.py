"""Stage `mixture`: the SFT rows, every trace at every ratio, and POLICY warm-up rows.

Takes traces and their compressed versions, gives Rows. A version belongs to the grid ratio that its realised
ratio is nearest to, within a tolerance; a trace stays only if every grid ratio has a clean version (strict
intersection), and 1.0 is the trace itself. POLICY rows teach a first guess: the harder a trace (score S of the
paper's appendix), the larger its ratio. Source: the paper's section on mixed-ratio SFT and the authors' scripts;
they clean by all tokens, here words alone are looked at, since terse mathematics repeats digits honestly.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lite.compress.units import segment
from lite.errors import LiteError
from lite.run import Run
from lite.runtime.files import read_records, write_records
from lite.schema import Compressed, Row, Trace
from lite.tokens import POLICY, RATIOS

MOST_REPEATED_BIGRAMS = 0.6  # share of a text's word pairs that stood there before
MOST_REPEATED_TRIGRAMS = 0.5
MOST_ONE_WORD = 0.4  # share of one word among all words
LONGEST_RUN = 4  # one word again and again
ENOUGH_WORDS = 20  # shares of fewer words say nothing
WEIGHTS = (0.35, 0.25, 0.20, 0.20)  # of length, equations, operators, words in difficulty

_OPERATOR = re.compile(
    r"\\(?:frac|times|cdot|div|sqrt|pm|sum|prod|int)\b|[-+*/^=<>\u00d7\u00f7\u2264\u2265\u2248\u221a%]"
)


def bucket(realised: float, tolerance: float) -> float | None:
    """The grid ratio a realised ratio belongs to, or None: the nearest one, not farther than `tolerance`."""
    nearest = min(RATIOS, key=lambda ratio: abs(ratio - realised))
    return nearest if abs(nearest - realised) <= tolerance + 1e-9 else None


def fill(versions: Iterable[Compressed], tolerance: float) -> dict[str, dict[float, Compressed]]:
    """By trace id and grid ratio below 1, the version whose realised ratio is closest to it."""
    found: dict[str, dict[float, Compressed]] = {}
    for version in versions:
        ratio = bucket(version.realised, tolerance)
        if ratio is None or ratio == 1.0:
            continue
        known = found.setdefault(version.id, {}).get(ratio)
        if known is None or abs(version.realised - ratio) < abs(known.realised - ratio):
            found[version.id][ratio] = version
    return found


def complete(found: Mapping[str, Mapping[float, Compressed]]) -> list[str]:
    """Ids that have every grid ratio below 1."""
    return [id for id, ratios in found.items() if all(ratio in ratios for ratio in RATIOS[:-1])]


def _repeated(grams: Sequence[Any]) -> float:
    return 1 - len(set(grams)) / len(grams)


def is_clean(text: str) -> bool:
    """Whether a text is free of degenerate repetition: looping bigrams and trigrams, one word all over."""
    units = segment(text)
    words = [
        re.sub(r"\W+", "", text[unit.start : unit.end]).lower() if unit.kind == "word" else ""
        for unit in units
    ]
    run, previous = 0, ""
    for word in words:  # a number or formula between two words ends a run
        run = run + 1 if word and word == previous else 1
        previous = word
        if word and run > LONGEST_RUN:
            return False
    words = [word for word in words if word]
    if len(words) < ENOUGH_WORDS:
        return True
    if max(Counter(words).values()) > MOST_ONE_WORD * len(words):
        return False
    bigrams, trigrams = list(pairwise(words)), list(zip(words, words[1:], words[2:], strict=False))
    return _repeated(bigrams) <= MOST_REPEATED_BIGRAMS or _repeated(trigrams) <= MOST_REPEATED_TRIGRAMS


def features(text: str) -> tuple[int, int, int, int]:
    """Length in units, equations, different operators, different words of a chain of thought."""
    pieces = [(unit.kind, text[unit.start : unit.end]) for unit in segment(text)]
    formulas = [piece for kind, piece in pieces if kind == "formula"]
    operators = {operator for piece in formulas for operator in _OPERATOR.findall(piece)}
    words = {re.sub(r"\W+", "", piece).lower() for kind, piece in pieces if kind == "word"}
    return len(pieces), sum("=" in piece for piece in formulas), len(operators), len(words - {""})


def difficulties(texts: Sequence[str]) -> list[float]:
    """S in 0..1 of each text: weighted features, each min-max normalised over the set (0 where all are equal)."""
    columns = []
    for column in zip(*map(features, texts), strict=True):
        low, high = min(column), max(column)
        columns.append([(value - low) / (high - low) if high > low else 0.0 for value in column])
    return [
        sum(weight * value for weight, value in zip(WEIGHTS, row, strict=True))
        for row in zip(*columns, strict=True)
    ]


def quintile_ratios(scores: Sequence[float]) -> list[float]:
    """The POLICY warm-up ratio of each score: the easiest fifth 0.2, the hardest 1.0 (ties: in order)."""
    ranked = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    ratios = [0.0] * len(scores)
    for rank, index in enumerate(ranked):
        ratios[index] = RATIOS[rank * len(RATIOS) // len(ranked)]
    return ratios


def build_rows(
    traces: Sequence[Trace], found: Mapping[str, Mapping[float, Compressed]], policy_share: float, seed: int
) -> list[Row]:
    """One row for every (trace, ratio), and POLICY rows that make up `policy_share` of all; shuffled by `seed`."""

    def row(trace: Trace, ratio: float, mode: str) -> Row:
        think = trace.think if ratio == 1.0 else found[trace.id][ratio].think
        return Row(trace.id, mode, trace.question, ratio, think, trace.visible)

    rows = [row(trace, ratio, str(ratio)) for trace in traces for ratio in RATIOS]
    num_policy = round(len(rows) * policy_share / (1 - policy_share))
    ratios = quintile_ratios(difficulties([trace.think for trace in traces]))
    rng = random.Random(seed)
    pairs = list(zip(traces, ratios, strict=True))
    rng.shuffle(pairs)
    rows += [row(*pairs[i % len(pairs)], POLICY) for i in range(num_policy)]
    rng.shuffle(rows)
    return rows


def run(ctx: Run) -> dict[str, Any]:
    """Write the rows."""
    config = ctx.recipe.mixture
    traces = read_records(ctx.path("traces", "traces.jsonl"), Trace)
    versions = read_records(ctx.path("compress", "compressed.jsonl"), Compressed)
    good = [v for v in versions if v.num_tokens >= config.min_tokens and is_clean(v.think)]
    found = fill(good, config.tolerance)
    whole = set(complete(found))
    chosen = [trace for trace in traces if trace.id in whole and is_clean(trace.think)]
    if not chosen:
        raise LiteError(
            f"mixture: none of {len(traces)} traces has a clean version at every ratio within "
            f"mixture.tolerance = {config.tolerance}; raise it, or lower mixture.min_tokens = {config.min_tokens}"
        )
    rows = build_rows(chosen, found, config.policy_share, ctx.recipe.seed)
    write_records(ctx.path("mixture", "rows.jsonl"), rows)
    return {
        "traces": len(chosen),
        "dropped": len(traces) - len(chosen),
        "rows": len(rows),
        "policy_rows": sum(row.mode == POLICY for row in rows),
    }
