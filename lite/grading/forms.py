"""What kind of answer a tree is: with a unit, several values, an as_interval, an equation that is solved."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from lite.grading.parser import Node
from lite.grading.values import names_in

FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def quantity(node: Node) -> tuple[Node, tuple | None]:
    """A node without its unit, and the unit."""
    if node[0] == "quantity":
        inner, _ = quantity(node[1])
        return inner, node[2]
    if node[0] in ("%", "°"):
        return node[1], ("share" if node[0] == "%" else "angle", Fraction(1))
    if node[0] in ("neg", "*"):
        inner, unit = quantity(node[-1])
        return (*node[:-1], inner), unit
    return node, None


def num_decimals(node: Node) -> int | None:
    node = node[1] if node[0] == "neg" else node
    return len(node[2].partition(".")[2]) if node[0] == "decimal" else None


def has_sign(node: Node) -> bool:
    return node[0] in ("±", "∓") or (
        node[0] in ("+", "-", "*", "/", "neg") and any(has_sign(part) for part in node[1:])
    )


def _with_sign(node: Any, plus: bool) -> Any:
    if not isinstance(node, tuple):
        return node
    if node[0] in ("±", "∓"):
        node = ("+" if plus == (node[0] == "±") else "-", *node[1:])
    return tuple(_with_sign(part, plus) for part in node)


def members(node: Node) -> Iterator[Node]:
    """What a list or set lists; both values of one with ±."""
    if node[0] in ("list", "set"):
        for item in node[1]:
            yield from members(item) if item[0] == "list" or has_sign(item) else [item]
    elif node[0] == "relation" and node[2] == ["="] and has_sign(node[1][1]):
        yield from (("relation", [node[1][0], _with_sign(node[1][1], plus)], ["="]) for plus in (True, False))
    elif has_sign(node):
        yield from (_with_sign(node, plus) for plus in (True, False))
    else:
        yield node


def union(node: Node) -> Iterator[Node]:
    if node[0] == "∪":
        yield from union(node[1])
        yield from union(node[2])
    elif node[0] == "list":
        for item in node[1]:
            yield from union(item)
    else:
        yield node


def by_name(items: list[Node]) -> list[Node]:
    """x = 5, y = 9 in the order of their names."""
    if all(item[0] == "relation" and item[1][0][0] == "name" for item in items):
        return sorted(items, key=lambda item: item[1][0][1])
    return items


def _is_name(node: Node) -> bool:
    """Whether a side of an equation is a variable, or another name."""
    if node[0] == "*":
        return all(
            part[0] == "name" and part[1].isupper() or _is_name(part) and part[0] == "*" for part in node[1:]
        )
    if node[:2] == ("func", "abs"):
        return _is_name(node[2])
    return node[0] == "name" and node[1] not in ("π", "e", "i", "∞", "...")


def solved(relation: Node) -> list[Node]:
    """The sides that say a value: right of a variable, all where none is there; [] where it is not solved."""
    _, sides, signs = relation
    if not set(signs) <= {"=", "≈", "in"}:
        return []
    if len(sides) == 2 and _is_name(sides[1]) and not _is_name(sides[0]) and signs == ["="]:
        sides = sides[::-1]
    names = names_in([sides[0]])
    if _is_name(sides[0]) and not names & names_in(sides[1:]):
        exact = [side for side, sign in zip(sides[1:], signs, strict=True) if sign != "≈"]
        return exact or sides[1:2]
    return sides if signs == ["="] * len(signs) else []


def as_interval(relation: Node) -> tuple[str, Node] | None:
    """The name and the interval of x > 3 or 2 <= x < 7."""
    _, sides, signs = relation
    if signs[0] in (">", ">="):
        sides, signs = sides[::-1], [FLIPPED.get(sign, sign) for sign in signs[::-1]]
    if not set(signs) <= {"<", "<="} or len(sides) > 3:
        return None
    infinity = ("name", "∞")
    if len(sides) == 2:
        if sides[0][0] == "name" and sides[0][1] != "∞":
            sides, signs = [("neg", infinity), *sides], ["<", *signs]
        else:
            sides, signs = [*sides, infinity], [*signs, "<"]
    low, name, high = sides
    if name[0] != "name" or name[1] in names_in([low, high]):
        return None
    return name[1], (
        "sequence",
        "[" if signs[0] == "<=" else "(",
        "]" if signs[1] == "<=" else ")",
        [low, high],
    )
