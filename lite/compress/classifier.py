"""Stage `compressor`: a token classifier that learns KEEP / DROP, and the model that scores units with it.

Takes Labels, gives a Hugging Face folder `compressor/model`. Input is `question + chain of thought`; the
question is context only, its labels are ignored (paper, section on the compressor; there a Longformer).
Class-weighted focal loss, selection by macro-F1 on held-out traces. Where this departs: any encoder with a fast
tokenizer serves, or "tiny", a small ModernBERT trained from scratch on the base model's own tokenizer; and a
unit's score is the mean KEEP probability of its tokens, where the authors' scripts rank by the KEEP logit alone.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lite import config as recipe
from lite.compress.select import owners
from lite.compress.units import segment
from lite.errors import LiteError
from lite.models import pretrained, unsloth
from lite.run import Run
from lite.runtime.files import atomic_folder, read_records
from lite.runtime.progress import progress
from lite.schema import Labels
from lite.tokens import IGNORED

TINY = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}


@dataclass(frozen=True, slots=True)
class Window:
    """One input of the encoder: prefix with the question, a piece of a chain of thought, suffix."""

    ids: list[int]
    begin: int  # where the piece begins in `ids`
    offsets: list[tuple[int, int]]  # (tokens of the piece,) characters of the chain of thought


def windows(tokenizer, questions: Sequence[str], cots: Sequence[str], max_tokens: int) -> list[list[Window]]:
    """The encoder's inputs for each pair; a chain too long for one is cut at unit borders.

    The question gets at most half of a window; a single unit longer than the rest is seen in part.
    """
    heads = tokenizer(list(questions), add_special_tokens=False)["input_ids"]
    coded = tokenizer(list(cots), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    first = [tokenizer.cls_token_id] if tokenizer.cls_token_id is not None else []
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    result = []
    for head, cot, ids, offsets in zip(heads, cots, coded["input_ids"], coded["offset_mapping"], strict=True):
        prefix = [*first, *head[: max_tokens // 2 - 2], separator]
        room = max_tokens - len(prefix) - 1
        owner = owners(segment(cot), offsets)
        borders = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(ids)]
        pieces, begin = [], 0
        for border, following in zip(borders[1:], [*borders[2:], None], strict=True):
            if following is None or following - begin > room:
                pieces.append((begin, border))
                begin = border
        result.append(
            [
                Window([*prefix, *ids[a:b][:room], separator], len(prefix), offsets[a:b][:room])
                for a, b in pieces
            ]
        )
    return result


def token_labels(keep: Sequence[Sequence[int]], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """1 for a token that overlaps a kept character, else 0 (source: the authors' alignment)."""
    return [int(any(start < b and a < end for start, end in keep)) for a, b in offsets]


def macro_f1(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Mean of the F1 of DROP (0) and of KEEP (1); a class that neither has counts as 1."""
    scores = []
    for label in (0, 1):
        hits = int(np.sum((predicted == label) & (gold == label)))
        size = int(np.sum(predicted == label) + np.sum(gold == label))
        scores.append(2 * hits / size if size else 1.0)
    return float(np.mean(scores))


def focal_loss(logits, labels, weights, gamma: float):
    """Class-weighted focal loss (Lin et al. 2017): mean of -w (1 - p)^gamma log p over labelled tokens.

    logits (B, T, 2), labels (B, T) with IGNORED, weights (2,).
    """
    import torch

    seen = labels != IGNORED
    log_p = torch.log_softmax(logits[seen].float(), dim=-1)  # (N, 2)
    gold = labels[seen]
    log_p = log_p.gather(1, gold[:, None])[:, 0]
    weight = weights[gold]
    return -(weight * (1 - log_p.exp()) ** gamma * log_p).sum() / weight.sum()


def _collate(batch: Sequence[Window], pad: int, device):
    """Ids and mask, both (B, T), padded right."""
    import torch

    width = max(len(window.ids) for window in batch)
    ids = torch.tensor([w.ids + [pad] * (width - len(w.ids)) for w in batch], device=device)
    mask = torch.tensor([[1] * len(w.ids) + [0] * (width - len(w.ids)) for w in batch], device=device)
    return ids, mask


def _logits(model, ids, mask):
    """Logits (B, T, 2); half precision on CUDA only."""
    import torch

    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=ids.device.type == "cuda"):
        return model(input_ids=ids, attention_mask=mask).logits


class CompressorModel:
    """A trained (or fresh) token classifier with its tokenizer."""

    def __init__(self, model, tokenizer, max_tokens: int):
        self.model, self.tokenizer = model, tokenizer
        self.max_tokens = min(max_tokens, model.config.max_position_embeddings, tokenizer.model_max_length)

    @classmethod
    def build(cls, config: recipe.Compressor, base: str) -> CompressorModel:
        """The encoder of a recipe, before training; `base` gives the tokenizer of "tiny"."""
        unsloth.prepare()
        import torch
        from transformers import AutoModelForTokenClassification

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if config.encoder == "tiny":
            return cls.tiny(unsloth.load_tokenizer(base), config.max_tokens, device)
        what = f"compressor.encoder = {config.encoder!r}"
        tokenizer = pretrained.load_tokenizer(config.encoder, what)
        model = pretrained.load_model(
            AutoModelForTokenClassification, config.encoder, what, new_head=True, num_labels=2
        )
        return cls(model.to(device), tokenizer, config.max_tokens)

    @classmethod
    def tiny(cls, tokenizer, max_tokens: int, device: str = "cpu") -> CompressorModel:
        """A small ModernBERT with random weights."""
        from transformers import ModernBertConfig, ModernBertForTokenClassification

        shape = ModernBertConfig(
            **TINY,
            vocab_size=len(tokenizer),
            max_position_embeddings=max_tokens,
            global_attn_every_n_layers=3,
            local_attention=32,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=None,
            cls_token_id=None,
            sep_token_id=None,
            num_labels=2,
        )
        return cls(ModernBertForTokenClassification(shape).to(device), tokenizer, max_tokens)

    @classmethod
    def load(cls, folder: Path) -> CompressorModel:
        """Load what the stage saved. Raises LiteError where it is not that."""
        import torch
        from transformers import AutoModelForTokenClassification

        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise LiteError(
                    f"{folder}: no compressor there (no {name}); name a run's folder, or run its stage"
                )
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
        """Write the Hugging Face folder under a temporary name, then rename it."""
        self.model.config.window_tokens = self.max_tokens  # what it was trained on; the encoder may take more
        with atomic_folder(folder) as temporary:
            self.model.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)

    def probabilities(self, inputs: Sequence[Window], batch_size: int) -> list[np.ndarray]:
        """KEEP probability of the tokens of each window's piece."""
        import torch

        results: list[np.ndarray] = [np.zeros(0)] * len(inputs)
        order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i].ids))
        self.model.eval()
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids, mask = _collate([inputs[i] for i in chosen], self.tokenizer.pad_token_id, self.model.device)
            with torch.inference_mode():
                keep = _logits(self.model, ids, mask).float().softmax(-1)[..., 1].cpu().numpy()  # (B, T)
            for row, i in enumerate(chosen):
                results[i] = keep[row, inputs[i].begin : inputs[i].begin + len(inputs[i].offsets)]
        return results

    def score(self, questions: Sequence[str], cots: Sequence[str], batch_size: int = 64) -> list[np.ndarray]:
        """Keep probability of each unit of `segment(cot)`: the mean over its tokens, (units,) for each chain."""
        nested = windows(self.tokenizer, questions, cots, self.max_tokens)
        flat = [window for group in nested for window in group]
        found = iter(self.probabilities(flat, batch_size))
        scores = []
        for cot, group in zip(cots, nested, strict=True):
            units = segment(cot)
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

    def train(self, labels: Sequence[Labels], config: recipe.Compressor, seed: int) -> dict[str, float]:
        """Fit to labels; the weights with the best macro-F1 on held-out traces stay."""
        import torch

        if len(labels) < 2:
            raise LiteError(
                f"compressor: {len(labels)} labelled traces; at least 2 are needed to hold one out"
            )
        rng = random.Random(seed)
        torch.manual_seed(seed)
        records = list(labels)
        rng.shuffle(records)
        nested = windows(
            self.tokenizer, [r.question for r in records], [r.think for r in records], self.max_tokens
        )
        examples = [
            [(w, token_labels(r.keep, w.offsets)) for w in group]
            for r, group in zip(records, nested, strict=True)
        ]
        num_held_out = min(max(1, round(config.held_out * len(examples))), len(examples) - 1)
        held_out = [pair for group in examples[:num_held_out] for pair in group]
        seen = [pair for group in examples[num_held_out:] for pair in group]
        keep_share = sum(sum(gold) for _, gold in seen) / max(1, sum(len(gold) for _, gold in seen))
        device = self.model.device
        weights = torch.tensor([1 / max(1 - keep_share, 0.01), 1 / max(keep_share, 0.01)], device=device) / 2
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        per_epoch = -(-len(seen) // config.batch_size)
        steps = per_epoch * config.epochs
        warm = max(1, round(config.warmup * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        )
        gold = np.concatenate([np.array(labels) for _, labels in held_out])
        best, best_state, since, epochs = -1.0, None, 0, 0
        with progress("compressor", steps, "steps") as meter:
            for epochs in range(1, config.epochs + 1):  # noqa: B007
                self.model.train()
                for batch in _batches(seen, config.batch_size, rng):
                    ids, mask = _collate([w for w, _ in batch], self.tokenizer.pad_token_id, device)
                    wanted = torch.full_like(ids, IGNORED)
                    for row, (window, targets) in enumerate(batch):
                        wanted[row, window.begin : window.begin + len(targets)] = torch.tensor(targets)
                    loss = focal_loss(_logits(self.model, ids, mask), wanted, weights, config.focal_gamma)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
                    meter.advance(1, f"loss {loss.item():.3f}, macro-F1 {max(best, 0):.3f}")
                found = self.probabilities([w for w, _ in held_out], config.batch_size)
                score = macro_f1(np.concatenate(found) >= 0.5, gold)
                since = 0 if score > best else since + 1
                if score > best:
                    best, best_state = score, copy.deepcopy(self.model.state_dict())
                if since >= config.patience:
                    break
        assert best_state is not None
        self.model.load_state_dict(best_state)
        return {"macro_f1": round(best, 3), "keep_share": round(keep_share, 3), "epochs": epochs}


def _batches(pairs: list, size: int, rng: random.Random) -> list[list]:
    """Shuffled batches of pairs of similar length."""
    order = sorted(pairs, key=lambda pair: len(pair[0].ids) * rng.uniform(0.9, 1.1))
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(groups)
    return groups


def run(ctx: Run) -> dict[str, Any]:
    """Train on `annotate/labels.jsonl`. Short enough to start again from the labels after a cut."""
    import torch

    labels = read_records(ctx.path("annotate", "labels.jsonl"), Labels)
    torch.manual_seed(ctx.recipe.seed)  # the head (and all of "tiny") starts from random weights
    compressor = CompressorModel.build(ctx.recipe.compressor, ctx.recipe.model)
    measured = compressor.train(labels, ctx.recipe.compressor, ctx.recipe.seed)
    compressor.save(ctx.path("compressor", "model"))
    return measured
