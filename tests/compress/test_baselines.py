"""The controls' scores."""

from __future__ import annotations

import numpy as np
import pytest

from lite.compress.baselines import rule_scores, self_information
from lite.compress.units import segment


def test_rules_rank_formulas_numbers_words():
    assert rule_scores("So 12 + 5 = 17. Thus 17 apples remain.") == [0, 2, 0, 1, 0, 0]


def test_self_information_is_each_units_mean_surprise(reasoner, tokenizer):
    import torch

    question, cot = "How many?", "So 12 + 5 = 17. Then go on."
    [scores] = self_information(reasoner, tokenizer, [question], [cot], 512)
    head = tokenizer.encode(f"{question}\n", add_special_tokens=False)
    coded = tokenizer(cot, add_special_tokens=False, return_offsets_mapping=True)
    ids = head + coded["input_ids"]
    with torch.inference_mode():
        log_p = reasoner(torch.tensor([ids])).logits[0].log_softmax(-1)
    surprise = [-log_p[at - 1, ids[at]].item() for at in range(len(head), len(ids))]
    units = segment(cot)
    starts = [unit.start for unit in units[1:]] + [len(cot) + 1]
    begin = 0
    for start, score in zip(starts, scores, strict=True):  # white space alone belongs to the unit before it
        own = [
            value
            for value, (_, end) in zip(surprise, coded["offset_mapping"], strict=True)
            if begin < end <= start
        ]
        assert score == pytest.approx(np.mean(own), abs=1e-4)
        begin = start
    assert len(self_information(reasoner, tokenizer, ["q"], [""], 512)[0]) == 0
