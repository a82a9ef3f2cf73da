"""`lite serve`: a GGUF behind OpenAI's chat completions over HTTP, and a page to try its dial.

Starlette and uvicorn carry the HTTP; lite.infer.api reads and writes the JSON. One event loop answers, one thread per
admitted reply waits for the engine: a reply holds a place from its admission until the engine is done with it, and
without a free place a request gets 429 at once.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lite.errors import LiteError
from lite.infer.api import Call, Model, Refused, Writer, dump, read_call
from lite.infer.engine import Answer, Ask, Engine, Piece, Stream
from lite.infer.metrics import Metrics

MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 30  # a body that takes longer is given up
GRACE_SECONDS = 20  # what runs at a SIGTERM may end by itself for so long, then it is cancelled
PAGE = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
OPEN_PATHS = {*PAGE_FILES, "/health"}  # no key: nothing of the model is in them
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
SECURITY_HEADERS = [
    ("content-security-policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
     " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
]  # fmt: skip


class Service:
    """The routes, and the replies in the making. `num_places`: replies decoded or waiting together, at most."""

    def __init__(self, engine: Engine, model: Model, num_places: int):
        self.engine, self.model, self.num_places = engine, model, num_places
        self.metrics = Metrics()
        self._pool = ThreadPoolExecutor(num_places, thread_name_prefix="reply")
        self._live: set[Stream] = set()
        self._num_held = 0
        self._pages = {
            path: ((PAGE / name).read_bytes(), kind) for path, (name, kind) in PAGE_FILES.items()
        }

    def routes(self) -> list[Route]:
        return [
            *(Route(path, self.page, methods=["GET"]) for path in PAGE_FILES),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.show_metrics, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        content, kind = self._pages[request.url.path]
        return Response(content, media_type=kind)

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self.model.card()]})

    async def show_metrics(self, _: Request) -> Response:
        text = self.metrics.text(self.engine.num_running, self.engine.num_waiting)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def chat(self, request: Request) -> Response:
        """`/v1/chat/completions`: refused, a whole reply, or a stream of its pieces."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused("send the body as Content-Type: application/json", status=415)  # no form of a web page
        call = read_call(await _read_body(request), self.model)
        stream, parts = await self._start(call.ask)
        writer = Writer(call, self.model, f"chatcmpl-{secrets.token_hex(12)}", int(time.time()))
        watch = asyncio.create_task(_cancel_when_gone(request.receive, stream))
        if call.stream:
            return EventStream(_events(writer, parts), stream, watch)
        try:
            async for part in parts:
                if isinstance(part, Answer):
                    return Response(dump(writer.whole(part)), media_type="application/json")
        finally:
            watch.cancel()
            stream.cancel()  # nothing where it has ended
        raise AssertionError("parts end with an Answer or an exception")

    async def _start(self, ask: Ask) -> tuple[Stream, AsyncIterator[Piece | Answer]]:
        """Hold a place and hand the question to the engine."""
        if self._num_held >= self.num_places:
            refused = Refused(f"all {self.num_places} places are taken; try again later", status=429)
            refused.headers["retry-after"] = str(self._retry_seconds())
            raise refused
        loop = asyncio.get_running_loop()
        self._num_held += 1
        try:
            stream = await loop.run_in_executor(self._pool, self.engine.submit, ask)
        except LiteError as fault:
            self._num_held -= 1
            raise Refused(str(fault)) from None
        except BaseException:
            self._num_held -= 1
            raise
        self._live.add(stream)
        parts: asyncio.Queue[Piece | Answer | Exception] = asyncio.Queue()
        self._pool.submit(_pump, stream, partial(loop.call_soon_threadsafe, self._arrived, stream, parts))
        return stream, _joined(parts)

    def _arrived(self, stream: Stream, parts: asyncio.Queue, part: Piece | Answer | Exception) -> None:
        if not isinstance(part, Piece):  # the last one
            self._live.discard(stream)
            self._num_held -= 1
            if isinstance(part, Answer):
                self.metrics.count_answer(part)
        parts.put_nowait(part)

    def _retry_seconds(self) -> int:
        """When a place may be free: the mean time of a reply, in 1..60 s."""
        return min(60, max(1, math.ceil(self.metrics.mean_seconds)))

    def cancel_all(self) -> None:
        for stream in [*self._live]:
            stream.cancel()


