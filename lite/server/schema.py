"""Requests on the wire: JSON to a Call, checked to the last field. Knows nothing of sockets.

A field that could change the reply and that we cannot honour is refused, never ignored.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from lite import quickstart
from lite.infer.request import Ask, Message
from lite.server.dial import PERCENTS, Dial
from lite.server.faults import Refused, of_validation, read_json, show
from lite.server.fields import (
    HARMLESS,
    MAX_STOPS,
    NEUTRAL,
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
    Sampling,
    ThinkingRequest,
    Turn,
)
from lite.tokens import POLICY


@dataclass(frozen=True, slots=True)
class Model:
    """What is served. `context_tokens` bounds prompt and reply together, `max_tokens` a reply."""

    name: str
    created: int  # seconds since 1970
    has_dial: bool
    context_tokens: int
    max_tokens: int
    instruction: str | None = None
    lean: float = 0.0

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
            **(
                {"about": quickstart.ABOUT, "examples": quickstart.EXAMPLES}
                if quickstart.is_one(self.name)
                else {}
            ),
        }


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request. `comp_ratio` is the percent or "policy" that was asked; None leaves it to the engine."""

    ask: Ask
    comp_ratio: int | str | None = None
    stream: bool = False
    include_usage: bool = False
    names: dict[str, str] | None = None  # what the client calls the fields of an Ask


def read_chat(body: bytes, model: Model) -> Call:
    """A body of `/v1/chat/completions`. Raises Refused with the field, its value and the remedy."""
    fields = _check(ChatRequest, body, model)
    form = fields.response_format
    return _thinking_call(
        fields,
        model,
        tuple(turn.message() for turn in fields.messages),
        {"max_tokens": fields.max_tokens, "max_completion_tokens": fields.max_completion_tokens},
        form.grammar("response_format") if form else None,
        "messages",
    )


def read_responses(body: bytes, model: Model) -> Call:
    """A body of `/v1/responses`."""
    fields = _check(ResponsesRequest, body, model)
    given = fields.input
    turns = [Message("user", given)] if isinstance(given, str) else []
    if not isinstance(given, str):
        turns = [turn.message() for turn in given if isinstance(turn, Turn)]
    if fields.instructions:
        turns = [Message("system", fields.instructions), *turns]
    form = fields.text and fields.text.format
    caps = {"max_tokens": fields.max_tokens, "max_output_tokens": fields.max_output_tokens}
    grammar = form.grammar("text.format") if form else None
    return _thinking_call(fields, model, tuple(turns), caps, grammar, "input")


def read_completion(body: bytes, model: Model) -> Call:
    """A body of `/v1/completions`; special tokens in its text are special."""
    fields = _check(CompletionRequest, body, model)
    prompt = fields.prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        if len(prompt) > 1:
            raise Refused(f"prompt: {len(prompt)} of them; give one", param="prompt")
        prompt = prompt[0]
    if not prompt:
        raise Refused("prompt is empty; give a text or token ids", param="prompt")
    ask = _ask(fields, model, {"max_tokens": 16 if fields.max_tokens is None else fields.max_tokens})
    ask = replace(ask, prompt=prompt if isinstance(prompt, str) else tuple(prompt))
    return Call(ask, None, fields.stream, _include_usage(fields), {"messages": "prompt"})


def _check(kind: type[Sampling], body: bytes, model: Model) -> Any:
    fields = {name: value for name, value in read_json(body).items() if value is not None}
    fields = _without_neutral(fields, "")
    for name in ("messages", "input"):
        turns = fields.get(name)
        if isinstance(turns, list):
            fields[name] = [
                _without_neutral(turn, f"{name}[{place}].") if isinstance(turn, dict) else turn
                for place, turn in enumerate(turns)
            ]
    try:
        checked = kind.model_validate(fields)
    except ValidationError as fault:
        raise of_validation(fault, kind.model_fields) from None
    if checked.model not in (None, model.name):
        raise Refused(
            f"model {show(checked.model)}: not served here; use {model.name}",
            status=404,
            param="model",
            code="model_not_found",
        )
    return checked


