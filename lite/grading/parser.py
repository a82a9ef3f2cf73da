"""From an answer's text to a tree. What the grammar does not know is a ValueError: such an answer equals only itself.

    answer    item ((',' | 'and' | 'or') item)*                      a list, in any order
    item      words? relation unit?                                  a quantity where a unit is there
    relation  sets (('=' | '<' | ... ) sets)*
    sets      ratio (('∪' | '∩' | '∖') ratio)*
    ratio     sum (':' sum)*
    sum       term (('+' | '-' | '±') term)*
    term      power (('*' | '/')? power)*
    power     primary ('^' power | '!' | '%' | '°')*
    primary   number | name | function | (…) | [… , …) | \\{…\\} | |…| | matrix

A node is a tuple: its kind, then its parts. Numbers are Fractions.
"""

from __future__ import annotations

import re
from fractions import Fraction

from lite.grading.lexer import lex
from lite.grading.primaries import END, Node, Primaries
from lite.grading.words import CHANGING, HARMLESS, UNITS

MAX_DEPTH = 40
RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "in", "≈"}
_SEPARATORS = {"and", "or", "和", "或"}
_ENDS = (",", "&", "\\\\", ")", "]", "\\}", "}", "⟩")


def parse(answer: str, grouped: bool = True) -> Node:
    """The tree of an answer. `grouped`: a comma before three digits parts thousands. Raises ValueError."""
    parser = _Parser(lex(answer, grouped))
    node = parser.answer()
    if parser.next is not END:
        raise ValueError(f"{parser.next.value} was not expected")
    return node


