"""An OpenAI-compatible server (vLLM, llama-server, a hosted one): many requests in flight, each tried again.

Takes JSON bodies, gives JSON replies. A cut connection, a timeout, 429 (Retry-After is honoured, by all requests
together), 5xx and a body that is no JSON object are tried again after a growing pause; every other refusal is
`Refused` at once, a LiteError. An error in a body counts as its code says, whatever the status line says. The key comes from an environment variable, goes into one header, and is wiped from whatever
the server says back; redirects are not followed, so it reaches no other host.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lite.errors import LiteError, Unreachable

ATTEMPTS = 8  # of one request
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
SAY_EVERY_S = 15.0  # that requests are tried again
CONNECT_S = 20.0
LONGEST_WAIT_S = 600.0  # that a server may ask for with Retry-After
MAX_BYTES = 32 << 20  # of a reply; more is no reply
FLAG_KEY_ENV = "LITE_API_KEY"  # names the key of a server given with --endpoint

Item = TypeVar("Item")
Result = TypeVar("Result")


def base_url(url: str) -> str:
    """The API's base: a bare host gets /v1. Raises LiteError for what is no plain http(s) URL."""
    shown = repr(url) if not re.search("[@?#]", url) else "(not shown, it may hold a key)"
    try:
        parts = urlsplit(url.strip())
        parts.port  # noqa: B018, raises where it is no number
    except ValueError as fault:
        raise LiteError(f"endpoint {shown}: {fault}; give one such as http://127.0.0.1:8000/v1") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise LiteError(
            "endpoint: the URL holds a user, a query or a fragment; give the bare URL, and the key through the"
            " environment"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LiteError(f"endpoint {shown}: no http(s) URL; give one such as http://127.0.0.1:8000/v1")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def read_key(name: str) -> str:
    """The key in the environment variable `name`; "" for no name. Raises LiteError where it is not set."""
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        raise LiteError(f"environment variable {name} is not set; put the endpoint's API key into it")
    if not key.isascii() or not key.isprintable():
        raise LiteError(f"environment variable {name} holds no API key: it has signs other than ASCII")
    return key


def optional_key() -> str:
    """The key of a server given with --endpoint, if there is one."""
    return read_key(FLAG_KEY_ENV) if os.environ.get(FLAG_KEY_ENV) else ""


def _pause_asked(header: str | None) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 where there is none."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT_S) if seconds == seconds else 0.0


class Refused(LiteError):
    """The server does not take this request, and would not take it again."""


class _Again(Exception):
    """This try failed, another may not. `pause_s` is what the server asked for."""

    def __init__(self, reason: str, pause_s: float = 0.0):
        super().__init__(reason)
        self.pause_s = pause_s


class Endpoint:
    """A server. `url` is the API's base; `timeout_s` bounds one try as a whole, however slowly bytes drip in.

    Raises LiteError for a bad URL.
    """

    def __init__(self, url: str, *, key: str = "", num_parallel: int = 16, timeout_s: float = 600.0):
        self.url = base_url(url)
        self.num_parallel, self.timeout_s = num_parallel, timeout_s
        self._key = key
        self._client: Any = None
        self._answered = False  # whether anything ever came back
        self._say_after = 0.0  # when the user is told next that a request is tried again
        self._not_before = 0.0  # when the server takes requests again

    def map(
        self,
        work: Callable[[Item], Awaitable[Result]],
        items: Iterable[Item],
        done: Callable[[Item, Result], None],
    ) -> None:
        """Run `work` on every item, `num_parallel` at a time; `done(item, result)` is called as each ends.

        Inside `work`, await `self.get` and `self.post`. The first fault ends all.
        """
        asyncio.run(self._map(work, iter(items), done))

    async def _map(self, work, todo, done) -> None:
        import httpx

        async def worker() -> None:
            for item in todo:  # shared: each item goes to one worker
                done(item, await work(item))

        loopback = re.match(r"https?://(localhost|127\.|\[::1\])", self.url) is not None
        async with httpx.AsyncClient(
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            timeout=httpx.Timeout(self.timeout_s, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=self.num_parallel),
            trust_env=not loopback,  # else a proxy of the environment would be asked for 127.0.0.1
        ) as self._client:
            workers = [asyncio.ensure_future(worker()) for _ in range(self.num_parallel)]
            try:
                await asyncio.gather(*workers)
            finally:
                for task in workers:
                    task.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path, such as "/models"."""
        return await self._request("GET", self.url + path, None)

    async def post(self, path: str, body: dict[str, Any], root: bool = False) -> dict[str, Any]:
        """The JSON object that a body posted to a path gives; `root`: the path is the server's, not the API's."""
        url = self.url.removesuffix("/v1") if root else self.url
        return await self._request("POST", url + path, body)

    async def _request(self, method: str, url: str, body: dict[str, Any] | None) -> dict[str, Any]:
        for attempt in range(1, ATTEMPTS + 1):
            while (wait := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                return await asyncio.wait_for(self._try(method, url, body), self.timeout_s)
            except asyncio.TimeoutError:
                fault = _Again(f"no whole reply within {self.timeout_s:g} s")
            except _Again as failed:
                fault = failed
            if attempt < ATTEMPTS:
                self._say(f"{fault}; trying again")
                pause = min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
                if fault.pause_s:
                    self._not_before = max(self._not_before, time.monotonic() + fault.pause_s)
                else:
                    await asyncio.sleep(pause)
        raise Unreachable(f"{url}: {fault}, {ATTEMPTS} times in a row; the same command goes on from here")

    def _say(self, what: str) -> None:
        """Tell the user, but not all the time."""
        from lite.runtime.progress import console  # not needed where a recipe is only read

        if time.monotonic() >= self._say_after:
            self._say_after = time.monotonic() + SAY_EVERY_S
            console.print(f"  {self.url}: {what}")

    async def _try(self, method: str, url: str, body: dict[str, Any] | None) -> dict[str, Any]:
        import httpx

        data = bytearray()
        try:
            content = None if body is None else json.dumps(body).encode()  # ASCII: lone surrogates pass, too
            async with self._client.stream(method, url, content=content) as response:
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > MAX_BYTES:
                        raise _Again(f"a reply of more than {MAX_BYTES >> 20} MB")
        except (httpx.ConnectError, httpx.ConnectTimeout) as fault:
            reason = str(fault) or f"not within {CONNECT_S:g} s"
            if not self._answered:
                raise Unreachable(f"{self.url}: nothing answers ({reason}); start the server first") from None
            raise _Again(f"no connection ({reason})") from None
        except httpx.InvalidURL as fault:
            raise LiteError(
                f"endpoint {self.url}: {fault}; give one such as http://127.0.0.1:8000/v1"
            ) from None
        except httpx.RequestError as fault:
            raise _Again(f"the connection was cut ({type(fault).__name__})") from None
        self._answered = True
        text = data.decode("utf-8", errors="replace")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        status = response.status_code
        if status == 200 and isinstance(value, dict) and value.get("error") and not value.get("choices"):
            code = str(value["error"].get("code")) if isinstance(value["error"], dict) else ""
            status = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 400
        if status in (408, 425, 429) or status >= 500:
            raise _Again(
                f"status {status}{self._said(text)}", _pause_asked(response.headers.get("retry-after"))
            )
        if status in (401, 403):
            raise Refused(
                f"{url}: status {status}{self._said(text)}; the server wants"
                f" {'another' if self._key else 'an'} API key, given through the environment"
            )
        if status != 200:
            raise Refused(f"{url}: status {status}{self._said(text)}; check the URL and the model")
        if not isinstance(value, dict):
            raise _Again(f"a reply that is no JSON object{self._said(text)}")
        return value

    def _said(self, text: str) -> str:
        """What the server says, short, on one line and without the key."""
        try:
            fault = json.loads(text)
            fault = fault.get("error", fault.get("message", fault))
            text = str(fault.get("message", fault) if isinstance(fault, dict) else fault)
        except (ValueError, RecursionError, AttributeError):
            pass
        if self._key:
            text = text.replace(self._key, "***")
        text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:200]
        return f" ({text})" if text else ""

    def served(self, wanted: str = "", only: bool = True) -> dict[str, Any]:
        """The entry of /models to name in requests: the one called `wanted`, as a name or as a GGUF file.

        `only`: where the server lists a single model, that one, whatever it is called. Raises LiteError naming
        what is served where none fits.
        """
        replies: list[dict[str, Any]] = []
        self.map(self.get, ["/models"], lambda _, reply: replies.append(reply))
        listed = replies[0].get("data")
        entries = [e for e in listed if isinstance(e, dict) and "id" in e] if isinstance(listed, list) else []
        for entry in entries:
            name = str(entry["id"])
            if wanted in (name, re.split(r"[/\\]", name)[-1].removesuffix(".gguf")):
                return entry
        if only and len(entries) == 1:
            return entries[0]
        names = ", ".join(str(entry["id"]) for entry in entries[:8]) or "no model"
        remedy = f"serve one called {wanted}" if wanted else "say which one"
        raise LiteError(f"{self.url} serves {names}; {remedy}{', or a single one' if only else ''}")
