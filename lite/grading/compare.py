"""Whether two answers mean the same."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from lite.grading.forms import (
    FLIPPED,
    as_interval,
    by_name,
    has_sign,
    members,
    num_decimals,
    quantity,
    solved,
    union,
)
from lite.grading.lexer import lex
from lite.grading.parser import Node, parse, text_key
from lite.grading.values import Evaluator, Unknown, names_in

MAX_CHARS = 400  # a longer answer is no answer
MIN_DECIMALS = 6  # of a decimal that stands for 1/3 or a root
_OPTIONS = frozenset("abcdefghij")


def same(answer: str, gold: str) -> bool:
    """Whether two answers mean the same. Takes less than a second for any text; symmetric."""
    if max(len(answer), len(gold)) > MAX_CHARS:
        return False
    words, expected = text_key(answer), text_key(gold)
    if words and words == expected:
        return True
    if _spelling(answer) == _spelling(gold) != "":
        return True
    if options := _options(answer, gold):
        return options == _options(gold, answer)
    if any(_is_word(key) for key in (words, expected)):
        if words and expected:
            return False
    return any(_same_trees(answer, gold, grouped) for grouped in (True, False))


def _spelling(answer: str) -> str:
    try:
        return " ".join(str(token.value) for token in lex(answer)).rstrip(" .")
    except ValueError:
        return " ".join(answer.split())


def _is_word(key: str | None) -> bool:
    """Whether letters are a word and no product of variables."""
    return bool(key and (len(key) > 3 or set(key) & set("eiou" if len(key) < 3 else "aeiou")))


def _options(answer: str, other: str) -> str:
    """The option letters that an answer gives, sorted, where the other side is option letters, too."""
    keys = [text_key(side.replace("\\text{and}", ",").replace(" and ", ",")) for side in (answer, other)]
    letters = ["".join((key or "").split()) for key in keys]
    if not all(letters):
        return ""
    upper = all(
        c.isupper()
        for side in (answer, other)
        for c in side.replace("text", "").replace("and", "")
        if c.isalpha()
    )
    if not upper or any(len(set(side)) != len(side) or not set(side) <= _OPTIONS for side in letters):
        return ""
    return "".join(sorted(letters[0])) if max(map(len, letters)) > 1 else ""


def _same_trees(answer: str, gold: str, grouped: bool) -> bool:
    if not grouped and "," not in answer + gold:
        return False
    try:
        return _Comparison().same(parse(answer, grouped), parse(gold, grouped))
    except ValueError:
        return False


class _Comparison:
    def __init__(self) -> None:
        self.evaluator = Evaluator()

    def same(self, one: Node, other: Node) -> bool:
        one, ours = quantity(one)
        other, theirs = quantity(other)
        if ours and theirs:
            if ours[0] != theirs[0]:
                return False
            if ours[1] != theirs[1]:
                one, other = (("*", node, ("num", unit[1])) for node, unit in ((one, ours), (other, theirs)))
            return self.plain(one, other)
        if self.plain(one, other):
            return True
        if share := next((unit for unit in (ours, theirs) if unit and unit[0] == "share"), None):
            hundredth = [
                ("%", node) if unit is share else node for node, unit in ((one, ours), (other, theirs))
            ]
            return self.plain(*hundredth)
        return False

    def plain(self, one: Node, other: Node) -> bool:
        """Whether two nodes are the same, units left out."""
        kinds = one[0], other[0]
        if "relation" in kinds:
            return self.relations(one, other)
        if set(kinds) & {"∪", "∩", "∖"}:
            return self.sets(one, other)
        if set(kinds) & {"list", "set"} or has_sign(one) or has_sign(other):
            return self.members(one, other)
        if "sequence" in kinds:
            if kinds[0] != kinds[1]:
                return False
            brackets = [(node[1].replace("⟨", "("), node[2].replace("⟩", ")")) for node in (one, other)]
            return brackets[0] == brackets[1] and self.each(one[3], other[3])
        if "matrix" in kinds:
            if kinds[0] != kinds[1]:
                return False
            ours, theirs = ([("list", [*row, ("name", "row")]) for row in node[1]] for node in (one, other))
            return self.each(ours, theirs, same=self.row)
        if "ratio" in kinds:
            return kinds[0] == kinds[1] and self.each(one[1], other[1])
        if "based" in kinds:
            return one == other
        return self.numbers(one, other)

    def row(self, one: Node, other: Node) -> bool:
        return self.each(one[1], other[1])

    def each(
        self, ours: list[Node], theirs: list[Node], same: Callable[[Node, Node], bool] | None = None
    ) -> bool:
        return len(ours) == len(theirs) and all(map(same or self.same, ours, theirs))

    def numbers(self, one: Node, other: Node) -> bool:
        if one == other:
            return True
        try:
            return self.evaluator.same(one, other) or self.rounded(one, other) or self.rounded(other, one)
        except Unknown:
            return False

    def rounded(self, short: Node, exact: Node) -> bool:
        """Whether a decimal is the other's value, rounded or cut at its last digit."""
        given, negative = (short[1], True) if short[0] == "neg" else (short, False)
        if given[0] != "decimal" or names_in([exact]):
            return False
        decimals = len(given[2].partition(".")[2])
        needed = 6 if num_decimals(exact) is not None else 4
        if (
            decimals < MIN_DECIMALS
            or len(given[2].replace(".", "").lstrip("0")) < needed
            or "e" in given[2].lower()
        ):
            return False
        if decimals > (num_decimals(exact) or 10**6):
            return False
        value = self.evaluator.value(exact, 0, 40)
        if not isinstance(value, Fraction):
            if getattr(value, "imag", 0):
                return False
            from mpmath import mpf, nint

            value = Fraction(int(nint(mpf(value.real) * 10**30)), 10**30)
        if value.denominator == 1:
            return False
        value, unit = (-value if negative else value), Fraction(1, 10**decimals)
        return abs(value - given[1]) <= unit / 2 or 0 <= value - given[1] < unit

    # Lists, sets and intervals

    def members(self, one: Node, other: Node) -> bool:
        """Lists and sets in any order; a list with dots, or against a sequence, in its own."""
        ours, theirs = list(members(one)), list(members(other))
        if "sequence" in (one[0], other[0]):
            pair, items = (one, theirs) if one[0] == "sequence" else (other, ours)
            if "set" in (one[0], other[0]) or pair[1] == "[" or pair[2] == "]":
                return len(items) == 1 and self.plain(pair, items[0])
            return self.each(pair[3], by_name(items)) if len(items) > 1 else self.plain(pair, items[0])
        if any(("name", "...") in items for items in (ours, theirs)):
            return one[0] == other[0] and self.each(ours, theirs)
        return self.unordered(ours, theirs)

    def unordered(self, ours: list[Node], theirs: list[Node]) -> bool:
        if len(ours) != len(theirs):
            return False
        left = list(theirs)
        for node in ours:
            place = next((place for place, other in enumerate(left) if self.same(node, other)), None)
            if place is None:
                return False
            del left[place]
        return True

    def sets(self, one: Node, other: Node) -> bool:
        """Unions in any order, the rest as it stands."""
        if "∪" in (one[0], other[0]):
            return self.unordered(list(union(one)), list(union(other)))
        return one[0] == other[0] and self.each(list(one[1:]), list(other[1:]))

    # Equations and inequalities

    def relations(self, one: Node, other: Node) -> bool:
        if one[0] == other[0]:
            return self.same_relations(one, other)
        relation, value = (one, other) if one[0] == "relation" else (other, one)
        if interval := as_interval(relation):
            return self.plain(interval[1], value)
        sides = solved(relation)
        return bool(sides) and all(self.same(side, value) for side in sides)

    def same_relations(self, one: Node, other: Node) -> bool:
        ours, theirs = as_interval(one), as_interval(other)
        if ours and theirs:
            return ours[0] == theirs[0] and self.plain(ours[1], theirs[1])
        if len(one[1]) == len(other[1]):
            for sides, signs in (
                (one[1], one[2]),
                (one[1][::-1], [FLIPPED.get(s, s) for s in one[2][::-1]]),
            ):
                if (
                    signs == other[2]
                    and "in" not in (signs if sides is not one[1] else ())
                    and self.each(sides, other[1])
                ):
                    return True
        if one[2] == other[2] == ["="]:
            return self.proportional(*(("-", *node[1]) for node in (one, other)))
        return False

    def proportional(self, one: Node, other: Node) -> bool:
        """Whether two sides of `... = 0` are the same up to a factor."""
        if not names_in([one]) or names_in([one]) != names_in([other]):
            return False
        try:
            first = self.evaluator.values(one, 90), self.evaluator.values(other, 90)
        except Unknown:
            return False
        (a, *more), (b, *others) = first
        return bool(a and b) and all(_close(a * d, c * b) for c, d in zip(more, others, strict=True))


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    import mpmath

    with mpmath.workdps(90):
        one, other = (
            mpmath.mpf(side.numerator) / side.denominator if isinstance(side, Fraction) else side
            for side in (one, other)
        )
        return abs(one - other) <= max(abs(one), abs(other)) * mpmath.mpf(10) ** -60
