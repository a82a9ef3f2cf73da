"""Replies on the wire: an Answer, or its Pieces as they come, in the JSON of one route.

Beside OpenAI's own there are `reasoning_content` (and `reasoning`, its newer name), and the object `lite`: what was
asked and what was used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lite.infer.request import Answer, Piece
from lite.server.faults import dump
from lite.server.schema import Call, Model
from lite.tokens import strip_control

Event = dict[str, Any]


class Writer:
    """Writes the reply to one call: `whole`, or `opening`, `piece` after piece, and `closing` as events."""

    prefix: str  # of the reply's id
    kind: str
    end = b"data: [DONE]\n\n"

    def __init__(self, call: Call, model: Model, id: str, created: int):
        self.call, self.model, self.id, self.created = call, model, f"{self.prefix}{id}", created

    def frame(self, event: Event) -> bytes:
        """An event as a server-sent one."""
        return b"data: " + dump(event) + b"\n\n"

    def _head(self, kind: str) -> Event:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model.name}

    def _lite(self, answer: Answer) -> Event:
        return {
            "comp_ratio_asked": self.call.comp_ratio,
            "comp_ratio_used": None if answer.ratio is None else round(100 * answer.ratio),
            "mode": answer.mode,
            "thinking_budget": answer.budget,
            "think_tokens": answer.think_tokens,
            "visible_tokens": answer.visible_tokens,
            "total_tokens": answer.total_tokens,
            "seconds": round(answer.seconds, 3),
            "tokens_per_second": round(answer.tokens_per_second, 1),
            "seed": self.call.ask.seed,
            "stop": answer.stop,
        }


class ChatWriter(Writer):
    """`/v1/chat/completions`."""

    prefix, kind = "chatcmpl-", "chat.completion"

    def whole(self, answer: Answer) -> Event:
        choice = {
            "index": 0,
            **self._content(answer),
            "logprobs": None,
            "finish_reason": _finish(answer),
        }
        return self._head(self.kind) | {
            "choices": [choice],
            "usage": _usage(answer),
            "lite": self._lite(answer),
        }

    def opening(self) -> Iterator[Event]:
        yield self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> Iterator[Event]:
        """A delta; its `num_tokens` are what the page counts."""
        if piece.kind == "think":
            texts = {"reasoning_content": piece.text, "reasoning": piece.text}
        else:
            texts = {"content": piece.text}
        yield self._chunk({**texts, "num_tokens": piece.num_tokens})

    def closing(self, answer: Answer) -> Iterator[Event]:
        yield self._chunk({}, _finish(answer)) | {"lite": self._lite(answer)}
        if self.call.include_usage:
            yield self._head(f"{self.kind}.chunk") | {"choices": [], "usage": _usage(answer)}

    def _content(self, answer: Answer) -> Event:
        think = strip_control(answer.think).strip()
        message = {
            "role": "assistant",
            "content": strip_control(answer.visible).strip(),
            "reasoning_content": think,
            "reasoning": think,
            "refusal": None,
        }
        return {"message": message}

    def _chunk(self, delta: Event, finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.call.include_usage else {}
        return self._head(f"{self.kind}.chunk") | {"choices": [choice]} | usage


class CompletionWriter(ChatWriter):
    """`/v1/completions`."""

    prefix, kind = "cmpl-", "text_completion"

    def opening(self) -> Iterator[Event]:
        return iter(())

    def piece(self, piece: Piece) -> Iterator[Event]:
        yield self._chunk({"text": piece.text})

    def closing(self, answer: Answer) -> Iterator[Event]:
        yield self._chunk({"text": ""}, _finish(answer)) | {"lite": self._lite(answer)}
        if self.call.include_usage:
            yield self._head(self.kind) | {"choices": [], "usage": _usage(answer)}

    def _content(self, answer: Answer) -> Event:
        return {"text": answer.visible}

    def _chunk(self, delta: Event, finish: str | None = None) -> Event:
        choice = {"index": 0, **delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.call.include_usage else {}
        return self._head(self.kind) | {"choices": [choice]} | usage


class ResponsesWriter(Writer):
    """`/v1/responses`: a reasoning item where the model thought, and a message."""

    prefix, end = "resp_", b""

    def __init__(self, call: Call, model: Model, id: str, created: int):
        super().__init__(call, model, id, created)
        self._item_ids = {"think": f"rs_{id}", "answer": f"msg_{id}"}
        self._number = 0
        self._items: list[Event] = []  # those that are done
        self._open: str | None = None  # the kind of the item under way
        self._text = ""

    def frame(self, event: Event) -> bytes:
        return f"event: {event['type']}\n".encode() + super().frame(event)

    def whole(self, answer: Answer) -> Event:
        texts = {
            "think": strip_control(answer.think).strip(),
            "answer": strip_control(answer.visible).strip(),
        }
        is_cut = answer.stop == "length"
        items = [
            self._item(kind, text, "incomplete" if is_cut and kind == "answer" else "completed")
            for kind, text in texts.items()
            if text or kind == "answer"
        ]
        usage = {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer.total_tokens,
            "output_tokens_details": {"reasoning_tokens": answer.think_tokens},
            "total_tokens": answer.prompt_tokens + answer.total_tokens,
        }
        return self._response("incomplete" if is_cut else "completed", items) | {
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": usage,
            "lite": self._lite(answer),
        }

    def opening(self) -> Iterator[Event]:
        for name in ("created", "in_progress"):
            yield self._event(f"response.{name}", response=self._response("in_progress", []))

    def piece(self, piece: Piece) -> Iterator[Event]:
        if piece.kind != self._open:
            yield from self._end_item()
            yield from self._begin_item(piece.kind)
        self._text += piece.text
        yield self._part_event("delta", delta=piece.text, **self._logprobs())

    def closing(self, answer: Answer) -> Iterator[Event]:
        if self._open != "answer":
            yield from self._end_item()
            yield from self._begin_item("answer")
        yield from self._end_item()
        response = self.whole(answer) | {"output": self._items}
        yield self._event(f"response.{response['status']}", response=response)

    def _begin_item(self, kind: str) -> Iterator[Event]:
        self._open, self._text = kind, ""
        item = self._item(kind, "", "in_progress") | {"content": []}
        yield self._event("response.output_item.added", output_index=len(self._items), item=item)
        yield self._event("response.content_part.added", **self._place(), part=_part(kind, ""))

    def _end_item(self) -> Iterator[Event]:
        if self._open is None:
            return
        kind, text = self._open, self._text
        yield self._part_event("done", text=text, **self._logprobs())
        yield self._event("response.content_part.done", **self._place(), part=_part(kind, text))
        item = self._item(kind, text, "completed")
        yield self._event("response.output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        self._open = None

    def _part_event(self, what: str, **fields: Any) -> Event:
        name = "reasoning_text" if self._open == "think" else "output_text"
        return self._event(f"response.{name}.{what}", **self._place(), **fields)

    def _logprobs(self) -> Event:
        return {"logprobs": []} if self._open == "answer" else {}

    def _place(self) -> Event:
        return {"item_id": self._item_ids[self._open], "output_index": len(self._items), "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _item(self, kind: str, text: str, status: str) -> Event:
        item = {"id": self._item_ids[kind], "status": status, "content": [_part(kind, text)]}
        if kind == "think":
            return {"type": "reasoning", "summary": [], **item}
        return {"type": "message", "role": "assistant", **item}

    def _response(self, status: str, items: list[Event]) -> Event:
        ask = self.call.ask
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": ask.max_tokens,
            "model": self.model.name,
            "output": items,
            "parallel_tool_calls": False,
            "temperature": ask.temperature,
            "tool_choice": "none",
            "tools": [],
            "top_p": ask.top_p,
            "metadata": {},
            "usage": None,
        }


def _part(kind: str, text: str) -> Event:
    if kind == "think":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _finish(answer: Answer) -> str:
    return "length" if answer.stop == "length" else "stop"


def _usage(answer: Answer) -> Event:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.total_tokens,
        "total_tokens": answer.prompt_tokens + answer.total_tokens,
        "completion_tokens_details": {"reasoning_tokens": answer.think_tokens},
    }
