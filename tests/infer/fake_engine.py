"""An engine of scripted replies, so that tests choose when a piece comes. It obeys lite.infer.engine's interface."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from lite.errors import LiteError
from lite.infer.request import Answer, Ask, Busy, Piece, Stream

THINK, ANSWER = "12 + 5 = 17. ", "It is \\boxed{17}."


class FakeEngine:
    """Replies think `num_think` times THINK, one piece every `seconds`, and then answer.

    `num_slots` run at a time; nothing waits. A question "fail" makes the engine fail, "refuse" is refused.
    """

    has_dial = True
    trained_context = context_tokens = 4096
    num_waiting = 0

    def __init__(self, *, num_think: int = 5, seconds: float = 0.0, num_slots: int = 4):
        self.path = Path(__file__)
        self.num_think, self.seconds, self.num_slots = num_think, seconds, num_slots
        self.asks: list[Ask] = []
        self._running: set[Stream] = set()

    @property
    def num_running(self) -> int:
        return len(self._running)

    def submit(self, ask: Ask, on_event=None) -> Stream:
        self.asks.append(ask)
        if ask.messages[-1].content == "refuse":
            raise LiteError("a prompt of 9999 tokens leaves no room in 4096; shorten the question")
        if self.num_running >= self.num_slots:
            raise Busy(f"{self.num_slots} requests wait already; try again later")
        stream = Stream(on_event)
        self._running.add(stream)
        threading.Thread(target=self._write, args=(ask, stream), daemon=True).start()
        return stream

    def _write(self, ask: Ask, stream: Stream) -> None:
        think = visible = ""
        for index in range(self.num_think + 1):
            time.sleep(self.seconds)
            if stream.cancelled:
                break
            if index < self.num_think:
                think += THINK
                stream.put(Piece("think", THINK, 6))
            else:
                visible = ANSWER
                stream.put(Piece("answer", ANSWER, 5))
        num_think = 6 * (len(think) // len(THINK))
        self._running.discard(stream)
        if ask.messages[-1].content == "fail":
            stream.end(RuntimeError("scripted"))
            return
        stream.end(
            Answer(
                mode=ask.mode or "0.2",
                ratio=0.4 if ask.mode in (None, "policy") else float(ask.mode),
                budget=ask.budget,
                think=think.strip(),
                visible=visible,
                think_tokens=num_think,
                total_tokens=num_think + 5 * bool(visible) + 3,
                prompt_tokens=20,
                seconds=(self.num_think + 1) * self.seconds + 0.001,
                stop="cancelled" if stream.cancelled else "eos",
                has_think=True,
                closed=bool(visible),
                text="",
            )
        )
