"""Whether the Hugging Face Hub can be reached. Its own clients try again for half a minute before they give up."""

from __future__ import annotations

import functools
import os

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
