"""Stage `problems`: problems from one source or several, cut into train, rl and eval sets that share no question.

Sources: "quickstart", the embedded world; "gym:<task>", a task of reasoning-gym; a file, or a data set of the Hugging
Face Hub (see `lite.data.sources` for files, `lite.data.rows` for columns).
"""

from __future__ import annotations

import dataclasses
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lite.config import Source
from lite.data import sources, word_problems
from lite.data.rows import id_of, question_key, to_problem
from lite.errors import LiteError
from lite.run import Run
from lite.runtime.files import write_records
from lite.runtime.progress import console
from lite.schema import Problem

QUICKSTART, GYM = "quickstart", "gym:"


def _gym(task: str, num: int, seed: int) -> Iterator[Problem]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at import, about its own source
            import reasoning_gym
    except ImportError:
        raise LiteError(f"source gym:{task} needs reasoning-gym; install extra-cot-lite[train]") from None
    # Its item i of seed s is item i + 1 of seed s - 1 in most tasks, so seeds side by side would share problems.
    apart = random.Random(f"{task}/{seed}").getrandbits(31)
    try:
        data = reasoning_gym.create_dataset(task, size=num, seed=apart)
    except ValueError:
        raise LiteError(f"gym:{task}: reasoning-gym has no such task; try gym:gsm_symbolic") from None
    except AssertionError as fault:  # composite, which wants settings
        raise LiteError(f"gym:{task}: wants settings of its own ({fault}); try gym:gsm_symbolic") from None
    for index, row in enumerate(data):
        cot = str(row["metadata"].get("answer_cot") or "")
        yield Problem(f"{task}-{seed}-{index}", row["question"], str(row["answer"]), cot)


def generates(name: str) -> bool:
    """Whether a source makes its own problems, as many as asked."""
    return name == QUICKSTART or name.startswith(GYM)


def generate(name: str, num: int, seed: int) -> Iterator[Problem]:
    """Problems of a source that makes its own, enough for `num` different ones; repeatable by seed."""
    enough = 2 * num + 100
    return (
        word_problems.problems(enough, seed)
        if name == QUICKSTART
        else _gym(name.removeprefix(GYM), enough, seed)
    )


def _stored(source: Source, order: random.Random | None) -> Iterator[Problem]:
    """The problems of a file or a Hub data set, in its order or shuffled; repeated questions left in.

    A bad row of a file is a fault. The Hub's cannot be mended by a user: bad rows are counted and left out, and one
    whose id stands for another question, too, gets its question's.
    """
    rows = sources.rows(source.name)
    places = list(range(len(rows)))
    if order is not None:
        order.shuffle(places)
    mendable, left_out = sources.local_file(source.name) is not None, 0
    said: list[str] = []
    owners: dict[str, str] = {}
    try:
        for where, row in (rows[place] for place in places):
            try:
                problem = to_problem(row, source, where, said)
            except LiteError:
                if mendable:
                    raise
                left_out += 1
                if left_out == len(places):
                    raise
                continue
            key = question_key(problem.question)
            if owners.setdefault(problem.id, key) != key:
                if mendable:
                    raise LiteError(f"{where}: id {problem.id!r} stands for two questions; make ids unique")
                problem = dataclasses.replace(problem, id=id_of(key))
            yield problem
    finally:  # also where no more are asked for
        if left_out:
            console.print(f"  {source.name}: {left_out} rows have no question or no plain answer, left out")
        if said:
            console.print(
                f"  {source.name}: {len(said)} answers are sentences, their number is taken: {said[0]}"
            )
    if not places:
        raise LiteError(
            f"{source.name}: no problems in it; write one JSON object with question and answer per line"
        )


def different(problems: Iterable[Problem], seen: set[str]) -> Iterator[Problem]:
    """The problems whose questions are not in `seen`, which learns them."""
    for problem in problems:
        key = question_key(problem.question)
        if key not in seen:
            seen.add(key)
            yield problem


