"""The nouns of talking to an engine: what is asked, the pieces that come, the whole answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lite.errors import LiteError
from lite.tokens import POLICY

Kind = Literal["think", "answer"]
Stop = Literal["eos", "length", "budget", "loop", "stop", "cancelled"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is "system", "user" or "assistant". Its text is text: nothing in it becomes a token of control."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    `mode` is one of lite.tokens.MODES, or BASE for a GGUF without a dial; None: the largest ratio whose
    calibrated length fits `budget`, and without calibration or budget POLICY (BASE without a dial).
    `budget`: think tokens, at most. `thinking` False gives a model that knows think markers an empty, closed span.
    `instruction` stands before the last question; None: the one that a dial was trained with, nothing without a dial.
    `stop`: texts that end the answer, and are no part of it. `grammar`: GBNF that the answer obeys.
    `lean`: in POLICY mode, what the log-odds of each ratio token gain per step up the ladder.
    `prompt`: a text or token ids that are continued as they are; there are no messages then, and no thinking.
    `max_tokens` bounds the whole reply. Temperature 0 is greedy.
    """

    messages: tuple[Message, ...] = ()
    mode: str | None = POLICY
    budget: int | None = None
    thinking: bool = True
    max_tokens: int = 4096
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    instruction: str | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    lean: float = 0.0
    prompt: str | tuple[int, ...] | None = None


def question(text: str, mode: str | None = POLICY, **settings: Any) -> Ask:
    """The request of one user turn; `settings` are fields of Ask."""
    return Ask((Message("user", text),), mode, **settings)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply as it comes: whole characters, without markers and the line breaks around a span."""

    kind: Kind
    text: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole reply, parsed and counted.

    `mode` is what was asked (with a budget: what it picked); `ratio` is what the reply leads with, under
    POLICY the model's own choice, None where it leads with none. `think_tokens` are those between the think markers
    without the line breaks at both ends, an unclosed span in full; `total_tokens` are all tokens of the reply but
    the one that ended it. A span that is closed but was never opened is thinking here, though its Pieces came as an
    answer and no budget bounded it. `seconds` run from when its prompt was taken into a slot.
    `visible_tokens` are those of the answer, `markers` the think markers in its text (none, where the engine wrote it).
    `stop`: "eos" the model ended it; "length" it was cut; "budget" its thinking, or its answer, was brought to an
    end by the budget; "loop" so, because it repeated itself; "stop" a stop text came; "cancelled".
    `text` is the reply as written, special tokens shown, up to a stop text.
    """

    mode: str
    ratio: float | None
    budget: int | None
    think: str
    visible: str
    think_tokens: int
    total_tokens: int
    prompt_tokens: int
    seconds: float
    stop: Stop
    has_think: bool
    closed: bool
    text: str
    visible_tokens: int = 0
    markers: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the reply a second, the reading of its prompt included."""
        return self.total_tokens / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """All fields but the raw text, for people's programs."""
        fields = {**asdict(self), "tokens_per_second": round(self.tokens_per_second, 2)}
        del fields["text"]
        return fields


class Unfit(LiteError):
    """A request that this model, or these limits, cannot take: `field` names what to change, `code` the kind."""

    def __init__(self, message: str, *, field: str, code: str | None = None):
        super().__init__(message)
        self.field, self.code = field, code


class Busy(LiteError):
    """As many requests wait as the engine lets wait, or this one has waited as long as it may."""


class Stream:
    """A reply under way. Iterate it for its Pieces; every method may be called from any thread.

    Leaving it unread holds nothing up. `on_event`, where given, is called in the engine's thread with every
    Piece and, last, None; it must be quick and must not raise.
    """

    def __init__(self, on_cancel: Callable[[], None], on_event: Callable[[Piece | None], None] | None = None):
        self._on_cancel, self._on_event = on_cancel, on_event
        self._events: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._outcome: Answer | BaseException | None = None
        self.cancelled = False

    def __iter__(self) -> Iterator[Piece]:
        while (piece := self._events.get()) is not None:
            yield piece
        self._events.put(None)  # for whoever else reads

    def cancel(self) -> None:
        """Stop the reply at the next step, or take it out of the queue. What was written is its answer."""
        self.cancelled = True
        self._on_cancel()

    def answer(self) -> Answer:
        """The whole answer; waits for the end. Raises LiteError if the request failed."""
        self._ended.wait()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def put(self, piece: Piece) -> None:
        """The engine's side: a piece has come."""
        self._events.put(piece)
        if self._on_event:
            self._on_event(piece)

    def end(self, outcome: Answer | BaseException) -> None:
        """The engine's side: the reply has ended, or failed."""
        self._outcome = outcome
        self._ended.set()
        self._events.put(None)
        if self._on_event:
            self._on_event(None)
