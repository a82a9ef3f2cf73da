"""The routes around one engine.

The engine decodes in a thread of its own and hands every piece to the event loop. Its queue is the only queue: where
it is full, a request gets 429 at once, and where it has waited too long, then.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lite.errors import LiteError
from lite.infer.engine import Engine
from lite.infer.request import Answer, Busy, Piece, Stream, Unfit
from lite.server.faults import Refused, dump
from lite.server.metrics import Metrics
from lite.server.middleware import Guard, read_body, refusal
from lite.server.replies import ChatWriter, CompletionWriter, ResponsesWriter, Writer
from lite.server.schema import Call, Model, read_chat, read_completion, read_responses

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
OUR_FAULT = Refused("the server failed; its log says more", status=500)
GONE = 499  # as nginx counts clients that do not wait; never sent


class Service:
    """The routes, the replies in the making, and what is counted."""

    def __init__(self, engine: Engine, model: Model):
        self.engine, self.model = engine, model
        self.metrics = Metrics()
        self._live: set[Reply] = set()
        self._submitter = ThreadPoolExecutor(1)  # a long prompt takes a while to tokenise
        self._pages = {path: ((PAGE / name).read_bytes(), kind) for path, (name, kind) in PAGE_FILES.items()}

    def app(self, *, key: str | None, hosts: Sequence[str], origins: Sequence[str] = ()) -> Starlette:
        """The ASGI application. `hosts`: what may stand in Host beside the names of this machine, where no key is
        asked for: a web page that has pointed its own name at 127.0.0.1 (DNS rebinding) is refused. `origins`: those
        of web pages that may use it.
        """
        open_paths = frozenset({*PAGE_FILES, "/health"})  # nothing of the model is in them
        guards = [Middleware(Guard, key=key, open_paths=open_paths, count=self.metrics.responses)]
        if origins:
            cors = {"allow_origins": [*origins], "allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
            guards.insert(0, Middleware(CORSMiddleware, **cors))
        if key is None:
            names = [*LOOPBACK_NAMES, *(f"[{host}]" if ":" in host else host for host in hosts if host)]
            guards.append(Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False))
        return Starlette(
            routes=[
                *(Route(path, self.show_page, methods=["GET"]) for path in PAGE_FILES),
                Route("/health", self.show_health, methods=["GET"]),
                Route("/metrics", self.show_metrics, methods=["GET"]),
                Route("/v1/models", self.show_models, methods=["GET"]),
                Route("/v1/models/{name:path}", self.show_model, methods=["GET"]),
                Route("/v1/chat/completions", self._route(read_chat, ChatWriter), methods=["POST"]),
                Route("/v1/completions", self._route(read_completion, CompletionWriter), methods=["POST"]),
                Route("/v1/responses", self._route(read_responses, ResponsesWriter), methods=["POST"]),
            ],
            middleware=guards,
            exception_handlers={
                Refused: _refuse,
                HTTPException: _no_such_route,
                ClientDisconnect: _gone,
                Exception: self.confess,
            },
        )

    async def confess(self, request: Request, fault: Exception) -> Response:
        self.metrics.responses[OUR_FAULT.status] += 1  # it is sent from outside of Guard
        return refusal(OUR_FAULT)  # uvicorn logs it

    async def show_page(self, request: Request) -> Response:
        content, kind = self._pages[request.url.path]
        return Response(content, media_type=kind)

    async def show_health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def show_models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self.model.card()]})

    async def show_metrics(self, _: Request) -> Response:
        text = self.metrics.text(self.engine.num_running, self.engine.num_waiting)
        return Response(text, media_type="text/plain; version=0.0.4")

    async def show_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self.model.name:
            message = f"model {name[:80]!r}: not served here; use {self.model.name}"
            raise Refused(message, status=404, param="model", code="model_not_found")
        return JSONResponse(self.model.card())

    def _route(self, read: Callable[[bytes, Model], Call], kind: type[Writer]) -> Callable[..., Any]:
        """A route's endpoint: a whole reply, or a stream of its pieces."""

        async def answer(request: Request) -> Response:
            call = read(await read_body(request), self.model)
            reply = await self._start(call, request.receive)
            writer = kind(call, self.model, secrets.token_hex(12), int(time.time()))
            if call.stream:
                return EventStream(reply, writer)
            try:
                async for _ in reply.pieces():
                    pass
                return Response(dump(writer.whole(reply.answer())), media_type="application/json")
            finally:
                reply.close()

        return answer

    async def _start(self, call: Call, receive: Receive) -> Reply:
        """Hand a question to the engine. Raises Refused: 429 where its queue is full, 400 for what it cannot do."""
        reply = Reply(self._live, self.metrics)
        try:
            submit = partial(self.engine.submit, call.ask, reply.on_event)
            stream = await asyncio.get_running_loop().run_in_executor(self._submitter, submit)
        except Busy as fault:
            raise _busy(fault, self.metrics) from None
        except Unfit as fault:
            field = (call.names or {}).get(fault.field, fault.field)
            raise Refused(str(fault), param=field, code=fault.code) from None
        except LiteError as fault:
            raise Refused(str(fault)) from None
        reply.open(stream, receive)
        return reply

    def cancel_all(self) -> None:
        """Stop what runs; every client still gets an end."""
        for reply in [*self._live]:
            reply.stream.cancel()


