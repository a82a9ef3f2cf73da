"""The compressor: a token classifier, KEEP or DROP, and the scores that it gives the units of a chain of thought.

Its input is question and chain; the question is context only (paper, section on the compressor; there a Longformer).
Two kinds are saved: an encoder, and the recipe's base model with LoRA and a two-class head. A causal model sees only to
the left, so that one reads the chain twice: first as context, then to be labelled. A unit's score is the mean KEEP
probability of its tokens, where the authors' scripts rank by the KEEP logit alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lite.compress.select import owners
from lite.compress.units import segment
from lite.errors import LiteError
from lite.models import classifier, pretrained
from lite.runtime.files import atomic_folder, parse_line, write_json

ORIGIN = "compressor.json"  # beside an adapter: what it belongs to


@dataclass(frozen=True, slots=True)
class Window:
    """One input of the classifier: question, a piece of a chain of thought (twice for a causal model), separators."""

    ids: list[int]
    begin: int  # where the piece that is labelled begins in `ids`
    offsets: list[tuple[int, int]]  # (tokens of the piece,) characters of the chain of thought


@dataclass(frozen=True, slots=True)
class Origin:
    """The causal model that a saved adapter belongs to."""

    base: str  # as a recipe's `model`
    four_bit: bool
    window_tokens: int


def windows(
    tokenizer: Any, questions: Sequence[str], cots: Sequence[str], max_tokens: int, *, twice: bool = False
) -> list[list[Window]]:
    """The classifier's inputs for each pair; a chain too long for one is cut at unit borders.

    `twice`: the piece stands there as context, then once more to be labelled. The question gets at most half of a
    window; a single unit longer than the rest is seen in part.
    """
    heads = tokenizer(list(questions), add_special_tokens=False)["input_ids"]
    coded = tokenizer(list(cots), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    first = [tokenizer.cls_token_id] if tokenizer.cls_token_id is not None else []
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    copies = 2 if twice else 1
    result = []
    for head, cot, ids, offsets in zip(heads, cots, coded["input_ids"], coded["offset_mapping"], strict=True):
        prefix = [*first, *head[: max_tokens // 2 - 2], separator]
        room = (max_tokens - len(prefix)) // copies - 1
        owner = owners(segment(cot), offsets)
        borders = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(ids)]
        pieces, begin = [], 0
        for border, following in zip(borders[1:], [*borders[2:], None], strict=True):
            if following is None or following - begin > room:
                pieces.append((begin, border))
                begin = border
        group = []
        for a, b in pieces:
            piece = [*ids[a:b][:room], separator]
            group.append(
                Window(prefix + piece * copies, len(prefix) + len(piece) * (copies - 1), offsets[a:b][:room])
            )
        result.append(group)
    return result


def collate(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
    """Ids of several inputs as `input_ids` and `attention_mask`, both (B, T), padded right."""
    import torch

    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
    }


class CompressorModel:
    """A trained (or fresh) token classifier with its tokenizer; `origin` where it is an adapter of a causal model."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int, origin: Origin | None = None):
        self.model, self.tokenizer, self.origin = model, tokenizer, origin
        shape = model.config.get_text_config()
        self.max_tokens = min(max_tokens, shape.max_position_embeddings, tokenizer.model_max_length)

    @classmethod
    def load(cls, folder: Path) -> CompressorModel:
        """Load what the stage saved. Raises LiteError where it is not that."""
        import torch
        from transformers import AutoModelForTokenClassification

        config = ORIGIN if (folder / ORIGIN).is_file() else "config.json"
        for name in (config, "tokenizer.json"):
            if not (folder / name).is_file():
                raise LiteError(
                    f"{folder}: no compressor there (no {name}); name a run's folder, or run its stage"
                )
        if config == ORIGIN:
            origin = parse_line(Origin, (folder / ORIGIN).read_text(encoding="utf-8"), f"{folder / ORIGIN}")
            model, tokenizer = classifier.load(
                origin.base, max_tokens=origin.window_tokens, four_bit=origin.four_bit, adapter=folder
            )
            return cls(model, tokenizer, origin.window_tokens, origin)
        tokenizer = pretrained.load_tokenizer(folder, f"compressor {folder}")
        model = pretrained.load_model(AutoModelForTokenClassification, folder, f"compressor {folder}")
        if model.config.num_labels != 2:
            raise LiteError(
                f"{folder}: no compressor there ({model.config.num_labels} labels, not KEEP and DROP)"
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        window = getattr(model.config, "window_tokens", model.config.max_position_embeddings)
        return cls(model.to(device).eval(), tokenizer, window)

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder, or an adapter and what it belongs to, under a temporary name, then rename it."""
        with atomic_folder(folder) as temporary:
            if self.origin is None:
                self.model.config.window_tokens = self.max_tokens  # its own; the encoder may take more
                self.model.save_pretrained(temporary)
            else:
                write_json(temporary / ORIGIN, dataclasses.asdict(self.origin))
                self.model.save_pretrained(str(temporary), save_embedding_layers=False)
            self.tokenizer.save_pretrained(temporary)
            (temporary / "README.md").unlink(missing_ok=True)  # PEFT's empty model card

    def windows(self, questions: Sequence[str], cots: Sequence[str]) -> list[list[Window]]:
        """What the model reads of each pair; see `windows`."""
        return windows(self.tokenizer, questions, cots, self.max_tokens, twice=self.origin is not None)

    def probabilities(self, inputs: Sequence[Window], batch_size: int) -> list[np.ndarray]:
        """KEEP probability of the tokens of each window's piece."""
        import torch

        device = self.model.device
        results: list[np.ndarray] = [np.zeros(0)] * len(inputs)
        order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i].ids))
        self.model.eval()
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([inputs[i].ids for i in chosen], self.tokenizer.pad_token_id)
            with torch.inference_mode(), classifier.half_on_cuda(device):
                logits = self.model(**{name: value.to(device) for name, value in batch.items()}).logits
            keep = logits.float().softmax(-1)[..., 1].cpu().numpy()  # (B, T)
            for row, i in enumerate(chosen):
                results[i] = keep[row, inputs[i].begin : inputs[i].begin + len(inputs[i].offsets)]
        return results

    def score(
        self, questions: Sequence[str], cots: Sequence[str], batch_size: int = 64, split=segment
    ) -> list[np.ndarray]:
        """Keep probability of each unit of `split(cot)`: the mean over its tokens, (units,) for each chain."""
        nested = self.windows(questions, cots)
        found = iter(self.probabilities([window for group in nested for window in group], batch_size))
        scores = []
        for cot, group in zip(cots, nested, strict=True):
            units = split(cot)
            total, count = np.zeros(len(units)), np.zeros(len(units))
            for window in group:
                owner = owners(units, window.offsets)
                keep = next(found)
                if len(units):
                    total += np.bincount(owner, weights=keep, minlength=len(units))
                    count += np.bincount(owner, minlength=len(units))
            mean = total / np.maximum(count, 1)
            for index in range(
                len(units) - 2, -1, -1
            ):  # a unit inside the following one's token shares its score
                if count[index] == 0:
                    mean[index] = mean[index + 1]
            scores.append(mean)
        return scores
