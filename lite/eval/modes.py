"""What `lite eval` can measure beside the dial's own modes: thinking off, a hard cap, a lean."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from lite.errors import LiteError
from lite.tokens import BASE, MODES, POLICY, SFT_POLICY

FULL = MODES[-2]  # the mode that realised ratios are measured against
OFF = "none"
CAP, LEAN = "cap:", "lean:"
ORDER = (BASE, OFF, *MODES[:-1], SFT_POLICY, POLICY)
_CAP, _LEAN = re.compile(r"cap:(\d{1,9})"), re.compile(r"lean:([+-]?\d{1,3}(?:\.\d{1,6})?)")


def modes_of(texts: Sequence[str], mode_of: Callable[[str], str]) -> list[str]:
    """The modes that a user names. Raises LiteError; `mode_of` does for the dial's own."""
    found = []
    for text in filter(None, map(str.strip, texts)):
        if text.startswith((CAP, LEAN)) and not is_mode(text):
            kind = f"{CAP}N, N tokens" if text.startswith(CAP) else f"{LEAN}X, X a number in -100..100"
            raise LiteError(f"mode {text!r}: use {kind}")
        found.append(text if is_mode(text) and text not in MODES else mode_of(text))
    return found


def is_mode(text: str) -> bool:
    """Whether a row may have this name."""
    lean = _LEAN.fullmatch(text)
    return text in ORDER or bool(_CAP.fullmatch(text)) or (lean is not None and abs(float(lean[1])) <= 100)


def rank(mode: str) -> tuple[int, float]:
    """Where a row stands: the dial in its order, then caps and leans by size."""
    if mode in ORDER:
        return ORDER.index(mode), 0
    kind, _, value = mode.partition(":")
    return len(ORDER) + (kind == "lean"), float(value)


def asked(mode: str | None, has_dial: bool) -> dict[str, Any]:
    """The fields of an Ask that a mode means; None leaves the ratio to the budget."""
    if mode == OFF:
        return {"mode": None, "thinking": False}
    if mode and (cap := _CAP.fullmatch(mode)):
        return {"mode": FULL if has_dial else BASE, "budget": int(cap[1])}
    if mode and (lean := _LEAN.fullmatch(mode)):
        return {"mode": POLICY, "lean": float(lean[1])}
    return {"mode": POLICY if mode == SFT_POLICY else mode}
