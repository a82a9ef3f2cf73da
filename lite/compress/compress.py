"""Stage `compress`: every trace cut to 0.1 ... 0.9 of its tokens.

Takes traces and the compressor, gives Compressed. A trace is scored once; the units that stay at a ratio are
chosen by `select`. The result is counted by encoding it again in the target model's tokenizer, and where that
differs from the plan (a unit encodes differently beside another neighbour) the budget is corrected, so the
realised ratio is exact, not estimated. The other methods are the controls of `lite.compress.baselines`, at the same
ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lite.compress.baselines import rule_scores, self_information
from lite.compress.classifier import CompressorModel
from lite.compress.select import join, random_scores, select, token_counts
from lite.compress.units import Unit, clauses, segment
from lite.config import Compress
from lite.errors import LiteError
from lite.models import pretrained, unsloth
from lite.run import Run
from lite.runtime.files import located_lines, parse_line, read_records, write_records
from lite.runtime.progress import console, progress
from lite.schema import Compressed, Trace
from lite.tokens import THINK_CLOSE, THINK_OPEN

ASKED = tuple(tenth / 10 for tenth in range(1, 10))
_CORRECTIONS = 3
_CHAINS = 256  # worked on together

Scores = Sequence[float] | np.ndarray  # one per unit of a text
Split = Callable[[str], list[Unit]]  # a text to its units
Encode = Callable[[Sequence[str]], list[list[tuple[int, int]]]]  # texts to the offsets of their tokens


def encoder(tokenizer) -> Encode:
    """Token offsets of texts in a Hugging Face tokenizer, in one call."""

    def encode(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        coded = tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
        )
        return coded["offset_mapping"]

    return encode


def cohere(text: str, scores: Scores, cohesion: float) -> np.ndarray:
    """Scores of the units of a text, each moved towards the mean of its clause: by all the way at cohesion 1.

    Words of a clause then stay or go together, and what is left reads as sentences; formulas stand alone.
    """
    moved = np.array(scores, dtype=float)  # (units,)
    for clause in clauses(text, segment(text)):
        moved[clause] += cohesion * (moved[clause].mean() - moved[clause])
    return moved


def token_splitter(encode: Encode) -> Split:
    """Cuts a text into its tokens, for selection that knows no formulas: the control "token-wise"."""

    def split(text: str) -> list[Unit]:
        [offsets] = encode([text])
        spans = [(a + len(text[a:b]) - len(text[a:b].lstrip()), b) for a, b in offsets]
        return [Unit(a, b, "word") for a, b in spans if a < b]

    return split


def choose(
    texts: Sequence[str],
    scores: Sequence[Scores],
    asked: Sequence[float],
    encode: Encode,
    split: Split = segment,
) -> list[list[tuple[list[int], int, int]]]:
    """The units of each text that stay at each asked ratio: (their indices, tokens they make, the original's tokens).

    Raises ValueError where a text has another number of units than of scores.
    """
    units = [split(text) for text in texts]
    for own, scored in zip(units, scores, strict=True):
        if len(own) != len(scored):
            raise ValueError(f"{len(scored)} scores for {len(own)} units")
    offsets = encode(texts)
    counts = [token_counts(own, found) for own, found in zip(units, offsets, strict=True)]
    plans = [(i, int(ratio * len(offsets[i]) + 1e-9)) for i in range(len(texts)) for ratio in asked]
    budgets = [target for _, target in plans]
    best: list[Any] = [None] * len(plans)  # (kept units, tokens)
    open_ = list(range(len(plans)))
    for _ in range(_CORRECTIONS):
        kept = [select(scores[i], counts[i], budgets[p]) for p in open_ for i in (plans[p][0],)]
        cut = [join(texts[plans[p][0]], units[plans[p][0]], own) for p, own in zip(open_, kept, strict=True)]
        lengths = [len(found) for found in encode(cut)] if cut else []
        wrong = []
        for p, chosen, length in zip(open_, kept, lengths, strict=True):
            target, known = plans[p][1], best[p]
            if known is None or abs(length - target) < abs(known[1] - target):
                best[p] = (chosen, length)
            if length != target:
                budgets[p] += target - length
                wrong.append(p)
        open_ = wrong
    found = iter(best)
    return [[(*next(found), len(offsets[i])) for _ in asked] for i in range(len(texts))]


def compress(
    texts: Sequence[str],
    scores: Sequence[Scores],
    asked: Sequence[float],
    encode: Encode,
    split: Split = segment,
) -> list[list[tuple[str, int, int]]]:
    """Cut each text to each asked ratio by its units' scores: (text, its tokens, the original's tokens); see `choose`."""
    chosen = choose(texts, scores, asked, encode, split)
    return [
        [(join(text, units, kept), num_tokens, whole) for kept, num_tokens, whole in row]
        for text, row in zip(texts, chosen, strict=True)
        for units in (split(text),)
    ]


@dataclass(frozen=True, slots=True)
class Chain:
    """A line of the input; the first of the three texts that is there is compressed."""

    id: str | int | None = None
    question: str | None = None
    think: str | None = None
    cot: str | None = None
    text: str | None = None


def load(folder: Path | str) -> CompressorModel:
    """The compressor in a folder that the stage `compressor` wrote, or in a run folder. Raises LiteError if none."""
    folder = Path(folder)
    in_run = folder / "compressor" / "model"
    return CompressorModel.load(in_run if in_run.is_dir() else folder)


def split_reply(text: str) -> tuple[str, str, str]:
    """What stands before the chain of thought of a text, the chain, and what follows it, tags included.

    A text without think tags is all chain.
    """
    head, opened, rest = text.partition(THINK_OPEN)
    if not opened:
        head, rest = "", text
    body, closed, tail = rest.partition(THINK_CLOSE)
    if not opened and not closed:
        return "", text, ""
    think = body.strip()
    start = body.find(think)
    return head + opened + body[:start], think, body[start + len(think) :] + closed + tail


def shorten(
    compressor: CompressorModel,
    cots: Sequence[str],
    questions: Sequence[str] | None = None,
    ratios: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    *,
    ids: Sequence[str] | None = None,
    tokenizer: Any = None,
    cohesion: float = Compress.cohesion,
) -> Iterator[Compressed]:
    """Each chain of thought at each ratio, in (0, 1]: for every chain one record per ratio, in the order given.

    A whole reply keeps its think tags and what stands around them; lengths and ratios are those of the think span.
    Lengths are counted in `tokenizer` (a fast Hugging Face one; give the target model's, default: the compressor's).
    `ids` default to the chains' places; see `cohere` for `cohesion`. Raises LiteError for a ratio out of range.
    """
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise LiteError(f"ratio {ratio}: must lie in (0, 1]")
    questions = [""] * len(cots) if questions is None else questions
    ids = list(map(str, range(len(cots)))) if ids is None else ids
    encode = encoder(tokenizer or compressor.tokenizer)
    for start in range(0, len(cots), _CHAINS):
        replies = [split_reply(cot) for cot in cots[start : start + _CHAINS]]
        own = [think for _, think, _ in replies]
        found = compressor.score(questions[start : start + _CHAINS], own)
        scores = [cohere(cot, units, cohesion) for cot, units in zip(own, found, strict=True)]
        rows = compress(own, scores, ratios, encode)
        for id, (head, _, tail), row in zip(ids[start : start + _CHAINS], replies, rows, strict=True):
            for asked, (think, num_tokens, whole) in zip(ratios, row, strict=True):
                realised = round(num_tokens / max(whole, 1), 4)
                yield Compressed(id, asked, realised, head + think + tail, num_tokens)


def shorten_file(
    source: Path, folder: Path | str, ratios: Sequence[float], tokenizer: str | None = None
) -> Iterator[Compressed]:
    """The chains of a JSONL file at each ratio. `tokenizer`: a model's name or folder. Raises LiteError."""
    ids: list[str] = []
    questions: list[str] = []
    cots: list[str] = []
    for number, (where, line) in enumerate(located_lines(source)):
        chain = parse_line(Chain, line, where)
        cot = chain.think or chain.cot or chain.text or ""
        if not cot.strip():
            raise LiteError(f"{where}: no chain of thought; give it as text under think, cot or text")
        ids.append(str(number if chain.id in ("", None) else chain.id))
        questions.append(chain.question or "")
        cots.append(cot)
    if not cots:
        raise LiteError(f"{source}: no chains of thought in it; write one JSON object per line")
    if num_replies := sum(split_reply(cot)[1] != cot for cot in cots):
        console.print(
            f"  {source}: {num_replies} of {len(cots)} are whole replies; their think spans are shortened, tags and"
            " answers stay"
        )
    counted = None
    if tokenizer is not None:
        counted = pretrained.load_tokenizer(pretrained.resolve(tokenizer), f"tokenizer {tokenizer!r}")
    compressor = load(folder)
    yield from shorten(compressor, cots, questions, ratios, ids=ids, tokenizer=counted)


