"""Numbers, names, functions, brackets and matrices: what the grammar's operators stand between (see parser)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

from lite.grading.lexer import FUNCTIONS, Token

Node = tuple
END = Token("end", "")
_BRACKETS = {"(": ")]", "[": ")]", "⟨": "⟩"}
_CALLED = set("fghFGHPE")


class Cursor:
    """A place in the tokens of an answer."""

    def __init__(self, tokens: list[Token]):
        self.tokens, self.place, self.depth, self.bars = tokens, 0, 0, 0
        while self.tokens and self.tokens[-1].value in (".", ",", "!") and self.tokens[-1].kind == "op":
            if self.tokens[-1].value == "!" and len(self.tokens) > 1 and not self.tokens[-1].spaced:
                break  # a factorial
            self.tokens.pop()

    @property
    def next(self) -> Token:
        return self.tokens[self.place] if self.place < len(self.tokens) else END

    def peek(self, ahead: int = 1) -> Token:
        return self.tokens[self.place + ahead] if self.place + ahead < len(self.tokens) else END

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


class Primaries(Cursor, ABC):
    """Reads a primary. Who inherits it reads sums, and items with their units."""

    @abstractmethod
    def sum(self) -> Node: ...

    @abstractmethod
    def item(self) -> Node: ...

    @abstractmethod
    def power(self) -> Node: ...

    @abstractmethod
    def signed_power(self) -> Node: ...

    @abstractmethod
    def starts_factor(self) -> bool: ...

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
