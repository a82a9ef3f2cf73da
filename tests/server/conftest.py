"""An engine of scripted replies, and a server around it."""

from __future__ import annotations

import pytest
from fake_engine import FakeEngine
from local import running


@pytest.fixture
def engine():
    engine = FakeEngine()
    yield engine
    engine.gate.set()


@pytest.fixture
def server(engine):
    with running(engine) as server:
        yield server
        engine.gate.set()  # so that it ends at once
