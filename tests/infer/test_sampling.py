"""Nucleus sampling, by hand."""

from __future__ import annotations

import numpy as np

from lite.infer.sampling import sample


def test_sample_by_hand():
    chances = np.array([0.2, 0.5, 0.3])
    logits = np.log(np.tile(chances, (5, 1))).astype(np.float32)
    # Ranked 1 (0.5), 2 (0.3), 0 (0.2): cumulative 0.5, 0.8, 1.0.
    draws = np.array([0.0, 0.49, 0.51, 0.79, 0.81])
    assert sample(logits, draws, 1.0, 1.0).tolist() == [1, 1, 2, 2, 0]
    # top_p 0.6 keeps 1 and 2: cumulative 0.5 / 0.8 = 0.625, 1.0.
    assert sample(logits, np.array([0.0, 0.62, 0.63, 0.99, 0.9999]), 1.0, 0.6).tolist() == [1, 1, 2, 2, 2]
    assert sample(logits, draws, 1.0, 0.5).tolist() == [1] * 5  # the first reaches 0.5 by itself
    # Temperature 0.5 squares: 0.25, 0.09, 0.04 of 0.38: cumulative 0.658, 0.895, 1.
    assert sample(logits, np.array([0.65, 0.67, 0.89, 0.9, 0.99]), 0.5, 1.0).tolist() == [1, 2, 2, 0, 0]


def test_every_row_has_its_own_heat_and_nucleus():
    logits = np.log(np.tile([0.2, 0.5, 0.3], (3, 1))).astype(np.float32)
    draws = np.full(3, 0.85)
    heat, nucleus = np.array([1.0, 0.5, 1.0]), np.array([1.0, 1.0, 0.5])
    assert sample(logits, draws, heat, nucleus).tolist() == [0, 2, 1]


def test_next_to_no_heat_is_greedy():
    logits = np.array([[3.0, 700.0, 699.0]], np.float32)
    assert sample(logits, np.array([0.99]), 1e-6, 1.0).tolist() == [1]


def test_sample_widens_until_the_nucleus_is_whole():
    logits = np.zeros((2, 3000), np.float32)  # flat: the nucleus of 0.9 holds 2,700 tokens
    logits[1, 7] = 30.0
    assert sample(logits, np.array([0.5, 0.5]), 1.0, 0.9).tolist() == [1350, 7]
