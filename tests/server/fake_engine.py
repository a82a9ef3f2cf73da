"""An engine of scripted replies, so that tests choose when a piece comes. It obeys lite.infer.engine's interface."""

from __future__ import annotations

import threading
from pathlib import Path

from lite.infer.request import Answer, Ask, Busy, Piece, Stream, Unfit

SLOTS = 4
THINK, ANSWER = "12 + 5 = 17. ", "It is \\boxed{17}."  # 6 and 5 tokens, says the script


class FakeEngine:
    """A reply thinks `num_think` times THINK, and then answers. SLOTS run at a time; nothing waits.

    While `gate` is not set, a reply has begun and goes no further. The question "fail" makes the engine fail,
    "refuse" is refused, "late" waits for a slot in vain.
    """

    has_dial = True
    trained_context = context_tokens = 4096
    num_waiting = 0

    def __init__(self, think: str = THINK, num_think: int = 5):
        self.path = Path(__file__)
        self.think, self.num_think = think, num_think
        self.gate = threading.Event()
        self.gate.set()
        self.asks: list[Ask] = []
        self.streams: list[Stream] = []
        self._running: set[Stream] = set()

    @property
    def num_running(self) -> int:
        return len(self._running)

    def submit(self, ask: Ask, on_event=None) -> Stream:
        if ask.messages[-1].content == "refuse":
            message = "a prompt of 9999 tokens leaves no room in 4096; shorten the question"
            raise Unfit(message, field="messages", code="context_length_exceeded")
        if self.num_running >= SLOTS:
            raise Busy(f"{SLOTS} requests wait already; try again later")
        stream = Stream(lambda: None, on_event)
        self.asks.append(ask)
        self.streams.append(stream)
        self._running.add(stream)
        threading.Thread(target=self._write, args=(ask, stream), daemon=True).start()
        return stream

    def _write(self, ask: Ask, stream: Stream) -> None:
        if ask.messages[-1].content == "late":
            self._running.discard(stream)
            return stream.end(Busy("no slot came free within 60 s; try again in a while"))
        stream.put(Piece("think", self.think, 6))
        while not stream.cancelled and not self.gate.wait(0.01):
            pass
        num_think = 1 if stream.cancelled else self.num_think
        for _ in range(num_think - 1):
            stream.put(Piece("think", self.think, 6))
        if not stream.cancelled:
            stream.put(Piece("answer", ANSWER, 5))
        self._running.discard(stream)
        if ask.messages[-1].content == "fail":
            stream.end(RuntimeError("scripted"))
            return
        stream.end(
            Answer(
                mode=ask.mode or "policy",
                ratio=0.4 if ask.mode in (None, "policy") else float(ask.mode),
                budget=ask.budget,
                think=(num_think * self.think).strip(),
                visible="" if stream.cancelled else ANSWER,
                think_tokens=6 * num_think,
                total_tokens=6 * num_think + 8,
                prompt_tokens=20,
                seconds=0.5,
                stop="cancelled" if stream.cancelled else "eos",
                has_think=True,
                closed=not stream.cancelled,
                text="",
            )
        )