def _scorer(run: Run, split: Split) -> Callable[[Sequence[Trace]], Sequence[Scores]]:
    """What scores the units of traces by the recipe's method."""
    config, seed = run.recipe.compress, run.recipe.seed
    if config.method == "random":
        return lambda traces: [random_scores(len(segment(t.think)), f"{seed}/{t.id}") for t in traces]
    if config.method == "rules":
        return lambda traces: [rule_scores(trace.think) for trace in traces]
    if config.method == "self-information":
        num_tokens = run.recipe.annotate.batch_tokens
        model, tokenizer = unsloth.load(run.recipe.model, max_tokens=num_tokens)
        return lambda traces: self_information(
            model, tokenizer, [t.question for t in traces], [t.think for t in traces], num_tokens
        )
    compressor = CompressorModel.load(run.path("compressor", "model"))

    def score(traces: Sequence[Trace]) -> list[np.ndarray]:
        thinks = [trace.think for trace in traces]
        found = compressor.score([trace.question for trace in traces], thinks, config.batch_size, split)
        if config.method == "token-wise":
            return found
        return [cohere(text, own, config.cohesion) for text, own in zip(thinks, found, strict=True)]

    return score


def run(ctx: Run) -> dict[str, Any]:
    """Compress all traces."""
    traces = [
        trace for trace in read_records(ctx.path("traces", "traces.jsonl"), Trace) if trace.think.strip()
    ]
    if not traces:
        raise LiteError(
            f"{ctx.path('traces', 'traces.jsonl')}: no traces to compress; run the stage traces again"
        )
    encode = encoder(unsloth.load_tokenizer(ctx.recipe.model))
    split = token_splitter(encode) if ctx.recipe.compress.method == "token-wise" else segment
    score = _scorer(ctx, split)
    records: list[Compressed] = []
    num_scored, seconds = 0, 0.0
    with progress("compress", len(traces), "traces") as meter:
        for start in range(0, len(traces), _CHAINS):
            batch = traces[start : start + _CHAINS]
            thinks = [trace.think for trace in batch]
            started = time.monotonic()
            scores = score(batch)
            seconds += time.monotonic() - started
            for trace, row in zip(batch, compress(thinks, scores, ASKED, encode, split), strict=True):
                num_scored += row[0][2]
                for asked, (think, num_tokens, whole) in zip(ASKED, row, strict=True):
                    records.append(
                        Compressed(trace.id, asked, round(num_tokens / whole, 4), think, num_tokens)
                    )
            meter.advance(len(batch))
    write_records(ctx.path("compress", "compressed.jsonl"), records)
    miss = sum(abs(record.realised - record.asked) for record in records) / len(records)
    return {
        "traces": len(traces),
        "mean_miss": round(miss, 4),
        "tokens_per_s": round(num_scored / max(seconds, 1e-9)),  # scored, in the target model's tokens
    }
