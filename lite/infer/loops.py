"""Finds a reply that repeats itself without end.

Every run of GRAM tokens that the span has written twice before counts as repeated; RUN repeated tokens in a row are a
loop. A sentence said over and over is one after three times and RUN tokens. Text that is saying something new, or says
something a second time (a draft, then its fair copy), never is. What repeats by its nature may go on four times as
long: runs without words (numbers, rules), fenced code, and rows of a table. Blanks alone may go on for a quarter.
"""

from __future__ import annotations

import re
from collections import Counter, deque

GRAM = 24  # tokens
RUN = 192  # repeated tokens in a row
STRUCTURED, BLANK = (
    0.25,
    4.0,
)  # what a repeated token counts in code, tables and text without words; in blanks
_WORD = re.compile(rb"[^\W\d_]{2}|[\x80-\xff]{3}")
_FENCE = re.compile(rb"(?:^|\n)[ \t]*(?:```|~~~)")


class Loops:
    """Reads a span of a reply token by token; `read` says whether it loops. `reset` begins a new span."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._ids: deque[int] = deque(maxlen=GRAM)
        self._pieces: deque[bytes] = deque(maxlen=GRAM)
        self._seen: Counter[int] = Counter()
        self._run = 0.0
        self._line = b""
        self._in_code = False

    def read(self, token: int, piece: bytes) -> bool:
        """Take the next token with its text; True: the span repeats itself."""
        self._ids.append(token)
        self._pieces.append(piece)
        self._follow(piece)
        if len(self._ids) < GRAM:
            return False
        gram = hash(tuple(self._ids))
        self._seen[gram] += 1
        if self._seen[gram] <= 2:
            self._run = 0.0
            return False
        self._run += self._weight()
        return self._run >= RUN

    def _follow(self, piece: bytes) -> None:
        """Keep the line under way, and whether it lies in fenced code."""
        self._line += piece
        *ended, self._line = self._line.split(b"\n")
        for line in ended:
            self._in_code ^= bool(_FENCE.match(line))

    def _weight(self) -> float:
        text = b"".join(self._pieces)
        if not text.strip():
            return BLANK
        in_table = self._line.lstrip().startswith(b"|")
        return STRUCTURED if self._in_code or in_table or not _WORD.search(text) else 1.0
