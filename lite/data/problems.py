"""Stage `problems`: problems from one source or several, cut into train, rl and eval sets that share no question.

Sources: "quickstart", the embedded world; "gym:<task>", a task of reasoning-gym; a JSONL or Parquet file; a data set
of the Hugging Face Hub (see `lite.data.sources`). Columns are named by the recipe, or known: GSM8K's (`answer` ends in
`#### 72`), MATH's (`problem`, `solution`), MetaMathQA's (`query`, `response`) and plain `question`, `answer`, `cot`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lite.config import Source
from lite.data import sources, word_problems
from lite.errors import LiteError
from lite.grading import final_answer
from lite.run import Run
from lite.runtime.files import write_records
from lite.runtime.progress import console
from lite.schema import Problem

QUICKSTART, GYM = "quickstart", "gym:"
COLUMNS = {  # what a problem's parts are called, the first that is there
    "id": ("id", "unique_id"),
    "question": ("question", "problem", "query"),
    "answer": ("answer",),
    "cot": ("cot", "solution", "response"),
}
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's marks, such as <<48/2=24>>
_GSM8K = re.compile(r"(.*)####\s*(\S.*)", re.DOTALL)


def _key(question: str) -> str:
    """What makes two questions the same: their words."""
    return " ".join(question.split()).casefold()


def _id_of(key: str) -> str:
    """An id made from a question's `_key`."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def _text(row: Mapping[str, Any], columns: Sequence[str], where: str) -> str:
    """The first of the columns that holds anything, as text."""
    for name in columns:
        value = row.get(name)
        if isinstance(value, (bool, bytes, list, dict)) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise LiteError(
                f"{where}: {name} = {json.dumps(value, default=repr)[:60]}: expected text or a number"
            )
        if text := "" if value is None else str(value).strip():
            return text
    return ""


def _without_conclusion(cot: str) -> str:
    """A worked solution without the lines that say the answer alone: GSM8K's `#### 72`, MetaMathQA's beside it."""
    lines = cot.strip().split("\n")
    if len(lines) > 1 and lines[-1].startswith("The answer is:"):
        lines = "\n".join(lines[:-1]).rstrip().split("\n")
    lines[-1] = lines[-1].partition("####")[0]
    return "\n".join(lines).strip()


def to_problem(row: Mapping[str, Any], source: Source, where: str) -> Problem:
    """A problem from a row. Raises LiteError, with the row's place, where it has no question or no answer."""
    named = {"question": source.question, "answer": source.answer, "cot": source.cot}
    for part, column in named.items():
        if column and column not in row:
            raise LiteError(
                f"{where}: no column {column!r}, which the recipe names for {part}; there are {', '.join(row)}"
            )
    id, question, answer, cot = (
        _text(row, [named[part]] if named.get(part) else known, where) for part, known in COLUMNS.items()
    )
    needs = (
        "a problem needs the keys question (or problem, query) and answer, or name its columns in the recipe"
    )
    if not question:
        raise LiteError(f"{where}: no question; {needs}")
    if worked := _GSM8K.fullmatch(answer):
        cot, answer = cot or worked[1], worked[2].strip()
    answer = answer or final_answer(cot) or ""
    if not answer:
        raise LiteError(f"{where}: no answer; {needs}")
    cot = _without_conclusion(_CALCULATOR.sub("", cot))
    return Problem(id or _id_of(_key(question)), question, answer, cot)


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
    owners: dict[str, str] = {}
    for where, row in (rows[place] for place in places):
        try:
            problem = to_problem(row, source, where)
        except LiteError:
            if mendable:
                raise
            left_out += 1
            if left_out == len(places):
                raise
            continue
        key = _key(problem.question)
        if owners.setdefault(problem.id, key) != key:
            if mendable:
                raise LiteError(f"{where}: id {problem.id!r} stands for two questions; make ids unique")
            problem = dataclasses.replace(problem, id=_id_of(key))
        yield problem
    if not places:
        raise LiteError(
            f"{source.name}: no problems in it; write one JSON object with question and answer per line"
        )
    if left_out:
        console.print(
            f"  {source.name}: {left_out} of {len(places)} rows have no question or answer, left out"
        )


def different(problems: Iterable[Problem], seen: set[str]) -> Iterator[Problem]:
    """The problems whose questions are not in `seen`, which learns them."""
    for problem in problems:
        key = _key(problem.question)
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
        seen.update(_key(problem.question) for problem in data_set)
        extra += data_set
    sizes = {"eval": config.num_eval, "rl": config.num_rl, "train": config.num_train}
    sets = split(config.source, sizes, seed, seen)
    if extra:
        sets["eval"] = extra + _marked(sets["eval"], "held-out", "held-out")
    for name, problems in sets.items():
        write_records(ctx.path("problems", f"{name}.jsonl"), problems)
    return {f"num_{name}": len(problems) for name, problems in sets.items()}
