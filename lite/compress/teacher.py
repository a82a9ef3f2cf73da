"""The annotator `teacher`: a language model behind an OpenAI-compatible endpoint says which words must stay.

Takes traces, gives the kept units of each. As in Extra-CoT (arXiv 2602.08324, appendix on annotation; there
GPT-4o): a formula is one word, words are numbered, the reply holds nothing but closed keep-ranges as JSON, at
least two of them; a long chain is cut into chunks before. The words are our units, so that no number and no
formula is cut, here or later. An empty or broken reply is asked for again at a higher temperature; one that comes
again word for word once more at the highest; a refusal never. A trace that stays without labels is left out rather
than labelled by another rule, and the reasons are told. Every good reply is kept in a cache, keyed by its model and
prompt, which outlives the stage: nothing is paid for twice. A parameter that a server refuses by name is left out of
what follows, or goes under its other name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite.compress.teacher_reply import content, parse_ranges, usage
from lite.compress.units import Unit, segment
from lite.config import Annotate
from lite.remote.client import Endpoint, Refused, read_key
from lite.runtime.files import Journal
from lite.runtime.progress import console
from lite.schema import Trace

TARGET_TOKENS, MOST_TOKENS = 512, 640  # of a chunk
ROUNDS = 10  # the same question, each time at a temperature higher by
WARMER = 0.1
MIN_SPANS = 2  # of a chunk, unless it is one sentence or
FEW_WORDS = 10  # fewer words
MOST_REASONS = 3  # told at the end
SCHEMA = {  # of a reply, for servers that hold a model to one
    "type": "object",
    "properties": {"keep": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}},
    "required": ["keep"],
    "additionalProperties": False,
}

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

# Parameters that some servers refuse by name, and what takes their place.
OTHER_NAMES = {"max_tokens": "max_completion_tokens", "temperature": "", "response_format": ""}

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
        self.names: dict[str, str] = {}  # a parameter: its name for this server, "" where it takes none
        self.reasons: Counter[str] = Counter()  # why chunks have no ranges
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
        if self.reasons:
            told = "; ".join(f"{num} x {reason}" for reason, num in self.reasons.most_common(MOST_REASONS))
            console.print(
                f"  the teacher gave no usable ranges of {self.reasons.total()} chunks: {told}", markup=False
            )
        return spent.measured()

    async def _ask(self, model: str, prompt: str, chunk: Chunk, key: str) -> Answer:
        """Ask about a chunk until a reply is usable; its ranges are empty where none of ROUNDS is."""
        tokens_in = tokens_out = turn = 0
        before: tuple[str, str] | None = None
        while turn < ROUNDS:
            reply = await self._post(
                {
                    "model": model,
                    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}],
                    "temperature": round(turn * WARMER, 2),
                    "max_tokens": self.config.max_tokens,
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "keep", "strict": True, "schema": SCHEMA},
                    },
                }
            )
            more_in, more_out = usage(reply)
            tokens_in, tokens_out = tokens_in + more_in, tokens_out + more_out
            text, reason = said = content(reply)
            keep = parse_ranges(text, chunk.end - chunk.begin)
            if len(keep) >= chunk.floor:
                return Answer(key, keep, tokens_in, tokens_out)
            if reason.startswith("refused"):
                break
            turn = ROUNDS - 1 if said == before and turn < ROUNDS - 1 else turn + 1
            before = said
        shown = " ".join(text.split())[:60]
        self.reasons[reason or f"fewer than {chunk.floor} ranges, as in {shown!r}"] += 1
        return Answer(key, [], tokens_in, tokens_out)

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to a body, without the parameters that the server has refused."""
        while True:
            sent = {self.names.get(name, name): value for name, value in body.items()}
            sent.pop("", None)
            try:
                return await self.endpoint.post("/chat/completions", sent)
            except Refused as fault:
                name = next((name for name in OTHER_NAMES if name in sent and name in str(fault)), None)
                other = OTHER_NAMES.get(name or "")
                if name is None or (other and other not in str(fault)):
                    raise
                if name not in self.names:  # other requests in flight may have met it, too
                    self.names[name] = other or ""
                    console.print(
                        f"  the teacher takes no {name}; asked {f'with {other}' if other else 'without'}"
                    )


def _units_of(parts: dict[Chunk, Any]) -> list[int]:
    """Indices of the kept units of a trace, from the ranges of its chunks, in their order."""
    return [
        chunk.begin + number - 1
        for chunk, ranges in parts.items()
        for first, last in ranges
        for number in range(first, last + 1)
    ]
