"""The decode loop: one thread that takes requests from a queue, decodes them together and hands out what comes.

The only way to generate: single questions, the server's requests and whole evaluations all go through it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from lite.errors import LiteError
from lite.infer.batch import Slots
from lite.infer.controller import Controller
from lite.infer.request import Answer, Ask, Busy, Stream


class Job:
    """A request on its way: its prompt, who follows its reply, and where the answer goes (see batch.Job)."""

    def __init__(
        self,
        ask: Ask,
        prompt: list[int],
        controller: Controller,
        stream: Stream,
        nudge: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        self.nudge = nudge
        self.allows, self.constrain = controller.allows, controller.constrain
        self.prompt = np.array(prompt, np.int32)
        self.controller, self.stream = controller, stream
        self.ids = controller.ids
        self.temperature, self.top_p = ask.temperature, ask.top_p
        self.draw = np.random.default_rng(ask.seed).random
        self.num_cells = len(prompt) + controller.limits.max_tokens
        self.finish: Callable[[Job], Answer]
        self.started = time.monotonic()
        self.latest = math.inf  # when it has to have a slot

    @property
    def cancelled(self) -> bool:
        return self.stream.cancelled

    def take(self, proposed: int) -> int | None:
        return None if self.stream.cancelled else self.controller.step(proposed)

    def end(self) -> None:
        """Hand out the answer."""
        if self.controller.stop is None:
            self.controller.end("cancelled")
        try:
            answer = self.finish(self)
        except Exception as fault:
            return self.stream.end(fault)
        self.stream.end(answer)


class Loop:
    """Decodes jobs in a thread of its own, `make_slots(num_cells)` at a time. Close it.

    `count_slots(num_cells)`: how many these are; the larger, the fewer.
    Limited jobs: `max_waiting` may wait for a slot beside those that run, and `max_wait` seconds each, at most; None:
    any number.
    """

    def __init__(
        self,
        make_slots: Callable[[int], Slots],
        count_slots: Callable[[int], int],
        max_waiting: int | None = None,
        max_wait: float | None = None,
    ):
        self._make_slots, self._count_slots, self._max_waiting = make_slots, count_slots, max_waiting
        self._max_wait = math.inf if max_wait is None else max_wait
        self._slots: Slots | None = None
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._lock = threading.Condition()
        self._closing = self._cancelled = False
        self._thread: threading.Thread | None = None

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def submit(self, jobs: list[Job], *, limited: bool) -> None:
        """Put jobs into the queue. Raises Busy where it is `limited` and full."""
        with self._lock:
            if self._closing:
                raise LiteError("the engine is closed; open another")
            if limited and self._is_full():
                raise Busy(f"{len(self._waiting)} requests wait already; try again in a while")
            if limited:
                for job in jobs:
                    job.latest = time.monotonic() + self._max_wait
            self._waiting.extend(jobs)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lite-decode", daemon=True)
                self._thread.start()
            self._lock.notify()

    def _is_full(self) -> bool:
        """Whether as many run and wait as there can be slots and may wait: a free slot is room, too."""
        if self._max_waiting is None:
            return False
        return len(self._waiting) + len(self._running) >= self._max_waiting + self._count_slots(1)

    def note_cancelled(self) -> None:
        """Some stream was cancelled: its job may have to leave the queue.

        Takes no lock, so that a server's event loop never waits here for a context that is being made. The thread
        is awake while anybody waits or runs.
        """
        self._cancelled = True

    def close(self) -> None:
        """Cancel what runs and waits, and free the context."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        if self._thread:
            self._thread.join()
        if self._slots:
            self._slots.close()
            self._slots = None

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closing or self._waiting or self.num_running)
                if self._closing:
                    break
            self._drop_cancelled()
            try:
                self._admit()
                self._drop_late()
                ended = self._slots.step() if self._running else []
            except BaseException as fault:  # what the cells hold is not known any more
                self._fail(fault)
                continue
            for job in ended:
                self._running.remove(job)
                job.end()
        for job in [*self._running, *self._waiting]:
            job.end()
        self._running, self._waiting = [], deque()

    def _drop_cancelled(self) -> None:
        """End those who were cancelled while they waited."""
        with self._lock:
            if not self._cancelled:
                return
            self._cancelled = False
            gone: list[Job] = []
            staying: deque[Job] = deque()
            for job in self._waiting:  # once, for a flag may come up at any moment
                (gone if job.cancelled else staying).append(job)
            self._waiting = staying
        for job in gone:
            job.end()

    def _admit(self) -> None:
        """Give slots to those who wait, first come first served."""
        with self._lock:
            while self._waiting and self._make_room(self._waiting[0]):
                job = self._waiting[0]
                job.started = time.monotonic()
                if not self._slots.admit(job):
                    break
                self._running.append(self._waiting.popleft())

    def _drop_late(self) -> None:
        """Refuse those at the head who have waited too long; of limited jobs the first has waited longest."""
        late = []
        with self._lock:
            while self._waiting and self._waiting[0].latest < time.monotonic():
                late.append(self._waiting.popleft())
        for job in late:
            job.stream.end(Busy(f"no slot came free within {self._max_wait:g} s; try again in a while"))

    def _make_room(self, job: Job) -> bool:
        """Whether slots suit the first that waits. Where they do not, others are made once none is busy: larger ones
        for a long job, smaller and more of them where the long ones have gone and others crowd.

        Who fits waits for that half of its time at most. Idle slots keep their memory, and the beginnings they hold.
        """
        fits = self._slots and self._slots.num_cells >= job.num_cells
        in_haste = self._running and time.monotonic() > job.latest - self._max_wait / 2
        if fits and (in_haste or not self._are_too_few(self._slots)):
            return True
        if self._running:
            return False
        if self._slots:
            self._slots.close()
            self._slots = None
        num_cells = max(other.num_cells for other in self._waiting) if fits else job.num_cells
        self._slots = self._make_slots(num_cells)
        return True

    def _are_too_few(self, slots: Slots) -> bool:
        """Whether more of them would be in use if they were as small as everybody here allows."""
        if not slots.free or len(self._running) + len(self._waiting) <= slots.num_slots:
            return False
        present = [*self._running, *self._waiting]
        return self._count_slots(max(job.num_cells for job in present)) > slots.num_slots

    def _fail(self, fault: BaseException) -> None:
        """End every job that runs, or the one that no context could be made for, with a fault."""
        with self._lock:
            failed = self._running or [self._waiting.popleft()]
            self._running = []
            if self._slots:
                self._slots.close()
                self._slots = None
        for job in failed:
            job.stream.end(fault)
