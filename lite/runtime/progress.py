"""Progress for long work: a bar with rate and time left on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lite.runtime import distributed

console = Console(
    stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False, quiet=not distributed.is_main()
)
LINE_SECONDS = 15.0


class Meter:
    """Counts work done; `advance(n)` shows it."""

    def __init__(self, name: str, total: int, unit: str, bar: Progress | None):
        self.name, self.total, self.unit, self.bar = name, total, unit, bar
        self.done = 0
        self.started = self.shown = time.monotonic()
        self.task = bar.add_task(name, total=total, rate="") if bar else None

    def advance(self, num: int = 1, note: str = "") -> None:
        """Add `num` finished units; `note` is a short text such as a loss."""
        self.done += num
        now = time.monotonic()
        rate = self.done / max(now - self.started, 1e-9)
        shown_rate = f"{rate:.1f} {self.unit}/s {note}".rstrip()
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, rate=shown_rate)
        elif now - self.shown >= LINE_SECONDS:
            self.shown = now
            left = max(self.total - self.done, 0) / max(rate, 1e-9)
            console.print(
                f"  {self.name}: {self.done}/{self.total} {self.unit}, {shown_rate}, {left:.0f} s left"
            )


@contextmanager
def progress(name: str, total: int, unit: str) -> Iterator[Meter]:
    """Show progress of `total` units of work called `name`."""
    if not sys.stderr.isatty():
        yield Meter(name, total, unit, None)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Meter(name, total, unit, bar)
