"""A server in this process: real HTTP on loopback around an engine of scripted replies."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
from fake_engine import FakeEngine

from lite.infer.server.run import Server


def until(holds, seconds: float = 10.0) -> None:
    """Wait for a condition; fail where it does not come."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.01)


@contextlib.contextmanager
def running(engine, key: str | None = None):
    """The server, with its address as `url`."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(engine, key=key, host="127.0.0.1")
    server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: server.started)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


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
