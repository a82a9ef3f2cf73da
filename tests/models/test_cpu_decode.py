"""Sampling from the nucleus; decoding itself is compared with transformers in test_backend."""

from __future__ import annotations

import pytest

from lite.models import cpu_decode


@pytest.mark.parametrize("likeliest", [1, 2, 1024])  # too few for the nucleus, just enough, all
def test_sampling_keeps_to_the_nucleus(monkeypatch, likeliest):
    import torch

    monkeypatch.setattr(cpu_decode, "LIKELIEST", likeliest)
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(400, 1)
    drawn = cpu_decode.sample(logits, 1.0, 0.7)  # 0.5, then 0.3 which crosses 0.7
    assert set(drawn.tolist()) == {0, 1}
    assert 0.5 < (drawn == 0).float().mean() < 0.75  # 5/8
    assert cpu_decode.sample(logits, 0.0, 1.0).tolist() == [0] * 400
