"""Measure GGUFs through llama.cpp: every mode on the same held-out problems, graded and counted.

Takes problems and, per mode, a GGUF; gives report.json, report.md and report.png (see lite.eval.report).
The replies of a mode that is finished stay in `replies-<mode>.jsonl`, so a stage that was cut off goes on
with the next mode.

The realised ratio of a reply is its think tokens over those of the same problem under 1.0. `base` and
`sft-policy` are other GGUFs than the product: theirs, too, are over the product's 1.0, so that all rows
stand on one scale. 1.0 is therefore always measured where there is a dial.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lite.errors import LiteError
from lite.eval import remote, report
from lite.eval.modes import FULL, asked, is_mode, rank
from lite.grading import final_answer, is_correct
from lite.infer.engine import Engine
from lite.infer.request import Answer, question
from lite.remote.client import Endpoint, base_url, optional_key
from lite.run import Run
from lite.runtime.files import read_records, write_json, write_records
from lite.runtime.progress import progress
from lite.runtime.provenance import sha256, versions
from lite.schema import Problem
from lite.tokens import BASE, INSTRUCTION, POLICY, SFT_POLICY


@dataclass(frozen=True, slots=True)
class Graded:
    """A reply to a problem. `ratio` is the ratio token it leads with, `finished` seconds since its mode began.

    `markers` are think markers in its visible text, `answer` its final answer, `sample` which of a problem's it is.
    """

    id: str
    ratio: float | None
    correct: bool
    think_tokens: int
    total_tokens: int
    unclosed: bool
    stop: str
    finished: float
    text: str
    visible_tokens: int = 0
    markers: int = 0
    answer: str | None = None
    sample: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """How replies are generated; `endpoint` is the API that generates them, "" for the engine here."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 16
    num_threads: int = 0
    budget: int | None = None  # think tokens of a reply, at most
    endpoint: str = ""
    samples: int = 1  # replies per problem and mode


def grade(problem: Problem, reply: Answer, finished: float, sample: int = 0) -> Graded:
    """Grade one reply; one that was cut, or whose think span is not closed, is wrong."""
    unclosed = reply.has_think and not reply.closed
    whole = reply.stop in ("eos", "budget", "loop") and not unclosed
    return Graded(
        id=problem.id,
        ratio=reply.ratio,
        correct=whole and is_correct(reply.visible, problem.answer),
        think_tokens=reply.think_tokens,
        total_tokens=reply.total_tokens,
        unclosed=unclosed,
        stop=reply.stop,
        finished=round(finished, 4),
        text=reply.text,
        visible_tokens=reply.visible_tokens,
        markers=reply.markers,
        answer=final_answer(reply.visible) if whole else None,
        sample=sample,
    )


def run_mode(
    engine: Engine, problems: Sequence[Problem], mode: str, settings: Settings, only: bool = True
) -> list[Graded]:
    """Every problem's replies in one mode, in the problems' order. `only`: no other GGUF is measured."""
    started = time.monotonic()
    each = [(problem, sample) for problem in problems for sample in range(settings.samples)]
    fields = asked(mode, engine.has_dial)
    asks = []
    for index, (problem, sample) in enumerate(each):
        ask = question(
            problem.question,
            **{"budget": settings.budget, **fields},
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            # Each reply has draws of its own; more samples leave the first ones as they were.
            seed=(settings.seed << 32) + index // settings.samples + (sample << 64),
            instruction=INSTRUCTION,
        )
        try:
            engine.prompt(ask)
        except LiteError as fault:
            raise LiteError(f"problem {problem.id}: {fault}") from None
        asks.append(ask)
    graded: dict[int, Graded] = {}
    with progress(f"evaluate {mode}", len(each), "replies") as meter:

        def on_done(index: int, reply: Answer) -> None:
            problem, sample = each[index]
            graded[index] = grade(problem, reply, time.monotonic() - started, sample)
            meter.advance()

        if settings.endpoint:
            server = Endpoint(settings.endpoint, key=optional_key(), num_parallel=settings.batch_size)
            remote.generate(engine, server, asks, on_done, only=only)
        else:
            engine.generate(asks, on_done)
    return [graded[index] for index in range(len(each))]


