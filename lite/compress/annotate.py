"""Stage `annotate`: KEEP labels, from which the compressor learns.

Takes traces, gives Labels: the character spans of each think span that must stay. The paper asks GPT-4o which
numbered words to keep, a formula counting as one word: that is `teacher` (lite.compress.teacher). Two annotators
need no second model:

- `rules` keeps formulas and numbers: the baseline.
- `likelihood` lets the reasoner that is being compressed judge each unit by what the rest needs. A set of units
  is removed from the chain, and its cost is the drop in log p, in nats, of the targets: the final answer in the
  visible answer, and the digits of all formulas that stay. With the answer alone, the last equation would
  explain everything; with the later formulas as targets a chain of equations is needed as a whole, and each one
  pays for what feeds it. The chain is searched greedily from coarse to fine: first clauses of words and numbers,
  then what is left of them in ever smaller parts, and at last formulas one by one: while a formula is there, the
  words that tell the same cost nothing and go, and then the formula is needed. In each round every group is
  removed by itself; of the cheap ones as many go, cheapest first, as are cheap together. A group that is dear
  stays dear while the rest shrinks, so it is split, and a single unit that is dear is never scored again.
  The model reads question, chain and answer as plain text: in its chat form it expects its own narration, and
  every sentence left out would be charged for the style it breaks, not for what it says (docs/log.md).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lite import config as recipe
from lite.compress.logprobs import Scored, log_p
from lite.compress.select import place, token_counts
from lite.compress.teacher import Teacher
from lite.compress.units import Unit, clauses, segment
from lite.errors import LiteError
from lite.models import unsloth
from lite.run import Run
from lite.runtime.files import Journal, read_records, write_records
from lite.runtime.progress import progress
from lite.schema import Labels, Trace

_MAX_GROUPS = 16  # of words of one trace in the first round; what is dear is split in the next ones
_MAX_FORMULAS = 64
_TRACES = 16  # searched side by side, to fill batches; also what a kill can lose
FEWEST_LABELLED = 0.5  # share of traces, below which a teacher is not up to it


Done = Callable[[Sequence[tuple[Trace, list[int]]], str], None]


class Annotator(Protocol):
    """Says which units of each trace to keep."""

    def label(self, traces: Sequence[Trace], done: Done) -> dict[str, Any]:
        """Choose the kept units of each trace; returns what it measured.

        As traces get done, `done(pairs, note)` is called with (trace, kept units) pairs, where the units are
        ascending indices of `segment(trace.think)`. A trace that cannot be labelled is left out.
        """
        ...


class Batched(abc.ABC):
    """An annotator that works on batches of traces."""

    @abc.abstractmethod
    def keep(self, traces: Sequence[Trace]) -> list[list[int]]:
        """Indices of the kept units of `segment(trace.think)` for each trace, ascending."""

    def label(self, traces: Sequence[Trace], done: Done) -> dict[str, Any]:
        for start in range(0, len(traces), _TRACES):
            batch = traces[start : start + _TRACES]
            done(list(zip(batch, self.keep(batch), strict=True)), "")
        return {}


class Rules(Batched):
    """Keeps formulas and numbers."""

    def keep(self, traces: Sequence[Trace]) -> list[list[int]]:
        return [
            [index for index, unit in enumerate(segment(trace.think)) if unit.kind != "word"]
            for trace in traces
        ]


def merge(groups: list[list[int]], most: int) -> list[list[int]]:
    """Neighbouring groups put together evenly, so that at most `most` are left."""
    if len(groups) <= most:
        return groups
    cuts = [len(groups) * part // most for part in range(most + 1)]
    return [[index for group in groups[a:b] for index in group] for a, b in zip(cuts, cuts[1:], strict=False)]


@dataclass
class _Search:
    """Where the search stands on one trace."""

    trace: Trace
    prompt: list[int]
    units: list[Unit]
    alive: list[int]
    groups: list[list[int]]  # still to be scored, disjoint parts of `alive`
    base: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (units + 1,) log p of each unit's targets


@dataclass
class Likelihood(Batched):
    """Keeps what the model needs; see the module's docstring. `model` and `tokenizer` are Hugging Face's."""

    model: Any
    tokenizer: Any
    config: recipe.Annotate

    def keep(self, traces: Sequence[Trace]) -> list[list[int]]:
        searches = [self._start(trace) for trace in traces]
        for search, base in zip(searches, self._log_p([(s, s.alive) for s in searches]), strict=True):
            search.base = base
        for _ in range(self.config.num_rounds):
            self._round(searches)
        for s in searches:
            formulas = [[index] for index in s.alive if s.units[index].kind == "formula"]
            s.groups = merge(formulas, _MAX_FORMULAS)
        self._round(searches)
        return [search.alive for search in searches]

    def _start(self, trace: Trace) -> _Search:
        units = segment(trace.think)
        groups = [group for group in clauses(trace.think, units) if units[group[0]].kind != "formula"]
        prompt = self.tokenizer.encode(
            f"{trace.question}\n", add_special_tokens=False, split_special_tokens=True
        )
        return _Search(trace, prompt, units, list(range(len(units))), merge(groups, _MAX_GROUPS))

    def _round(self, searches: list[_Search]) -> None:
        """Score every group by leaving it out, drop the cheap ones, split the dear ones."""
        tries = [(s, group) for s in searches for group in s.groups]
        costs: dict[int, list[tuple[float, list[int]]]] = {id(s): [] for s in searches}
        for (s, group), (cost, _) in zip(tries, self._costs([(s, set(g)) for s, g in tries]), strict=True):
            costs[id(s)].append((cost, group))
        self._drop(
            [(s, [g for cost, g in sorted(costs[id(s)]) if cost < self.config.max_drop]) for s in searches]
        )
        for s in searches:
            s.groups = self._next_groups(s, costs[id(s)])

    def _drop(self, cheap: list[tuple[_Search, list[list[int]]]]) -> None:
        """Drop as many of the groups, cheapest first, as are cheap together: all, or found by bisection."""
        spans = [[0, len(groups) + 1] for _, groups in cheap]  # so many may go, so many may not
        bases = [s.base for s, _ in cheap]
        sizes = [len(groups) for _, groups in cheap]
        while open_ := [i for i, (low, high) in enumerate(spans) if high - low > 1]:
            together = [
                (cheap[i][0], {index for group in cheap[i][1][: sizes[i]] for index in group}) for i in open_
            ]
            for i, (cost, base) in zip(open_, self._costs(together), strict=True):
                fits = cost < self.config.max_drop
                spans[i][0 if fits else 1] = sizes[i]
                if fits:
                    bases[i] = base
                sizes[i] = sum(spans[i]) // 2
        for (s, groups), (low, _), base in zip(cheap, spans, bases, strict=True):
            gone = {index for group in groups[:low] for index in group}
            s.alive = [index for index in s.alive if index not in gone]
            s.base = base

    def _next_groups(self, s: _Search, costs: list[tuple[float, list[int]]]) -> list[list[int]]:
        alive = set(s.alive)
        groups = []
        for cost, group in costs:
            if group[0] not in alive:
                continue
            if cost < self.config.max_drop:
                groups.append(group)  # cheap alone, dear together: next time
            elif len(group) > 1:
                third = max(1, len(group) // 3) if len(group) > 4 else 1
                groups += [group[at : at + third] for at in range(0, len(group), third)]
        return groups

    def _costs(self, tries: list[tuple[_Search, set[int]]]) -> list[tuple[float, np.ndarray]]:
        """For each set of units left out: its cost in nats, and the log p (units + 1,) of what is left."""
        kept = [(s, [index for index in s.alive if index not in gone]) for s, gone in tries]
        results = []
        for (s, rest), left in zip(kept, self._log_p(kept), strict=True):
            judged = [*rest, len(s.units)]
            results.append((float((s.base[judged] - left[judged]).sum()), left))
        return results

    def _log_p(self, variants: list[tuple[_Search, list[int]]]) -> list[np.ndarray]:
        """Log p of the targets of each unit (and, last, of the answer) when only some units are there."""
        encoded = [self._encode(s, kept) for s, kept in variants]
        asked = [Scored(ids, [position for position, _ in targets]) for ids, targets in encoded]
        found = log_p(self.model, self.tokenizer.pad_token_id, asked, self.config.batch_tokens)
        return [
            np.bincount([owner for _, owner in targets], weights=values, minlength=len(s.units) + 1)
            for (s, _), (_, targets), values in zip(variants, encoded, found, strict=True)
        ]

    def _encode(self, s: _Search, kept: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and the targets among them as (position, owner); the answer's owner is len(units)."""
        think, starts = place(s.trace.think, s.units, kept)
        visible = s.trace.visible.strip()
        reply = f"{think}\n{visible}"
        owner = np.full(len(reply), -1)
        for index, start in zip(kept, starts, strict=True):
            unit = s.units[index]
            if unit.kind == "formula":
                owner[start : start + unit.end - unit.start] = index
        for at, character in enumerate(reply):
            if not character.isdigit():
                owner[at] = -1
        answer = visible.rfind(s.trace.answer)
        begin = len(reply) - len(visible) + max(answer, 0)
        owner[begin : begin + len(s.trace.answer) if answer >= 0 else len(reply)] = len(s.units)
        coded = self.tokenizer(reply, add_special_tokens=False, return_offsets_mapping=True)
        targets = []
        for position, (a, b) in enumerate(coded["offset_mapping"], start=len(s.prompt)):
            whose = owner[a:b].max(initial=-1)
            if whose >= 0:
                targets.append((position, int(whose)))
        return s.prompt + coded["input_ids"], targets


