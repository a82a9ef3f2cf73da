"""Log-probabilities: the tree gives what each sequence alone gives."""

from __future__ import annotations

import numpy as np
import pytest

from lite.compress.logprobs import Scored, _padded, log_p, trees

SEQUENCES = [
    Scored([5, 6, 7, 8], [3]),
    Scored([5, 6, 9], [1, 2]),
    Scored([5, 6, 7, 8, 10, 11], [4, 5]),
    Scored([20, 21], [1]),
    Scored([5, 6, 9], [2]),  # the same again
    Scored([5], []),
]


def test_a_common_beginning_is_there_once():
    [tree] = trees(SEQUENCES, 100)
    assert len(tree.ids) == len([5, 6, 7, 8, 10, 11]) + len([9]) + len([20, 21])
    spelled = {index: [tree.ids[at] for at in path] for index, path in tree.paths}
    assert spelled == {index: one.ids for index, one in enumerate(SEQUENCES)}
    for _, path in tree.paths:
        assert [tree.place[at] for at in path] == list(range(len(path)))
        for depth, at in enumerate(path):
            assert np.flatnonzero(tree.mask()[at]).tolist() == sorted(path[: depth + 1])


def test_no_tree_is_larger_than_asked():
    parts = list(trees(SEQUENCES, 5))
    assert all(len(tree.ids) <= max(5, len(tree.paths[0][1]) + 2) for tree in parts)
    assert sorted(index for tree in parts for index, _ in tree.paths) == list(range(len(SEQUENCES)))


def test_a_beginning_longer_than_a_tree_is_shared_too():
    long = [Scored([*range(20), 30 + last], [20]) for last in range(8)]
    assert [len(tree.ids) for tree in trees(long, 8)] == [25, 23]


@pytest.mark.parametrize("num_tokens", [4, 9, 64])
def test_each_sequence_is_scored_as_if_alone(reasoner, num_tokens):
    import torch

    found = log_p(reasoner, 0, SEQUENCES, num_tokens)
    for one, values in zip(SEQUENCES, found, strict=True):
        with torch.inference_mode():
            logits = reasoner(torch.tensor([one.ids])).logits[0].log_softmax(-1)
        alone = [logits[at - 1, one.ids[at]].item() for at in one.targets]
        assert values == pytest.approx(alone, abs=1e-4)
    for padded, values in zip(_padded(reasoner, 0, SEQUENCES), found, strict=True):  # what CUDA does
        assert padded == pytest.approx(values, abs=1e-4)