def measure(
    models: Mapping[str, Path],
    problems: Sequence[Problem],
    out: Path,
    settings: Settings,
    overwrite: bool = True,
) -> dict[str, Any]:
    """Measure each mode on its GGUF and write the report into `out`; return what report.json holds.

    `models` maps modes to files. Modes finished before under the same files, problems and settings are not
    run again. Raises LiteError where there is no problem, a mode and its GGUF do not go together, or `out` holds a
    finished report of something else and `overwrite` is False.
    """
    if not problems:
        raise LiteError("no problems to measure on; give at least one")
    modes = sorted(models, key=rank)
    digests = {path: sha256(path) for path in dict.fromkeys(models.values())}
    _keep_replies_of(
        out,
        {
            "modes": {mode: digests[models[mode]] for mode in modes},
            "problems": report.digest([[problem.question, problem.answer] for problem in problems]),
            "settings": report.plain(settings),
        },
        overwrite,
    )
    replies: dict[str, list[Graded]] = {}
    for path in digests:
        mine = [mode for mode in modes if models[mode] == path]
        missing = []
        for mode in mine:
            kept = _replies_path(out, mode)
            if kept.is_file():
                replies[mode] = read_records(kept, Graded)
            else:
                missing.append(mode)
        if not missing:
            continue
        with Engine(path, batch_size=settings.batch_size, num_threads=settings.num_threads) as engine:
            for mode in missing:
                replies[mode] = run_mode(engine, problems, mode, settings, len(digests) == 1)
                write_records(_replies_path(out, mode), replies[mode])
    product = models.get(POLICY) or models[modes[-1]]
    full = replies.get(FULL) if settings.budget is None else None
    made = {
        "model": product.name,
        "sha256": digests[product],
        "models": {mode: {"file": models[mode].name, "sha256": digests[models[mode]]} for mode in modes},
        "seed": settings.seed,
        "settings": report.plain(settings),
        "versions": versions(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **report.build(
            {mode: replies[mode] for mode in modes},
            full,
            {problem.id: problem.data_set for problem in problems},
            {problem.id: problem.needed for problem in problems if problem.needed},
        ),
    }
    report.write(made, out)
    return made


def evaluate(
    model: Path,
    problems: Sequence[Problem],
    modes: Sequence[str | None],
    out: Path,
    settings: Settings,
    overwrite: bool = True,
) -> dict[str, Any]:
    """The report of one GGUF, for `lite eval`, on any problems.

    `modes`: see lite.eval.modes; None: what the budget picks. With a budget there are no realised ratios, because
    the replies under 1.0 are held to it as well.
    """
    if settings.endpoint:
        settings = replace(settings, endpoint=base_url(settings.endpoint))
    if settings.samples > 1 and settings.temperature == 0:
        raise LiteError(f"--samples {settings.samples}: greedy replies are all alike; give a --temperature")
    with Engine(model) as engine:
        context = min(engine.trained_context, engine.context_tokens)
        settings = replace(settings, max_tokens=min(settings.max_tokens, context))
        wanted = set()
        for mode in modes:
            fields = {"budget": settings.budget, **asked(mode, engine.has_dial)}
            ask = question("", **fields, max_tokens=settings.max_tokens)
            engine.prompt(ask)  # a mode this GGUF does not have is a LiteError before any work
            wanted.add(mode or engine.mode(ask))
        if engine.has_dial and settings.budget is None:
            wanted.add(FULL)
    return measure(dict.fromkeys(wanted, Path(model)), problems, out, settings, overwrite)


def run(ctx: Run) -> dict[str, Any]:
    """The stage: base, every ratio, the policy before CHRPO and the policy, on the held-out problems."""
    config = ctx.recipe.evaluate
    which = {BASE: "base", SFT_POLICY: "sft"}
    made = measure(
        {mode: ctx.gguf(which.get(mode, "policy")) for mode in {*config.modes, FULL}},
        read_records(ctx.path("problems", "eval.jsonl"), Problem),
        ctx.path("evaluate"),
        Settings(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=ctx.recipe.seed,
            batch_size=config.batch_size,
            num_threads=config.num_threads,
            endpoint=ctx.endpoint,
        ),
    )
    rows = {row["mode"]: row for row in made["rows"]}
    shown = {}
    for mode in (BASE, SFT_POLICY, POLICY):
        if mode in rows:
            name = mode.replace("-", "_")
            shown[f"{name}_accuracy"] = round(rows[mode]["accuracy"], 3)
            shown[f"{name}_think_tokens"] = round(rows[mode]["think_tokens"], 1)
    return shown


def _replies_path(out: Path, mode: str) -> Path:
    return out / f"replies-{mode.replace(':', '-')}.jsonl"


def _read_state(path: Path) -> dict[str, Any]:
    """What the replies in a folder answer to; nothing where lite wrote none there."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        state = None
    return state if isinstance(state, dict) and isinstance(state.get("modes"), dict) else {"modes": {}}


def _keep_replies_of(out: Path, inputs: dict[str, Any], overwrite: bool) -> None:
    """Drop our replies in `out` that other files, problems or settings gave; what is kept may be used again.

    Raises LiteError where somebody else's file is in the way (those are never touched), and, without `overwrite`,
    where a finished report of something else would be lost.
    """
    path = out / ".lite-inputs.json"
    before = _read_state(path)
    for mode in inputs["modes"].keys() - before["modes"].keys():
        if _replies_path(out, mode).exists():
            raise LiteError(f"{_replies_path(out, mode)}: is there and not lite's; choose another folder")
    same = all(before.get(key) == inputs[key] for key in ("problems", "settings"))
    stale = [
        mode
        for mode, digest in before["modes"].items()
        if is_mode(mode) and not (same and digest == inputs["modes"].get(mode, digest))
    ]
    if stale and not overwrite and (out / "report.json").is_file():
        changed = [key for key in ("problems", "settings") if before.get(key) != inputs[key]] or ["model"]
        raise LiteError(
            f"{out}: holds a finished report of other {' and '.join(changed)}; give another --out, or --overwrite"
        )
    for mode in stale:
        _replies_path(out, mode).unlink(missing_ok=True)
    write_json(path, inputs | {"modes": before["modes"] | inputs["modes"]} if same else inputs)