def load(name: str, num: int | None = None, seed: int = 0) -> list[Problem]:
    """`num` different problems of a source. A file is drawn from by seed; `num=None` gives all of it, in its order.

    Raises LiteError for a source that is not there or has fewer problems.
    """
    if num is not None and num < 1:
        raise LiteError(f"num = {num}: ask for 1 problem or more")
    if generates(name) and num is None:
        raise LiteError(f"{name} makes as many problems as asked; say how many with --num")
    return pool(Source(name, num=num or 0), seed, exactly=num is not None)


def pool(source: Source, seed: int, *, exactly: bool = False) -> list[Problem]:
    """All different problems of a source, or `source.num` of them drawn by seed (fewer are a fault if `exactly`)."""
    if generates(source.name):
        if not source.num:
            raise LiteError(f"source {source.name} makes as many problems as asked; give its num")
        problems = generate(source.name, source.num, seed)
    else:
        problems = _stored(source, random.Random(f"problems/{seed}") if source.num else None)
    found = list(islice(different(problems, set()), source.num or None))
    if exactly and len(found) < source.num:
        raise LiteError(
            f"{source.name}: {source.num} problems are asked, {len(found)} different ones are in it; ask for fewer"
        )
    return found


def titles(named: Sequence[Source]) -> list[str]:
    """A short name for each source, all different: the end of its name, or all of it where two would be alike."""
    short = [
        Path(s.name).stem if sources.hub_parts(s.name) is None else s.name.split(":")[0].split("/")[1]
        for s in named
    ]
    return [
        title if short.count(title) == 1 else source.name for title, source in zip(short, named, strict=True)
    ]


def _marked(problems: Iterable[Problem], title: str, data_set: str = "") -> list[Problem]:
    """Problems with ids that no other source has."""
    return [dataclasses.replace(p, id=f"{title}/{p.id}", data_set=data_set) for p in problems]


def split(
    named: Sequence[Source], sizes: Mapping[str, int], seed: int, seen: set[str]
) -> dict[str, list[Problem]]:
    """Sets of the given sizes without a question in common or in `seen`. Raises LiteError where there are too few.

    Several sources are joined and shuffled; one that makes its own problems then needs its `num`.
    """
    streams: dict[str, Iterable[Problem]] = {}
    if len(named) == 1 and generates(named[0].name):
        for place, (set_name, num) in enumerate(sizes.items()):
            streams[set_name] = generate(named[0].name, num, 1_000 * (seed + 1) + place)
    else:
        pools = [pool(source, seed) for source in named]
        if len(pools) > 1:
            pools = [_marked(one, title) for one, title in zip(pools, titles(named), strict=True)]
        joined = [problem for one in pools for problem in one]
        random.Random(f"problems/{seed}").shuffle(joined)
        streams = dict.fromkeys(sizes, iter(joined))
    made = {name: list(islice(different(streams[name], seen), num)) for name, num in sizes.items()}
    if any(len(made[name]) < num for name, num in sizes.items()):
        parts = " + ".join(f"num_{name} {num}" for name, num in sizes.items())
        found = sum(map(len, made.values()))
        raise LiteError(
            f"{', '.join(source.name for source in named)}: the recipe asks for {sum(sizes.values())} problems "
            f"({parts}), {found} different ones are in it; lower problems.num_train, num_rl or num_eval"
        )
    return made


def run(ctx: Run) -> dict[str, Any]:
    """Write the three sets. What is evaluated on is drawn first: it stays the same when the others grow."""
    config, seed = ctx.recipe.problems, ctx.recipe.seed
    seen: set[str] = set()
    extra: list[Problem] = []
    for source, title in zip(config.eval, titles(config.eval), strict=True):
        data_set = _marked(pool(source, seed), title, title)
        seen.update(question_key(problem.question) for problem in data_set)
        extra += data_set
    sizes = {"eval": config.num_eval, "rl": config.num_rl, "train": config.num_train}
    sets = split(config.source, sizes, seed, seen)
    if extra:
        sets["eval"] = extra + _marked(sets["eval"], "held-out", "held-out")
    for name, problems in sets.items():
        write_records(ctx.path("problems", f"{name}.jsonl"), problems)
    return {f"num_{name}": len(problems) for name, problems in sets.items()}
