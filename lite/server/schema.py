"""OpenAI's chat completions on the wire: bytes to an Ask, an Answer to JSON. Knows nothing of sockets.

A field that could change the reply and that we cannot honour is refused, never ignored. Beside OpenAI's own there are
`comp_ratio`, `thinking_budget` and, in every reply, the object `lite`: what was asked and what was used.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from lite.infer.request import Answer, Ask, Message, Piece
from lite.tokens import EFFORTS, POLICY, RATIOS, strip_control

MAX_MESSAGES = 256
PERCENTS = tuple(round(100 * ratio) for ratio in RATIOS)
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# What says nothing about the reply's text.
HARMLESS = {
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction", "parallel_tool_calls"),
    *("prompt_cache_key", "prompt_cache_retention"),
}
# What we do not have, with the values that ask for nothing; null always does.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "stop": ([],),
    "logprobs": (False,),
    "top_logprobs": (),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
OURS = {
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature"),
    *("top_p", "seed", "reasoning_effort", "thinking_budget", "comp_ratio"),
}
# What a client sends back of an earlier reply of ours; earlier thinking is not shown to the model again.
ECHOED = {"reasoning_content": str, "annotations": list}


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


@dataclass(frozen=True, slots=True)
class Model:
    """What is served. `context_tokens` bounds prompt and reply together, `max_tokens` a reply."""

    name: str
    created: int  # seconds since 1970
    has_dial: bool
    context_tokens: int
    max_tokens: int

    def card(self) -> dict[str, Any]:
        """An entry of `/v1/models`."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "lite",
            "context_length": self.context_tokens,
            "max_tokens": self.max_tokens,
            "comp_ratios": [*PERCENTS, POLICY] if self.has_dial else [],
        }


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request. `comp_ratio` is the percent or "policy" that was asked; None leaves it to the engine."""

    ask: Ask
    comp_ratio: int | str | None
    stream: bool
    include_usage: bool


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
        raise Refused(f"the body is {_show(found)}: must be a JSON object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


def read_call(body: bytes, model: Model) -> Call:
    """Check a request body to the last field. Raises Refused with the field, its value and the remedy."""
    fields = {name: value for name, value in read_json(body).items() if value is not None}
    _refuse_foreign(fields)
    if fields.get("model", model.name) != model.name:
        raise Refused(
            f"model {_show(fields['model'])}: not served here; use {model.name}",
            status=404,
            param="model",
            code="model_not_found",
        )
    comp_ratio, budget, thinking = _read_dial(fields, model)
    max_tokens = _read_max_tokens(fields, model)
    if budget is not None and budget >= max_tokens:
        raise Refused(
            f"thinking_budget {budget}: leaves no room for an answer in max_tokens {max_tokens}",
            param="thinking_budget",
        )
    stream = _flag(fields, "stream")
    temperature = _number(fields, "temperature", 0, 2, default=0.0)
    seed = _whole(fields, "seed", -(2**63), 2**63 - 1)
    if seed is None:
        seed = secrets.randbits(32) if temperature > 0 else 0
    mode = comp_ratio if comp_ratio in (None, POLICY) else str(comp_ratio / 100)
    ask = Ask(
        messages=_read_messages(fields),
        mode=mode,
        budget=budget,
        thinking=thinking,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=_number(fields, "top_p", 0, 1, default=1.0, above=True),
        seed=seed % 2**64,
    )
    return Call(ask, comp_ratio, stream, _read_include_usage(fields, stream))


def _refuse_foreign(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if name in NEUTRAL:
            if not any(type(value) is type(calm) and value == calm for calm in NEUTRAL[name]):
                raise Refused(f"{name} {_show(value)}: not supported; leave it out", param=name)
        elif name not in OURS and name not in HARMLESS:
            raise Refused(f"{_show(name)}: no such field here; leave it out", param=name[:64])


def _read_dial(fields: dict[str, Any], model: Model) -> tuple[int | str | None, int | None, bool]:
    """(comp_ratio, budget in tokens, whether it thinks). At most one of ratio and effort may be given."""
    ratio, effort = fields.get("comp_ratio"), fields.get("reasoning_effort")
    budget = _whole(fields, "thinking_budget", 1, model.max_tokens)
    if ratio is not None and (isinstance(ratio, bool) or ratio not in (*PERCENTS, POLICY)):
        known = ", ".join(map(str, PERCENTS))
        raise Refused(f"comp_ratio {_show(ratio)}: use one of {known} or {POLICY!r}", param="comp_ratio")
    if effort is not None and (not isinstance(effort, str) or effort not in ("none", *EFFORTS)):
        raise Refused(
            f"reasoning_effort {_show(effort)}: use one of none, {', '.join(EFFORTS)}",
            param="reasoning_effort",
        )
    if ratio is not None and effort is not None:
        raise Refused(
            f"comp_ratio {_show(ratio)} and reasoning_effort {effort}: both set the ratio; give one",
            param="reasoning_effort",
        )
    if effort == "none":
        if budget is not None:
            raise Refused(
                f"thinking_budget {budget} and reasoning_effort none contradict; give one",
                param="thinking_budget",
            )
        return None, None, False
    ratio = round(100 * float(EFFORTS[effort])) if effort is not None else ratio
    if not model.has_dial and ratio is not None:
        name = "comp_ratio" if effort is None else "reasoning_effort"
        raise Refused(f"{name}: {model.name} has no dial; leave it out", param=name)
    return int(ratio) if isinstance(ratio, float) else ratio, budget, True


def _read_max_tokens(fields: dict[str, Any], model: Model) -> int:
    names = ("max_completion_tokens", "max_tokens")
    given = {_whole(fields, name, 1, model.max_tokens) for name in names if name in fields}
    if len(given) > 1:
        raise Refused("max_tokens and max_completion_tokens differ; give one", param="max_tokens")
    return given.pop() if given else model.max_tokens


def _read_include_usage(fields: dict[str, Any], stream: bool) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict) or not set(options) <= {"include_usage", "include_obfuscation"}:
        raise Refused(
            f"stream_options {_show(options)}: must be an object with include_usage", param="stream_options"
        )
    if not stream:
        raise Refused("stream_options needs stream: true", param="stream_options")
    return _flag({name: value for name, value in options.items() if value is not None}, "include_usage")


def _read_messages(fields: dict[str, Any]) -> tuple[Message, ...]:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise Refused(
            f"messages {_show(messages)[:40]}: must be a list of 1..{MAX_MESSAGES} messages", param="messages"
        )
    found = tuple(_read_message(message, f"messages[{place}]") for place, message in enumerate(messages))
    if found[-1].role != "user":
        raise Refused(
            f"the last message is of role {found[-1].role}; it must be the user's", param="messages"
        )
    if not found[-1].content.strip():
        raise Refused("the last message is empty; give a question", param="messages")
    return found


def _read_message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise Refused(f"{where} {_show(message)}: must be an object with role and content", param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(f"{where}.role {_show(role)}: use one of {', '.join(ROLES)}", param=f"{where}.role")
    for name, value in message.items():
        if name in ("role", "content") or value in (None, []) or isinstance(value, ECHOED.get(name, ())):
            continue
        raise Refused(f"{where}.{name[:40]}: not supported; leave it out", param=f"{where}.{name[:40]}")
    return Message(ROLES[role], _read_content(message.get("content"), f"{where}.content"))


def _read_content(content: Any, where: str) -> str:
    """A text, or a list of text parts, one under the other."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(f"{where} {_show(content)}: must be a text", param=where)
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise Refused(f"{where} {_show(part)}: only parts of type text are supported", param=where)
    return "\n".join(part["text"] for part in content)


