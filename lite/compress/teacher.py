"""The annotator `teacher`: a language model behind an OpenAI-compatible endpoint says which words must stay.

Takes traces, gives the kept units of each. As in Extra-CoT (arXiv 2602.08324, appendix on annotation; there
GPT-4o): a formula is one word, words are numbered, the reply holds nothing but closed keep-ranges as JSON, at
least two of them; a long chain is cut into chunks before. The words are our units, so that no number and no
formula is cut, here or later. An empty or broken reply is asked for again at a higher temperature. A trace that
stays without labels is left out rather than labelled by another rule. Every good reply is kept in a cache, keyed
by its model and prompt, which outlives the stage: nothing is paid for twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite.compress.units import Unit, segment
from lite.config import Annotate
from lite.remote.client import Endpoint, read_key
from lite.runtime.files import Journal
from lite.schema import Trace

TARGET_TOKENS, MOST_TOKENS = 512, 640  # of a chunk
ROUNDS = 10  # the same question, each time at a temperature higher by
WARMER = 0.1
MIN_SPANS = 2  # of a chunk, unless it is one sentence or
FEW_WORDS = 10  # fewer words
MOST_CANDIDATES = 100  # places in a reply where JSON may begin

SYSTEM = """\
You decide which words of a worked solution have to stay, so that somebody who knows the problem can still follow \
the computation to its result. You are given the problem and the solution, or a part of it, as numbered words; a \
formula, or a number with what belongs to it, counts as one word.

Stay: words that say which quantity is being found or named; places where a given value enters the computation; \
every step that decides the result, and the few words that tie steps together; relations, comparisons and \
negations (not, except, only, at least, more than, per, each).
Go: narration and announcements, hesitation, remarks on the own thinking, attempts that are given up, checks that \
change nothing, whatever was said before.

Answer with JSON only: {"keep": [[first, last], ...]}. Every pair is a closed range of word numbers; ranges \
ascend and do not overlap. Give at least two ranges."""

Done = Callable[[Sequence[tuple[Trace, list[int]]], str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """A cached reply: closed ranges of word numbers from 1, and the tokens that all its rounds took."""

    key: str
    keep: list[list[int]]
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a trace to ask about: units `[begin, end)`; `floor` is how many ranges it must give."""

    begin: int
    end: int
    floor: int


_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][)\]}\"'\u201d\u2019*_]*$")


def sentences(text: str, units: Sequence[Unit]) -> list[tuple[int, int]]:
    """Units `[begin, end)` of each sentence: up to a full stop, question or exclamation mark, or a new line."""
    ends = [
        index + 1
        for index, unit in enumerate(units)
        if index + 1 == len(units)
        or _SENTENCE_END.search(text[unit.start : unit.end])
        or "\n" in text[unit.end : units[index + 1].start]
    ]
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def chunks(text: str, units: Sequence[Unit], counts: Sequence[int]) -> list[Chunk]:
    """Cut a chain into chunks of whole sentences near TARGET_TOKENS; `counts` are the tokens of each unit.

    Dynamic programming: the least sum of squared distances from the target, no chunk above MOST_TOKENS. A
    sentence above it is cut between units; a single unit above it stands alone.
    """
    pieces: list[tuple[int, int]] = []
    for begin, end in sentences(text, units):
        total = 0
        for index in range(begin, end):
            if index > begin and total + counts[index] > MOST_TOKENS:
                pieces.append((begin, index))
                begin, total = index, 0
            total += counts[index]
        pieces.append((begin, end))
    sizes = [sum(counts[begin:end]) for begin, end in pieces]
    best: list[tuple[float, int]] = [
        (0.0, 0)
    ]  # [n]: cost of the first n pieces, and where their last chunk begins
    for end in range(1, len(pieces) + 1):
        total, found = 0, (float("inf"), end - 1)
        for begin in range(end - 1, -1, -1):
            total += sizes[begin]
            if total > MOST_TOKENS and begin < end - 1:
                break
            found = min(found, (best[begin][0] + (total - TARGET_TOKENS) ** 2, begin))
        best.append(found)
    cuts = [len(pieces)]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    cuts.reverse()
    return [
        Chunk(
            begin := pieces[a][0],
            end := pieces[b - 1][1],
            MIN_SPANS if b - a > 1 and end - begin >= FEW_WORDS else 1,
        )
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]


def ask(trace: Trace, units: Sequence[Unit], chunk: Chunk) -> str:
    """The user's turn about a chunk: the problem, then the words, numbered from 1."""
    whole = (chunk.begin, chunk.end) == (0, len(units))
    words = [
        f"[{number}] {' '.join(trace.think[unit.start : unit.end].split())}"
        for number, unit in enumerate(units[chunk.begin : chunk.end], start=1)
    ]
    return (
        f"Problem:\n{trace.question}\n\n{'Solution' if whole else 'Part of the solution'}:\n{' '.join(words)}"
    )


def parse_ranges(text: str, num_words: int) -> list[list[int]]:
    """Closed ranges of word numbers, ascending and apart, from a teacher's reply; [] where it holds none.

    Reads what models make of JSON: fences, prose around it, single quotes, a comma too many, "3-5", a lone
    number, first and last swapped. Ranges are clipped to 1..`num_words`, sorted, and merged where they touch.
    """
    text = text.rpartition("</think>")[2]
    ranges = []
    for item in _items(text):
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
    """The list of ranges in a text: that of the first JSON object which has one, else the first list of lists."""
    text = re.sub(r",(\s*[\]}])", r"\1", text.replace("'", '"'))
    for opening in ("{", r"\[(?=\s*[\[{\"])", r"\["):
        starts = [match.start() for match in re.finditer(opening, text)][:MOST_CANDIDATES]
        for start in starts:
            try:
                value, _ = json.JSONDecoder().raw_decode(text, start)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                lists = [item for item in (value.get("keep"), *value.values()) if isinstance(item, list)]
                value = lists[0] if lists else None
            if value:
                pair = len(value) == 2 and None not in map(_number, value)
                return [value] if pair else value
        if starts and opening != "{":
            return []  # a list of lists that was cut: its first pairs are not all
    return []


