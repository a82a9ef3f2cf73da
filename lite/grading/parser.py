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

from lite.grading.lexer import FUNCTIONS, Token, lex
from lite.grading.words import CHANGING, HARMLESS, UNITS

Node = tuple
MAX_DEPTH = 40
RELATIONS = {"=", "<", ">", "<=", ">=", "!=", "in", "≈"}
_SEPARATORS = {"and", "or", "和", "或"}
_BRACKETS = {"(": ")]", "[": ")]", "⟨": "⟩"}
_CALLED = set("fghFGHPE")
_END = Token("end", "")
_ENDS = (",", "&", "\\\\", ")", "]", "\\}", "}", "⟩")


def parse(answer: str, grouped: bool = True) -> Node:
    """The tree of an answer. `grouped`: a comma before three digits parts thousands. Raises ValueError."""
    parser = _Parser(lex(answer, grouped))
    node = parser.answer()
    if parser.next is not _END:
        raise ValueError(f"{parser.next.value} was not expected")
    return node


class _Parser:
    def __init__(self, tokens: list[Token]):
        self.tokens, self.place, self.depth, self.bars = tokens, 0, 0, 0
        while self.tokens and self.tokens[-1].value in (".", ",", "!") and self.tokens[-1].kind == "op":
            if self.tokens[-1].value == "!" and len(self.tokens) > 1 and not self.tokens[-1].spaced:
                break  # a factorial
            self.tokens.pop()

    @property
    def next(self) -> Token:
        return self.tokens[self.place] if self.place < len(self.tokens) else _END

    def peek(self, ahead: int = 1) -> Token:
        return self.tokens[self.place + ahead] if self.place + ahead < len(self.tokens) else _END

    def sees(self, *values: str) -> bool:
        return self.next.kind == "op" and self.next.value in values

    def take(self, *values: str) -> str | None:
        """Go past an operator that is one of these, and give it."""
        if not self.sees(*values):
            return None
        self.place += 1
        return self.tokens[self.place - 1].value

    def need(self, value: str) -> None:
        if not self.take(value):
            raise ValueError(f"no {value}")

    # Lists, and items with their units

    def answer(self) -> Node:
        items = [self.item()]
        while self.separator():
            if self.next is _END:
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
        unit = None
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
            if self.next is _END:
                raise ValueError("words alone")
            self.place -= len(words)
        return unit

    def unit(self, unit: tuple | None) -> tuple | None:
        """Read what stands behind a value: a unit, which may change nothing but how much of what it is."""
        first, power, compound, start = None, 1, False, self.place
        while self.next is not _END and self.next.kind != "env" and not self.sees(*_ENDS):
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
                    if self.next.kind not in ("word", "op") or self.next is _END:
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
            elif self.sees("!") and not (self.peek() is _END and self.next.spaced):
                self.place += 1
                node = ("!", node)
            elif self.sees("°", "%"):
                node = (self.take("°", "%"), node)
            else:
                self.depth -= 1
                return node

    # Primaries

    def primary(self) -> Node:
        token = self.next
        self.place += 1
        if token.kind == "num":
            return self.number(token)
        if token.kind == "name":
            return self.name(token.value)
        if token.kind == "func":
            return self.function(token.value)
        if token.kind == "word" and (
            self.sees("=") or self.next.kind == "word" and self.word_before_equals()
        ):
            words = [token.value.lower()]
            while self.next.kind == "word":
                words.append(self.next.value.lower())
                self.place += 1
            return ("name", " ".join(words))
        if token.kind == "env" and token.value.startswith("begin"):
            return self.environment(token.value[6:])
        if token.kind == "op":
            if token.value in _BRACKETS:
                return self.bracket(token.value)
            if token.value == "{":
                self.place -= 1
                return self.arg(sets=True)
            if token.value == "\\{":
                items = [] if self.sees("\\}") else self.items()
                self.need("\\}")
                return ("set", items)
            if token.value == "...":
                return ("name", "...")
            if token.value == "|" and not self.bars:
                self.bars += 1
                node = self.sum()
                self.need("|")
                self.bars -= 1
                return ("func", "abs", node)
        raise ValueError(f"{token.value} was not expected")

    def word_before_equals(self) -> bool:
        ahead = 0
        while self.peek(ahead).kind == "word":
            ahead += 1
        return self.peek(ahead).value == "="

    def items(self) -> list[Node]:
        nodes, bars, self.bars = [self.item()], self.bars, 0
        while self.take(","):
            nodes.append(self.item())
        self.bars = bars
        return nodes

    def bracket(self, opening: str) -> Node:
        items = self.items()
        closing = self.take(*_BRACKETS[opening])
        if not closing:
            raise ValueError("an open bracket")
        return items[0] if len(items) == 1 else ("sequence", opening, closing, items)

    def number(self, token: Token) -> Node:
        value, following = token.value, self.next
        if self.sees("_") and token.digits:
            self.place += 1
            base = self.arg()
            return ("num", value) if base == ("num", Fraction(10)) else ("based", token.digits, base)
        if token.digits.isdigit() or value.denominator == 1 and not token.digits:
            part = None
            if following.kind == "func" and following.value == "frac":
                place = self.place
                self.place += 1
                part = self.function("frac")
                if not all(p[0] == "num" and p[1].denominator == 1 for p in part[1:]) or part[2][1] == 0:
                    part, self.place = None, place
                else:
                    part = part[1][1] / part[2][1]
            elif following.kind == "num" and following.spaced and self.peek().value == "/":
                if (
                    self.peek(2).kind == "num"
                    and following.digits.isdigit()
                    and self.peek(2).digits.isdigit()
                ):
                    divisor = self.peek(2).value
                    if divisor and following.value < divisor:
                        part = following.value / divisor
                        self.place += 3
            if part is not None:
                return ("num", value + part)
        if token.digits and "." in token.digits:
            return ("decimal", value, token.digits)
        return ("num", value)

    def name(self, name: str) -> Node:
        while True:
            if self.take("_"):
                start = self.place
                self.arg()
                name += "_" + "".join(
                    str(t.value) for t in self.tokens[start : self.place] if t.value not in ("{", "}")
                )
            elif self.take("'"):
                name += "'"
            else:
                break
        if name in ("\\lfloor", "\\lceil"):
            node = self.sum()
            if self.next.value != name.replace("\\l", "\\r"):
                raise ValueError("an open bracket")
            self.place += 1
            return ("func", name[2:], node)
        if name[0] in _CALLED and self.sees("("):
            start = self.place
            self.place += 1
            self.bracket("(")
            return ("name", name + "".join(str(t.value) for t in self.tokens[start : self.place]))
        return ("name", name)

    def function(self, name: str) -> Node:
        if name in ("frac", "binom"):
            return (
                ("/", self.arg(), self.arg()) if name == "frac" else ("func", "binom", self.arg(), self.arg())
            )
        if name not in FUNCTIONS:  # an accent
            start = self.place
            self.arg()
            return ("name", name + "".join(str(t.value) for t in self.tokens[start : self.place]))
        if name in ("sqrt", "cbrt"):
            index = ("num", Fraction(3 if name == "cbrt" else 2))
            if name == "sqrt" and self.take("["):
                index = self.sum()
                self.need("]")
            return ("root", self.arg(split=False), index)
        base = power = None
        while sign := self.take("_", "^"):
            if sign == "_":
                base = self.arg()
            else:
                power = self.arg() if not self.take("-") else ("neg", self.arg())
        if self.sees("(", "[", "{"):
            argument = self.power()
        else:  # 2x of sin 2x cos x
            argument = self.signed_power()
            while self.next.kind == "name" and self.starts_factor():
                argument = ("*", argument, self.power())
        if power in (("neg", ("num", Fraction(1))),) and name in ("sin", "cos", "tan"):
            name, power = f"arc{name}", None
        node = ("func", name, argument, *([base] if base else []))
        return ("^", node, power) if power else node

    def arg(self, *, split: bool = True, sets: bool = False) -> Node:
        """What a command takes: a group in braces, or one digit or sign."""
        if self.take("{"):
            items = self.items()
            self.need("}")
            if len(items) == 1:
                return items[0]
            if not sets:
                raise ValueError("a list in braces")
            return ("set", items)
        token = self.next
        if split and token.kind == "num" and len(token.digits) > 1 and token.digits.isdigit():
            self.tokens[self.place : self.place + 1] = [
                Token("num", Fraction(int(part)), False, part) for part in (token.digits[0], token.digits[1:])
            ]
            token = self.next
        if token.kind == "num":
            self.place += 1
            return ("num", token.value)
        return self.primary()

    def environment(self, name: str) -> Node:
        rows, cells = [], []
        matrix = name.endswith(("matrix", "array"))
        if not matrix:
            self.tokens = [token for token in self.tokens if token.value != "&"]
        while True:
            cells.append(self.item())
            self.take(",")
            if self.take("&"):
                continue
            rows.append(cells)
            cells = []
            self.take("\\\\")
            if self.next.kind == "env":
                if self.next.value != f"end {name}":
                    raise ValueError("an open environment")
                self.place += 1
                return ("matrix", rows) if matrix else ("list", [cell for row in rows for cell in row])


def text_key(answer: str) -> str | None:
    """The letters of an answer that is words alone, in lower case; None for any other."""
    plain = re.sub(
        r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*(?=\{)|[{}$]|\\[ ,;:!]",
        " ",
        answer,
    )
    plain = re.sub(r"[\s.,!()\[\]\"'“”*_:-]+", " ", plain).strip()
    return plain.casefold() if plain and all(c.isalpha() or c == " " for c in plain) else None
