"""The records that flow between stages, one JSON object per line in their files."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its gold answer; `cot` is a worked solution where the source has one.

    `data_set` names the evaluation set it is reported under; empty where there is one set only. `needed`: the share of
    `cot` that the answer needs, where the source knows it (0: unknown), and `kind` its name for such problems.
    """

    id: str
    question: str
    answer: str
    cot: str = ""
    data_set: str = ""
    kind: str = ""
    needed: float = 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """A correct chain of thought with its visible answer. `id` is `<problem id>/<sample>`."""

    id: str
    question: str
    answer: str
    think: str
    visible: str


@dataclass(frozen=True, slots=True)
class Labels:
    """A trace's think span with the character spans `[start, end)` to KEEP, ascending."""

    id: str
    question: str
    think: str
    keep: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Compressed:
    """A think span cut to `asked`; `realised` is kept / original in the target model's tokens."""

    id: str
    asked: float
    realised: float
    think: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Row:
    """One SFT example: prompt mode ("0.2" ... "1.0", "policy"), then the reply the model shall give."""

    id: str
    mode: str
    question: str
    ratio: float
    think: str
    visible: str


@dataclass(frozen=True, slots=True)
class TeacherRatio:
    """r* of a problem and the success rate at each ratio of the grid, ascending."""

    id: str
    question: str
    answer: str
    ratio: float
    success: list[float] = field(default_factory=list)
    full_tokens: float = 0.0  # think tokens of the SFT model's greedy reply at 1.0
