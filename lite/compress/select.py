"""Choose which units of a text stay at a ratio, and write the shortened text.

Takes units, a score and a token count for each; gives the kept units in their original order. The paper keeps
the top floor(ratio * L) tokens by keep probability; here whole units compete for those floor(ratio * L) tokens,
counted in the target model's tokenizer. One scoring pass serves all ratios.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from lite.compress.units import Unit

_RUNS = re.compile(r"\.{4,}|,{2,}")


def owners(units: Sequence[Unit], offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """The unit of each token of a text, from the tokens' character offsets: (tokens,) indices.

    A token belongs to the last unit that begins before the token ends: white space before a unit is the unit's,
    a token of white space alone belongs to the unit before it.
    """
    starts, ends = [unit.start for unit in units], [end for _, end in offsets]
    return np.maximum(np.searchsorted(starts, ends, side="left") - 1, 0)  # (tokens,)


def token_counts(units: Sequence[Unit], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Tokens of each unit; they sum to the text's."""
    return np.bincount(owners(units, offsets), minlength=len(units)).tolist() if units else []


def random_scores(num: int, seed: object) -> list[float]:
    """Scores of the random-drop control; the same for the same seed."""
    rng = random.Random(str(seed))
    return [rng.random() for _ in range(num)]


def select(scores: Sequence[float] | np.ndarray, counts: Sequence[int], budget: int) -> list[int]:
    """Indices of the units to keep, ascending, within `budget` tokens.

    Greedy by descending score (ties: the earlier unit); a unit that no longer fits is skipped and smaller ones
    go on. Then the one left-out unit that brings the total nearest to the budget is added, if it is nearer above
    than the total is below. At least one unit stays: if none fits, the smallest.
    """
    kept, total = set(), 0
    for index in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if total + counts[index] <= budget:
            kept.add(index)
            total += counts[index]
    left_out = [index for index in range(len(scores)) if index not in kept]
    if left_out:
        nearest = min(left_out, key=lambda i: (counts[i], -scores[i], i))  # all of them overshoot
        if not kept or total + counts[nearest] - budget < budget - total:
            kept.add(nearest)
    return sorted(kept)


def place(text: str, units: Sequence[Unit], kept: Sequence[int]) -> tuple[str, list[int]]:
    """The text of the kept units, and where each of them begins in it.

    Units are joined as the text between them was: by a new line if it had one in its white space, by nothing
    if they touched, else by a space. Runs of dots or commas in words collapse.
    """
    parts: list[str] = []
    starts: list[int] = []
    length, previous = 0, -1
    for index in kept:
        unit = units[index]
        if starts:
            gaps = [text[left.end : right.start] for left, right in pairwise(units[previous : index + 1])]
            joint = "\n" if any("\n" in gap for gap in gaps) else "" if gaps == [""] else " "
            parts.append(joint)
            length += len(joint)
        piece = text[unit.start : unit.end]
        if unit.kind == "word":
            piece = _RUNS.sub(lambda run: "..." if run[0][0] == "." else ",", piece)
        starts.append(length)
        parts.append(piece)
        length += len(piece)
        previous = index
    return "".join(parts), starts


def join(text: str, units: Sequence[Unit], kept: Sequence[int]) -> str:
    """The text of the kept units; see `place`."""
    return place(text, units, kept)[0]
