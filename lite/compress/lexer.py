"""Read a text as tokens: numbers with their units, operators, brackets, LaTeX, words.

Takes a text, gives `Token`s in order; what lies between two tokens is white space. A token may contain white space
where its parts mean nothing alone: a formula between delimiters, fenced code, `1 250 000`, `3.0e8 m/s`, `2:15 PM`,
`USD 700`, `4600\u4e07\u5143`, `two hundred and five`. Every position is read once, so the time is linear in the text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from functools import lru_cache
from typing import NamedTuple


class Token(NamedTuple):
    """Characters `[start, end)` and their role, a key of the grammar in `lite.compress.units`."""

    start: int
    end: int
    role: str


# ---- Blocks: formulas between delimiters, environments, figures and fenced code
_CLOSER = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "```": "```", "~~~": "~~~", "[asy]": "[/asy]", "$": "$"}
_DELIMITER = re.compile(
    r"\\\\|\\\$|\\(?:begin|end)\{[A-Za-z]{1,20}\*?\}|\$\$|\$|\\[\[\]()]|```|~~~|\[/?asy\]"
)
_PROSE = re.compile(
    r"(?:document|itemize|enumerate|description|center|quote|proof|solution|answer|problem)\b"
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_COMMAND = re.compile(r"\\[A-Za-z]+\s*(?:\{[^{}]*\})?")
_PROSE_WORD = re.compile(r"(?<![A-Za-z])(?!(?:sin|cos|tan|log|ln|mod|max|min|gcd|lcm)\b)[A-Za-z]{2}")


def _is_inline_formula(content: str, after: str) -> bool:
    """Whether the text between two single dollars is a formula, not what stands between two prices.

    Pandoc's rule (no white space inside the dollars, no digit after them), without prices such as `$5 for each and
    10$`; and, as MATH's authors write, `$ b < 0,$`: white space where all of it is mathematics.
    """
    core = content.strip()
    if not core or after.isdigit() or _BLANK_LINE.search(content):
        return False
    if core[0].isdigit() and (
        core[-1] in "xX\u00d7\u00f7" or (content[-1].isspace() and not content[0].isspace())
    ):
        return False
    if (core[0].isdigit() or content != core) and _PROSE_WORD.search(_COMMAND.sub("", content)):
        return False
    return content == core or (core[-1] not in "+-*/=<(" and bool(re.search(r"[A-Za-z\\^=<>+*/(-]", core)))


def _blocks(text: str) -> list[tuple[int, int]]:
    """Spans of the blocks of a text, in order, none within another."""
    marks = [(match.start(), match[0]) for match in _DELIMITER.finditer(text)]
    places: dict[str, list[int]] = defaultdict(list)
    for at, mark in marks:
        places[mark].append(at)
    ends: dict[int, int] = {}  # of environments, which nest
    begun: dict[str, list[int]] = defaultdict(list)
    for at, mark in marks:
        name = mark[mark.find("{") :]
        if mark.startswith("\\begin"):
            begun[name].append(at)
        elif mark.startswith("\\end") and begun[name]:
            ends[begun[name].pop()] = at + len(mark)

    def following(mark: str, at: int) -> int:
        own = places[mark]
        index = bisect_right(own, at)
        return own[index] if index < len(own) else len(text)

    spans: list[tuple[int, int]] = []
    done = 0
    for at, mark in marks:
        if at < done:
            continue
        end = 0
        if mark in _CLOSER:
            close = following(_CLOSER[mark], at)
            closed = close < len(text) and (mark == _CLOSER[mark] or following(mark, at) > close)
            end = close + len(_CLOSER[mark]) if closed else 0
            if mark == "$" and closed and not _is_inline_formula(text[at + 1 : close], text[end : end + 1]):
                end = 0
        elif mark.startswith("\\begin") and not _PROSE.match(mark[7:]):
            end = ends.get(at, 0)
        if end:
            spans.append((at, end))
            done = end
    return spans


# ---- Words
_FIRST = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SCALES = "hundred thousand million billion trillion dozen"
_PARTS = "half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths eighth eighths tenth tenths"
_NAMED_UNITS = frozenset(
    f"{_SCALES} percent pct degree dollar cent euro pound rupee yuan yen penny pence buck meter metre kilometer kilometre "
    "centimeter centimetre millimeter millimetre micrometer nanometer gram kilogram milligram microgram kg kgs km kms "
    "liter litre milliliter millilitre inch inches foot feet ft yard yd yds mile mi mph kph kmh lb lbs oz ounce gal gallon "
    "ton tonne acre hectare hr hrs hour min mins minute sec secs second ms day week month year decade century am pm "
    "newton joule watt kilowatt volt ampere amp ohm hertz pascal kelvin mole coulomb tesla farad calorie atm psi ppm ppb "
    "mmhg kwh kcal molar byte bit kb mb gb tb kib mib gib usd eur gbp jpy cny rmb inr btc sq square cubic score couple pair "
    "rad sr px pt mg ml cl dl cm mm nm dm sqft cc rpm bps fps dpi ev kev mev gev bp kbp da kda \ub9cc \uc5b5 \ucc9c \uc6d0 \ub2ec\ub7ec \uba85 "
    "january february march april may june july august september october november december o'clock oclock".split()
)
_CAPITAL_ONLY = frozenset(
    "january february march april may june july august september october november december".split()
)
_SI_BASE = "(?:[YZEPTGMkhdcm\u00b5\u03bcnpf]?(?:mol|Hz|Pa|eV|Wb|Bq|Gy|Sv|lm|lx|cd|cal|bar|[mgsNJWCVFSTHLlBbMtAK\u03a9\u2126])|\u00b0[CFK]?|min|h|ft|mi|yr)"
_SI = re.compile(
    rf"{_SI_BASE}(?:\^?\{{?[-\u2212]?\d\}}?|[\u00b2\u00b3\u00b9\u207b]+)?"
    rf"(?:[\u00b7*/\u22c5.]\(?{_SI_BASE}(?:\^?\{{?[-\u2212]?\d\}}?|[\u00b2\u00b3\u00b9\u207b]+)?\)?)*"
)
_SYMBOLS = re.compile(r"(?:[A-Z][a-z]?\d*){1,12}")  # AB, H2O, NaCl, DNA
# Words of no content; they are no names and no symbols.
FUNCTION_WORDS = frozenset(
    "a an the this that these those and or but nor so yet if then else when while where since because as at by for from "
    "in into of off on onto out over to up with within without about after before under is are was were be been am do does "
    "did has have had can could will would shall should may might must not no yes i he she it we you they me him her us them "
    "my his its our your their who whom whose which what how why let now first next finally also thus hence therefore here "
    "there each every all both some any many much more most less few one two three four five okay ok wait hmm well given during together altogether between "
    "monday tuesday wednesday thursday friday saturday sunday january february march april june july august september october "
    "november december".split()
)
_ROLES = {
    **dict.fromkeys("mod times plus minus equals choose div \u00d7".split(), "t"),
    "of": "o",
    **dict.fromkeys(
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg lim exp det sqrt half twice double triple".split(),
        "f",
    ),
}


@lru_cache(maxsize=1 << 14)
def is_unit_of_measure(word: str) -> bool:
    """Whether a word or symbol behind a number measures or scales it: `kg`, `m/s^2`, `hours`, `million`."""
    if _SI.fullmatch(word) and word != "a":
        return True
    plain = word.lower()
    if plain in _CAPITAL_ONLY:
        return word[0].isupper()
    parts = [part for part in re.split(r"[-/]", plain) if part]
    return bool(parts) and all(
        part in _NAMED_UNITS or (part[-1:] == "s" and part[:-1] in _NAMED_UNITS) for part in parts
    )


@lru_cache(maxsize=1 << 14)
def _word_role(word: str) -> str:
    if role := _ROLES.get(word.lower()):
        return role
    if word in ("a", "A", "I"):
        return "a"  # an article, unless an operator makes it a variable
    core = word.rstrip("'\u2019\u2032")
    if len(core) == 1 or (len(core) <= 3 and core[1:].isdigit()) or re.fullmatch("d[r-z]", core):
        return "v"  # x, x1, dx
    if _SYMBOLS.fullmatch(core) and core.lower() not in FUNCTION_WORDS:
        if any(map(str.isdigit, core)) or (len(core) <= 5 and sum(map(str.isupper, core)) >= 2):
            return "v"
    return "w"


# ---- Tokens
CJK = "\u3040-\u30ff\u3400-\u9fff"
_HAN_UNITS = (
    "\u4e2a\u5c0f\u65f6|\u4e2a\u6708|\u4e2a\u661f\u671f|\u767e\u5206\u70b9|\u5e73\u65b9(?:\u5343\u7c73|\u516c\u91cc|\u5398\u7c73|\u5206\u7c73|\u7c73)|\u7acb\u65b9(?:\u5398\u7c73|\u5206\u7c73|\u7c73)"
    "|\u5343\u514b|\u516c\u65a4|\u516c\u91cc|\u5343\u7c73|\u5398\u7c73|\u6beb\u7c73|\u5206\u7c73|\u6beb\u5347|\u6beb\u514b|\u516c\u9877|\u82f1\u91cc|\u82f1\u5c3a|\u5c0f\u65f6|\u5206\u949f|\u79d2\u949f|\u661f\u671f|\u7f8e\u5143|\u6b27\u5143|\u65e5\u5143|\u6e2f\u5143|\u7f8e\u5206"
    "|\u6e2f\u5e01|\u4eba\u6c11\u5e01|\u6444\u6c0f\u5ea6|\u6642\u9593|\u5206\u9593|\u5206\u4e4b\\d+|[\u500b\u4e2a\u53ea\u672c\u652f\u5f20\u6761\u5757\u584a\u7247\u74f6\u676f\u76d2\u7bb1\u888b\u5305\u4ef6\u5957\u53cc\u5bf9\u526f\u53f0\u8f86\u67b6\u8258\u5ea7\u680b\u95f4\u5c42\u9053\u9898\u9875\u884c\u5217\u6392\u7ec4\u961f"
    "\u73ed\u4eba\u540d\u4f4d\u5c81\u6b72\u5e74\u6708\u65e5\u53f7\u5929\u5468\u65f6\u70b9\u5206\u79d2\u6b21\u56de\u904d\u6b65\u5708\u5143\u5186\u89d2\u94b1\u7c73\u514b\u5428\u5347\u91cc\u5ea6\u500d\u6210\u4ea9\u80a1\u4efd\u7968\u65a4\u4e24\u5bf8\u5c3a\u4e08\u9897\u7c92\u6735\u68f5\u682a\u5934\u5339\u679a\u6237\u5bb6\u53e5\u5b57\u8282\u95e8"
    "\u8bfe\u5c4a\u6279\u79cd\u5319\u7897\u76d8\u5377\u518a\u6839\u5c01\u7b14\u573a\u6240]\u534a?"
)
_HAN_NUMERAL = "\u3007\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341\u767e\u5343\u4e07\u4ebf\u5146\u4e24"
_HAN_NUMBER = (
    rf"\u767e\u5206\u4e4b(?:\d+(?:\.\d+)?|[{_HAN_NUMERAL}\u70b9]+)|[{_HAN_NUMERAL}]+\u5206\u4e4b[{_HAN_NUMERAL}]+"
    rf"|\u7b2c?(?:[{_HAN_NUMERAL}]{{2,}}(?:\u70b9[{_HAN_NUMERAL}]+)?(?:{_HAN_UNITS})?|[{_HAN_NUMERAL}\u51e0\u534a](?:{_HAN_UNITS}))"
    r"|\u7b2c\d+(?:" + _HAN_UNITS + ")?"
)
_SPACE = "[ \u00a0\u2009\u202f]"
_CURRENCY = (
    r"\\?[$\u20ac\u00a3\u00a5\uffe5\u00a2\u20b9\u20a9\u20bd\u20bf]|(?<![A-Za-z])(?:US|HK|NT|AU|CA|[ACS])\$|\b(?:USD|EUR|GBP|JPY|CNY|RMB|INR|CHF|CAD|AUD|HKD"
    r"|SGD|KRW|BTC|Rs\.?|R\$)"
)
_NUMBER = (
    rf"(?:(?:{_CURRENCY}){_SPACE}?)?(?:"
    rf"\d{{1,3}}(?:{_SPACE}\d{{3}}(?![\d/:]|-\w|,\d))+(?:[.,]\d+)?"  # 1 250 000
    rf"|\d+ ?(?:[\u00bd\u00bc\u00be\u2150-\u215e]|(?<= )\d{{1,3}}/\d{{1,3}}(?![\d/]))"  # 3 1/2
    r"|\d+(?:[.,:/]\d+)*(?: : \d+(?![\d.]*:))?|\.\d+|[\u00bd\u00bc\u00be\u2150-\u215e]+)"
    r"(?:[eE][-+\u2212]?\d+(?![\w.]))?"
    r"(?: and (?:(?:a|one) (?:half|third|quarter)|(?:two|three) (?:thirds|quarters)|\d{1,3}/\d{1,3})\b)?"
)
_WORDS_OF_NUMBER = (
    rf"(?i:\b(?:(?:a|half a|(?:(?:{_TENS.replace(' ', '|')})[- ])?(?:{f'{_FIRST} {_TENS} several'.replace(' ', '|')}))[- ](?:{_SCALES.replace(' ', '|')})"
    rf"(?:(?:,? and |,? |-)(?:{f'{_FIRST} {_TENS} {_SCALES}'.replace(' ', '|')})\b){{0,9}}"
    rf"|(?:{_TENS.replace(' ', '|')})[- ](?:{_FIRST.replace(' ', '|')})"
    rf"|(?:a|{_FIRST.replace(' ', '|')})[- ](?:{_PARTS.replace(' ', '|')})"
    rf"|(?:{_FIRST.replace(' ', '|')}) and a (?:half|quarter))\b)"
)
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_OPERATOR_COMMANDS = (
    "times|div|cdot|ast|star|pm|mp|leqslant|geqslant|leq?|geq?|neq?|ll|gg|lt|gt|approx|equiv|cong|simeq|sim|doteq|propto|notin|not|in|ni"
    "|subseteq|subsetneq|subset|supseteq|supset|cup|cap|bigcup|bigcap|setminus|mid|nmid|perp|parallel|circ|bmod|land|lor|wedge|vee|oplus|otimes"
    "|to|mapsto|(?:long)?(?:left)?rightarrow|(?:Long)?(?:Left|left)?[Rr]ightarrow|rightleftharpoons|implies|impliedby|iff|models|vdash|choose|over"
    "|xrightarrow|colon|coloneqq|triangleq|stackrel|overset|underset"
)
_TOKENS = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in {
            "space": r"\s+",
            "tag": r"</?[A-Za-z][\w-]{1,40}/?>|<\|\w{1,40}\|>|(?<![A-Za-z])[a-z]{2,9}://\S+",
            "dots": r"\.{3,}|\u2026+|\u22ef|\\(?:[lcd]?dots[bcmo]?|vdots)(?![A-Za-z])",
            "strong": rf"\\(?:{_OPERATOR_COMMANDS})(?![A-Za-z])|[=!:<>]=+>?|=(?![=>])|[\u00d7\u00f7\u2208-\u220d\u2213\u2216-\u2219\u221d\u2223-\u222a\u2234-\u22ee\u22f0-\u22ff\u2a00-\u2aff]",
            "open": r"\\(?:left|[bB]igg?l?)\s*(?:\\?[\[({.<]|\\l[a-z]+)|\\(?:\{|l(?:floor|ceil|angle|brace|vert|brack)\b)|[(\[{\uff08\u27e8\u230a\u2308]",
            "close": r"\\(?:right|[bB]igg?r?)\s*(?:\\?[\])}.>]|\\r[a-z]+)|\\(?:\}|r(?:floor|ceil|angle|brace|vert|brack)\b)|[)\]}\uff09\u27e9\u230b\u2309]",
            "bar": r"\\(?:left|right|[bB]igg?[lr]?)?\\?\||\|{1,2}",
            "spacing": r"\\(?:[,;:!]|(?:q?quad|displaystyle|limits|nolimits|left|right|therefore|because|[bB]igg?[lr]?)(?![A-Za-z])|[\[\]()])|\\\\|&",
            "percent": r"\\?[%\u2030]",
            "prefix": r"[\u2200\u2203\u00ac\u2202\u2206\u2207\u220f-\u2211\u221a-\u221c\u222b-\u2233\u2220-\u2222\u25b3\u22a5]",
            "blank": r"_{2,}|[\u25a1\u221e\u2205\u25a2]",
            "script": r"\^\^?(?:[-+\u2212]?\w|[*\u2020\u2032\u00b0]|(?=[{(\\\\]))|_(?:[^\W_]+|(?=[{(\\]))|[\u00b2\u00b3\u00b9\u2070-\u209c\u2032\u2033]+",
            "weak": r"<?(?:-{1,2}|=)>|<-+|\*{1,2}|[-+/<>\u2212\u2013\u00b7\u00b1~\u2190-\u21ff\u27f5-\u27ff]|\b(?:divided|multiplied) by\b",
            "comma": r"[,\uff0c\u3001;\uff1b]+",
            "colon": r"[:\uff1a]",
            "bang": r"!+",
            "number": _NUMBER,
            "hannumber": _HAN_NUMBER,
            "hanoperator": "\u52a0\u4e0a?|\u51cf\u53bb?|\u4e58\u4ee5?|\u9664\u4ee5|\u7b49\u4e8e|\u5927\u4e8e|\u5c0f\u4e8e",
            "han": rf"[{CJK}]",
            "command": r"\\[A-Za-z]+\*?",
            "wordnumber": _WORDS_OF_NUMBER,
            "date": rf"\b(?:{_MONTHS}|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.?) \d{{1,2}}(?:st|nd|rd|th)?\b(?:, \d{{4}}\b)?",
            "titled": r"\b(?:Dr|Mrs?|Ms|Prof|St|Mt)\. [A-Z][\w'\u2019-]*|\b(?:Figs?|Eqs?|No|Ch|Sec|Vol|pp?)\. ?\d+|(?<=[a-z] )[A-Z]\. [a-z]{4,}\b",
            "abbreviation": r"(?:[A-Za-z]\.){2,}",
            "word": rf"[^\W\d_{CJK}\u00b2\u00b3\u00b9\u2070-\u209c\u00bc-\u00be\u2150-\u215e](?:[^\W_{CJK}\u00b2\u00b3\u00b9\u2070-\u209c]|['\u2019](?=[^\W\d_])|[\u0300-\u036f])*['\u2032]?",
            "pause": r"[.?\u3002\uff01\uff1f\u2014]+",
            "other": r".",
        }.items()
    ),
    re.DOTALL,
)
_GROUP_ROLE = {
    "number": "#", "hannumber": "#", "wordnumber": "#", "date": "#", "hanoperator": "t", "han": "h", "open": "(",
    "close": ")", "bar": "|", "spacing": " ", "strong": "=", "dots": "~", "prefix": "f", "command": "c", "script": "^",
    "weak": "+", "blank": "v", "comma": ",", "colon": ":", "bang": "!", "pause": ".", "other": " ", "tag": "<",
    "titled": "w", "abbreviation": "w", "percent": "%",
}  # fmt: skip
_SUFFIX = re.compile(
    rf"{_SPACE}?(?:\\?[%\u2030](?!\s?\d)|(?:[\u5341\u767e\u5343\u4e07\u842c\u4ebf\u5104\u5146]|{_HAN_UNITS})+|[Aa]\.[Mm]\.?|[Pp]\.[Mm]\.?"
    r"|(?:sq|ft|in|yds?|lbs?|oz|gal|hrs?|mins?|secs?)\.(?=\s*(?:[-+*/=x\u00d7)]|(?:ft|in|yd|m|per)\b))|in(?=\s*[*/=x\u00d7)])|(?P<unit>(?:per )?[^\W\d_](?:[^\W_]|[/\u00b7*^.\u207b'\u2019-](?=[^\W_]|-\d)|\u00b2|\u00b3){0,29}|\u00b0[CFK]?\b|\u00b0)(?!\w))"
)


_PLAIN_WORD = re.compile(r"\s*([a-z]{2,})(?=[\s.,])")  # most tokens, without trying every pattern
_BEGIN_MORE = frozenset(f"{_FIRST} {_TENS} several half divided multiplied".split())


def _measured(text: str, end: int) -> int:
    """Where a number that ends at `end` ends with its multipliers and units of measure."""
    while suffix := _SUFFIX.match(text, end):
        if suffix["unit"] and not is_unit_of_measure(suffix["unit"].removeprefix("per ")):
            break
        end = suffix.end()
    return end


def tokens(text: str) -> list[Token]:
    """All tokens of a text, in order."""
    found: list[Token] = []
    at = 0
    for begin, end in [*_blocks(text), (len(text), len(text))]:
        while at < begin:
            plain = _PLAIN_WORD.match(text, at, begin)
            if plain and plain[1] not in _BEGIN_MORE:
                at = plain.end()
                found.append(Token(plain.start(1), at, _word_role(plain[1])))
                continue
            match = _TOKENS.match(text, at, begin)
            assert match and match.lastgroup  # a token may be any one character
            group = match.lastgroup
            start, at = at, match.end()
            if group == "space":
                continue
            if group == "word":
                role = _word_role(match[0])
            else:
                role = _GROUP_ROLE[group]
                if role == "#":
                    at = min(_measured(text, at), begin)
            found.append(Token(start, at, role))
        if end > begin:
            found.append(Token(begin, end, "$"))
            at = end
    return found
