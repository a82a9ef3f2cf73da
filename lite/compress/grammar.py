"""The grammar of formulas: which pieces of a text mean nothing alone.

Takes a text, gives its pieces with the bonds between them (see `lite.compress.pieces`). The tokens are read once, from
left to right, with a stack of open groups:

    expression := operand (operator operand)*      strong operators (=, \u00d7, \\le, \u2208) also take a word on either side;
                                                   ambiguous ones (+ - * / < > ->, times, mod) need mathematics
    operand    := number | variable | LaTeX | block | group | call | counted | operand operand
    group      := ( ... ) [ ... ) { ... } | ... |   where all inside is mathematics; call := name group
    counted    := number word{1,8}                 before an operator: 8 slices of a pizza * 2
    series     := operand, operand, ..., operand
"""

from __future__ import annotations

from lite.compress.pieces import Group, Operator, Pieces

_GROUP_WORDS = 12  # pieces of P(two heads), {red, blue}
_CJK_WORD = 6  # characters of a Chinese word beside a strong operator
_SIGNS = ("-", "+", "\u2212", "\u00b1", "~", "<", ">")
_OVER_LINES = ("+", "/", "\u00b7", "\u00b1")  # may begin a line; - and * are list bullets
_NUMERIC = "#$cg"  # roles of operands that words may count
_ARGUMENTS = ("#", "v", "(", "$", "c", "f", "^", "o", "|")  # roles of what follows sin, log, half