def _number(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}\s*", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _pair(item: Any) -> tuple[int, int] | None:
    """First and last of one range, in any of its forms."""
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, str) and (
        match := re.fullmatch(r"\s*\[?(\d{1,9})\s*(?:-|,|\.\.)\s*(\d{1,9})\]?\s*", item)
    ):
        item = list(match.groups())
    if not isinstance(item, list):
        item = [item, item]
    numbers = [number for value in item if (number := _number(value)) is not None]
    if len(numbers) != len(item) or len(numbers) not in (1, 2):
        return None
    return numbers[0], numbers[-1]


def _content(reply: dict[str, Any]) -> str:
    """The text of a chat reply; "" where there is none, or where it was cut."""
    try:
        choice = reply["choices"][0]
        text = "" if choice.get("finish_reason") == "length" else choice["message"]["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""
    return text if isinstance(text, str) else ""


def _usage(reply: dict[str, Any]) -> tuple[int, int]:
    """Tokens (in, out) that a reply says it took."""
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return tuple(count if type(count) is int and 0 < count < 10**9 else 0 for count in counts)  # type: ignore[return-value]


class Spent:
    """Tokens and money. Prices are per million tokens."""

    def __init__(self, config: Annotate):
        self.config = config
        self.tokens_in = self.tokens_out = 0

    def add(self, answer: Answer) -> None:
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out

    def measured(self) -> dict[str, Any]:
        """Tokens and, where the recipe gives a price, what they cost."""
        tokens = {"tokens_in": self.tokens_in, "tokens_out": self.tokens_out}
        if not self.config.price_in and not self.config.price_out:
            return tokens
        money = self.tokens_in * self.config.price_in + self.tokens_out * self.config.price_out
        return tokens | {"price": round(money / 1e6, 4)}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.measured().items())


class Teacher:
    """Asks the endpoint of a recipe's section; good replies are appended to the file `cache`.

    `count_tokens(text, units)` gives the tokens of each unit. Raises LiteError where the key is not there.
    """

    def __init__(
        self,
        config: Annotate,
        cache: Path,
        count_tokens: Callable[[str, Sequence[Unit]], list[int]],
        endpoint: Endpoint | None = None,
    ):
        self.config, self.cache, self.count_tokens = config, cache, count_tokens
        self.endpoint = endpoint or Endpoint(
            config.endpoint, key=read_key(config.key_env), num_parallel=config.num_parallel
        )

    def label(self, traces: Sequence[Trace], done: Done) -> dict[str, Any]:
        """Choose the kept units of each trace: `done([(trace, kept)], note)` as each ends, in any order.

        A trace without a usable reply to each of its chunks is not among them: `done([], note)`. Returns what
        all replies in the cache took, and the useless ones of this call.
        """
        model = self.config.teacher or str(self.endpoint.served()["id"])
        spent = Spent(self.config)
        open_chunks: dict[str, dict[Chunk, list[list[int]] | None]] = {}  # by trace id
        questions = []
        for trace in traces:
            units = segment(trace.think)
            parts = chunks(trace.think, units, self.count_tokens(trace.think, units))
            open_chunks[trace.id] = dict.fromkeys(parts)
            questions += [(trace, chunk, ask(trace, units, chunk)) for chunk in parts]
        with Journal(self.cache, Answer) as journal:
            cached = {answer.key: answer for answer in journal.records}
            for answer in journal.records:
                spent.add(answer)

            async def work(question: tuple[Trace, Chunk, str]) -> Answer:
                _, chunk, prompt = question
                key = hashlib.sha256(json.dumps([model, SYSTEM, prompt]).encode()).hexdigest()[:32]
                if key not in cached:
                    answer = await self._ask(model, prompt, chunk, key)
                    spent.add(answer)
                    if not answer.keep:
                        return answer
                    journal.append([answer])
                    cached[key] = answer
                return cached[key]

            def finish(question: tuple[Trace, Chunk, str], answer: Answer) -> None:
                trace, chunk, _ = question
                parts = open_chunks[trace.id]
                parts[chunk] = answer.keep
                if None not in parts.values():
                    done([(trace, _units_of(parts))] if all(parts.values()) else [], str(spent))

            self.endpoint.map(work, questions, finish)
        return spent.measured()

    async def _ask(self, model: str, prompt: str, chunk: Chunk, key: str) -> Answer:
        """Ask about a chunk until a reply is usable; its ranges are empty where none of ROUNDS is."""
        tokens_in = tokens_out = 0
        for turn in range(ROUNDS):
            reply = await self.endpoint.post(
                "/chat/completions",
                {
                    "model": model,
                    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
                    "temperature": round(turn * WARMER, 2),
                    "max_tokens": self.config.max_tokens,
                },
            )
            more_in, more_out = _usage(reply)
            tokens_in, tokens_out = tokens_in + more_in, tokens_out + more_out
            keep = parse_ranges(_content(reply), chunk.end - chunk.begin)
            if len(keep) >= chunk.floor:
                return Answer(key, keep, tokens_in, tokens_out)
        return Answer(key, [], tokens_in, tokens_out)


def _units_of(parts: dict[Chunk, Any]) -> list[int]:
    """Indices of the kept units of a trace, from the ranges of its chunks, in their order."""
    return [
        chunk.begin + number - 1
        for chunk, ranges in parts.items()
        for first, last in ranges
        for number in range(first, last + 1)
    ]