class _Parser(Primaries):
    # Lists, and items with their units

    def answer(self) -> Node:
        items = [self.item()]
        while self.separator():
            if self.next is END:
                break
            items.append(self.item())
        return items[0] if len(items) == 1 else ("list", items)

    def separator(self) -> bool:
        found = bool(self.take(",", "\\\\"))
        if self.next.kind == "word" and self.next.value in _SEPARATORS:
            self.place += 1
            found = True
        return found

    def item(self) -> Node:
        self.take("≈")
        unit = self.lead()
        if self.sees("="):
            self.place += 1
        node = self.relation()
        if node[0] in ("%", "°"):
            unit, node = UNITS[node[0]], node[1]
        unit = self.unit(unit)
        return ("quantity", node, unit) if unit else node

    def lead(self) -> tuple | None:
        """Pass the words before a value; give the unit that they name."""
        unit: tuple | None = None
        words: list[str] = []
        while (
            self.next.kind == "word"
            or self.sees("$", "€", "£", "¥", "₹")
            or (self.sees(".", "-") and words and unit)
        ):
            word = self.next.value.lower()
            if self.sees(".", "-"):
                if self.next.value == "-":
                    break
            elif word in UNITS and UNITS[word][0] in ("money", "euro", "sterling", "yuan", "rupee"):
                unit = UNITS[word]
            words.append(word)
            self.place += 1
        if self.sees("=") and words and not unit:
            self.place -= len(words)  # a name in words
            return None
        if not unit and any(word not in HARMLESS for word in words) and words:
            if self.next is END:
                raise ValueError("words alone")
            self.place -= len(words)
        return unit

    def unit(self, unit: tuple | None) -> tuple | None:
        """Read what stands behind a value: a unit, which may change nothing but how much of what it is."""
        first, power, compound, start = None, 1, False, self.place
        while self.next is not END and self.next.kind != "env" and not self.sees(*_ENDS):
            token = self.next
            if token.kind == "word":
                word = token.value.lower()
                if word in CHANGING or any(
                    len(c) > 1 and c in word or c == word for c in CHANGING if not c.isascii()
                ):
                    if word in _SEPARATORS:
                        break
                    raise ValueError(f"{word} changes a value")
                known = UNITS.get(word) or UNITS.get(token.value)
                if first is None:
                    first = known
                    if known is None:
                        compound = True
                elif known or word == "per":
                    compound = True
            elif token.kind == "op" and token.value == "/" and self.peek().kind in ("word", "name"):
                compound = True
            elif token.kind == "op" and token.value == "(" and self.peek().kind == "word":
                while not self.take(")"):
                    if self.next.kind not in ("word", "op") or self.next is END:
                        raise ValueError("a value in brackets")
                    self.place += 1
                continue
            elif token.kind == "op" and token.value == "^" and self.place > start:
                self.place += 1
                node = self.arg()
                power = node[1] if node[0] == "num" else 0
                continue
            elif token.kind == "op" and token.value == "%" and self.place == start:
                unit = UNITS["%"]
            elif (
                token.kind == "op"
                and token.value in ".¢€'"
                or token.kind == "name"
                and (
                    token.value == "a"
                    or self.place > start
                    and self.tokens[self.place - 1].value == "/"
                    or unit == UNITS["°"]
                    and token.value in "CF"
                )
            ):
                if token.value == "¢" or token.value == "€":
                    first = UNITS[token.value]
            else:
                raise ValueError(f"{token.value} behind a value")
            self.place += 1
        if first and not compound:
            dimension, factor = first
            if unit and unit[0] != dimension:
                return unit
            return (
                dimension if power == 1 else f"{dimension}^{power}",
                factor ** int(power) if abs(power) < 9 else 1,
            )
        return unit

    # Relations and sums

    def relation(self) -> Node:
        sides, signs = [self.sets()], []
        while self.sees(*RELATIONS):
            signs.append(self.take(*RELATIONS))
            sides.append(self.sets())
        return ("relation", sides, signs) if signs else sides[0]

    def sets(self) -> Node:
        node = self.ratio()
        while sign := self.take("∪", "∩", "∖"):
            node = (sign, node, self.ratio())
        return node

    def ratio(self) -> Node:
        parts = [self.sum()]
        while self.take(":"):
            parts.append(self.sum())
        return ("ratio", parts) if len(parts) > 1 else parts[0]

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        sign = self.take("+", "-", "±", "∓")
        node = self.term()
        if sign == "-":
            node = ("neg", node)
        elif sign in ("±", "∓"):
            node = (sign, ("num", Fraction(0)), node)
        while sign := self.take("+", "-", "±", "∓"):
            node = (sign, node, self.term())
        self.depth -= 1
        return node

    def term(self) -> Node:
        node = self.signed_power()
        while True:
            if self.sees("/") and self.peek().kind == "word":
                return node  # of a unit
            if sign := self.take("*", "/"):
                node = (sign, node, self.signed_power())
            elif self.starts_factor():
                node = ("*", node, self.power())
            else:
                return node

    def signed_power(self) -> Node:
        negative = False
        while sign := self.take("-", "+"):
            negative ^= sign == "-"
        return ("neg", self.power()) if negative else self.power()

    def starts_factor(self) -> bool:
        token = self.next
        if token.kind in ("name", "func"):
            return token.value not in ("\\rfloor", "\\rceil") and not (
                token.value == "a" and self.peek().kind == "word"
            )
        if token.kind == "num":
            return self.tokens[self.place - 1].value == ")" and self.peek().value == "^"
        if token.kind == "env":
            return token.value.startswith("begin")
        if token.kind == "op" and token.value in ("(", "[", "{"):
            return self.peek().kind != "word"
        return token.kind == "op" and token.value == "|" and not self.bars

    def power(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        node = self.primary()
        while True:
            if self.take("^"):
                if self.take("°"):
                    node = ("°", node)
                elif self.sees("{") and self.peek().value == "°" and self.peek(2).value == "}":
                    self.place += 3
                    node = ("°", node)
                else:
                    negative = self.take("-")
                    exponent = self.power() if not self.sees("{") else self.arg()
                    node = ("^", node, ("neg", exponent) if negative else exponent)
            elif self.sees("!") and not (self.peek() is END and self.next.spaced):
                self.place += 1
                node = ("!", node)
            elif self.sees("°", "%"):
                node = (self.take("°", "%"), node)
            else:
                self.depth -= 1
                return node


def text_key(answer: str) -> str | None:
    """The letters of an answer that is words alone, in lower case; None for any other."""
    plain = re.sub(
        r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*(?=\{)|[{}$]|\\[ ,;:!]",
        " ",
        answer,
    )
    plain = re.sub(r"[\s.,!()\[\]\"'“”*_:-]+", " ", plain).strip()
    return plain.casefold() if plain and all(c.isalpha() or c == " " for c in plain) else None