class Reply:
    """One reply in the making: the engine's thread puts, the event loop takes. Close it, whatever happens."""

    def __init__(self, live: set[Reply], metrics: Metrics):
        self._live, self._metrics = live, metrics
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._pieces: list[Piece] = []
        self._ended = self._is_gone = False

    def open(self, stream: Stream, receive: Receive) -> None:
        self.stream = stream
        self._live.add(self)
        self._watch = asyncio.create_task(self._cancel_when_gone(receive))

    def on_event(self, piece: Piece | None) -> None:
        """The engine's side, in its thread."""
        with contextlib.suppress(RuntimeError):  # the event loop has ended first: nobody waits any more
            self._loop.call_soon_threadsafe(self._take, piece)

    def _take(self, piece: Piece | None) -> None:
        if piece is None:
            self._ended = True
        else:
            self._pieces.append(piece)
        self._arrived.set()

    async def _cancel_when_gone(self, receive: Receive) -> None:
        """Free the slot of a client that has vanished. Its body has been read: what comes next is its end."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self.stream.cancel()

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces to the end. Of what a slow reader has let wait, neighbours of one kind come as one."""
        while self._pieces or not self._ended:
            await self._arrived.wait()
            self._arrived.clear()
            arrived, self._pieces = self._pieces, []
            for kind, group in groupby(arrived, key=lambda piece: piece.kind):
                same = [*group]
                yield Piece(
                    kind, "".join(piece.text for piece in same), sum(piece.num_tokens for piece in same)
                )

    def answer(self) -> Answer:
        """The whole, once the pieces have ended. Raises Refused or ClientDisconnect where none is to be sent."""
        try:
            answer = self.stream.answer()
        except Busy as fault:
            raise _busy(fault, self._metrics) from None
        except LiteError as fault:  # no memory, say
            raise Refused(str(fault), status=500) from None
        self._metrics.count_answer(answer)
        if self._is_gone:
            raise ClientDisconnect
        if answer.stop == "cancelled":
            raise Refused("the server is shutting down", status=503)
        return answer

    def close(self) -> None:
        self._watch.cancel()
        self.stream.cancel()  # nothing, where it has ended
        self._live.discard(self)


class EventStream(Response):
    """A reply as server-sent events. What fails before its first piece gets a status of its own."""

    media_type = "text/event-stream"

    def __init__(self, reply: Reply, writer: Writer):
        super().__init__(headers={"x-accel-buffering": "no"})  # nginx: pass each event on as it comes
        del self.headers["content-length"]
        self.reply, self.writer = reply, writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}

        async def put(data: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            async for event in self._events():
                if head:
                    await send(head)
                    head = None
                await put(self.writer.frame(event))
            await put(self.writer.end, more=False)
        except ClientDisconnect:
            pass
        except Exception as fault:
            if not isinstance(fault, Refused):
                traceback.print_exception(fault, file=sys.stderr)
                fault = OUR_FAULT
            if head:
                await refusal(fault)(scope, receive, send)
            else:  # the status is out: the error is the last event
                await put(b"data: " + dump(fault.body()) + b"\n\n", more=False)
        finally:
            self.reply.close()

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        opening = [*self.writer.opening()]
        async for piece in self.reply.pieces():
            for event in (*opening, *self.writer.piece(piece)):
                yield event
            opening = []
        for event in (*opening, *self.writer.closing(self.reply.answer())):
            yield event


def _busy(fault: Busy, metrics: Metrics) -> Refused:
    """429, with a reply's usual time as the time to come again."""
    wait = min(60, max(1, round(metrics.mean_seconds)))
    return Refused(str(fault), status=429, headers={"retry-after": str(wait)})


async def _refuse(_: Request, fault: Refused) -> Response:
    return refusal(fault)


async def _no_such_route(request: Request, fault: HTTPException) -> Response:
    message = f"{request.method} {request.url.path[:80]}: {fault.detail.lower()}"
    return refusal(Refused(message, status=fault.status_code, headers=dict(fault.headers or {})))


async def _gone(*_: object) -> Response:
    return Response(status_code=GONE)
