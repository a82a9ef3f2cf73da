"""Compress chains of thought with a trained compressor, outside of a run: `lite compress` and the Python API.

Takes JSONL with a chain of thought under `think`, `cot` or `text`, and, where it is known, its `question`, which the
compressor reads as context. Gives a Compressed record for each chain and ratio. Of a whole reply only the think span
is shortened; its tags, and what stands around them, stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite import backend, pretrained, recipe
from lite.compress.compress import cohere, compress, encoder
from lite.compress.compressor import CompressorModel
from lite.errors import LiteError
from lite.progress import console
from lite.records import Compressed, located_lines, parse_line
from lite.tokens import THINK_CLOSE, THINK_OPEN

_CHAINS = 256  # worked on together


@dataclass(frozen=True, slots=True)
class Chain:
    """A line of the input; the first of the three texts that is there is compressed."""

    id: Any = ""
    question: Any = ""
    think: Any = ""
    cot: Any = ""
    text: Any = ""


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
    cohesion: float = recipe.Compress.cohesion,
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
                yield Compressed(
                    id, asked, round(num_tokens / max(whole, 1), 4), head + think + tail, num_tokens
                )


def shorten_file(
    source: Path, folder: Path | str, ratios: Sequence[float], tokenizer: str | None = None
) -> Iterator[Compressed]:
    """The chains of a JSONL file at each ratio. `tokenizer`: a model's name or folder. Raises LiteError."""
    ids, questions, cots = [], [], []
    for number, (where, line) in enumerate(located_lines(source)):
        chain = parse_line(Chain, line, where)
        cot = chain.think or chain.cot or chain.text
        if not isinstance(cot, str) or not cot.strip():
            raise LiteError(f"{where}: no chain of thought; give it as text under think, cot or text")
        question = "" if chain.question is None else chain.question
        if not isinstance(question, str):
            raise LiteError(f"{where}: question = {str(question)[:60]}: must be text")
        id = str(number if chain.id in ("", None) else chain.id)
        try:
            f"{id}{question}{cot}".encode()
        except UnicodeEncodeError:  # a lone surrogate
            raise LiteError(f"{where}: has half a character; write the whole one, or none") from None
        ids.append(id)
        questions.append(question)
        cots.append(cot)
    if not cots:
        raise LiteError(f"{source}: no chains of thought in it; write one JSON object per line")
    num_replies = sum(split_reply(cot)[1] != cot for cot in cots)
    if num_replies:
        console.print(
            f"  {source}: {num_replies} of {len(cots)} are whole replies; their think spans are shortened, tags and"
            " answers stay"
        )
    counted = None
    if tokenizer is not None:
        counted = pretrained.load_tokenizer(backend.resolve(tokenizer), f"tokenizer {tokenizer!r}")
    compressor = load(folder)
    yield from shorten(compressor, cots, questions, ratios, ids=ids, tokenizer=counted)
