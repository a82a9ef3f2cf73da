"""Follows a text that is continued as it is: no phases, no markers, every character shown as it comes."""

from __future__ import annotations

from collections.abc import Callable

from lite.infer.reply_parser import TAIL_BYTES, Phase, Reader, whole
from lite.infer.request import Piece


class Verbatim(Reader):
    """A Reader of text that is all answer, its blanks included."""

    def __init__(self, emit: Callable[[Piece], None] | None = None):
        super().__init__(Phase.ANSWER)
        self._pass_on = emit
        self._pending, self._num_pending = b"", 0

    def read(self, piece: bytes) -> None:
        self.num_tokens += 1
        self.answer += piece
        self.tail = (self.tail + piece)[-TAIL_BYTES:]
        self._pending += piece
        self._num_pending += 1
        self._flush()

    def finish(self) -> None:
        self._flush()

    def _flush(self) -> None:
        shown = whole(self._pending)
        if shown and self._pass_on:
            self._pass_on(Piece("answer", shown.decode("utf-8", errors="replace"), self._num_pending))
            self._num_pending = 0
        self._pending = self._pending[len(shown) :]
