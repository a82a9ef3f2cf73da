"""What a recipe will do and take, before it costs anything: `lite plan`. Loads no torch, fetches no weights.

Shows one row of each kind as the model will see it with its loss mask, and for every stage the
memory, disk and time that lite/plan/estimate.py expects, beside what was measured where the run folder knows it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lite import tokens
from lite.config import Recipe
from lite.data import problems
from lite.errors import LiteError
from lite.plan import estimate as footprint
from lite.plan import lengths
from lite.plan.doctor import memory_gb
from lite.plan.estimate import Estimate, Lengths
from lite.plan.machine import CARDS, Machine, this_machine
from lite.plan.model_shape import PlainTokenizer, Shape, read_encoder, read_shape
from lite.run import READS, Run
from lite.runtime.files import read_records
from lite.schema import Problem, Row
from lite.tokens import IGNORED
from lite.train.sft import encode_row

NUM_PROBLEMS = 200  # drawn to look at, where a run has none yet


def render(tokenizer: PlainTokenizer, row: Row) -> str:
    """A row as the model will see it: `|` leads lines without a loss, `>` those that are learnt."""
    ids, labels = encode_row(tokenizer, row)
    start = next(place for place, label in enumerate(labels) if label != IGNORED)
    lines = [
        f"{mark} {line}"
        for mark, part in (("|", ids[:start]), (">", ids[start:]))
        for line in tokenizer.decode(part).removesuffix("\n").split("\n")
    ]
    title = (
        f"row of mode {row.mode}: {len(ids)} tokens, {len(ids) - start} of them with a loss (lines with >)"
    )
    return "\n".join([title, *lines])


def _of_each_kind(rows: Iterable[Row]) -> list[Row]:
    """The first fixed row, at the smallest ratio there is, and the first POLICY row."""
    rows = sorted(rows, key=lambda row: tokens.MODES.index(row.mode))
    kinds = {row.mode == tokens.POLICY: row for row in reversed(rows)}
    return [kinds[is_policy] for is_policy in (False, True) if is_policy in kinds]


def _problems(recipe: Recipe) -> list[Problem]:
    """Some training problems of the recipe's source, drawn as the stage `problems` draws them."""
    section = recipe.problems
    few = dataclasses.replace(
        section, num_train=min(section.num_train, NUM_PROBLEMS), num_rl=1, num_eval=1, eval=()
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run(dataclasses.replace(recipe, problems=few), Path(folder))
        problems.run(run)
        return read_records(run.path("problems", "train.jsonl"), Problem)


def look(run: Run, tokenizer: PlainTokenizer | None) -> tuple[list[Row], Lengths]:
    """A row of each kind, and how long the texts are: from the run's mixture, else from its problems or their source."""
    recipe = run.recipe
    known = lengths.of_run(recipe, run.folder, tokenizer, run.is_done)
    if known and run.is_done("mixture") and (rows := read_records(run.path("mixture", "rows.jsonl"), Row)):
        return _of_each_kind(rows), known
    found = read_records(run.path("problems", "train.jsonl"), Problem) if known else _problems(recipe)
    solved = [problem for problem in found if problem.cot.strip()] or found
    return _of_each_kind(lengths.rows_of(solved[0])), known or lengths.of_problems(found, tokenizer, recipe)


def _time(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}" if size >= 5e7 else "-" if not size else "<0.1"


def table(estimates: dict[str, Estimate], run: Run, machine: Machine) -> Table:
    """A line for each stage: what is expected and, where the run has it, what was measured."""
    made = Table("stage", "GPU GB", "RAM GB", "disk GB", "time", "largest term", "measured")
    for name, estimate in estimates.items():
        manifest = run.manifest(name) if run.is_done(name) else None
        took = f"{manifest['peak_memory_gb']:.1f} GB, {_time(manifest['seconds'])}" if manifest else ""
        sizes = (sum(estimate.gpu.values()), sum(estimate.ram.values()), estimate.disk)
        made.add_row(name, *map(_gb, sizes), _time(estimate.seconds), estimate.largest(machine.on_gpu), took)
    return made


def verdict(
    estimates: dict[str, Estimate], machine: Machine, room_gb: float | None
) -> tuple[bool, list[str]]:
    """Whether it fits, and in words; for each stage that does not, what is too large and what to turn down."""
    where = machine.name if machine.on_gpu else "this machine's memory"
    room = machine.gpu_gb if machine.on_gpu else room_gb
    totals = {
        name: sum((estimate.gpu if machine.on_gpu else estimate.ram).values()) / 1e9
        for name, estimate in estimates.items()
    }
    most = max(totals, key=lambda name: totals[name])
    if room is None:
        return True, [
            f"the largest stage, {most}, takes {totals[most]:.1f} GB; how much is free here is unknown"
        ]
    lines = []
    for name in [name for name in totals if totals[name] > room]:
        largest = estimates[name].largest(machine.on_gpu)
        lines.append(
            f"{name} does not fit {where}: {totals[name]:.1f} GB of {room:.1f}; the largest term is {largest}; "
            f"turn down {footprint.remedy(name, largest)}"
        )
    fits = f"fits {where}: the largest stage, {most}, takes {totals[most]:.1f} GB of {room:.1f}"
    return not lines, lines or [fits]


def terms(name: str, estimate: Estimate, machine: Machine) -> str:
    """A stage's memory term by term, largest first, in GB."""
    sizes = estimate.gpu if machine.on_gpu else estimate.ram
    parts = sorted(sizes.items(), key=lambda item: -item[1])
    return f"{name}: " + " + ".join(f"{term} {size / 1e9:.2f}" for term, size in parts)


def _describe(model: str, shape: Shape) -> str:
    ties = "tied" if shape.tie_word_embeddings else "not tied"
    return (
        f"{model}: {shape.num_params / 1e6:,.1f} M parameters; {shape.num_hidden_layers} layers of "
        f"{shape.hidden_size}, MLP {shape.intermediate_size}, vocabulary {shape.vocab_size}, embeddings {ties}"
    )


def plan(recipe: Recipe, folder: Path, card: str | None = None) -> bool:
    """Print the plan of a recipe; give whether it fits. Raises LiteError for an unknown card, and where the model's config cannot be had."""
    if card is not None and card not in CARDS:
        raise LiteError(f"card {card!r} is unknown; use one of {', '.join(CARDS)}")
    machine = CARDS[card] if card else this_machine()
    shape = read_shape(recipe.model, online=True)
    run, notes = Run(recipe, folder), list[str]()
    tokenizer: PlainTokenizer | None = None
    rows: Sequence[Row] = ()
    try:
        tokenizer = PlainTokenizer(recipe.model, online=True)
    except LiteError as fault:
        notes.append(f"no tokenizer: {fault}")
    try:
        rows, known = look(run, tokenizer)
    except LiteError as fault:
        notes.append(f"no rows: {fault}; lengths are the recipe's limits")
        known = lengths.at_most(recipe)
    estimates = footprint.Planner(
        recipe, shape, known, machine, read_encoder(recipe.compressor.encoder)
    ).all()
    assert tuple(estimates) == tuple(READS)

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    console.print(_describe(recipe.model, shape))
    if tokenizer is not None:
        for row in rows:
            console.print("\n" + render(tokenizer, row))
    for note in notes:
        console.print("\n" + note)
    console.print(f"\nexpected on {machine.name} ({'bf16' if machine.bf16 else 'fp32'})")
    Console(highlight=False).print(table(estimates, run, machine))
    for name in ("sft", "chrpo"):
        console.print(terms(name, estimates[name], machine))
    fits, lines = verdict(estimates, machine, memory_gb())
    for line in lines:
        console.print(line)
    return fits
