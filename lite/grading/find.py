"""Where a reply says its final answer."""

from __future__ import annotations

import re

from lite.grading.compare import MAX_CHARS
from lite.grading.parser import parse
from lite.grading.words import CHANGING, SMALL

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)[ \t]*([-+]?\\?\$?\d[\d.,]*|[A-Za-z](?![A-Za-z]))")
_BRACE = re.compile(r"[{}]")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE)
_SAID = re.compile(  # in linear time, whatever a model repeats
    r"(?:\banswer\b(?:\s+(?:to|of|for|in)\b[^.:\n]{1,80}?)?"
    r"(?:\s+(?:is|are|was|equals?|(?:should|would|must|will)\s+be)\b|[* \t]*[:：=])"
    r"|^[#* \t]*(?:final[ \t]+|my[ \t]+|the[ \t]+)*answer[*: \t]*\n|答案(?:应该|应)?(?:是|为|等于|[*]*[:：])|^答[:：])"
    r"(?:[\s*:：]|\$\$|\\\[)*((?:[^\s*。])(?:[^\n.。]|\.(?!\s|$))*)",
    re.IGNORECASE | re.MULTILINE,
)
_STARS = "*" + "".join(filter(str.isspace, map(chr, range(0x3001))))  # of bold text, and white space
_CLAUSE = re.compile(
    r"[,;:!?—](?!\s*(?:and|or)\b)\s+(?=[A-Za-z]{2,}(?!\s*=))|[!?]+\s*$|\s+\((?=[A-Za-z]{2,}[\s)])"
    r"|\s+[-–]\s+(?=[A-Za-z]{1,}\s+[A-Za-z]{2,})|\s+(?:because|since|which|where|so|as|after|when|given|with|making)\b|[，；](?=[\u4e00-\u9fff])"
)
_LEAD = re.compile(r"[A-Za-z]{2,}[\s']")
_VALUE = re.compile(rf"[-+]?(?:\\?\$|[€£¥])?\s?\d[\d.,]*|\b(?:{'|'.join(SMALL)})\b", re.IGNORECASE)
_PLAIN = re.compile(r"[-+−]?\s*(?:\\?\$|[€£¥])?\s*(?:\\[dt]?frac|[.\d])")


def _boxed(text: str) -> str | None:
    """What stands in the last complete box."""
    boxes = {match.end() - 1 for match in _BOX.finditer(text)}  # their opening braces
    opened: list[int] = []
    start, end = -1, 0
    for brace in _BRACE.finditer(text):
        place = brace.start()
        if text[max(place - 1, 0) : place] == "\\" and text[max(place - 2, 0) : place] != "\\\\":
            continue  # \{ and \} are braces of the answer itself
        if brace[0] == "{":
            opened.append(place)
        elif opened and (begin := opened.pop()) in boxes and begin > start:
            start, end = begin, place
    bare = list(_BARE_BOX.finditer(text))
    if bare and bare[-1].start() >= end:
        return bare[-1][1].rstrip(".,")
    return text[start + 1 : end].strip() if start >= 0 else None


def final_answer(text: str) -> str | None:
    """The final answer in a visible reply, or None where it does not say one. See the package for the order."""
    answer = _boxed(text)
    if answer is not None:
        return answer or None
    if found := _HASHES.findall(text):
        return _undollared(found[-1]) or None
    if found := _SAID.findall(text):
        return next(filter(None, (_concise(said.rstrip(_STARS)) for said in reversed(found))), None)
    return text.strip() if is_plain_number(text.strip()) else None


def _concise(said: str) -> str:
    """What a sentence says, without the clauses behind it and the words before a single value."""
    if len(said) > 10 * MAX_CHARS:
        return said
    said = _CLAUSE.split(said, maxsplit=1)[0]
    if said.count("**") % 2:  # bold began before the answer
        said = said.replace("**", "", 1)
    said = re.sub(r"\\[\])]\s*$|^\\\(|\$\$", "", said)
    said = said.strip(_STARS).rstrip(",;:!?")
    values = list(_VALUE.finditer(said))
    if _LEAD.match(said) and len(values) == 1 and "=" not in said:
        words = set(re.findall("[a-z']+", said.lower()))
        if not words & CHANGING and "\\" not in said[: values[0].start()].replace("\\$", ""):
            said = said[values[0].start() :]
    return _undollared(said)


def _undollared(text: str) -> str:
    """A text without the dollars around all of it, or one at its end that its beginning lost."""
    text = text.strip()
    if text.endswith("$") and (text.count("$") == 1 or text.startswith("$") and text.count("$") in (2, 4)):
        text = text.strip("$ ")
    return text


def is_plain_number(text: str) -> bool:
    if len(text) > MAX_CHARS or not _PLAIN.match(text):
        return False
    try:
        node = parse(text)
    except ValueError:
        return False
    while node[0] in ("quantity", "neg"):
        node = node[1]
    return (
        node[0] in ("num", "decimal") or node[0] == "/" and all(p[0] in ("num", "decimal") for p in node[1:])
    )
