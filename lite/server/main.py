"""Bind, load, serve, and end well."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from lite.errors import LiteError
from lite.infer.engine import Engine
from lite.server.middleware import SECURITY_HEADERS
from lite.server.routes import Service
from lite.server.schema import Model

WAIT_SECONDS = 45  # a request that has no slot by then gets 429; many proxies give up after 60
GRACE_SECONDS = 10  # what runs when the server is told to end has so long to finish, then it is cancelled


class Server(uvicorn.Server):
    """uvicorn around an engine. When it is told to end it lets replies finish, and cancels those that take too long."""

    def __init__(
        self,
        engine: Engine,
        *,
        key: str | None,
        host: str,
        max_tokens: int,
        allow_hosts: Sequence[str] = (),
        cors_origins: Sequence[str] = (),
        instruction: str | None = None,
        lean: float = 0.0,
    ):
        context = min(engine.trained_context, engine.context_tokens)
        model = Model(
            name=engine.path.stem,
            created=int(engine.path.stat().st_mtime),
            has_dial=engine.has_dial,
            context_tokens=context,
            max_tokens=min(max_tokens, context),
            instruction=instruction,
            lean=lean,
        )
        self.service = Service(engine, model)
        config = uvicorn.Config(
            self.service.app(key=key, hosts=[host, *allow_hosts], origins=cors_origins),
            headers=[*SECURITY_HEADERS.items()],
            server_header=False,
            log_level="error",  # not each request that is no HTTP, with a traceback
            access_log=False,
            http="h11",  # whose faults the guard knows, though httptools be installed
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=GRACE_SECONDS + 10,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self.service.cancel_all)
        await super().shutdown(sockets)


def serve(
    path: Path, *, host: str, port: int, key_name: str, engine: Mapping[str, int], **settings: Any
) -> None:
    """Serve a GGUF until SIGINT or SIGTERM. `port` 0 takes a free one; `key_name` names the variable with the key.

    `settings` are the Server's. Its `max_tokens` is the most that a request gets, and what one gets that asks for
    none. `engine` are the Engine's: batch_size, max_waiting, num_threads.
    Raises LiteError for an address that cannot be had, one off loopback without a key, and a file that is no GGUF.
    """
    family, address = _resolve(host, port)
    key = _read_key(key_name)
    if key is None and not ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
        raise LiteError(f"host {host!r}: others can reach it; put an API key into the variable {key_name}")
    try:
        listener = socket.create_server(address, family=family, backlog=256)
    except OSError as fault:
        reason = os.strerror(fault.errno).lower()
        raise LiteError(f"host {host!r}, port {port}: {reason}; choose another --host or --port") from None
    with listener, Engine(path, max_wait=WAIT_SECONDS, **engine) as loaded:
        server = Server(loaded, key=key, host=host, **settings)
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn has handlers of its own while it runs, and raises the signal again after its end.
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        print(f"{loaded.path.stem} on {url}; Ctrl-C ends it", file=sys.stderr, flush=True)
        server.run(sockets=[listener])


def _resolve(host: str, port: int) -> tuple[int, tuple]:
    """The address family and the address of a host."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise LiteError(f"host {host!r}: no such address; use 127.0.0.1 or a name of this machine") from None
    family, *_, address = found[0]
    return family, address[:2]


def _read_key(name: str) -> str | None:
    key = os.environ.get(name, "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise LiteError(f"variable {name}: an API key is printable ASCII without blanks; choose another")
    return key or None
