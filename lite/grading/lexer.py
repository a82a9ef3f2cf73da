"""Answers as tokens: LaTeX, plain text and Unicode in one spelling, number words and magnitudes as numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

from lite.grading.numerals import Token, cjk, compose
from lite.grading.words import CHANGING, HARMLESS, SCALES, SMALL, UNITS, is_cjk_numeral

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SCRIPTS = re.compile("([⁰¹²³⁴-⁹⁺⁻⁽⁾ⁿ]+)|([₀-₉]+)")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_RECURRING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?")


def _table(text: str) -> dict[str, str]:
    """Spellings by what they mean: entries of a meaning and its spellings, two blanks or a line apart."""
    entries = (entry.split() for entry in re.split(r"\s{2,}", text.strip()))
    return {spelling: meaning for meaning, *spellings in entries for spelling in spellings}


_SYMBOLS = _table(  # of every spelling of a sign, the one that the parser knows
    r"""
    * \times \cdot × · ⋅ ∙ ∗ \ast  / \div ÷ ∕ ⁄ \slash  - − – ‐ ‑ ﹣  <= \le \leq \leqslant \leqq ≤ ⩽ ≦
    >= \ge \geq \geqslant \geqq ≥ ⩾ ≧  < \lt ＜  > \gt ＞  != \ne \neq ≠  ≈ \approx ≈ \simeq \doteq
    in \in ∈  ∪ \cup ∪  ∩ \cap ∩  ∖ \setminus \backslash ∖  ± \pm ±  ∓ \mp ∓
    ... \ldots \cdots \dots \dotsc \dotsb \vdots … ⋯ ...  ° \circ \degree ° º  % \% % ٪ \percent
    \{ \lbrace \{  \} \rbrace \}  ⟨ \langle ⟨ 〈  ⟩ \rangle ⟩ 〉  [ \lbrack  ] \rbrack
    | \vert \lvert \rvert \mid ∣  , 、 ; ；  ' \prime ′ ’  $ \$ $ US\$  £ \pounds £  ^ **
    """
)
_NAMES = {f"\\{unicodedata.name(c).split()[-1].lower()}": c for c in "αβγδζηικμνξρστυχψω"} | _table(
    r"""
    ∞ \infty ∞ infinity infty inf oo  π \pi π pi  ∅ \emptyset \varnothing ∅ Ø  θ \theta \vartheta theta
    φ \phi \varphi ϕ  ε \epsilon \varepsilon  λ \lambda  R ℝ \R \Reals  Z ℤ \Z  N ℕ \N  Q ℚ \Q  C ℂ \C
    """
)
FUNCTIONS = frozenset(
    "sqrt cbrt frac binom log ln lg exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh abs".split()
)
_ACCENTS = frozenset("overline bar hat vec dot ddot tilde widehat overrightarrow".split())
_RELATIONS = frozenset(  # that the grammar does not know: what holds one is compared as text
    "to rightarrow longrightarrow leftarrow Rightarrow implies iff equiv mod pmod bmod parallel perp not sim cong subset"
    " subseteq notin propto mapsto lim land lor neg forall exists".split()
)
_SPELT = _table(
    "frac dfrac tfrac cfrac  binom dbinom tbinom choose  sqrt √  arcsin asin  arccos acos  arctan atan"
)
_DROPPED = re.compile(  # what only changes how an answer looks
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|qquad|thinspace|hfill|hline|rm|bf|it"
    r"|boldsymbol|mathbf|mathbb|mathcal|mathit|bm|angle|triangle|underline|phantom|color\s*\{[^{}]*\}|textcolor\s*\{[^{}]*\}"
    r"|ensuremath|nonumber|tag\s*\{[^{}]*\}|boxed|fbox)(?![A-Za-z])\.?|(?<!\\)\\[!,;:> ()\[\]]|(?<!\\)~"
)
_LETTER = re.compile(r"\\(?:mathbf|mathbb|mathcal|boldsymbol|vec|bm)\s*\{([A-Za-z])\}")
_MORE_WORDS = re.compile(r"[ \t]+[A-Za-z]{2,}")
_PRIMES = re.compile(r"\^\s*\{?((?:\s*\\prime)+)\s*\}?")
_GAP = r"(?:,|'|[ \u00a0\u2009\u202f~]|\\[,;:! ]|\{,\}|,\\!|\\!,|\{\\,\})"
_GROUPED = re.compile(rf"(?<![\d.,_^])[1-9]\d{{0,2}}(?:{_GAP}\d{{3}})+(?![\d]|{_GAP}\d|\s*/\s*\d)")
_INDIAN = re.compile(r"(?<![\d.,])[1-9]\d?(?:,\d{2})+,\d{3}(?![\d,])")
_SPACED = re.compile(
    r"(?<![\d.,_^])[1-9]\d{0,2}(?:(?:[ \u00a0\u2009\u202f~]|\\[,;:! ]|\{,\}|,\\!|\\!,)\d{3})+(?![\d]|\s*/\s*\d)"
)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathsf|mbox|hbox|operatorname\*?)\s*\{"
)
_SCAN = re.compile(
    r"(?P<space>\s+)|(?P<num>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+(?![A-Za-z\d]))?)"
    r"|(?P<command>\\[A-Za-z]+\*?|\\.)|(?P<word>[A-Za-z]+)|(?P<op>\.\.\.|\*\*|<=|>=|!=|.)",
    re.DOTALL,
)


def lex(answer: str, grouped: bool = True) -> list[Token]:
    """The tokens of an answer. `grouped`: 1,234 is one number. Raises ValueError for what is no answer."""
    text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]).replace("⁄", "/"), answer)
    text = _SCRIPTS.sub(
        lambda m: f"^{{{m[1].translate(_SUPERSCRIPTS)}}}" if m[1] else f"_{{{m[2].translate(_SUBSCRIPTS)}}}",
        text,
    )
    text = "".join(c if c in _NAMES or c in _SYMBOLS else unicodedata.normalize("NFKC", c) for c in text)
    text = re.sub(r"^\s*(?:\*\*|__)|(?:\*\*|__)\s*[.!]?\s*$", "", text)  # bold
    text = _without_dollars(text)
    for pattern in (_GROUPED if grouped else _SPACED, *([_INDIAN] if grouped else [])):
        text = pattern.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    text = text.replace("{,}", ",").replace("{:}", ":")
    text = _PRIMES.sub(lambda m: "'" * m[0].count("\\prime"), text)
    text = _RECURRING.sub(_recurring, text)
    text = _DROPPED.sub(" ", _LETTER.sub(r" \1", text))
    return compose(list(_scan(text)))


def _without_dollars(text: str) -> str:
    """Drop dollars that delimit; those of money stay."""
    text = re.sub(r"\$\$", " ", text)
    text = re.sub(r"(?<!\\)\$(?=[^$]*(?<!\\)\$(?!\d))([^$]*?)(?<!\\)\$", r" \1 ", text)
    return re.sub(r"(?<!\\)\$(?!\s*[-+]?\s*\.?\d)", " ", text)


def _recurring(match: re.Match[str]) -> str:
    """0.1\\overline{6} as a fraction."""
    whole, fixed, period = match.groups()
    nines = (10 ** len(period) - 1) * 10 ** len(fixed)
    value = int((whole or "0") + fixed + period) - int((whole or "0") + fixed)
    return rf" (\frac{{{value}}}{{{nines}}}) "


def _scan(text: str) -> Iterator[Token]:
    place, spaced = 0, False
    plain_until: list[int] = []  # ends of text commands
    last = ""  # what was found before
    while place < len(text):
        if plain_until and place >= plain_until[-1]:
            plain_until.pop()
            place, spaced = place + 1, True
            continue
        if opened := _TEXT.match(text, place):
            end, depth = opened.end(), 1
            while end < len(text) and depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
            if depth:
                raise ValueError("an open brace")
            inside = text[opened.end() : end - 1].strip()
            if (
                "mathrm" in opened[0]
                and inside.isalpha()
                and (len(inside) == 1 or inside not in UNITS and _is_product(inside, spaced, last))
            ):
                yield from (Token("name", letter, spaced) for letter in inside)
            elif inside in ("i", "e", "d") or not inside.isascii() or not re.fullmatch("[A-Za-z]", inside):
                plain_until.append(end - 1)
                place, spaced = opened.end(), True
                continue
            else:
                yield Token("word", inside, True)
            place, spaced = end, False
            continue
        match = _SCAN.match(text, place)
        assert match  # its last choice is any character
        kind, found = match.lastgroup, match[0]
        place = match.end()
        if kind == "space":
            spaced = True
            continue
        last, before = found, last
        if kind == "num":
            if len(re.split("[eE][+-]?0*", found)[-1]) > 4 and "e" in found.lower():
                raise ValueError("a number of too many digits")
            yield Token("num", Fraction(found), spaced, found)
        elif kind == "command":
            yield from _command(found, spaced)
            if found in ("\\begin", "\\end"):
                name = re.compile(r"\s*\{([A-Za-z]+)\*?\}(?:\s*\{[lcr|]*\})?").match(text, place)
                if not name:
                    raise ValueError("an environment without a name")
                yield Token("env", f"{found[1:]} {name[1]}")
                place = name.end()
        elif kind == "word":
            in_text = bool(plain_until) or bool(_MORE_WORDS.match(text, place))
            yield from _word(found, spaced, in_text, before)
        elif found in _NAMES:
            yield Token("name", _NAMES[found], spaced)
        elif found in _SYMBOLS:
            yield Token("op", _SYMBOLS[found], spaced)
        elif found == "√":
            yield Token("func", "sqrt", spaced)
        elif found == "∛":
            yield Token("func", "cbrt", spaced)
        elif is_cjk_numeral(found) or "\u3040" <= found <= "\u9fff":
            end = place
            while end < len(text) and "\u3040" <= text[end] <= "\u9fff":
                end += 1
            yield from cjk(text[place - 1 : end], spaced, before[-1:].isdigit())
            place = end
        elif found.isalpha():
            yield Token("name", found, spaced)
        elif found in "€¥₹¢":
            yield Token("op", found, spaced)
        else:
            yield Token("op", found, spaced)
        spaced = False


def _command(found: str, spaced: bool) -> Iterator[Token]:
    name = _SPELT.get(found[1:], found[1:])
    if found in _SYMBOLS:
        yield Token("op", _SYMBOLS[found], spaced)
    elif found in _NAMES:
        yield Token("name", _NAMES[found], spaced)
    elif name in FUNCTIONS or name in _ACCENTS:
        yield Token("func", name, spaced)
    elif found == "\\\\":
        yield Token("op", "\\\\", spaced)
    elif found[1:] in _RELATIONS:
        yield Token("op", found, spaced)
    elif found not in ("\\begin", "\\end"):
        yield Token("name", found, spaced)


def _is_product(run: str, spaced: bool, before: str) -> bool:
    """Whether letters are variables side by side, and not a unit or another word."""
    after_number = before[-1:].isdigit() or before == "/"
    if len(run) > 3 or run == "of" or after_number and run.lower() in UNITS:
        return False
    if spaced and before.isalpha() and len(before) > 1 or run.lower() in CHANGING | HARMLESS:
        return False
    return not (after_number and spaced and set(run.lower()) & set("aeiou"))


def _word(found: str, spaced: bool, in_text: bool, before: str) -> Iterator[Token]:
    """A run of letters: a function, a number word, a word, or a product of variables."""
    low = found.lower()
    name = _SPELT.get(low, low)
    if found in _NAMES or low in _NAMES and len(low) > 2:
        yield Token("name", _NAMES.get(found) or _NAMES[low], spaced)
    elif name in FUNCTIONS and not in_text:
        yield Token("func", name, spaced)
    elif len(found) == 1 and not in_text:
        yield Token("name", found, spaced)
    elif low in SMALL:
        yield Token("small", Fraction(SMALL[low]), spaced)
    elif low in SCALES:
        yield Token("scale", low, spaced)
    elif not in_text and _is_product(found, spaced, before):
        yield from (Token("name", letter, spaced and not place) for place, letter in enumerate(found))
    else:
        yield Token("word", found, spaced)
