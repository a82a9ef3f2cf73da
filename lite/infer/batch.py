"""Continuous batching on llama.cpp's low-level API: many requests through a few sequences, step by step.

A slot (a llama.cpp sequence) is given to the next request as soon as its own ends. A request that begins like
what another slot has already decoded copies those cells (`llama_memory_seq_cp`) and feeds only the rest.
Every slot has KV cells of its own: attention then looks at one reply at a time, which on a tiny model is
2.5 times as fast at 16 slots as one pool of cells for all (kv_unified). llama.cpp then computes only sequences
with consecutive numbers together, so a batch is in the order of its slots, and these lie side by side.
A prompt is fed apart from the replies under way, in the same portions whatever these are, and never a single
token at a time: llama.cpp's x86 kernels round one token of a sequence otherwise than several, and a greedy reply
would depend on its neighbours. For the same reason only prompts are shared, not replies (docs/log.md).
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import llama_cpp
import numpy as np

from lite.errors import LiteError
from lite.infer.sampling import greedy, sample

BATCH_TOKENS = 256  # computed together, at most: bounds the memory of attention scores; no fewer than slots
LEAST_TOKENS = 2  # of a prompt fed together
WORTH_SHARING = 16  # tokens: fewer are fed again rather than copied or waited for
NO_TOKENS = np.zeros(0, np.int32)


class Job(Protocol):
    """What a slot works on."""

    prompt: np.ndarray  # (tokens,) int32
    ids: list[int]  # what was written so far
    temperature: float
    top_p: float
    cancelled: bool
    nudge: (
        tuple[np.ndarray, np.ndarray] | None
    )  # token ids, and what their logits gain at a reply's first place

    def draw(self) -> float:
        """The next number in [0, 1) for a temperature above 0."""

    def allows(self, token: int) -> bool:
        """Whether the model may propose this token here."""

    def constrain(self, logits: np.ndarray) -> None:
        """Set the logits (V,) of others that it may not propose to minus infinity."""

    def take(self, proposed: int) -> int | None:
        """The token to write where the model proposes `proposed` (negative: it has none); None: the reply has ended.

        It is the last of `ids` then; others at their end may have been taken back.
        """


class Feed:
    """A llama_batch on numpy memory, so that filling it costs no Python object per token."""

    def __init__(self, size: int):
        self.token = np.zeros(size, np.int32)
        self.pos = np.zeros(size, np.int32)
        self.slot = np.zeros(size, np.int32)
        self.wants_logits = np.zeros(size, np.int8)
        self.one = np.ones(size, np.int32)  # every token belongs to one sequence
        self.slot_at = self.slot.ctypes.data + 4 * np.arange(size, dtype=np.uintp)

        def pointer(array: np.ndarray, kind: type) -> ctypes._Pointer:
            return array.ctypes.data_as(ctypes.POINTER(kind))

        self.batch = llama_cpp.llama_batch(
            token=pointer(self.token, llama_cpp.llama_token),
            pos=pointer(self.pos, llama_cpp.llama_pos),
            n_seq_id=pointer(self.one, ctypes.c_int32),
            seq_id=pointer(self.slot_at, ctypes.POINTER(llama_cpp.llama_seq_id)),
            logits=pointer(self.wants_logits, ctypes.c_int8),
        )


class Slots:
    """A llama.cpp context with `num_slots` sequences of up to `num_cells` tokens each."""

    def __init__(self, model: int, num_vocab: int, *, num_slots: int, num_cells: int, num_threads: int):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num_slots * num_cells
        params.n_seq_max = num_slots
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.n_threads = params.n_threads_batch = num_threads
        # Flash attention on a CPU rounds by blocks that depend on the batch: greedy text would, too.
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise LiteError(
                f"no memory for {params.n_ctx} tokens of context; use fewer tokens or a smaller batch"
            )
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.num_vocab, self.num_slots, self.num_cells = num_vocab, num_slots, num_cells
        self.feed = Feed(params.n_batch)
        self.held = [NO_TOKENS] * num_slots  # what a slot's cells hold once it is fed
        self.fed = np.zeros(num_slots, np.int32)  # how many tokens are in its cells
        self.next = np.zeros(num_slots, np.int32)  # the token to feed next
        self.jobs: list[Job | None] = [None] * num_slots
        self.free = list(range(num_slots))  # the one free longest comes first
        self.feeding: list[int] = []  # slots whose prompt is not in their cells yet
        self.live: list[int] = []  # slots that write, one token a step

    def close(self) -> None:
        if self.context:
            llama_cpp.llama_free(self.context)
            self.context = None

    def admit(self, job: Job) -> bool:
        """Give a job the free slot that suits it best; False where it has to wait.

        Its prompt and reply must fit into `num_cells`.
        """
        if not self.free:
            return False
        prompt = job.prompt
        donor, shared = self._donor(prompt)
        coming = max((_common(self.held[slot], prompt) for slot in self.feeding), default=0)
        if coming >= shared + WORTH_SHARING:  # a neighbour that is still being fed will have more
            return False
        near = self._near()
        slot = donor if donor in near else near[0]
        if slot != donor:
            if shared >= WORTH_SHARING:
                llama_cpp.llama_memory_seq_cp(self.memory, donor, slot, -1, -1)
            else:
                shared = 0
        if not llama_cpp.llama_memory_seq_rm(self.memory, slot, shared, -1):
            shared = 0  # a recurrent model's state holds all or nothing
            llama_cpp.llama_memory_seq_rm(self.memory, slot, -1, -1)
        self.held[slot], self.fed[slot], self.jobs[slot] = prompt, shared, job
        self.free.remove(slot)
        self.feeding.append(slot)
        return True

    def step(self) -> list[Job]:
        """Decode a token of every live slot, and prompts of BATCH_TOKENS or a little more. Return the jobs that ended."""
        ended = self._drop_cancelled()
        going = self._write(ended)
        room = BATCH_TOKENS
        while self.feeding and room > 0:
            slot = self.feeding[0]
            left = len(self.held[slot]) - self.fed[slot]
            size = left if left <= BATCH_TOKENS else min(BATCH_TOKENS, left - LEAST_TOKENS)
            room -= size
            self._feed(slot, size)
            if size == left:
                self.feeding.remove(slot)
                going += self._take([slot], ended)
        self.live = sorted(going)
        return ended

    def _write(self, ended: list[Job]) -> list[int]:
        """Decode a token of every live slot; return those that go on."""
        if not self.live:
            return []
        size, live = len(self.live), np.array(self.live, np.intp)
        self.feed.token[:size] = self.next[live]
        self.feed.pos[:size] = self.fed[live]
        self.feed.slot[:size] = live
        self.feed.wants_logits[:size] = 1
        self.fed[live] += 1
        self._decode(size)
        return self._take(self.live, ended)

    def _take(self, slots: list[int], ended: list[Job]) -> list[int]:
        """Offer each slot the token that the last batch proposes; return the slots that go on."""
        going = []
        for slot, proposed in zip(slots, self._choose(slots).tolist(), strict=True):
            job = self.jobs[slot]
            token = job.take(proposed)
            place = len(job.prompt) + len(job.ids) - 1  # of this token
            if token is None:
                ended.append(self._release(slot))
                continue
            if place < self.fed[slot]:
                llama_cpp.llama_memory_seq_rm(self.memory, slot, place, -1)
                self.fed[slot] = place
            self.next[slot] = token
            going.append(slot)
        return going

    def _drop_cancelled(self) -> list[Job]:
        """Free the slots whose prompt need not be fed any further."""
        gone = [slot for slot in self.feeding if self.jobs[slot].cancelled]
        for slot in gone:
            self.feeding.remove(slot)
            self.held[slot] = self.held[slot][: self.fed[slot]]
        return [self._release(slot) for slot in gone]

    def _release(self, slot: int) -> Job:
        job, self.jobs[slot] = self.jobs[slot], None
        self.fed[slot] = min(self.fed[slot], len(self.held[slot]))  # a reply's cells are not shared
        self.free.append(slot)
        return job

    def _near(self) -> list[int]:
        """Free slots inside or beside those in use: llama.cpp computes only neighbouring sequences together."""
        used = [slot for slot, job in enumerate(self.jobs) if job is not None]
        if not used:
            return self.free
        return [slot for slot in self.free if used[0] - 1 <= slot <= used[-1] + 1]

    def _donor(self, prompt: np.ndarray) -> tuple[int, int]:
        """The slot whose cells share the longest beginning with `prompt`, and its length.

        The prompt's last tokens are always fed, for their logits.
        """
        shares = [
            _common(held[:fed], prompt[:-LEAST_TOKENS]) for held, fed in zip(self.held, self.fed, strict=True)
        ]
        donor = int(np.argmax(shares))
        return donor, shares[donor]

    def _feed(self, slot: int, size: int) -> None:
        """Decode the next `size` tokens of a slot's prompt."""
        begin = int(self.fed[slot])
        self.feed.token[:size] = self.held[slot][begin : begin + size]
        self.feed.pos[:size] = np.arange(begin, begin + size)
        self.feed.slot[:size] = slot
        self.feed.wants_logits[:size] = 0
        self.feed.wants_logits[size - 1] = 1
        self.fed[slot] += size
        self._decode(size)

    def _decode(self, size: int) -> None:
        self.feed.batch.n_tokens = size
        code = llama_cpp.llama_decode(self.context, self.feed.batch)
        if code:
            raise LiteError(f"llama.cpp stopped with code {code} while decoding; use a smaller batch")

    def _choose(self, slots: list[int]) -> np.ndarray:
        """A token for each slot from the logits of the last batch, which are in its order; -1: none is allowed."""
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), (len(slots), self.num_vocab))
        jobs = [self.jobs[slot] for slot in slots]
        for row, job in enumerate(jobs):
            if job.nudge and not job.ids:
                ids, gains = job.nudge
                logits[row, ids] += gains
        ids = _pick(logits, jobs)
        for row, job in enumerate(jobs):
            while ids[row] >= 0 and not job.allows(int(ids[row])):
                mine = logits[row : row + 1]
                mine[0, ids[row]] = -np.inf
                job.constrain(mine[0])
                ids[row] = _pick(mine, [job])[0] if np.isfinite(mine.max()) else -1
        return ids


def _pick(logits: np.ndarray, jobs: list[Job]) -> np.ndarray:
    """A token for each job from its row of logits (rows, V)."""
    ids = greedy(logits)
    warm = [row for row, job in enumerate(jobs) if job.temperature > 0]
    if warm:
        draws, heat, nucleus = (
            np.array([value(jobs[row]) for row in warm])
            for value in (lambda job: job.draw(), lambda job: job.temperature, lambda job: job.top_p)
        )
        ids[warm] = sample(logits[warm], draws, heat, nucleus)
    return ids


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two sequences share at their beginning."""
    size = min(len(first), len(second))
    differs = first[:size] != second[:size]
    place = int(differs.argmax()) if size else 0
    return place if size and differs[place] else size
