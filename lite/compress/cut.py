"""Compress chains of thought with a trained compressor, outside of a run: `lite compress` and the Python API.

Takes JSONL with a chain of thought under `think`, `cot` or `text`, and, where it is known, its `question`, which the
compressor reads as context. Gives a Compressed record for each chain and ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite import config
from lite.compress.classifier import CompressorModel
from lite.compress.compress import cohere, compress, encoder
from lite.errors import LiteError
from lite.models import pretrained, unsloth
from lite.runtime.files import Compressed, located_lines, parse_line

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


def shorten(
    compressor: CompressorModel,
    cots: Sequence[str],
    questions: Sequence[str] | None = None,
    ratios: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    *,
    ids: Sequence[str] | None = None,
    tokenizer: Any = None,
    cohesion: float = config.Compress.cohesion,
) -> Iterator[Compressed]:
    """Each chain of thought at each ratio, in (0, 1]: for every chain one record per ratio, in the order given.

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
        own = cots[start : start + _CHAINS]
        found = compressor.score(questions[start : start + _CHAINS], own)
        scores = [cohere(cot, units, cohesion) for cot, units in zip(own, found, strict=True)]
        for id, row in zip(ids[start : start + _CHAINS], compress(own, scores, ratios, encode), strict=True):
            for asked, (think, num_tokens, whole) in zip(ratios, row, strict=True):
                yield Compressed(id, asked, round(num_tokens / max(whole, 1), 4), think, num_tokens)


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
    counted = None
    if tokenizer is not None:
        counted = pretrained.load_tokenizer(unsloth.resolve(tokenizer), f"tokenizer {tokenizer!r}")
    compressor = load(folder)
    yield from shorten(compressor, cots, questions, ratios, ids=ids, tokenizer=counted)
