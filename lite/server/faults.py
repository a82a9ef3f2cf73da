"""What a client did wrong, in OpenAI's shape, and the strict reading of JSON."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any, NoReturn

from pydantic import ValidationError


class Refused(Exception):
    """A request that gets an error in OpenAI's shape. `param` names the field at fault."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises Refused for anything that is not one, strictly read."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique)
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except RecursionError:
        raise Refused("the body is nested too deeply") from None
    except ValueError as fault:  # not UTF-8, not JSON, a number of thousands of digits
        reason = str(fault).split(";")[0].encode("ascii", "backslashreplace").decode()
        raise Refused(f"the body is not valid JSON in UTF-8: {reason[:200]}") from None
    if not isinstance(found, dict):
        raise Refused(f"the body is {show(found)}: must be a JSON object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


def of_validation(fault: ValidationError, known: Iterable[str]) -> Refused:
    """The innermost fault that pydantic found, with its field, its value and what is meant."""
    error = max(fault.errors(include_url=False, include_context=False), key=lambda each: len(each["loc"]))
    *outer, last = error["loc"]
    is_foreign = error["type"] == "extra_forbidden"
    # Between the names stand those of the types that pydantic has tried: `str`, `list[Part]`, `literal['on']`.
    names = [part for part in outer if isinstance(part, int) or _is_name(part)]
    names += [last] if is_foreign or isinstance(last, int) or _is_name(last) else []
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names).lstrip(".")[:64]
    if is_foreign:
        close = difflib.get_close_matches(str(last), [*known], 1)
        hint = f"did you mean {close[0]}?" if close else "leave it out"
        return Refused(f"{show(where)}: no such field here; {hint}", param=where)
    if error["type"] == "missing":
        return Refused(f"{where}: is missing", param=where)
    return Refused(
        f"{where} {show(error['input'])}: {error['msg'][:1].lower()}{error['msg'][1:]}", param=where
    )


def _is_name(part: str) -> bool:
    return part.islower() and part not in ("str", "int", "float", "bool") and not set(part) & set("[('")


def show(value: Any) -> str:
    """A JSON value in an error message, in ASCII, cut where it is long."""
    text = json.dumps(value, default=lambda other: other.model_dump(exclude_none=True))
    return text if len(text) <= 80 else text[:77] + "..."


def dump(value: Any) -> bytes:
    """A JSON value in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
