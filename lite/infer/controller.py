"""Keeps a reply within its limits, token by token. A state machine: it knows no llama.cpp.

With a budget of N think tokens the controller may write other tokens than the model proposes:
- a think span that is still open at N is taken back to the last end of a sentence or a line, where there is one in
  the last part of the budget, and closed; a model that closes it by itself before is not disturbed;
- a model that would end, or run out of its allowance for the answer, without having said a final answer is given
  the beginning of one, `The answer is \\boxed{`, and writes only what belongs into the box.
A reply is then never longer than its lead, N, the closing marker and the allowance, and it carries an answer.
Closing the span and making the model answer is the budget forcing of s1 (arXiv 2501.19393). s1 asks for the answer
at once; here the model speaks first, and is asked only where it says none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lite.errors import LiteError
from lite.grading import final_answer
from lite.infer.reply_parser import LEAD_TOKENS, Phase, Reader, unfinished
from lite.infer.request import Piece, Stop
from lite.tokens import THINK_CLOSE

ANSWER_TOKENS = 256  # the allowance for the answer of a reply with a budget
BOX_TOKENS = 32  # of these, for what is written into a forced box
WIND_DOWN = 0.2  # the last part of a budget, which may be taken back

_BOX = b"\\boxed{"
_ASK = "The answer is " + _BOX.decode()


@dataclass(frozen=True, slots=True)
class Lexicon:
    """What a controller knows of a vocabulary: the text of its tokens, which of them end a reply, how to spell."""

    pieces: Mapping[int, bytes]
    ends: frozenset[int]
    spell: Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of a whole reply; with a `budget` also of its think span, and then of its answer.

    `forced`: how much of the allowance an answer takes that the model has to be asked for.
    """

    max_tokens: int
    budget: int | None = None
    allowance: int = ANSWER_TOKENS
    forced: int = 0


