"""A real HTTP server on loopback that does whatever a test tells it to."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Act:
    """What the server does with a request: wait, then answer, drip or cut."""

    body: Any = None  # text and bytes go out as they are, anything else as JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    drip_s: float = 0.0  # between the bytes
    cut_after: int = -1  # bytes of the body; then the connection is reset


@dataclass
class Server:
    """A running server, and what it was asked: (path, body, headers) in order of arrival."""

    url: str
    asked: list[tuple[str, Any, dict[str, str]]]


@contextlib.contextmanager
def serve(answer: Callable[[str, Any, int], Act | Any]) -> Iterator[Server]:
    """Serve `answer(path, body, number of requests before)`; what is no Act is a JSON body."""
    asked: list[tuple[str, Any, dict[str, str]]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self, body: Any) -> None:
            with lock:
                number = len(asked)
                asked.append((self.path, body, dict(self.headers)))
            act = answer(self.path, body, number)
            act = act if isinstance(act, Act) else Act(act)
            time.sleep(act.wait_s)
            data = act.body if isinstance(act.body, bytes) else act.body
            data = data.encode() if isinstance(data, str) else data
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            with contextlib.suppress(OSError):  # the client has gone
                self.send_response(act.status)
                for name, value in {"Content-Length": str(len(data)), **act.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if act.cut_after >= 0:
                    self.wfile.write(data[: act.cut_after])
                    reset = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                    self.close_connection = True
                elif act.drip_s:
                    for byte in data:
                        self.wfile.write(bytes([byte]))
                        time.sleep(act.drip_s)
                else:
                    self.wfile.write(data)

        def do_GET(self) -> None:
            self.handle_one(None)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            self.handle_one(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            pass

    httpd = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{httpd.server_address[1]}/v1", asked)
    finally:
        httpd.shutdown()
        httpd.server_close()
