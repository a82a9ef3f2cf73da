"""A GGUF on llama.cpp that answers many requests at once, each under its own ratio or budget."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lite.errors import LiteError
from lite.gguf.llama_build import release_openmp_threads
from lite.infer.batch import Slots
from lite.infer.controller import Controller
from lite.infer.limits import limits
from lite.infer.model import Model
from lite.infer.prompt import Prompt, Prompts, check_settings
from lite.infer.reply_parser import Phase, Reader, whole
from lite.infer.request import Answer, Ask, Piece, Stop, Stream, Unfit
from lite.infer.scheduler import Job, Loop
from lite.runtime import hardware
from lite.tokens import (
    BASE,
    POLICY,
    RATIO_TOKENS,
    THINK_CLOSE,
    THINK_OPEN,
    Reply,
    parse_reply,
    strip_control,
)

MAX_BATCH = 256  # llama.cpp's sequences in one context


class Engine:
    """A loaded GGUF. Close it, or use it in a `with` block.

    `context_tokens`: most tokens, prompts included, that the replies decoded together may take, and so the bound of
    the KV cache's memory (2 kB a token for the quickstart's model, 112 kB for Qwen3-1.7B); where they are long,
    fewer are decoded together. `batch_size`: replies decoded together, at most. `num_threads` 0: one per core that
    it may use. `max_waiting`: requests that `submit` lets wait, and `max_wait`: seconds that one of them waits for a
    slot, at most; None: any number.
    Raises LiteError for a file that is not there or is not a GGUF that llama.cpp can load.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        context_tokens: int = 32768,
        batch_size: int = 16,
        num_threads: int = 0,
        max_waiting: int | None = None,
        max_wait: float | None = None,
    ):
        if not 1 <= batch_size <= MAX_BATCH:
            raise LiteError(f"batch size {batch_size}: must lie in 1..{MAX_BATCH}")
        self.path = Path(path)
        self.batch_size, self.context_tokens = batch_size, context_tokens
        self.num_threads = num_threads or hardware.num_cores()
        release_openmp_threads()
        self.model = Model(self.path)
        self.trained_context = self.model.trained_context
        self._prompts = Prompts(self.model)
        self.has_dial = self._prompts.has_dial
        self._loop = Loop(self._make_slots, self._count_slots, max_waiting, max_wait)

    def close(self) -> None:
        """Cancel what runs, and free the model and its context."""
        self._loop.close()
        self.model.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return self._loop.num_waiting

    @property
    def num_running(self) -> int:
        """Requests that have a slot."""
        return self._loop.num_running

    def submit(self, ask: Ask, on_event: Callable[[Piece | None], None] | None = None) -> Stream:
        """Start a request; it is decoded together with all others. Any thread may submit.

        `on_event`: see Stream. Raises Busy where too many wait, LiteError for what this model cannot honour. The
        stream's answer raises Busy where it has waited too long.
        """
        stream = Stream(self._loop.note_cancelled, on_event)
        self._loop.submit([self._job(ask, stream, stream.put)], limited=True)
        return stream

    def generate(
        self, asks: Sequence[Ask], on_done: Callable[[int, Answer], None] | None = None
    ) -> list[Answer]:
        """The answer to each request, in their order; `on_done(index, answer)` is called as each comes.

        Requests that begin alike are decoded one after the other, so that they share what they can.
        """
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        jobs = []
        for index, ask in enumerate(asks):
            stream = Stream(self._loop.note_cancelled, lambda _, index=index: done.put(index))
            jobs.append(self._job(ask, stream, None))
        longest = max((job.num_cells for job in jobs), default=0)
        for job in jobs:
            job.num_cells = longest  # one context for all of them
        answers: dict[int, Answer] = {}
        try:
            self._loop.submit(sorted(jobs, key=lambda job: job.prompt.tolist()), limited=False)
            for _ in jobs:
                index = done.get()
                answers[index] = jobs[index].stream.answer()
                if on_done:
                    on_done(index, answers[index])
        except BaseException:
            for job in jobs:
                job.stream.cancel()
            raise
        return [answers[index] for index in range(len(jobs))]

    def mode(self, ask: Ask) -> str:
        """The mode that a request is decoded in: its own, or what its budget picks."""
        if ask.mode is not None:
            return ask.mode
        if not self.has_dial:
            return BASE
        if ask.lean or ask.budget is None or self.model.calibration is None:
            return POLICY
        return str(self.model.calibration.ratio_within(ask.budget))

    def prompt(self, ask: Ask) -> Prompt:
        """The prompt of a request. Raises LiteError for what this model cannot honour."""
        check_settings(ask)
        if ask.budget is not None and self.model.is_recurrent:
            raise LiteError(
                f"budget {ask.budget}: {self.path.name} is recurrent and takes no token back; leave the budget out"
            )
        self._nudge(ask)
        prompt = self._prompts.build(ask, self.mode(ask))
        if not 0 < len(prompt.ids) < self._context:
            raise Unfit(
                f"a prompt of {len(prompt.ids)} tokens leaves no room in {self._context}; shorten the question"
                f" (this model's maximum context length is {self._context} tokens)",
                field="messages",
                code="context_length_exceeded",
            )
        return prompt

    @property
    def _context(self) -> int:
        """Tokens of a prompt and its reply, at most."""
        return min(self.trained_context, self.context_tokens)

    def _job(self, ask: Ask, stream: Stream, emit: Callable[[Piece], None] | None) -> Job:
        prompt = self.prompt(ask)
        room = min(ask.max_tokens, self._context - len(prompt.ids))
        controller = Controller(
            self.model.lexicon,
            limits(self.model.lexicon, room, ask.budget, asks=prompt.asks and ask.grammar is None),
            prompt.phase,
            emit,
            stops=ask.stop,
            grammar=self.model.grammar(ask.grammar) if ask.grammar else None,
            raw=ask.prompt is not None,
            opens=self.has_dial,
        )
        job = Job(ask, prompt.ids, controller, stream, self._nudge(ask))

        def finish(job: Job) -> Answer:
            seconds = time.monotonic() - job.started
            return self._answer(
                ask, prompt, job.ids, controller.reader, seconds, controller.stop, controller.num_hidden
            )

        job.finish = finish
        return job

    def _nudge(self, ask: Ask) -> tuple[np.ndarray, np.ndarray] | None:
        """What a lean adds to the logits of the ratio tokens, as (ids, gains)."""
        if not ask.lean:
            return None
        if not self.has_dial or self.mode(ask) != POLICY:
            what = f"the ratio is {self.mode(ask)}" if self.has_dial else f"{self.path.name} has no dial"
            raise Unfit(f"lean {ask.lean:g}: {what}, and it shifts what policy chooses", field="lean")
        ids = [self.model.tokenise(token, special=True)[0] for token in RATIO_TOKENS]
        return np.array(ids), (ask.lean * np.arange(len(ids))).astype(np.float32)

    def read(self, ask: Ask, ids: list[int], *, seconds: float, stop: Stop) -> Answer:
        """The answer that these tokens are, where something else generated them for `prompt(ask)`."""
        prompt = self.prompt(ask)
        return self._answer(ask, prompt, ids, self._read(Reader(prompt.phase), ids), seconds, stop)

    def _read(self, reader: Reader, ids: list[int]) -> Reader:
        for token in ids:
            reader.read(self.model.lexicon.pieces[token])
        reader.finish()
        return reader

    def _answer(
        self,
        ask: Ask,
        prompt: Prompt,
        ids: list[int],
        reader: Reader,
        seconds: float,
        stop: Stop,
        num_hidden: int = 0,
    ) -> Answer:
        data = whole(self.model.bytes_of(ids))
        text = data[: len(data) - num_hidden].decode("utf-8", errors="replace")
        if ask.prompt is not None:
            reply = Reply(None, "", text, has_think=False, closed=False)
        else:
            text = prompt.lead + text
            reply = parse_reply(text)
        if not reply.opened:  # known only now, at its end
            reader = self._read(Reader(unopened=Phase.THINK), ids)
        return Answer(
            mode=self.mode(ask),
            ratio=reply.ratio,
            budget=ask.budget,
            think=strip_control(reply.think),
            visible=strip_control(reply.visible),
            think_tokens=reader.think_tokens,
            total_tokens=len(ids),
            prompt_tokens=len(prompt.ids),
            seconds=seconds,
            stop=stop,
            has_think=reply.has_think,
            closed=reply.closed,
            text=text,
            visible_tokens=reader.num_tokens if reader.phase is Phase.ANSWER else 0,
            markers=sum(reply.visible.count(mark) for mark in (THINK_OPEN, THINK_CLOSE)),
        )

    def _make_slots(self, num_cells: int) -> Slots:
        return Slots(
            self.model.handle,
            self.model.num_vocab,
            num_slots=self._count_slots(num_cells),
            num_cells=self._cells(num_cells),
            num_threads=self.num_threads,
        )

    def _count_slots(self, num_cells: int) -> int:
        return min(self.batch_size, self.context_tokens // self._cells(num_cells))

    def _cells(self, num_cells: int) -> int:
        return min(_step_up(num_cells), _step_up(self._context), self.context_tokens)


def _step_up(num_cells: int) -> int:
    """The next of 256, 512, 768, 1024, 1536, 2048, 3072, ... cells: llama.cpp counts in 256s, and a conversation
    that grows shall seldom need a new context."""
    size = 256
    while size < num_cells:
        size = size * 3 // 2 if size >= 512 and size & (size - 1) == 0 else 1 << size.bit_length()
    return size