class Grammar(Pieces):
    """Reads the tokens of a text and finds the pieces that hold together."""

    def __init__(self, text: str):
        super().__init__(text)
        self.stack = [Group()]
        self.after_command = False  # a bracket is its argument
        self.read()
        self.bind_names()

    def read(self) -> None:
        end = 0
        for i, (start, stop, role) in enumerate(self.tokens):
            if start > end and "\n" in (gap := self.text[end:start]):
                self.new_line(i, gap.count("\n") > 1)
            end = stop
            piece = self.piece[i]
            after_command, self.after_command = self.after_command, role in "c^"
            if role == "f" and self.text[start].isalpha() and self.roles[i + 1] not in _ARGUMENTS:
                self.word(i, piece, "w")
            elif role in "#$cf":
                self.numbers[piece] |= role == "#"
                self.formulas[piece] |= role in "$c"
                self.operand(i, piece, role)
            elif role in "=+t%" or (role == "o" and self.is_part(i - 1)):
                self.operator(i, piece, role)
            elif role in "whvao":
                self.word(i, piece, "w" if role == "o" else role)
            elif role in ",:!.~<":
                self.punctuation(i, piece, role)
            elif role == "^":
                self.script(i, piece)
            elif role == "(":
                self.open(i, piece, after_command)
            elif role in ")|":
                (self.close if role == ")" else self.bar)(i, piece)

    def new_line(self, i: int, blank: bool) -> None:
        """A line's end is a pause, except in brackets, behind an operator, or before one that is no list bullet."""
        if blank:
            self.stack = [Group()]
            return
        while self.stack[-1].opener == "|":
            self.stack.pop()
            self.stack[-1].pause()
        group = self.stack[-1]
        waits = group.operator is not None and group.operator.spaced and group.operator.left is not None
        if waits or (group.opener and (group.is_math or group.is_argument)):
            return
        before = group.near, group.counted, group.word, group.role
        group.pause()
        if self.roles[i] == "=" or (self.roles[i] == "+" and self.string(i) in _OVER_LINES):
            group.near, group.counted, group.word, group.role = before

    def operand(self, i: int, last: int, role: str, begin: int | None = None) -> None:
        """An operand from token i (piece `begin`, which defaults to `last`) to piece `last`."""
        group = self.stack[-1]
        begin = self.piece[i] if begin is None else begin
        first, operator, touches = begin, group.operator, self.touching[i]
        if group.is_soft and operator is None and not touches:
            group.pause()
        group.has_content = True
        if operator is not None:
            begin = operator.piece if operator.left is None else operator.left
            if operator.strength != "o":
                is_sign = operator.left is None and operator.strength == "+"
                self.bind(begin, last, not (is_sign and role == "#"))
                group.is_bound, group.is_list = True, group.is_list or not is_sign
        elif group.near is not None and (touches or self.joins(i, group.role, role)):
            begin = group.near
            pair = group.role + role
            if group.is_bound or group.role in "cf" or role == "c" or pair in ("gg", "##", "g#"):
                self.bind(begin, last, "#" not in pair or group.is_bound)
        elif group.series is not None and self.roles[i - 1] == ",":
            group.is_bound = group.has_dots
            if group.has_dots:
                begin = group.series
                self.bind(begin, last)
        else:
            group.series, group.is_bound, group.has_dots = None, False, False
        group.operator = group.word = None
        group.near, group.role, group.last = begin, role, first
        if role in _NUMERIC or role == "w":
            group.counted, group.words = begin, 0
            group.has_number |= role != "w"
        else:
            group.words += 1

    def joins(self, i: int, left: str, right: str) -> bool:
        """Whether operands side by side may be one: 3 x, (n - 1) d, \\frac 3 4, sin x, 5 ft 3 in, 3\u5c0f\u65f620\u5206."""
        if left in "aw$" or right in "a$":
            return False
        if right == "#" and left == "#":
            before, after = self.tokens[i - 1], self.tokens[i]
            units = self.text[before.end - 1] + self.text[after.end - 1]
            is_price = (
                not self.text[after.start].isdigit() and self.text[before.start].isdigit()
            )  # 2 $50 bills
            if self.roles[i - 2] == "c" or is_price:  # \\frac 3 4
                return True
            return before.role == "#" and (before.end == after.start or units.isalpha())
        if right == "#" and left == "g":  # (B) 12 m/s
            letter = self.string(i - 2)
            return self.roles[i - 3] == "(" and len(letter) == 1 and letter.isupper()
        return right != "#" or left in "cf"

    def word(self, i: int, piece: int, role: str) -> None:
        """A word or a variable."""
        group, touches = self.stack[-1], self.touching[i]
        following, touched = self.roles[i + 1], self.touching[i + 1]
        if following == "(" and touched and role != "h":
            return  # the group reads it as its name
        if touches and group.near is not None and self.roles[i - 1] in "#)c$^":
            if self.string(i) not in ("x", "X") or following not in ("#", "("):
                return  # 3rd, 25kg, 2x, $x$s
        if role == "v" and self.string(i) in ("x", "X") and following in ("#", "(", "$"):
            if group.near is not None or group.counted_operand() is not None:
                self.operator(i, piece, "+")  # 5 x 3
                return
        waiting = group.operator
        if role == "a" and (group.near is not None or waiting) and following not in ("w", "h", "a", "#"):
            role = "v"  # = m a; an article stands before a word
        if role == "v" and not (touches and self.roles[i - 1] in "wh"):
            self.operand(i, piece, "v")
        elif role == "a" and ((touched and following in "^=+") or (waiting and waiting.strength in "=+")):
            self.operand(i, piece, "v" if touched else "a")
        elif waiting is not None and (waiting.strength == "=" or waiting.takes_words):
            self.operand(i, piece, "w")
            group.is_math = False
        elif role == "h" and group.role == "w" and group.is_bound and piece - group.last < _CJK_WORD:
            self.bind(group.last, piece)  # the rest of a Chinese word behind =
        else:
            if group.is_soft:
                group.pause()
            is_run = role == "h" == self.roles[i - 1]
            if not (is_run and group.word is not None and piece - group.word < _CJK_WORD):
                group.word = piece
            group.near = group.series = group.operator = None
            group.is_bound = False
            group.words += 1
            group.is_math &= role == "a"
            if role == "a":
                group.near, group.role, group.has_content = piece, "a", True

    def operator(self, i: int, piece: int, strength: str) -> None:
        group, text = self.stack[-1], self.string(i)
        at_left, at_right = self.touching[i], self.touching[i + 1]
        left, before = group.near, group.operator
        if strength == "%":
            if at_left or self.roles[i + 1] != "#":
                return
            strength = "+"
        if text == "**" and at_left != at_right:
            return  # bold
        if strength == "+" and left is None and before is None:
            is_hyphen = text in "-\u2013" and group.words > 1
            if at_left and self.roles[i - 1] in "wva" and (is_hyphen or self.roles[i + 1] != "#"):
                return  # a hyphen, and/or
            if text == "*" and not at_left and at_right and self.string(i + 2)[:1] in ("*", ""):
                return  # emphasis
        if before is not None:  # x = - 3
            left, strength = before.left, "=" if "=" in before.strength + strength else before.strength
            piece = before.piece if left is None else piece
        elif left is None and strength != "o":
            left = group.counted_operand()
            if left is None and strength == "=":
                left = group.word
        if left is None and strength != "=":
            if text not in _SIGNS or (text in "<>" and self.begins_line(i)):
                return
        if strength == "=" and left is not None:
            self.bind(left, piece)
            group.is_list = True
        takes_words = strength == "+" and left is not None and not at_left and not at_right
        takes_words &= (text in "*/\u00b7" and group.role in _NUMERIC) or (
            group.near is not None and group.role == "w"
        )
        group.operator = Operator(strength, piece, left, takes_words, not at_left)
        group.near = group.word = None
        group.is_soft = False

    def script(self, i: int, piece: int) -> None:
        """x^2, a_n belong to what they touch; ^{14}C and _word_ stand alone."""
        is_power = self.string(i)[0] != "_"
        if self.touching[i] and self.roles[i - 1] != " ":
            self.formulas[piece] |= is_power
        elif is_power:
            self.operand(i, piece, "c")
        else:
            self.word(i, piece, "w")

    def punctuation(self, i: int, piece: int, role: str) -> None:
        group, touches, text = self.stack[-1], self.touching[i], self.string(i)
        is_near = touches and group.near is not None
        if role == "~" and (group.operator or (group.opener and self.roles[i - 1] == ",")):
            self.operand(i, piece, "v")  # 2 + 4 + ... + 40
        elif role == "~" and group.series is not None and self.roles[i - 1] == ",":
            self.bind(group.series, piece)
            group.near, group.role, group.has_dots = group.series, "v", True  # 2, 4, ..., 40
        elif text[0] == "\\" and group.near is not None:
            self.operand(i, piece, "c")  # 1 \\cdot 2 \\cdots n
        elif role in "~!" and is_near:
            group.is_soft = True
        elif text == "?" and group.operator and not touches:
            self.operand(i, piece, "v")  # 5 + ? = 8
        elif role == ":" and not touches and not self.touching[i + 1] and group.near is not None:
            self.operator(i, piece, "+")  # a : b = 3 : 4
        elif role in ",:" and group.opener:
            group.is_list = True
            group.pause()
        elif role == "," and is_near:
            series = group.near if group.series is None else group.series
            has_dots = group.has_dots
            group.pause()
            group.series, group.has_dots = series, has_dots
        else:
            group.pause()
            group.is_math &= role not in ".<"

    def open(self, i: int, piece: int, after_command: bool) -> None:
        group, text, touches = self.stack[-1], self.string(i), self.touching[i]
        if after_command and (text == "{" or (text == "[" and touches)) and group.near is not None:
            self.stack.append(Group("{" if text == "{" else "(", i, group.near, is_argument=True))
            return
        has_call = touches and self.roles[i - 1] in "wvaf"
        has_name = has_call and (self.roles[i - 1] in "vaf" or len(self.string(i - 1)) == 1)
        token = i - 1 if has_call and self.roles[i - 1] != "f" else i
        self.stack.append(Group("{" if text[-1] == "{" else "(", token, piece, has_name=has_name))

    def bar(self, i: int, piece: int) -> None:
        group = self.stack[-1]
        opens = not self.touching[i] and self.touching[i + 1]
        if group.opener == "|" and group.near is not None and not opens:
            self.leave(piece)
        elif group.near is not None and not opens:
            self.operator(i, piece, "+")  # A | B
        else:
            self.stack.append(Group("|", i, piece))

    def close(self, i: int, piece: int) -> None:
        is_brace = self.string(i)[-1] == "}"
        depth = len(self.stack) - 1
        while depth and (self.stack[depth].opener == "|" or (is_brace and self.stack[depth].opener != "{")):
            depth -= 1
        if depth == 0:
            self.stack[-1].near = self.stack[-1].word = self.stack[-1].operator = None  # 1) first
        elif is_brace or self.stack[depth].opener != "{":
            del self.stack[depth + 1 :]
            self.leave(piece)

    def leave(self, piece: int) -> None:
        """The group on top ends with this piece."""
        inner = self.stack.pop()
        group, first = self.stack[-1], inner.first
        is_short = piece - first <= _GROUP_WORDS
        if inner.is_argument:
            self.bind(first, piece)
            self.after_command = True
        elif (inner.is_math and inner.has_content) or (is_short and (inner.has_name or inner.opener == "{")):
            self.bind(first, piece, inner.is_list or not inner.is_math)
            self.operand(inner.token, piece, "g", first)
        elif inner.is_list or inner.has_number:
            if group.operator:
                self.bind(first, piece)
                self.operand(inner.token, piece, "g", first)
            group.is_math = False
            group.near, group.counted, group.words, group.has_number = None, first, 0, True
        else:
            if group.operator and group.operator.strength == "=" and is_short:
                self.bind(first, piece)
                self.operand(inner.token, piece, "w", first)
            group.near = group.operator = None
            group.word = first if is_short else piece
            group.words += piece - first + 1
            group.is_math = False
