"""Replies on a terminal break at words."""

from __future__ import annotations

import pytest

from lite.infer.terminal import Wrap

TEXT = "Mia has 12 apples. Mia finds 5 more.\n\n  The answer is supercalifragilistic, 日本語 too.\n"


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("width", [8, 14, 80])
def test_lines_break_at_blanks_whatever_the_pieces(width, size):
    wrap = Wrap(width)
    shown = (
        "".join(wrap.feed(TEXT[start : start + size]) for start in range(0, len(TEXT), size)) + wrap.flush()
    )
    assert shown.split() == TEXT.split() and shown.count("\n\n") == 1
    assert all(len(line) <= width or " " not in line.strip() for line in shown.split("\n"))
    if width == 80:
        assert shown == TEXT
