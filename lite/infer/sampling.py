"""Which token comes next: the likeliest, or one drawn from the nucleus."""

from __future__ import annotations

import numpy as np


def greedy(logits: np.ndarray) -> np.ndarray:
    """The likeliest token of each row. logits (rows, V) -> ids (rows,)."""
    return logits.argmax(axis=1)


def sample(
    logits: np.ndarray, uniform: np.ndarray, temperature: np.ndarray | float, top_p: np.ndarray | float
) -> np.ndarray:
    """One token a row from the smallest set of likeliest tokens whose probability reaches `top_p`.

    logits (rows, V); uniform in [0, 1), temperature > 0 and top_p, each (rows,) -> ids (rows,). Nucleus
    sampling by the inverse of the cumulative distribution: the same number drawn gives the same token
    whatever else is in the batch.
    """
    temperature, top_p = (np.broadcast_to(value, len(logits))[:, None] for value in (temperature, top_p))
    below = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)  # (rows, V), at most 0
    chance = np.exp(below / temperature)
    chance /= chance.sum(axis=1, keepdims=True)
    num, size = 64, chance.shape[1]
    while True:  # widen until the candidates hold the nucleus of every row
        num = min(num, size)
        part = np.argpartition(-chance, num - 1, axis=1)[:, :num] if num < size else np.arange(size)[None]
        part = np.sort(part, axis=1)  # equal chances rank by id
        best = np.take_along_axis(chance, np.broadcast_to(part, (len(chance), num)), axis=1)
        rank = np.argsort(-best, axis=1, kind="stable")
        best = np.take_along_axis(best, rank, axis=1)
        total = best.cumsum(axis=1)
        if num == size or (total[:, -1:] >= top_p).all():
            break
        num *= 16
    inside = total - best < top_p  # the token that crosses top_p belongs to the nucleus
    mass = np.where(inside, total, 0).max(axis=1)
    place = (total <= (uniform * mass)[:, None]).sum(axis=1)
    place = np.minimum(place, inside.sum(axis=1) - 1)
    token = np.take_along_axis(rank, place[:, None], axis=1)[:, 0]
    return np.broadcast_to(part, (len(chance), num))[np.arange(len(chance)), token]
