"""The queue before the slots, with slots of scripted replies: whose turn it is, and how long one may wait."""

from __future__ import annotations

import contextlib
import random
import threading

import pytest

from lite.infer.request import Busy, Stream
from lite.infer.scheduler import Loop

SECONDS = 10  # whatever comes at all comes sooner


class Job:
    """Runs for `num_steps` steps, or until `gate` is set; notes in `order` when it got its slot."""

    def __init__(self, loop, name, order, num_steps=1, num_cells=10, gate=None):
        self.name, self.order, self.num_steps, self.num_cells = name, order, num_steps, num_cells
        self.gate = gate
        self.latest = float("inf")
        self.begun = threading.Event()
        self.stream = Stream(loop.note_cancelled)

    @property
    def cancelled(self):
        return self.stream.cancelled

    def goes_on(self):
        self.num_steps -= 1
        return not self.cancelled and (not self.gate.wait(0.001) if self.gate else self.num_steps > 0)

    def end(self):
        self.stream.end(self.name)

    def answer(self):
        assert self.stream._ended.wait(SECONDS), f"{self.name} waits for ever"
        return self.stream.answer()


class Slots:
    """Sometimes keeps the next job waiting for a neighbour that is still being fed, as real slots do."""

    def __init__(self, num_slots, num_cells):
        self.num_slots, self.num_cells = num_slots, num_cells
        self.jobs = []
        self.rng = random.Random(0)

    @property
    def free(self):
        return range(self.num_slots - len(self.jobs))

    def admit(self, job):
        assert job.num_cells <= self.num_cells
        if not self.free or self.jobs and self.rng.random() < 0.3:
            return False
        self.jobs.append(job)
        job.order.append(job.name)
        job.begun.set()
        return True

    def step(self):
        ended = [job for job in self.jobs if not job.goes_on()]
        self.jobs = [job for job in self.jobs if job not in ended]
        return ended

    def close(self):
        assert not self.jobs


@contextlib.contextmanager
def running(num_slots=2, **limits):
    """A loop with so many slots of up to 10 cells, and fewer larger ones."""

    def count(num_cells):
        return max(1, num_slots * 10 // max(10, num_cells))

    loop = Loop(lambda num_cells: Slots(count(num_cells), num_cells), count, **limits)
    try:
        yield loop
    finally:
        loop.close()


def test_first_come_first_served():
    """Whatever they need, and whoever leaves: also a long one is not overtaken."""
    rng, order = random.Random(1), []
    with running(num_slots=3) as loop:
        gate = threading.Event()
        first = Job(loop, "first", order, gate=gate)
        loop.submit([first], limited=True)
        jobs = [
            Job(loop, name, order, rng.randint(1, 9), rng.choice([5, 10, 10, 20, 40])) for name in range(60)
        ]
        for job in jobs:
            loop.submit([job], limited=True)
            if rng.random() < 0.2:
                rng.choice(jobs[: job.name + 1]).stream.cancel()
        gate.set()
        for job in jobs:
            job.answer()
        assert (loop.num_running, loop.num_waiting) == (0, 0)
    assert order == ["first", *sorted(order[1:])] and 30 < len(order) < 61


def test_a_wait_has_an_end():
    with running(num_slots=1, max_wait=0.2) as loop:
        gate, order = threading.Event(), []
        endless, late, patient = (
            Job(loop, name, order, gate=gate) for name in ("endless", "late", "patient")
        )
        loop.submit([endless], limited=True)
        assert endless.begun.wait(SECONDS)
        loop.submit([late], limited=True)
        loop.submit([patient], limited=False)
        with pytest.raises(Busy, match="no slot came free within 0.2 s; try again"):
            late.answer()
        assert (loop.num_running, loop.num_waiting) == (1, 1)
        gate.set()
        assert (endless.answer(), patient.answer()) == ("endless", "patient")
    assert order == ["endless", "patient"]


def test_a_long_request_does_not_take_the_others_slots_for_good():
    with running(num_slots=4) as loop:
        order, gates = [], [threading.Event() for _ in range(3)]
        long = Job(loop, "long", order, num_cells=40, gate=gates[0])
        one, two, three = (Job(loop, name, order, num_cells=8, gate=gates[1]) for name in ("1", "2", "3"))
        loop.submit([long, one, two, three], limited=True)
        assert long.begun.wait(SECONDS) and loop._slots.num_slots == 1
        gates[0].set()
        for job in (one, two, three):  # all at once
            assert job.begun.wait(SECONDS)
        slots = loop._slots
        assert (slots.num_slots, slots.num_cells, loop.num_running) == (4, 8, 3)
        gates[1].set()
        alone = Job(loop, "alone", order, num_cells=40)
        loop.submit([alone], limited=True)
        assert alone.answer() == "alone"
        wide = loop._slots
        alone = Job(loop, "alone again", order, num_cells=8)
        loop.submit([alone], limited=True)
        assert alone.answer() and loop._slots is wide  # nobody crowds: what they hold is kept


def test_cancelling_does_not_wait_for_a_context():
    """A server cancels in its event loop, which must not stand still."""
    making, made = threading.Event(), threading.Event()

    def make(num_cells):
        making.set()
        assert made.wait(SECONDS)
        return Slots(1, num_cells)

    loop, order = Loop(make, lambda num_cells: 1), []
    first, gone = Job(loop, "first", order), Job(loop, "gone", order)
    loop.submit([first, gone], limited=True)
    assert making.wait(SECONDS)
    thread = threading.Thread(target=gone.stream.cancel)
    thread.start()
    thread.join(SECONDS / 2)
    stood = thread.is_alive()
    made.set()
    assert not stood and (first.answer(), gone.answer()) == ("first", "gone")
    assert order == ["first"]
    loop.close()


def test_a_free_slot_is_not_kept_from_a_crowd_for_longer_than_half_their_time():
    with running(num_slots=4, max_wait=2) as loop:
        order, gate = [], threading.Event()
        long = Job(loop, "long", order, num_cells=20)
        loop.submit([long], limited=True)
        assert long.answer() and loop._slots.num_slots == 2
        endless, one, two = (Job(loop, name, order, num_cells=8, gate=gate) for name in ("endless", "1", "2"))
        loop.submit([endless], limited=True)
        assert endless.begun.wait(SECONDS)
        loop.submit([one, two], limited=True)  # with four slots both would run, but one is running now
        assert one.begun.wait(SECONDS) and loop._slots.num_slots == 2
        with pytest.raises(Busy):
            two.answer()
        gate.set()
        assert (endless.answer(), one.answer()) == ("endless", "1")
