"""Reads a reply as it is written: which phase it is in, how many tokens it thought, what can be shown.

A reply goes through three phases: its lead (a ratio token, line breaks), the think span, the answer. Markers are
found in the text, because in many tokenizers they are several tokens, and these differ with what stands beside.
"""

from __future__ import annotations

import copy
import enum
import re
from collections.abc import Callable

from lite.infer.request import Kind, Piece
from lite.tokens import QUOTES, THINK_CLOSE, THINK_OPEN, is_quoted, strip_control, without_lead

LEAD_TOKENS = 16  # a reply that has not opened its think span by then is all answer
TAIL_BYTES = 32

_SENTENCE_ENDS = (b".", b"!", b"?", b".)", b'."', b".$", "。".encode())
_OPEN, _CLOSE = THINK_OPEN.encode(), THINK_CLOSE.encode()
_MARKER = re.compile(rb"<(/?)think>", re.IGNORECASE)


class Phase(enum.Enum):
    """Where in a reply its writer is."""

    LEAD = "lead"
    THINK = "think"
    ANSWER = "answer"


class Reader:
    """Follows a reply. `phase` is where it begins; `emit` is called with every Piece that can be shown.
    `unopened` is what follows a lead that opens no think span.

    `num_tokens`: tokens written in this phase so far, except a few line breaks before its text. `think_tokens`: those
    of all think spans, without their markers and the line breaks beside them. `answer`: the text of the answer. `tail`:
    the last bytes written. `closed`: whether a marker has closed a span, or would have, had one been open.
    """

    def __init__(
        self,
        phase: Phase = Phase.LEAD,
        emit: Callable[[Piece], None] | None = None,
        unopened: Phase = Phase.ANSWER,
    ):
        self.phase, self._emit, self._unopened = phase, emit, unopened
        self.num_tokens = self.think_tokens = 0
        self.closed = False
        self.answer = self.tail = b""
        self._held: list[bytes] = []  # tokens that may turn out to be no text of this phase
        self._begun = False  # whether this phase has text yet
        self._shown: set[Kind] = set()
        self._last = b""  # the last bytes of this phase before those that are held
        self._num_blank = 0  # tokens before it
        self._counts = {Phase.THINK: 0, Phase.ANSWER: 0}  # tokens of earlier spans

    def read(self, piece: bytes) -> None:
        """A token was written; `piece` is its text."""
        self.num_tokens += 1
        self.tail = (self.tail + piece)[-TAIL_BYTES:]
        self._held.append(piece)
        if self.phase is Phase.LEAD:
            return self._read_lead()
        if self.phase is Phase.ANSWER:
            self.answer += piece
        held = b"".join(self._held)
        if marker := self._marker_in(held):
            self._pass(held, marker)
        elif not held.strip() and not self._begun:
            self._held = []  # line breaks before the text
            self._num_blank += 1
            self.num_tokens -= self._num_blank <= LEAD_TOKENS
        elif not held[-1:].isspace() and not unfinished(held)[1] and not self._may_mark(held):
            self._say(held)

    def finish(self) -> None:
        """The reply has ended: what is held is text, but for white space and half a character at its end."""
        held = whole(b"".join(self._held)).rstrip()
        if self.phase is not Phase.LEAD and (marker := self._marker_in(held, ended=True)):
            return self._pass(held, marker)
        if held and self.phase is not Phase.LEAD:
            self._say(held)

    def marker(self, piece: bytes = b"") -> bytes:
        """What of the closing marker stands at the end of the text, with a token `piece` behind it.

        All of it does where it follows a quote, and what comes next says whether it is one.
        """
        text = self.tail + piece
        return next((text[-size:] for size in range(len(_CLOSE), 0, -1) if _ends(text, _CLOSE[:size])), b"")

    def at_end_of_sentence(self, piece: bytes) -> bool:
        """Whether a sentence or a line ends before a token with this text."""
        after_sentence = piece[:1].isspace() and self.tail.endswith(_SENTENCE_ENDS)
        return after_sentence or self.tail.endswith(b"\n")

    def copy(self) -> Reader:
        """A reader in the same place, which reads on by itself."""
        other = copy.copy(self)
        other._held = [*self._held]
        return other

    def closes(self, piece: bytes) -> bool:
        """Whether a token would complete the marker that closes the think span."""
        return _CLOSE in (self.tail[-len(_CLOSE) :] + piece).lower()

    def _may_mark(self, held: bytes) -> bool:
        """Whether a marker has begun at the end, or one stands there whose quote may close."""
        last = held[-len(_CLOSE) :].lower()
        starts = (mark[:size] for mark in (_OPEN, _CLOSE) for size in range(1, len(mark) + 1))
        return b"<" in last and any(last.endswith(start) for start in starts)

    def _marker_in(self, held: bytes, *, ended: bool = False) -> re.Match[bytes] | None:
        """The first marker in the text held that is not quoted; one behind a quote waits for what follows it."""
        for match in _MARKER.finditer(held):
            quote = (self._last + held[: match.start()])[-3:].decode(errors="ignore")[-1:]
            behind = whole(held[match.end() : match.end() + 3])
            waits = quote in QUOTES and not behind and not ended
            if not waits and not is_quoted(quote, behind.decode(errors="ignore")[:1]):
                return match
        return None

    def _pass(self, held: bytes, marker: re.Match[bytes]) -> None:
        """Go past a marker; one too many is no text."""
        phase, rest = Phase.ANSWER if marker[1] else Phase.THINK, held[marker.end() :]
        self.closed |= phase is Phase.ANSWER
        if self.phase is Phase.ANSWER:
            self.answer = self.answer.removesuffix(held[marker.start() :])
        self._say(held[: marker.start()].rstrip())
        self._enter(phase, rest)

    def _read_lead(self) -> None:
        held = b"".join(self._held)
        half = held[len(whole(held)) :]  # a character that has begun
        body = without_lead(whole(held).decode("utf-8", errors="replace")).encode()
        if body.lower().startswith(_OPEN):
            self._enter(Phase.THINK, body[len(_OPEN) :] + half)
        elif self.num_tokens > LEAD_TOKENS or not _OPEN.startswith(body.lower()):
            self._enter(self._unopened, body + half)

    def _enter(self, phase: Phase, rest: bytes) -> None:
        """Go on to a phase; `rest` is what the last token wrote of it."""
        if self.phase in self._counts:
            self._counts[self.phase] = self.num_tokens
        self.phase, self._held, self._begun, self._last = phase, [], False, b""
        self.num_tokens, self._num_blank = self._counts[phase], 0
        if rest.strip():
            self.read(rest)
        elif phase is Phase.ANSWER:
            self.answer += rest

    def _say(self, text: bytes) -> None:
        """The tokens held are text of this phase, as far as `text` goes."""
        num = place = 0
        for piece in self._held:
            if place >= len(text):
                break
            num, place = num + 1, place + len(piece)
        self._held, self._last = [], text[-3:]
        if not num:
            return
        if self.phase is Phase.THINK:
            self.think_tokens += num
        if self._emit:
            kind: Kind = "think" if self.phase is Phase.THINK else "answer"
            shown = strip_control((text if self._begun else text.lstrip()).decode("utf-8", errors="replace"))
            if not self._begun and kind in self._shown:  # a further span of its kind
                shown = "\n\n" + shown
            self._shown.add(kind)
            self._emit(Piece(kind, shown, num))
        self._begun = True


def _ends(text: bytes, start: bytes) -> bool:
    return text[-len(start) :].lower() == start


def unfinished(text: bytes) -> tuple[int, int]:
    """Bytes of a UTF-8 character that has begun at the end of `text`, and how many it lacks; 0, 0 where none has."""
    for there in range(1, min(3, len(text)) + 1):
        byte = text[-there]
        if byte >= 0xC0:
            lacks = 2 + (byte >= 0xE0) + (byte >= 0xF0) - there
            return (there, lacks) if lacks > 0 else (0, 0)
        if byte < 0x80:
            break
    return 0, 0


def whole(text: bytes) -> bytes:
    """The text without half a character at its end."""
    there, _ = unfinished(text)
    return text[: len(text) - there]
