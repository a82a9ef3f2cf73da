"""Numbers in words: English and Chinese numerals, and magnitudes, as tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lite.grading.words import CJK_SCALES, SCALES, cjk_number


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: num, name, func, word, env, op. `value`: of a number a Fraction, else its spelling. `spaced`: whether white
    space stands before it. `digits`: a number as it is written; "" for words."""

    kind: str
    value: Any
    spaced: bool = False
    digits: str = ""


def cjk(run: str, spaced: bool, after_number: bool) -> Iterator[Token]:
    """Chinese: numerals and their multipliers are numbers, the rest words."""
    while run:
        size = next((n for n in range(min(len(run), 16), 0, -1) if cjk_number(run[:n]) is not None), 0)
        if size and not (after_number and run[0] in CJK_SCALES):
            number = cjk_number(run[:size])
            assert number is not None
            yield Token("num", Fraction(number), spaced)
            run, spaced, after_number = run[size:], False, True
        elif run[0] in CJK_SCALES and run[:2] not in ("千克", "千米", "千瓦", "百分"):
            yield Token("scale", run[0], spaced)
            run, spaced = run[1:], False
        else:
            yield Token("word", run, spaced)
            return


def compose(tokens: list[Token]) -> list[Token]:
    """Join number words: twenty-one, two hundred and five, 3 million, 7 billionths, half a dozen."""
    out: list[Token] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token.kind == "scale" and out and out[-1].kind == "num":
            out[-1] = Token("num", out[-1].value * _scale(token.value), out[-1].spaced)
        elif token.kind in ("small", "scale"):
            value, place = _spoken(tokens, place)
            out.append(
                Token("num", value, token.spaced) if value is not None else Token("word", token.value, True)
            )
            continue
        else:
            out.append(token)
        place += 1
    for place in range(len(out) - 2, 0, -1):  # two and a half
        if out[place].value == "and" and out[place - 1].kind == "num":
            size = 2 + (out[place + 1].value == "a")
            part = out[place + size - 1] if place + size <= len(out) else None
            if part and part.kind == "num" and not part.digits and part.value < 1:
                out[place - 1 : place + size] = [
                    Token("num", out[place - 1].value + part.value, out[place - 1].spaced)
                ]
    return out


def _scale(name: str) -> Fraction:
    return Fraction(CJK_SCALES[name] if name in CJK_SCALES else SCALES[name])


def _spoken(tokens: list[Token], place: int) -> tuple[Fraction | None, int]:
    """The number whose words begin at a place, and where they end."""
    total, first = Fraction(0), place
    current: Fraction | None = None
    while place < len(tokens):
        token = tokens[place]
        if token.kind == "small":
            tens = current is not None and (current % 100 == 0 or (current % 100 >= 20 and current % 10 == 0))
            if current is not None and not (
                tens and token.value < (100 if current % 100 == 0 else 10) and current
            ):
                break
            current = token.value + (current or 0)
        elif token.kind == "scale":
            scale = _scale(token.value)
            if current is None:
                if place == first and token.value not in (
                    "half",
                    "dozen",
                    "hundred",
                    "thousand",
                    "million",
                    "billion",
                ):
                    return None, place + 1
                if place > first:
                    break
            current = scale if current is None else current * scale
            if scale >= 1000 or scale < 1:
                total, current = total + current, None
                if scale < 1:
                    place += 1
                    break
        elif token.kind == "op" and token.value == "-" and not token.spaced and current and current % 10 == 0:
            if not (place + 1 < len(tokens) and tokens[place + 1].kind in ("small", "scale")):
                break
        elif (
            token.kind == "word"
            and token.value == "and"
            and (current or total)
            and (current or 100) % 100 == 0
        ):
            if not (place + 1 < len(tokens) and tokens[place + 1].kind == "small"):
                break
        else:
            break
        place += 1
    return total + (current or 0), place