def to_labels(trace: Trace, kept: Sequence[int]) -> Labels:
    """KEEP spans of a trace; neighbouring kept units share a span."""
    units = segment(trace.think)
    spans: list[list[int]] = []
    for before, index in zip([None, *kept], kept, strict=False):
        if before is not None and before == index - 1:
            spans[-1][1] = units[index].end
        else:
            spans.append([units[index].start, units[index].end])
    return Labels(trace.id, trace.question, trace.think, spans)


def make_annotator(run: Run) -> Annotator:
    """The annotator of a run's recipe."""
    config = run.recipe.annotate
    if run.endpoint and config.method != "teacher":
        raise LiteError(
            f"--endpoint {run.endpoint}: annotate.method = {config.method} asks no server; add --set annotate.method=teacher"
        )
    if config.method == "rules":
        return Rules()
    if config.method == "likelihood":
        model, tokenizer = unsloth.load(run.recipe.model, max_tokens=config.batch_tokens)
        return Likelihood(model, tokenizer, config)
    tokenizer = unsloth.load_tokenizer(run.recipe.model)

    def count_tokens(text: str, units: Sequence[Unit]) -> list[int]:
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return token_counts(units, coded["offset_mapping"])

    # The cache is the run's, not the stage's: a changed recipe does not pay again for what is the same.
    return Teacher(config, run.folder / "teacher.jsonl", count_tokens, run.server(config.num_parallel))


