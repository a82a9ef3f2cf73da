"""Whether the Hugging Face Hub can be reached. Its own clients try again for half a minute before they give up."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import httpx

SECONDS = 4.0


def is_reachable() -> bool:
    """Whether the Hub, or what HF_ENDPOINT names, answers; asked once, within a few seconds."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _answers(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)


@functools.cache
def _answers(url: str) -> bool:
    try:
        httpx.head(url, timeout=SECONDS)
    except httpx.HTTPError:
        return False
    return True


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Let `datasets` look into its cache only, where the Hub cannot be reached."""
    import datasets
    from huggingface_hub import constants

    modules: list[Any] = [datasets.config, constants]
    before = [(module, module.HF_HUB_OFFLINE) for module in modules]
    offline = not is_reachable()
    try:
        for module, _ in before:
            module.HF_HUB_OFFLINE = offline
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value
