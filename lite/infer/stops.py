"""Stop texts: where a reply's answer ends before it, and how much of it can be shown meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lite.infer.request import Piece
from lite.tokens import strip_control


class Stops:
    """Passes the answer's pieces on to `emit`, except what may turn out to be a stop text.

    Stop texts are looked for in the answer only, not in the thinking, and not in the blanks before the answer, which
    are not shown; `raw`: every blank is.
    """

    def __init__(self, texts: Sequence[str], emit: Callable[[Piece], None] | None, *, raw: bool = False):
        self.texts, self._emit, self._raw = texts, emit, raw
        self._stops = [text.encode() for text in texts]
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""  # text that is not shown yet
        self._shown = 0  # characters that are
        self._num_tokens = 0  # of what is held

    def find(self, answer: bytes, piece: bytes) -> int | None:
        """Where in `answer`, which `piece` has just been added to, the first stop text begins; None: nowhere."""
        blank = 0 if self._raw else len(answer) - len(answer.lstrip())
        begin = max(blank, len(answer) - len(piece) - self._longest)
        places = [place for stop in self._stops if (place := answer.find(stop, begin)) >= 0]
        return min(places, default=None)

    def show(self, piece: Piece) -> None:
        if piece.kind == "think":
            return self._emit(piece)
        self._held += piece.text
        self._num_tokens += piece.num_tokens
        self._pass_on(len(self._held) - max(map(self._begun, self.texts), default=0))

    def end(self, answer: bytes | None) -> None:
        """Show the rest; `answer` is what there is before a stop text, None where none was found."""
        if answer is not None:
            text = answer.decode("utf-8", errors="replace")
            self._held = (text if self._raw else strip_control(text).strip())[self._shown :]
        if self._emit:
            self._pass_on(len(self._held))

    def _begun(self, stop: str) -> int:
        """How much of a stop text stands at the end of what is held, or all that follows it where it is whole."""
        place = self._held.find(stop)
        if place >= 0:
            return len(self._held) - place
        sizes = range(min(len(stop) - 1, len(self._held)), 0, -1)
        return next((size for size in sizes if self._held.endswith(stop[:size])), 0)

    def _pass_on(self, size: int) -> None:
        if size > 0:
            text, self._held = self._held[:size], self._held[size:]
            self._shown += size
            self._emit(Piece("answer", text, self._num_tokens))
            self._num_tokens = 0
