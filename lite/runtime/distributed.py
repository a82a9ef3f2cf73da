"""The processes of `accelerate launch`, which share a stage: who writes, and waiting for each other.

Without a launcher there is one process, and nothing here does anything or loads torch.
"""

from __future__ import annotations

import os
from typing import Any

from lite.errors import LiteError


def num() -> int:
    """How many processes share the work."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def index() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK") or 0) if num() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes files and talks."""
    return index() == 0


def wait() -> None:
    """Wait until every process is here. Call after `unsloth.prepare`: accelerate loads what Unsloth patches."""
    if num() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def gather(items: list[Any]) -> list[Any]:
    """The items of all processes, in their order."""
    if num() == 1:
        return items
    from accelerate.utils import gather_object

    return gather_object(items)


def share(batch_size: int, accumulation: int, where: str) -> tuple[int, int]:
    """Batch size and accumulation of one process, so that a training step stays as large as the recipe says.

    Raises LiteError where a step cannot be split evenly; `where` names the batch size's key.
    """
    if accumulation % num() == 0:
        return batch_size, accumulation // num()
    if batch_size % num() == 0:
        return batch_size // num(), accumulation
    raise LiteError(
        f"{where} = {batch_size} and accumulation = {accumulation}: {num()} processes cannot share a step evenly;"
        f" make one of them a multiple of {num()}"
    )
