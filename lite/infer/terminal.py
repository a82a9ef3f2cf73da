"""Shows a reply on a terminal as it comes; into a pipe goes the same text without decoration."""

from __future__ import annotations

import sys

from lite.errors import printable
from lite.infer.request import Answer, Stream

_DIM, _PLAIN, _ERASE_LINE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


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
                    if before == "think":
                        print(f"{plain}\n")
                    elif piece.kind == "think":
                        print(dim, end="")
                    elif counting:
                        print(_ERASE_LINE, end="", file=sys.stderr, flush=True)
                    before = piece.kind
                print(printable(piece.text), end="", flush=True)
        except KeyboardInterrupt:
            stream.cancel()
        finally:
            if before is not None:
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
