"""Continuous batching on llama.cpp's low-level API: many requests through a few sequences.

A slot (a llama.cpp sequence) is refilled as soon as its request ends. A request that begins like what
another slot has already decoded copies those cells (`llama_memory_seq_cp`) and feeds only the rest.
Every slot has KV cells of its own: attention then looks at one reply at a time, which on a tiny model is
2.5 times as fast at 16 slots as one pool of cells for all (kv_unified).
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llama_cpp
import numpy as np

from lite.errors import LiteError

BATCH_TOKENS = 2048  # fed in one llama_decode at most
MICRO_TOKENS = 256  # computed together; bounds the memory of attention scores
WORTH_SHARING = 16  # tokens: fewer are fed again rather than copied or waited for
NO_TOKENS = np.zeros(0, np.int32)

Pick = Callable[[np.ndarray, np.ndarray], np.ndarray]  # logits (rows, V), slots (rows,) -> ids (rows,)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and how many tokens may follow it; `uniform` is what sampling draws from, one per token."""

    prompt: np.ndarray  # (tokens,) int32
    max_tokens: int
    uniform: np.ndarray | None = None  # (max_tokens,) in [0, 1)


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

    def __init__(self, model: int, is_end: np.ndarray, *, num_slots: int, num_cells: int, num_threads: int):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num_slots * num_cells
        params.n_seq_max = num_slots
        params.n_batch = min(BATCH_TOKENS, params.n_ctx)
        params.n_ubatch = MICRO_TOKENS
        params.n_threads = params.n_threads_batch = num_threads
        # Flash attention on a CPU rounds by blocks that depend on the batch: greedy text would, too.
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise LiteError(
                f"no memory for {params.n_ctx} tokens of context; use fewer tokens or a smaller batch"
            )
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.is_end, self.num_slots, self.num_cells = is_end, num_slots, num_cells
        self.feed = Feed(params.n_batch)
        self.held = [NO_TOKENS] * num_slots  # what a slot's cells hold once it is fed
        self.fed = np.zeros(num_slots, np.int32)  # how much of it is in the cells

    def close(self) -> None:
        if self.context:
            llama_cpp.llama_free(self.context)
            self.context = None

    def run(
        self, requests: Sequence[Request], pick: Pick, on_done: Callable[[int, list[int], float], None]
    ) -> None:
        """Decode every request; `on_done(index, ids, seconds)` is called as each ends, in that order.

        The ids end with an end-of-generation token, or there are `max_tokens` of them.
        """
        waiting = deque(sorted(range(len(requests)), key=lambda index: requests[index].prompt.tolist()))
        most = max(request.max_tokens for request in requests)
        self.uniform = np.zeros((self.num_slots, most if requests[0].uniform is not None else 0))
        self.count = np.zeros(self.num_slots, np.int32)
        out = np.zeros((self.num_slots, most), np.int32)
        cap = np.zeros(self.num_slots, np.int32)
        owner = np.full(self.num_slots, -1)
        started = np.zeros(self.num_slots)
        feeding: list[int] = []
        live = np.zeros(0, np.int64)  # slots whose prompt is fed, one token a step
        feed, count, fed = self.feed, self.count, self.fed
        while waiting or feeding or live.size:
            while waiting and (slot := self._admit(requests[waiting[0]].prompt, owner, feeding)) is not None:
                index = waiting.popleft()
                owner[slot], cap[slot], count[slot] = index, requests[index].max_tokens, 0
                if requests[index].uniform is not None:
                    self.uniform[slot, : cap[slot]] = requests[index].uniform
                started[slot] = time.monotonic()
                feeding.append(slot)

            size = live.size
            feed.token[:size] = out[live, count[live] - 1]
            feed.pos[:size] = fed[live]
            feed.slot[:size] = live
            feed.wants_logits[:size] = 1
            fed[live] += 1
            ready = []
            for slot in feeding:
                size = self._feed_prompt(slot, size)
                if fed[slot] == len(self.held[slot]):
                    feed.wants_logits[size - 1] = 1
                    ready.append(slot)
            self._decode(size)
            if ready:
                feeding = [slot for slot in feeding if slot not in ready]
                live = np.concatenate([live, np.array(ready)])
            if not live.size:
                continue
            ids = pick(self._logits(live.size), live)
            out[live, count[live]] = ids
            count[live] += 1
            ended = self.is_end[ids] | (count[live] >= cap[live])
            if ended.any():
                now = time.monotonic()
                for slot in live[ended]:
                    ids = out[slot, : count[slot]]
                    index, owner[slot] = owner[slot], -1
                    self.held[slot] = np.concatenate([self.held[slot], ids[:-1]])
                    on_done(int(index), ids.tolist(), now - started[slot])
                live = live[~ended]

    def _admit(self, prompt: np.ndarray, owner: np.ndarray, feeding: list[int]) -> int | None:
        """Give a prompt a free slot whose cells hold its beginning; None where it has to wait."""
        free = np.flatnonzero(owner < 0)
        if not free.size:
            return None
        donor, shared = self._donor(prompt)
        coming = max((_common(self.held[slot], prompt) for slot in feeding), default=0)
        if coming >= shared + WORTH_SHARING:  # a neighbour that is still being fed will have more
            return None
        slot = donor if donor in free else int(free[0])
        if slot != donor:
            if shared >= WORTH_SHARING:
                llama_cpp.llama_memory_seq_cp(self.memory, donor, slot, -1, -1)
            else:
                shared = 0
        llama_cpp.llama_memory_seq_rm(self.memory, slot, shared, -1)
        self.held[slot], self.fed[slot] = prompt, shared
        return slot

    def _donor(self, prompt: np.ndarray) -> tuple[int, int]:
        """The slot whose cells share the longest beginning with `prompt`, and its length.

        The prompt's last token is always fed, for its logits.
        """
        shares = [_common(held[:fed], prompt[:-1]) for held, fed in zip(self.held, self.fed, strict=True)]
        donor = int(np.argmax(shares))
        return donor, shares[donor]

    def _feed_prompt(self, slot: int, size: int) -> int:
        """Put as much of a slot's prompt into the batch as fits; return the batch's new size."""
        begin = int(self.fed[slot])
        chunk = self.held[slot][begin : begin + len(self.feed.token) - size]
        end = size + len(chunk)
        self.feed.token[size:end] = chunk
        self.feed.pos[size:end] = np.arange(begin, begin + len(chunk))
        self.feed.slot[size:end] = slot
        self.feed.wants_logits[size:end] = 0
        self.fed[slot] += len(chunk)
        return end

    def _decode(self, size: int) -> None:
        self.feed.batch.n_tokens = size
        code = llama_cpp.llama_decode(self.context, self.feed.batch)
        if code:
            raise LiteError(f"llama.cpp stopped with code {code} while decoding; use a smaller batch")

    def _logits(self, rows: int) -> np.ndarray:
        """A view on the logits of the last step, in the order of the batch."""
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), (rows, len(self.is_end)))


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens two sequences share at their beginning."""
    size = min(len(first), len(second))
    differs = first[:size] != second[:size]
    place = int(differs.argmax()) if size else 0
    return place if size and differs[place] else size


def greedy(logits: np.ndarray) -> np.ndarray:
    """The likeliest token of each row. logits (rows, V) -> ids (rows,)."""
    return logits.argmax(axis=1)


def sample(logits: np.ndarray, uniform: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """One token a row from the smallest set of likeliest tokens whose probability reaches `top_p`.

    logits (rows, V), uniform (rows,) in [0, 1) -> ids (rows,). Nucleus sampling by the inverse of the
    cumulative distribution: the same number drawn gives the same token whatever else is in the batch.
    """
    scaled = logits / temperature
    chance = np.exp(scaled - scaled.max(axis=1, keepdims=True), dtype=np.float64)  # (rows, V)
    chance /= chance.sum(axis=1, keepdims=True)
    num, size = 64, chance.shape[1]
    while True:  # widen until the candidates hold the nucleus of every row
        num = min(num, size)
        part = np.argpartition(-chance, num - 1, axis=1)[:, :num] if num < size else np.arange(size)[None]
        part = np.sort(part, axis=1)  # equal chances rank by id
        best = np.take_along_axis(chance, np.broadcast_to(part, (len(chance), num)), axis=1)
        rank = np.argsort(-best, axis=1, kind="stable")
        best = np.take_along_axis(best, rank, axis=1)
        total = best.cumsum(axis=1)
        if num == size or total[:, -1].min() >= top_p:
            break
        num *= 16
    inside = total - best < top_p  # the token that crosses top_p belongs to the nucleus
    mass = np.where(inside, total, 0).max(axis=1)
    place = (total <= (uniform * mass)[:, None]).sum(axis=1)
    place = np.minimum(place, inside.sum(axis=1) - 1)
    token = np.take_along_axis(rank, place[:, None], axis=1)[:, 0]
    return np.broadcast_to(part, (len(chance), num))[np.arange(len(chance)), token]