def _pump(stream: Stream, put) -> None:
    """In a thread of its own: what the engine gives goes to the event loop."""
    try:
        for piece in stream:
            put(piece)
        end: Answer | Exception = stream.answer()
    except Exception as fault:  # whatever it is, the client waits for an end
        end = fault
    put(end)


async def _joined(parts: asyncio.Queue) -> AsyncIterator[Piece | Answer]:
    """What has arrived, neighbours of one kind as one piece: a slow reader gets fewer, larger ones."""
    held = await parts.get()
    while True:
        if isinstance(held, Exception):
            raise held
        if isinstance(held, Answer):
            yield held
            return
        after = None
        while not parts.empty():
            after = parts.get_nowait()
            if not isinstance(after, Piece) or after.kind != held.kind:
                break
            held = Piece(held.kind, held.text + after.text, held.num_tokens + after.num_tokens)
            after = None
        yield held
        held = after if after is not None else await parts.get()


async def _events(writer: Writer, parts: AsyncIterator[Piece | Answer]) -> AsyncIterator[bytes]:
    yield _event(writer.opening())
    async for part in parts:
        if isinstance(part, Piece):
            yield _event(writer.piece(part.kind, part.text, part.num_tokens))
        else:
            for chunk in writer.closing(part):
                yield _event(chunk)
            yield b"data: [DONE]\n\n"


def _event(value: dict) -> bytes:
    return b"data: " + dump(value) + b"\n\n"


async def _cancel_when_gone(receive: Receive, stream: Stream) -> None:
    """Free the slot of a client that has vanished. The body has been read: what comes next is its end."""
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.cancel()


class EventStream(Response):
    """Server-sent events; however they end, the engine's stream ends with them."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], stream: Stream, watch: asyncio.Task):
        self.events, self.stream, self.watch = events, stream, watch
        self.status_code, self.background = 200, None
        self.init_headers({"x-accel-buffering": "no"})  # nginx: pass each on as it comes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def put(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in self.events:
                await put(event)
        except Exception as fault:
            _log(fault)
            await put(_event(Refused("the engine failed; see the server's log", status=500).body()))
        finally:
            self.watch.cancel()
            self.stream.cancel()
        await put(b"", more=False)


async def _read_body(request: Request) -> bytes:
    """The body, if it is no larger than MAX_BODY_BYTES and comes in time."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > MAX_BODY_BYTES:
                raise _too_large()

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise Refused(f"the body took longer than {BODY_SECONDS} s", status=408) from None
    return bytes(body)


def _too_large() -> Refused:
    refused = Refused(f"the body is larger than {MAX_BODY_BYTES} bytes", status=413)
    refused.headers["connection"] = "close"  # the rest of it is not read
    return refused


class Guard:
    """In front of every route: whose Host it is, and the key.

    Without a key only the names of this machine may be in Host: a web page that points its own name at 127.0.0.1
    (DNS rebinding) is refused. With a key, it lacks the key.
    """

    def __init__(self, app: ASGIApp, key: str | None, host: str):
        self.app, self.key = app, key
        self.names = LOOPBACK_NAMES | {f"[{host}]" if ":" in host else host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._check(scope["path"], Headers(scope=scope))
        await self.app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if self.key is None:
            host = re.sub(r":\d*$", "", headers.get("host", "").lower())
            if host not in self.names:
                raise Refused("the Host header is not a name of this machine; use localhost", status=403)
        elif path not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode(), self.key.encode())
            if scheme.lower() != "bearer" or not same:
                refused = Refused("no valid API key; send Authorization: Bearer KEY", status=401)
                refused.code = "invalid_api_key"
                refused.headers["www-authenticate"] = "Bearer"
                raise refused
