from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import save

from lite.models import unsloth


@pytest.fixture(scope="session", autouse=True)
def patched() -> None:
    """Unsloth patches transformers and must be imported before the tests here import that."""
    unsloth.prepare()


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A model that has not learnt the dial: no control tokens, 320 rows of which 305 are taken."""
    return save(tmp_path_factory.mktemp("models") / "base", control=False)
