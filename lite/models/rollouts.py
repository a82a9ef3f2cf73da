"""Replies to problems, sampled, graded and kept in a journal: what `traces` and `probe` build on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

from lite import grading, tokens
from lite.config import Probe, Traces
from lite.models import generate
from lite.remote.client import Endpoint
from lite.remote.completions import Sampling, complete_texts
from lite.runtime.files import Journal
from lite.runtime.progress import progress


@dataclass(frozen=True, slots=True)
class Task:
    """One reply to sample."""

    id: str
    prompt: list[int]
    answer: str  # gold


@dataclass(frozen=True, slots=True)
class Sample:
    """A sampled reply, graded; `num_tokens` counts its think span."""

    id: str
    correct: bool
    closed: bool
    num_tokens: int
    think: str
    visible: str


def room(tasks: list[Task], config: Traces | Probe) -> int:
    """Tokens of the longest prompt and a reply."""
    return max(len(task.prompt) for task in tasks) + config.max_tokens


def grade(task: Task, text: str, tokenizer) -> Sample:
    """Parse and grade a reply decoded with special tokens shown."""
    reply = tokens.parse_reply(text)
    return Sample(
        id=task.id,
        correct=grading.is_correct(reply.visible, task.answer),
        closed=reply.closed,
        num_tokens=generate.count_tokens(tokenizer, reply.think),
        think=reply.think,
        visible=reply.visible,
    )


def sample_replies(
    model, tokenizer, tasks: list[Task], config: Traces | Probe, journal_path: Path, *, seed: int, name: str
) -> list[Sample]:
    """Sample and grade one reply per task; what is in the journal is not sampled again.

    `model` is one that is loaded here, or an Endpoint that serves it.
    """
    tasks = sorted(tasks, key=lambda task: (-len(task.prompt), task.id))  # long prompts, long replies
    with Journal(journal_path, Sample) as journal, progress(name, len(tasks), "replies") as meter:
        done = {sample.id for sample in journal.records}
        meter.advance(len(done))
        if isinstance(model, Endpoint):
            left = [task for task in tasks if task.id not in done]

            def finish(index: int, text: str) -> None:
                journal.append([grade(left[index], text, tokenizer)])
                meter.advance()

            sampling = Sampling(config.max_tokens, config.temperature, config.top_p)
            seeds = [zlib.crc32(f"{seed}/{task.id}".encode()) for task in left]
            complete_texts(model, tokenizer, [task.prompt for task in left], sampling, seeds, finish)
            return journal.records
        for start in range(0, len(tasks), config.batch_size):
            batch = [task for task in tasks[start : start + config.batch_size] if task.id not in done]
            if not batch:
                continue
            replies = generate.generate(
                model,
                tokenizer,
                [task.prompt for task in batch],
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                seed=seed + start,
                batch_size=config.batch_size,
            )
            texts = tokenizer.batch_decode(replies, skip_special_tokens=False)
            journal.append(grade(task, text, tokenizer) for task, text in zip(batch, texts, strict=True))
            meter.advance(len(batch))
        return journal.records
