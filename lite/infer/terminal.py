"""Shows a reply on a terminal as it comes; into a pipe goes the same text without decoration."""

from __future__ import annotations

import re
import shutil
import sys

from rich.cells import cell_len

from lite.errors import printable
from lite.infer.request import Answer, Stream

_DIM, _PLAIN, _ERASE_LINE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


class Wrap:
    """Breaks the lines of a text that comes in pieces at blanks, for a terminal `width` columns wide.

    A word is held back until its end is known; one that is longer than a line is left to the terminal.
    """

    def __init__(self, width: int):
        self.width, self.column, self.blank, self.word = width, 0, "", ""

    def feed(self, text: str) -> str:
        """What can be shown once `text` has come."""
        shown = ""
        for part in re.findall(r"\n|[^\S\n]+|\S+", text):
            if not part.isspace():
                self.word += part
                continue
            shown += self.flush()
            self.blank = "" if part == "\n" else self.blank + part
            if part == "\n":
                shown, self.column = shown + part, 0
        return shown

    def flush(self) -> str:
        """The word that is held back."""
        if not self.word:
            return ""
        size, blank = cell_len(self.word), cell_len(self.blank)
        breaks = self.column > 0 and self.column + blank + size > self.width
        shown = ("\n" if breaks else self.blank) + self.word
        self.column = size if breaks else self.column + blank + size
        self.blank = self.word = ""
        return shown


class Screen:
    """Prints replies to stdout, thinking dimmed, and what is said about them to stderr.

    With `thinking` False only a live count of think tokens is shown, where stderr is a terminal.
    """

    def __init__(self, *, thinking: bool):
        self.thinking = thinking

    def show(self, stream: Stream) -> Answer:
        """Print a reply as it comes; give its answer. Ctrl-C stops the reply, and what there is of it is given."""
        counting = not self.thinking and sys.stderr.isatty()
        dim, plain = (_DIM, _PLAIN) if sys.stdout.isatty() else ("", "")
        wrap = Wrap(shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
        num_think, before = 0, None
        try:
            for piece in stream:
                if piece.kind == "think":
                    num_think += piece.num_tokens
                    if counting:
                        print(
                            f"{_ERASE_LINE}thinking: {num_think} tokens", end="", file=sys.stderr, flush=True
                        )
                    if not self.thinking:
                        continue
                if piece.kind != before:
                    if before and wrap:
                        print(wrap.flush(), end="")
                        wrap = Wrap(wrap.width)
                    if before == "think":
                        print(f"{plain}\n")
                    elif piece.kind == "think":
                        print(dim, end="")
                    elif counting:
                        print(_ERASE_LINE, end="", file=sys.stderr, flush=True)
                    before = piece.kind
                text = printable(piece.text)
                print(wrap.feed(text) if wrap else text, end="", flush=True)
        except KeyboardInterrupt:
            stream.cancel()
        finally:
            if before is not None:
                print(wrap.flush() if wrap else "", end="")
                print(plain if before == "think" else "", flush=True)
            elif counting and num_think:
                print(_ERASE_LINE, end="", file=sys.stderr, flush=True)
        return stream.answer()


def counts(answer: Answer) -> str:
    """One line on how a reply came about."""
    mode = (
        answer.mode
        if answer.ratio is None or str(answer.ratio) == answer.mode
        else f"{answer.mode}, chose {answer.ratio}"
    )
    of = "" if answer.budget is None else f" of {answer.budget}"
    end = "" if answer.stop == "eos" else f", ended by {_ENDS[answer.stop]}"
    return (
        f"[{mode}: {answer.think_tokens}{of} think tokens, {answer.total_tokens} in all,"
        f" {answer.seconds:.1f} s, {answer.tokens_per_second:.0f} tokens/s{end}]"
    )


_ENDS = {
    "length": "the token limit",
    "budget": "the budget",
    "loop": "its loop",
    "stop": "a stop text",
    "cancelled": "you",
}