def _without_neutral(fields: dict[str, Any], path: str) -> dict[str, Any]:
    """The fields without those that ask for nothing. Raises Refused for one that we do not have and that does."""
    for name, value in fields.items():
        if name in NEUTRAL and value is not None:
            if not any(type(value) is type(calm) and value == calm for calm in NEUTRAL[name]):
                raise Refused(f"{path}{name} {show(value)}: not supported; leave it out", param=path + name)
    skipped = {*NEUTRAL, *(HARMLESS if not path else ())}
    return {name: value for name, value in fields.items() if name not in skipped}


def _thinking_call(
    fields: ThinkingRequest,
    model: Model,
    messages: tuple[Message, ...],
    caps: dict[str, int | None],
    grammar: str | None,
    where: str,
) -> Call:
    if not messages or messages[-1].role != "user":
        role = messages[-1].role if messages else "nobody"
        raise Refused(
            f"the last message is of role {role}; it must be the user's (a begun answer is not gone on with)",
            param=where,
        )
    if not messages[-1].content.strip():
        raise Refused("the last message is empty; give a question", param=where)
    dial = Dial(fields)
    if dial.ratio is not None and not model.has_dial:
        raise Refused(f"{dial.ratio_field}: {model.name} has no dial; leave it out", param=dial.ratio_field)
    ask = _ask(fields, model, caps)
    if dial.budget and any(cap is not None and 0 < cap <= dial.budget for cap in caps.values()):
        raise Refused(
            f"{dial.budget_field} {dial.budget}: leaves no room for an answer in max_tokens {ask.max_tokens}",
            param=dial.budget_field,
        )
    ask = replace(
        ask,
        messages=messages,
        mode=dial.ratio if dial.ratio in (None, POLICY) else str(dial.ratio / 100),
        budget=dial.budget,
        thinking=dial.thinking,
        instruction=model.instruction if fields.instruction is None else fields.instruction,
        grammar=grammar,
        lean=_lean(fields, model, dial),
    )
    names = {"budget": dial.budget_field, "messages": where, "lean": "lean"}
    return Call(ask, dial.ratio, fields.stream, _include_usage(fields), names)


def _lean(fields: ThinkingRequest, model: Model, dial: Dial) -> float:
    """The server's own lean gives way to a ratio that is asked for."""
    if fields.lean is not None:
        return fields.lean
    return model.lean if dial.ratio in (None, POLICY) and dial.thinking else 0.0


def _ask(fields: Sampling, model: Model, caps: dict[str, int | None]) -> Ask:
    given = {name: cap for name, cap in caps.items() if cap is not None}
    if 0 in given.values():
        raise Refused("max_tokens 0: allow 1 at least, or -1 for as many as there are", param=[*given][0])
    if len(set(given.values())) > 1:
        raise Refused(f"{' and '.join(given)} differ; give one", param=[*given][0])
    cap = next(iter(given.values()), -1)
    seed = fields.seed
    if seed is None:
        seed = secrets.randbits(32) if fields.temperature > 0 else 0
    stops = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
    if len(stops) > MAX_STOPS or not all(0 < len(stop) <= 1000 for stop in stops):
        raise Refused(
            f"stop {show(fields.stop)}: give up to {MAX_STOPS} texts of 1..1000 characters", param="stop"
        )
    return Ask(
        mode=None,
        max_tokens=model.max_tokens if cap < 0 else min(cap, model.max_tokens),
        temperature=fields.temperature,
        top_p=fields.top_p,
        seed=seed % 2**64,
        stop=tuple(stops),
    )


def _include_usage(fields: Sampling) -> bool:
    if fields.stream_options and not fields.stream:
        raise Refused("stream_options needs stream: true", param="stream_options")
    return bool(fields.stream_options and fields.stream_options.include_usage)
