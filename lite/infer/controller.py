"""Keeps a reply within its limits, token by token. A state machine: it knows no llama.cpp.

What a model may write (`allows`): think markers stand only where they mean something, so that a span which was closed,
by the model, by force or by the prompt, stays closed; and with a grammar the answer obeys it.

With a budget of N think tokens the controller may write other tokens than the model proposes:
- a think span that is still open at N is taken back to the last end of a sentence or a line, where there is one in
  the last part of the budget, and closed; a model that closes it by itself before is not disturbed;
- a model that was told to give a final answer is given the beginning of one, `The answer is \\boxed{`, and writes only
  what belongs into the box: at once where its thinking was cut (else it thinks on in the answer, or writes blanks),
  and where it would end, or run out of its allowance for the answer, without one.
A reply is then never longer than its lead, N, the closing marker and the allowance, and it carries an answer.
This is the budget forcing of s1 (arXiv 2501.19393).

Whatever the limits, a span that repeats itself without end (see lite.infer.loops) is closed, or ends the reply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lite.grading import final_answer
from lite.infer.limits import ASK, BOX, BOX_TOKENS, Lexicon, Limits
from lite.infer.loops import Loops
from lite.infer.reply_parser import Phase, Reader, unfinished
from lite.infer.request import Piece, Stop
from lite.infer.stops import Stops
from lite.infer.verbatim import Verbatim
from lite.tokens import THINK_CLOSE, THINK_OPEN, strip_control, without_lead

if TYPE_CHECKING:
    import numpy as np

    from lite.infer.grammar import Grammar

MAX_BLANK = 4  # bytes before an answer
WIND_DOWN = 0.2  # the last part of a budget, which may be taken back
_OPEN, _CLOSE = THINK_OPEN.encode(), THINK_CLOSE.encode()


class Controller:
    """Takes the tokens that a model proposes one by one, and says which to write; `stop` is why it ended.

    `phase` is where the reply begins: what of it the prompt has written already. `emit` is called with every Piece.
    `ids` is what was written. A step may take back the last of them; who feeds them has to forget these, too.
    `stops` end the answer; what follows its end is the last `num_hidden` bytes of the reply then.
    `raw`: the reply is a text that goes on, in which markers mean nothing. `opens`: this model opens its think spans
    itself, as one with a dial does; another may close one that it has not opened.
    """

    def __init__(
        self,
        lexicon: Lexicon,
        limits: Limits,
        phase: Phase = Phase.LEAD,
        emit: Callable[[Piece], None] | None = None,
        *,
        stops: Sequence[str] = (),
        grammar: Grammar | None = None,
        raw: bool = False,
        opens: bool = False,
    ):
        self.lexicon, self.limits = lexicon, limits
        self._stops = Stops(stops, emit, raw=raw) if stops else None
        self._emit = self._stops.show if self._stops and emit else emit
        self._grammar = grammar
        show = self._show if emit else None
        self.reader = Verbatim(show) if raw else Reader(phase, show)
        self._is_raw, self._opens = raw, opens
        self.ids: list[int] = []
        self.stop: Stop | None = None
        self.num_hidden = 0
        self._forced: deque[int] = deque()
        self._lead = b""
        self._never_opened = False  # whether the answer began without a think span
        self._cut = False  # whether the budget has changed the reply
        self._loops, self._looped = Loops(), False
        self._stand: tuple[int, Reader] | None = None  # what the think span may be taken back to
        self._kept: list[Piece] = []  # pieces since then
        self._looked = False  # whether an answer was looked for near the end of the allowance
        self._box_end: int | None = None  # where the answer ends, in tokens at most, that a forced box began

    def allows(self, token: int) -> bool:
        """Whether the model may propose this token here."""
        if self._forced:
            return True
        piece = self.lexicon.pieces[token]
        if not self._is_raw:
            ends = token in self.lexicon.ends
            if b">" in piece and not ends and self._is_misplaced(piece):
                return False
            if self._is_empty_box():
                return not ends and bool(strip_control(piece.decode(errors="replace")).strip(" \t\n}"))
            if not piece.strip() and not ends and self._is_blank_enough():
                return False
        return self._grammar is None or self._fits(token, piece)

    def constrain(self, logits: np.ndarray) -> None:
        """A proposal was not allowed: mask others (V,) that cannot be, either."""
        if self._grammar and self.reader.phase is not Phase.THINK:
            self._grammar.mask(logits)

    def step(self, proposed: int) -> int | None:
        """The token to write and to feed where the model proposes `proposed`; None: the reply has ended.

        A negative one says that no token is allowed.
        """
        before, is_forced = self.reader.phase, bool(self._forced)
        if is_forced:
            token = self._forced.popleft()
        elif proposed < 0:
            token = None
        elif self.limits.budget is not None:
            token = self._steer(proposed)
        elif self._grammar and before is Phase.THINK and proposed in self.lexicon.ends:
            token = self._force(self._closing())  # what is asked for is still to come
        else:
            token = proposed
        if token is None or token in self.lexicon.ends:
            return self.end("loop" if self._looped else "budget" if self._cut else "eos")
        piece = self.lexicon.pieces[token]
        self.ids.append(token)
        self.reader.read(piece)
        phase = self.reader.phase
        if before is Phase.LEAD:
            self._lead += piece
            self._never_opened = phase is Phase.ANSWER
        if self._stand and phase is not Phase.THINK:
            self._stay()
        if self._grammar and phase is Phase.ANSWER and before is not Phase.THINK and not is_forced:
            self._grammar.accept(token)
        if self._stops and phase is Phase.ANSWER:
            place = self._stops.find(self.reader.answer, piece)
            if place is not None:
                self.num_hidden = len(self.reader.answer) - place
                return self.end("stop")
        if self._box_end is not None and not self._forced and self._open_braces() <= 0:
            return self.end("loop" if self._looped else "budget")
        if len(self.ids) >= self.limits.max_tokens:
            return self.end("length")
        if phase is not before:
            self._loops.reset()
        elif not self._forced and self._loops.read(token, piece):
            return self._leave_loop(token)
        return token

    def end(self, stop: Stop) -> None:
        """The reply ends here."""
        self.stop = stop
        self.reader.finish()
        self._stay()
        if self._stops:
            answer = self.reader.answer
            self._stops.end(answer[: len(answer) - self.num_hidden] if self.num_hidden else None)

    def _is_misplaced(self, piece: bytes) -> bool:
        """Whether a token would complete a think marker that has no meaning here."""
        phase, tail = self.reader.phase, self.reader.tail
        if phase is Phase.THINK:
            return False
        if _CLOSE in (tail[1 - len(_CLOSE) :] + piece).lower():
            # A model whose habit is that its prompt opens the span closes one that it has not opened.
            may_close = not (self._opens or self._grammar) and self.limits.budget is None
            closes_unopened = self._never_opened and may_close
            return not closes_unopened or self.reader.closed or _CLOSE in self.reader.answer.lower()
        return phase is Phase.ANSWER and _OPEN in (tail[1 - len(_OPEN) :] + piece).lower()

    def _is_empty_box(self) -> bool:
        return self._box_end is not None and self.reader.answer.rstrip().endswith(BOX.encode())

    def _is_blank_enough(self) -> bool:
        """Whether only blanks of an answer have come: some models that may not think write them without end."""
        answer = self.reader.answer
        return self.reader.phase is Phase.ANSWER and len(answer) >= MAX_BLANK and not answer.strip()

    def _fits(self, token: int, piece: bytes) -> bool:
        """Whether the grammar lets a token come; before the answer the reply's own form does."""
        phase = self.reader.phase
        if phase is Phase.THINK:  # the answer begins with a token of its own
            return not (
                self.reader.closes(piece) and (self.reader.tail + piece).lower().rpartition(_CLOSE)[2].strip()
            )
        if phase is Phase.LEAD and token not in self.lexicon.ends:
            body = without_lead((self._lead + piece).decode("utf-8", errors="replace"))
            if not body or body.rstrip().lower() == THINK_OPEN:
                return True
        return self._grammar.allows(token)

    def _leave_loop(self, token: int) -> int | None:
        """The span repeats itself: close it, or make an end of the reply."""
        self._looped = True
        self._loops.reset()
        if self.reader.phase is Phase.THINK:
            self._forced.extend(self.lexicon.spell(self._closing()))
            return token
        if self.limits.forced and not self._has_answer() and self._box_end is None:
            self._forced.extend(self.lexicon.spell(self._asking()))
            self._box_end = self.reader.num_tokens + len(self._forced) + BOX_TOKENS
            return token
        return self.end("loop")

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
            return self._begin_answer() if self.limits.forced and not self._has_answer() else proposed
        if self.reader.phase is Phase.LEAD:
            return proposed
        left = self.limits.allowance - self.reader.num_tokens
        if self.limits.forced and left <= self.limits.forced and not self._looked:
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
        closes = reader.closes(piece) or reader.marker(piece) == begun + piece
        if piece and closes and (left > 0 or len(begun) < len(_CLOSE)):
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
        return self._force(self._closing())

    def _closing(self) -> str:
        """What closes the think span here, and begins the answer where one is promised."""
        begun = self.reader.marker()
        line = "" if begun or self.reader.tail.endswith(b"\n") else "\n"
        closing = f"{line}{THINK_CLOSE[len(begun) :]}\n\n"
        if not self.limits.forced:
            return closing
        self._box_end = len(self.lexicon.spell(ASK)) + BOX_TOKENS
        return closing + ASK

    def _asking(self) -> str:
        """What begins a final answer here."""
        text = self.reader.answer
        return ("" if not text.strip() else "\n" if text.endswith(b"\n") else "\n\n") + ASK

    def _begin_answer(self) -> int:
        """Write the words before the box, and let the model fill it."""
        token = self._force(self._asking())
        written = self.reader.num_tokens if self.reader.phase is Phase.ANSWER else 0
        self._box_end = written + 1 + len(self._forced) + BOX_TOKENS
        return token

    def _open_braces(self) -> int:
        """Braces that are open in the forced box, its own among them."""
        inside = self.reader.answer.rpartition(BOX.encode())[2].replace(b"\\{", b"").replace(b"\\}", b"")
        return 1 + inside.count(b"{") - inside.count(b"}")

    def _has_answer(self) -> bool:
        return final_answer(self.reader.answer.decode("utf-8", errors="replace")) is not None

    def _force(self, text: str) -> int:
        """Write a text, whatever the model proposes."""
        self._cut = True
        self._forced.extend(self.lexicon.spell(text))
        return self._forced.popleft()