def _whole(fields: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refused(f"{name} {_show(value)}: must be a whole number in {low}..{high}", param=name)
    return value


def _number(
    fields: dict[str, Any], name: str, low: float, high: float, *, default: float, above: bool = False
) -> float:
    """A number in low..high; `above` leaves out `low` itself."""
    value = fields.get(name, default)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits or (above and value == low):
        raise Refused(f"{name} {_show(value)}: must lie in {'(' if above else '['}{low}, {high}]", param=name)
    return float(value)


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise Refused(f"{name} {_show(value)}: must be true or false", param=name)
    return value


def _show(value: Any) -> str:
    """A JSON value in an error message, in ASCII, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the reply to one call: whole, or chunk by chunk."""

    call: Call
    model: Model
    id: str
    created: int

    def whole(self, answer: Answer) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": strip_control(answer.visible).strip(),
            "reasoning_content": strip_control(answer.think).strip(),
            "refusal": None,
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
        return self._head("chat.completion") | {
            "choices": [choice],
            "usage": _usage(answer),
            "lite": self._lite(answer),
        }

    def opening(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> dict[str, Any]:
        """A delta; its `num_tokens` are what the page counts."""
        name = "reasoning_content" if piece.kind == "think" else "content"
        return self._chunk({name: piece.text, "num_tokens": piece.num_tokens})

    def closing(self, answer: Answer) -> Iterable[dict[str, Any]]:
        yield self._chunk({}, _finish(answer)) | {"lite": self._lite(answer)}
        if self.call.include_usage:
            yield self._head("chat.completion.chunk") | {"choices": [], "usage": _usage(answer)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model.name}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.call.include_usage else {}
        return self._head("chat.completion.chunk") | {"choices": [choice]} | usage

    def _lite(self, answer: Answer) -> dict[str, Any]:
        return {
            "comp_ratio_asked": self.call.comp_ratio,
            "comp_ratio_used": None if answer.ratio is None else round(100 * answer.ratio),
            "mode": answer.mode,
            "thinking_budget": answer.budget,
            "think_tokens": answer.think_tokens,
            "total_tokens": answer.total_tokens,
            "seconds": round(answer.seconds, 3),
            "tokens_per_second": round(answer.tokens_per_second, 1),
            "seed": self.call.ask.seed,
            "stop": answer.stop,
        }


def _finish(answer: Answer) -> str:
    return "length" if answer.stop == "length" else "stop"


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.total_tokens,
        "total_tokens": answer.prompt_tokens + answer.total_tokens,
        "completion_tokens_details": {"reasoning_tokens": answer.think_tokens},
    }


def dump(value: Any) -> bytes:
    """A JSON value in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
