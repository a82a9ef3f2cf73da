"""Log-probabilities of chosen tokens of many sequences under a causal language model.

Takes token ids and positions, gives log p in nats. What sequences have in common at their beginning, such as the
question before a hundred shortened chains, is computed once: the sequences form a tree, its tokens go through the
model in one row, and each attends to its ancestors only. On a CPU that is several times as fast as a padded batch.
On CUDA Unsloth's attention takes no mask of ours, and padded rows are fast enough there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Scored:
    """Token ids, and the positions among them whose log p is asked; none is the first."""

    ids: list[int]
    targets: list[int]


@dataclass
class _Tree:
    """Tokens of several sequences, each once. `place` of a token is its position in its sequence."""

    ids: list[int] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    paths: list[tuple[int, list[int]]] = field(
        default_factory=list
    )  # index of a sequence, its tokens in the tree

    def add(self, index: int, ids: Sequence[int], shared: int) -> None:
        """Add a sequence whose first `shared` tokens are those of the one before."""
        new = len(ids) - shared
        path = [*(self.paths[-1][1][:shared] if shared else ()), *range(len(self.ids), len(self.ids) + new)]
        self.ids += ids[shared:]
        self.place += range(shared, len(ids))
        self.paths.append((index, path))

    def mask(self) -> np.ndarray:
        """(tokens, tokens) bool: what each token attends to."""
        seen: np.ndarray = np.zeros((len(self.ids), len(self.ids)), bool)
        for _, path in self.paths:
            seen[np.ix_(path, path)] |= np.tri(len(path), dtype=bool)
        return seen


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def trees(sequences: Sequence[Scored], num_tokens: int) -> Iterator[_Tree]:
    """The sequences as trees of at most `num_tokens` tokens each; a long sequence has room for half as many beside it."""
    tree, first = _Tree(), 0
    before: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda i: sequences[i].ids):
        ids = sequences[index].ids
        shared = _common(before, ids) if tree.paths else 0
        if tree.paths and len(tree.ids) + len(ids) - shared > max(num_tokens, first + num_tokens // 2):
            yield tree
            tree, shared = _Tree(), 0
        first = first if tree.paths else len(ids)
        tree.add(index, ids, shared)
        before = ids
    if tree.paths:
        yield tree


def _rows(sequences: Sequence[Scored], num_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences of similar length, at most `num_tokens` with their padding."""
    batch: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda i: -len(sequences[i].ids)):
        if batch and (len(batch) + 1) * len(sequences[batch[0]].ids) > num_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def log_p(model: Any, pad: int, sequences: Sequence[Scored], num_tokens: int) -> list[np.ndarray]:
    """Log p (nats) of each sequence's targets, given what stands before them: (targets,) for each.

    `num_tokens`: tokens in one forward pass.
    """
    results = [np.zeros(0)] * len(sequences)
    if model.device.type == "cuda":
        for batch in _rows(sequences, num_tokens):
            for index, values in zip(batch, _padded(model, pad, [sequences[i] for i in batch]), strict=True):
                results[index] = values
        return results
    for tree in trees(sequences, num_tokens):
        paths = [path for _, path in tree.paths]
        wanted = [(path, sequences[index].targets) for index, path in tree.paths]
        places = [[path[at - 1] for at in targets] for path, targets in wanted]
        gold = [[tree.ids[path[at]] for at in targets] for path, targets in wanted]
        found = _forward(
            model, [tree.ids], [tree.place], tree.mask()[None, None], places, gold, [0] * len(paths)
        )
        for (index, _), values in zip(tree.paths, found, strict=True):
            results[index] = values
    return results


def _padded(model, pad: int, batch: Sequence[Scored]) -> list[np.ndarray]:
    """The same on padded rows."""
    width = max(len(one.ids) for one in batch)
    ids = [one.ids + [pad] * (width - len(one.ids)) for one in batch]
    mask = np.array([[1] * len(one.ids) + [0] * (width - len(one.ids)) for one in batch])
    places = [[at - 1 for at in one.targets] for one in batch]
    gold = [[one.ids[at] for at in one.targets] for one in batch]
    return _forward(model, ids, None, mask, places, gold, list(range(len(batch))))


def _forward(model, ids, positions, mask, places, gold, rows) -> list[np.ndarray]:
    """One pass; logits are made at the wanted places only.

    ids (B, T), mask (B, T) or (B, 1, T, T); sequence i is asked at `places[i]` of row `rows[i]`.
    """
    import torch

    device = model.device
    more = {} if positions is None else {"position_ids": torch.tensor(positions, device=device)}
    flat_rows = torch.tensor([row for row, own in zip(rows, places, strict=True) for _ in own], device=device)
    flat_places = torch.tensor([at for own in places for at in own], device=device, dtype=torch.long)
    wanted = torch.tensor([token for own in gold for token in own], device=device)
    if not len(wanted):
        return [np.zeros(0) for _ in places]
    mask = torch.tensor(mask, device=device)
    if mask.ndim == 4:  # added to the scores, which every attention of transformers does alike
        mask = torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, torch.finfo(model.dtype).min)
    with torch.inference_mode():
        hidden = model.get_decoder()(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=mask,
            use_cache=False,
            **more,
        ).last_hidden_state  # (B, T, d)
        logits = model.get_output_embeddings()(hidden[flat_rows, flat_places]).float()  # (targets, V)
        values = -torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    return np.split(values.cpu().numpy(), np.cumsum([len(own) for own in places])[:-1])