def run(ctx: Run) -> dict[str, Any]:
    """Label the first `annotate.num_traces` traces. Resumes after the labels that are there."""
    config = ctx.recipe.annotate
    traces = read_records(ctx.path("traces", "traces.jsonl"), Trace)[: config.num_traces]
    if not traces:
        raise LiteError(
            f"{ctx.path('traces', 'traces.jsonl')}: no traces to label; run the stage traces again"
        )
    with Journal(ctx.path("annotate", "journal.jsonl"), Labels) as journal:
        by_id = {labels.id: labels for labels in journal.records}
        left = [trace for trace in traces if trace.id not in by_id]
        measured: dict[str, Any] = {}
        if left:
            annotator = make_annotator(ctx)
            with progress("labels", len(left), "traces") as meter:

                def done(pairs: Sequence[tuple[Trace, list[int]]], note: str) -> None:
                    labels = [to_labels(trace, kept) for trace, kept in pairs]
                    journal.append(labels)
                    by_id.update((record.id, record) for record in labels)
                    meter.advance(len(pairs) or 1, note)  # none: a trace stays without labels

                measured = annotator.label(left, done)
    labels = [by_id[trace.id] for trace in traces if trace.id in by_id]
    if len(labels) < FEWEST_LABELLED * len(traces):
        raise LiteError(
            f"annotate: only {len(labels)} of {len(traces)} traces got usable ranges from the teacher; use a stronger"
            f" one, or raise annotate.max_tokens = {config.max_tokens}"
        )
    write_records(ctx.path("annotate", "labels.jsonl"), labels)
    kept = sum(end - start for record in labels for start, end in record.keep)
    total = sum(len(record.think) for record in labels)
    unlabelled = {"unlabelled": len(traces) - len(labels)} if len(labels) < len(traces) else {}
    return {"labels": len(labels), "kept_characters": round(kept / total, 3), **unlabelled, **measured}
