"""What bounds a reply, and what there is to know of a vocabulary to keep it within its bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lite.infer.reply_parser import LEAD_TOKENS
from lite.infer.request import Unfit
from lite.tokens import THINK_CLOSE

ANSWER_TOKENS = 256  # the allowance for the answer of a reply with a budget
BOX_TOKENS = 32  # of these, for what is written into a forced box
BOX = "\\boxed{"
ASK = f"The answer is {BOX}"


@dataclass(frozen=True, slots=True)
class Lexicon:
    """What a controller knows of a vocabulary: the text of its tokens, which of them end a reply, how to spell."""

    pieces: Mapping[int, bytes]
    ends: frozenset[int]
    spell: Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of a whole reply; with a `budget` also of its think span, and then of its answer.

    `forced`: how much of the allowance an answer takes that the model has to be asked for; 0: it never is.
    """

    max_tokens: int
    budget: int | None = None
    allowance: int = ANSWER_TOKENS
    forced: int = 0


def limits(lexicon: Lexicon, max_tokens: int, budget: int | None, *, asks: bool = True) -> Limits:
    """The limits of a reply that may have `max_tokens`: a budget leaves room in them for the answer.

    `asks`: whether the model has to give a final answer in a box. Raises Unfit where there is no room.
    """
    if budget is None:
        return Limits(max_tokens)
    forced = len(lexicon.spell(f"\n\n{ASK}")) + BOX_TOKENS if asks else 0
    around = LEAD_TOKENS + len(lexicon.spell(f"\n{THINK_CLOSE}\n\n"))
    allowance = min(ANSWER_TOKENS, max(forced, (max_tokens - around) // 2))
    left = max_tokens - around - allowance
    if left < 0:
        raise Unfit(
            f"a reply of {max_tokens} tokens has no room for a budget and an answer;"
            f" allow {around + max(forced, 2)} at least",
            field="budget",
        )
    budget = min(budget, left)
    return Limits(max_tokens, budget, allowance if asks else max_tokens, forced)
