"""What a trained compressor is measured against: scores of units that nothing was trained for.

All give one score per unit of `segment(cot)`; `lite.compress.compress` cuts by them as it does by the trained ones,
so that every comparison is at the same realised ratio, over the same whole units.

- random: chance.
- rules: formulas first, then numbers, then words, the earlier first.
- self-information: the units that surprise the reasoner most stay (Selective Context, Li et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lite.compress.logprobs import Scored, log_p
from lite.compress.select import owners
from lite.compress.units import segment

_RANK = {"formula": 2.0, "number": 1.0, "word": 0.0}


def rule_scores(cot: str) -> list[float]:
    """Formulas, numbers, words. Ties are the selection's: the earlier unit first."""
    return [_RANK[unit.kind] for unit in segment(cot)]


def self_information(
    model: Any, tokenizer: Any, questions: Sequence[str], cots: Sequence[str], num_tokens: int
) -> list[np.ndarray]:
    """Mean -log p (nats) of each unit's tokens given the question and all before them, (units,) for each chain."""
    asked, offsets = [], []
    for question, cot in zip(questions, cots, strict=True):
        head = tokenizer.encode(f"{question}\n", add_special_tokens=False, split_special_tokens=True)
        coded = tokenizer(
            cot, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        ids = head + coded["input_ids"]
        asked.append(Scored(ids, list(range(len(head), len(ids)))))
        offsets.append(coded["offset_mapping"])
    found = log_p(model, tokenizer.pad_token_id, asked, num_tokens)
    scores = []
    for cot, spans, values in zip(cots, offsets, found, strict=True):
        units = segment(cot)
        owner = owners(units, spans) if units else np.zeros(0, int)
        total = np.bincount(owner, weights=-values, minlength=len(units))
        scores.append(total / np.maximum(np.bincount(owner, minlength=len(units)), 1))
    return scores
