"""What a teacher's chat reply holds: its text, its ranges of words and the tokens that it took."""

from __future__ import annotations

import json
import re
from typing import Any

MOST_CANDIDATES = 100  # places in a reply where JSON may begin


def parse_ranges(text: str, num_words: int) -> list[list[int]]:
    """Closed ranges of word numbers, ascending and apart, from a teacher's reply; [] where it holds none.

    Reads what models make of JSON: fences, prose around it, single quotes, comments, a comma too many, "3-5", a lone
    number, first and last swapped, a reason beside a range. Of several objects the last one counts, being the final
    one. Ranges are clipped to 1..`num_words`, sorted, and merged where they touch.
    """
    text = text.rpartition("</think>")[2]
    if "<think>" in text:  # it never came to its answer
        return []
    text = re.sub(r"(?<!:)//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r",(\s*[\]}])", r"\1", text)
    ranges = []
    for item in _items(text) or _items(text.replace("'", '"')):
        pair = _pair(item)
        if pair is not None:
            first, last = max(min(pair), 1), min(max(pair), num_words)
            if first <= last:
                ranges.append([first, last])
    merged: list[list[int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return merged


def _items(text: str) -> list[Any]:
    """The list of ranges in a text: that of its last JSON object which has one, else of its first list of lists."""
    for opening in ("{", r"\[(?=\s*[\[{\"])", r"\["):
        starts = [match.start() for match in re.finditer(opening, text)][:MOST_CANDIDATES]
        found: list[Any] = []
        end = 0
        for start in starts:
            if start < end:  # inside the one before
                continue
            try:
                value, end = json.JSONDecoder().raw_decode(text, start)
            except (ValueError, RecursionError):
                continue
            label = _LABEL.search(text, max(0, start - 40), start)
            if (
                opening != "{" and label and not _KEPT.search(label[1])
            ):  # a list of an object that was left open
                continue
            if isinstance(value, dict):
                value = next((kept for key, kept in value.items() if _KEPT.search(key) and kept), None)
            if isinstance(value, list) and value:
                pair = len(value) == 2 and None not in map(_number, value)
                found = [value] if pair else value
                if opening != "{":
                    break
        if found:
            return found
        if starts and opening != "{":
            return []  # a list of lists that was cut: its first pairs are not all
    return []


_KEPT = re.compile(
    r"(?i)^(?!.*(?:not|unk|drop|remov|delet)).*(?:keep|kept|stay|range|span|word|select|essential)"
)
_LABEL = re.compile(r"(\w+)[\"']?\s*:\s*$")
_NUMERAL = re.compile(r"\s*\d{1,9}\s*")
_RANGE = re.compile(r"\s*\[?(\d{1,9})\s*(?:[-\u2010-\u2015\u2212~,:]|\.\.+|\u2026|to)\s*(\d{1,9})\]?\s*")


def _number(value: Any) -> int | None:
    if isinstance(value, str) and _NUMERAL.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _pair(item: Any) -> tuple[int, int] | None:
    """First and last of one range, in any of its forms; text beside them is a reason."""
    if isinstance(item, dict):
        nested = [value for value in item.values() if isinstance(value, list) or _is_range(value)]
        item = nested[0] if len(nested) == 1 else list(item.values())
    if isinstance(item, str) and (ends := _RANGE.fullmatch(item)):
        item = list(ends.groups())
    if not isinstance(item, list):
        item = [item, item]
    numbers = [_number(value) for value in item if not isinstance(value, str) or _NUMERAL.fullmatch(value)]
    if len(numbers) not in (1, 2):
        return None
    first, last = numbers[0], numbers[-1]
    return None if first is None or last is None else (first, last)


def _is_range(value: Any) -> bool:
    return isinstance(value, str) and _RANGE.fullmatch(value) is not None


def content(reply: dict[str, Any]) -> tuple[str, str]:
    """The text of a chat reply, and why it is missing; the reason of a refusal begins with "refused".

    Content may be a list of parts. Without content, the text is what the model thought, in which some servers leave
    all that it said.
    """
    try:
        choice = reply["choices"][0]
        message, end = choice["message"], choice.get("finish_reason")
        refusal = message.get("refusal") or choice.get("error")
        texts = [message.get(name) for name in ("content", "reasoning_content", "reasoning")]
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", "a reply without a message"
    if refusal or end == "content_filter":
        said = refusal.get("message", refusal) if isinstance(refusal, dict) else refusal
        return "", f"refused ({' '.join(str(said or end).split())[:120]})"
    if end == "length":
        return "", "a reply that was cut"
    for text in texts:
        if isinstance(text, list):
            parts = [part.get("text") for part in text if isinstance(part, dict)]
            text = "".join(part for part in parts if isinstance(part, str))
        if isinstance(text, str) and text.strip():
            return text, ""
    return "", "an empty reply"


def usage(reply: dict[str, Any]) -> tuple[int, int]:
    """Tokens (in, out) that a reply says it took."""
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return tuple(count if type(count) is int and 0 < count < 10**9 else 0 for count in counts)  # type: ignore[return-value]
