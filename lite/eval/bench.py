"""How fast a GGUF answers on this machine, per ratio: alone, and many together."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lite.data import word_problems
from lite.infer.engine import Engine
from lite.infer.request import question
from lite.runtime import hardware
from lite.runtime.progress import progress
from lite.tokens import BASE, MODES

HEADER = ("mode", "think tokens", "seconds/answer", "tokens/s", "together: answers/s", "tokens/s")


@dataclass(frozen=True, slots=True)
class Speed:
    """Means over the questions. `together`: what all of them give, decoded side by side."""

    mode: str
    think_tokens: float
    seconds: float  # an answer alone, its prompt included
    tokens_per_second: float
    together_answers_per_second: float
    together_tokens_per_second: float


def bench(model: Path, *, num: int, max_tokens: int, num_threads: int = 0) -> list[Speed]:
    """Ask word problems in every mode of a GGUF, `num` one by one and then others together; greedy.

    No question is asked twice: its prompt would still be in the cells.
    """
    with Engine(model, num_threads=num_threads) as engine:
        modes = MODES if engine.has_dial else (BASE,)
        with progress("bench", len(modes) * num * 2, "answers") as meter:
            speeds = []
            for place, mode in enumerate(modes):
                one_by_one, side_by_side = (
                    [
                        question(problem.question, mode, max_tokens=max_tokens)
                        for problem in word_problems.problems(num, seed)
                    ]
                    for seed in (2 * place + 1, 2 * place + 2)
                )
                if place == 0:  # makes the context, and pages the weights in
                    engine.generate([question("What is 1 + 1?", mode, max_tokens=max_tokens)] * num)
                alone, started = [], time.monotonic()
                for ask in one_by_one:
                    alone.append(engine.submit(ask).answer())
                    meter.advance()
                seconds = time.monotonic() - started
                started = time.monotonic()
                together = engine.generate(side_by_side, on_done=lambda *_: meter.advance())
                wall = time.monotonic() - started
                speeds.append(
                    Speed(
                        mode=mode,
                        think_tokens=sum(answer.think_tokens for answer in alone) / num,
                        seconds=seconds / num,
                        tokens_per_second=sum(answer.total_tokens for answer in alone) / seconds,
                        together_answers_per_second=num / wall,
                        together_tokens_per_second=sum(answer.total_tokens for answer in together) / wall,
                    )
                )
    return speeds


def machine_line() -> str:
    """Where the numbers come from: system, processor, cores and the build of llama.cpp's binding."""
    package = f"llama-cpp-python {version('llama-cpp-python')}"
    return f"{platform.system()} {platform.machine()}, {hardware.num_cores()} cores, {package}"


def table(speeds: Sequence[Speed]) -> Iterator[str]:
    """Lines for people."""
    rows = [HEADER]
    for speed in speeds:
        rows.append(
            (
                speed.mode,
                f"{speed.think_tokens:.0f}",
                f"{speed.seconds:.3g}",
                f"{speed.tokens_per_second:.0f}",
                f"{speed.together_answers_per_second:.2f}",
                f"{speed.together_tokens_per_second:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (text.rjust(width) for text, width in zip(row, widths, strict=True))
        yield "  ".join([first.strip().ljust(widths[0]), *others])
