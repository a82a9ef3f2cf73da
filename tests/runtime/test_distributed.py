"""Processes that share a stage: the parts that need no launcher; what is shared stays what the recipe says."""

from __future__ import annotations

import pytest

from lite.errors import LiteError
from lite.runtime import distributed


def test_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (distributed.num(), distributed.index(), distributed.is_main()) == (1, 0, True)
    assert distributed.gather([1, 2]) == [1, 2] and distributed.share(16, 2, "k") == (16, 2)
    distributed.wait()


@pytest.mark.parametrize(
    "num, batch_size, accumulation, expected",
    [(2, 16, 2, (16, 1)), (4, 16, 2, (4, 2)), (2, 2, 1, (1, 1)), (3, 6, 3, (6, 1))],
)
def test_a_step_is_shared_evenly(monkeypatch, num, batch_size, accumulation, expected):
    monkeypatch.setenv("WORLD_SIZE", str(num))
    shared = distributed.share(batch_size, accumulation, "sft.batch_size")
    assert shared == expected and shared[0] * shared[1] * num == batch_size * accumulation


def test_a_step_that_cannot_be_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(LiteError, match="sft.batch_size = 16 and accumulation = 2: 3 processes cannot share"):
        distributed.share(16, 2, "sft.batch_size")


def test_only_some_stages_are_shared(lite, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    code, _, err = lite("train", "quickstart")
    assert code == 2 and "2 processes share one stage; add --stage with one of sft, chrpo" in err
