"""What stands before every route: the key, and the size of a body."""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter

import h11
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lite.server.faults import Refused

MAX_BODY_BYTES = 1 << 20
BODY_SECONDS = 30  # a body that takes longer is given up
# Nothing from elsewhere runs in the page, no other page may frame or read it, and nothing is kept.
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def refusal(fault: Refused) -> Response:
    """A fault as a response in OpenAI's shape."""
    return JSONResponse(fault.body(), fault.status, fault.headers)


class Guard:
    """ASGI middleware: refuses a wrong key, and counts responses by status."""

    def __init__(self, app: ASGIApp, *, key: str | None, open_paths: frozenset[str], count: Counter[int]):
        self.app, self.key, self.open_paths, self.count = app, key, open_paths, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.count[message["status"]] += 1
            try:
                await send(message)
            except h11.LocalProtocolError:  # a body broke its framing: uvicorn has answered 400 and closes
                while (await receive())["type"] != "http.disconnect":
                    pass

        app = self.app
        try:
            self._check(scope["path"], Headers(scope=scope))
        except Refused as fault:
            app = refusal(fault)
        await app(scope, receive, count_and_send)

    def _check(self, path: str, headers: Headers) -> None:
        if self.key is not None and path not in self.open_paths:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode(), self.key.encode())
            if scheme.lower() != "bearer" or not same:
                raise Refused(
                    "no valid API key; send Authorization: Bearer KEY",
                    status=401,
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )


async def read_body(request: Request) -> bytes:
    """The body of a JSON request. Raises Refused for another type, one that is too large or that takes too long."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a web page elsewhere may send forms and plain text unasked, but no JSON
        raise Refused("send the body as Content-Type: application/json", status=415)
    body = bytearray()

    async def read() -> None:
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > MAX_BODY_BYTES:
                # The rest is not read: the connection cannot go on.
                raise Refused(
                    f"the body is larger than {MAX_BODY_BYTES} bytes",
                    status=413,
                    headers={"connection": "close"},
                )

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise Refused(f"the body took longer than {BODY_SECONDS} s", status=408) from None
    return bytes(body)
