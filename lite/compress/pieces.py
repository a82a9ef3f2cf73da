"""The pieces of a text, the bonds between them, and what the grammar remembers of an open group.

Pieces are runs of tokens without white space; CJK characters stand alone. A bond makes one unit of neighbouring pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

from lite.compress.lexer import FUNCTION_WORDS, tokens

_COUNTED_WORDS = 8  # between a number and the operator behind what it counts
_WIDE_PAUSES = "\u3001\u3002\uff0c\uff01\uff1f\uff1a\uff1b"
_ATTACHED = ".,:;!?)~ %"  # roles of tokens that belong to a CJK character before them


def _is_cjk(character: str) -> bool:
    return "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff"


@dataclass(slots=True)
class Operator:
    """An operator that waits for its right operand."""

    strength: str  # the token's role: = strong, + ambiguous, t a word, o `of`
    piece: int
    left: int | None  # where its left operand begins
    takes_words: bool
    spaced: bool  # white space stands before it


@dataclass(slots=True)
class Group:
    """An open bracket, or the text itself (opener ""), and the expression that is read in it. Numbers are pieces."""

    opener: str = ""
    token: int = 0  # where it begins, with its name
    first: int = 0
    is_argument: bool = False  # of a LaTeX command or a script: whatever is inside belongs together
    has_name: bool = False  # a letter or a function's name: P(two heads)
    is_math: bool = True  # no word so far
    has_content: bool = False
    has_number: bool = False
    is_list: bool = False  # or holds an operator: a formula
    near: int | None = None  # where the operand begins that ends just before
    role: str = ""  # of that operand
    last: int = 0  # where its last part begins
    is_bound: bool = False  # an operator holds it
    counted: int | None = None  # where the last numeric operand begins
    words: int = 0  # since then
    word: int | None = None  # the word just before
    operator: Operator | None = None
    series: int | None = None  # 2, 4, 6: where it begins
    has_dots: bool = False  # ..., 40
    is_soft: bool = False  # a pause unless an operator follows: 8! / 2, 0.666... = 2/3

    def pause(self) -> None:
        self.near = self.counted = self.word = self.operator = self.series = None
        self.is_soft = self.is_bound = self.has_dots = False

    def counted_operand(self) -> int | None:
        return self.counted if self.words <= _COUNTED_WORDS else None


class Pieces:
    """`spans` of the pieces of a text; `formulas` and `numbers` say which pieces make their unit one.

    `bonds[i]` is the number of bonds that begin at piece i, less those that end there.
    """

    def __init__(self, text: str):
        self.text, self.tokens = text, tokens(text)
        self.roles = [token.role for token in self.tokens] + ["end", "end"]
        self.piece: list[int] = []  # of each token
        self.touching: list[bool] = []  # whether a token stands in the same piece as the one before it
        self.spans: list[list[int]] = []  # of each piece: tokens that touch, except CJK characters
        end = -1
        for start, stop, role in self.tokens:
            touches = start == end
            if touches and role not in _ATTACHED:
                touches = not (
                    _is_cjk(text[start]) or _is_cjk(text[end - 1]) or text[end - 1] in _WIDE_PAUSES
                )
            if touches:
                self.spans[-1][1] = stop
            else:
                self.spans.append([start, stop])
            self.piece.append(len(self.spans) - 1)
            self.touching.append(touches)
            end = stop
        self.touching.append(False)
        self.bonds = [0] * (len(self.spans) + 1)  # +1 where a bond begins, -1 where it ends
        self.formulas = [False] * len(self.spans)
        self.numbers = [False] * len(self.spans)

    def string(self, i: int) -> str:
        return self.text[self.tokens[i].start : self.tokens[i].end] if i < len(self.tokens) else ""

    def bind(self, first: int, last: int, formula: bool = True) -> None:
        """Make one unit of the pieces first ... last."""
        self.bonds[first] += 1
        self.bonds[last] -= 1
        self.formulas[last] |= formula

    def is_part(self, i: int) -> bool:
        """Whether token i is a percentage or a fraction: 20% of 50, half of 48."""
        text = self.string(i)
        return self.roles[i] in "f$c" or (
            self.roles[i] == "#" and not text.isdigit() and not text[-1:].isdigit() or "/" in text
        )

    def begins_line(self, i: int) -> bool:
        return i == 0 or "\n" in self.text[self.tokens[i - 1].end : self.tokens[i].start]

    def bind_names(self) -> None:
        """Hold the words of a name together (New York), and a letter to what it labels (option B)."""
        before = ""
        for i, (start, _, role) in enumerate(self.tokens):
            word = ""
            if role in "wva" and self.text[start].isalpha():
                word = self.string(i)
                gap = self.tokens[i - 1].end if before else start
                if before and word[0].isupper() and start - gap == 1 and "\n" not in self.text[gap:start]:
                    is_letter = len(word) == 1
                    is_name = before[0].isupper() and (is_letter or word.lower() not in FUNCTION_WORDS)
                    if (is_name and word not in ("I", before)) or (
                        is_letter and word != "I" and self.roles[i + 1] not in "=+"
                    ):
                        self.bind(self.piece[i - 1], self.piece[i], False)
                if len(word) < 2 or word.lower() in FUNCTION_WORDS or word.endswith("ly"):
                    word = ""
            before = word
