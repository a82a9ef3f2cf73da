"""A server in this process: real HTTP on loopback around an engine of scripted replies."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from urllib.parse import urlsplit

from lite.server.main import Server

HI = {"messages": [{"role": "user", "content": "1+1?"}]}


def until(holds, seconds: float = 10.0) -> None:
    """Wait for a condition; fail where it does not come."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.01)


def begin(url, **fields):
    """A request that has been sent, on its socket; nothing of its reply is read."""
    parts = urlsplit(url)
    client = socket.create_connection((parts.hostname, parts.port))
    body = json.dumps(HI | fields).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return client


@contextlib.contextmanager
def running(engine, key: str | None = None, **settings):
    """The server, with its address as `url`."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(engine, key=key, host="127.0.0.1", max_tokens=1024, **settings)
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