def limits(lexicon: Lexicon, max_tokens: int, budget: int | None) -> Limits:
    """The limits of a reply that may have `max_tokens`: a budget leaves room in them for the answer.

    Raises LiteError where there is none.
    """
    if budget is None:
        return Limits(max_tokens)
    forced = len(lexicon.spell(f"\n\n{_ASK}")) + BOX_TOKENS
    around = LEAD_TOKENS + len(lexicon.spell(f"\n{THINK_CLOSE}\n\n"))
    allowance = min(ANSWER_TOKENS, max(forced, (max_tokens - around) // 2))
    left = max_tokens - around - allowance
    if left < 0:
        raise LiteError(
            f"a reply of {max_tokens} tokens has no room for a budget and an answer;"
            f" allow {around + forced} at least"
        )
    return Limits(max_tokens, min(budget, left), allowance, forced)


class Controller:
    """Takes the tokens that a model proposes one by one, and says which to write; `stop` is why it ended.

    `phase` is where the reply begins: what of it the prompt has written already. `emit` is called with every Piece.
    `ids` is what was written. A step may take back the last of them; who feeds them has to forget these, too.
    """

    def __init__(
        self,
        lexicon: Lexicon,
        limits: Limits,
        phase: Phase = Phase.LEAD,
        emit: Callable[[Piece], None] | None = None,
    ):
        self.lexicon, self.limits = lexicon, limits
        self._emit = emit
        self.reader = Reader(phase, self._show if emit else None)
        self.ids: list[int] = []
        self.stop: Stop | None = None
        self._forced: deque[int] = deque()
        self._cut = False  # whether the budget has changed the reply
        self._stand: tuple[int, Reader] | None = (
            None  # where the think span may be taken back to: ids, and reader
        )
        self._kept: list[Piece] = []  # pieces since then
        self._looked = False  # whether an answer was looked for near the end of the allowance
        self._box_end: int | None = None  # where the answer ends, in tokens at most, that a forced box began

    def step(self, proposed: int) -> int | None:
        """The token to write and to feed where the model proposes `proposed`; None: the reply has ended."""
        if self._forced:
            token = self._forced.popleft()
        elif self.limits.budget is None:
            token = proposed
        else:
            token = self._steer(proposed)
        if token is None or token in self.lexicon.ends:
            return self.end("budget" if self._cut else "eos")
        self.ids.append(token)
        self.reader.read(self.lexicon.pieces[token])
        if self._stand and self.reader.phase is not Phase.THINK:
            self._stay()
        if self._box_end is not None and not self._forced and self._open_braces() <= 0:
            return self.end("budget")
        if len(self.ids) >= self.limits.max_tokens:
            return self.end("length")
        return token

    def end(self, stop: Stop) -> None:
        """The reply ends here."""
        self.stop = stop
        self.reader.finish()
        self._stay()

    def _show(self, piece: Piece) -> None:
        if self._stand:
            self._kept.append(piece)
        else:
            self._emit(piece)

    def _stay(self) -> None:
        """What was kept is not taken back any more."""
        self._stand = None
        for piece in self._kept:
            self._emit(piece)
        self._kept = []

    def _steer(self, proposed: int) -> int | None:
        """What to write under a budget; None: no more."""
        ends = proposed in self.lexicon.ends
        if self.reader.phase is Phase.THINK:
            return self._think(proposed, ends)
        if self._box_end is not None:
            open_braces = self._open_braces()
            full = self.reader.num_tokens + open_braces >= self._box_end
            return self._force("}" * open_braces) if ends or full else proposed
        if ends:
            return proposed if self._has_answer() else self._begin_answer()
        if self.reader.phase is Phase.LEAD:
            return proposed
        left = self.limits.allowance - self.reader.num_tokens
        if left <= self.limits.forced and not self._looked:
            self._looked = True
            if not self._has_answer():
                return self._begin_answer()
        if left <= 0:
            self._cut = True
            return None
        return proposed

    def _think(self, proposed: int, ends: bool) -> int:
        """What to write in the think span: its closing marker where the budget, or the model, is at its end."""
        reader, budget, piece = self.reader, self.limits.budget, self.lexicon.pieces[proposed]
        begun, left = reader.marker(), budget - reader.num_tokens
        if reader.closes(piece) or reader.marker(piece) == begun + piece:
            return proposed  # the model closes it by itself
        if left <= WIND_DOWN * budget and reader.at_end_of_sentence(piece):
            self._stay()
            self._stand = len(self.ids), reader.copy()
        # A character is written whole or not at all.
        if not ends and left > 0 and unfinished(reader.tail + piece)[1] < left:
            return proposed
        goes_on = not ends and not begun and piece.strip()
        if self._stand and goes_on:
            size, self.reader = self._stand
            del self.ids[size:]
            self._kept = []
        line = "" if begun or self.reader.tail.endswith(b"\n") else "\n"
        return self._force(f"{line}{THINK_CLOSE.removeprefix(begun.decode())}\n\n")

    def _begin_answer(self) -> int:
        """Write the words before the box, and let the model fill it."""
        text = self.reader.answer
        token = self._force(("" if not text.strip() else "\n" if text.endswith(b"\n") else "\n\n") + _ASK)
        written = self.reader.num_tokens if self.reader.phase is Phase.ANSWER else 0
        self._box_end = written + 1 + len(self._forced) + BOX_TOKENS
        return token

    def _open_braces(self) -> int:
        """Braces that are open in the forced box, its own among them."""
        inside = self.reader.answer.rpartition(_BOX)[2].replace(b"\\{", b"").replace(b"\\}", b"")
        return 1 + inside.count(b"{") - inside.count(b"}")

    def _has_answer(self) -> bool:
        return final_answer(self.reader.answer.decode("utf-8", errors="replace")) is not None

    def _force(self, text: str) -> int:
        """Write a text, whatever the model proposes."""
        self._cut = True
        self._forced.extend(self.lexicon.spell(text))
        return self._forced.popleft()
