"""Stage `problems`: problems from a source, cut into train, rl and eval sets that share no question.

Sources: "quickstart", the embedded world; "gym:<task>", a task of reasoning-gym; else a JSONL file, with keys
`question` and `answer` or in the Hub's own forms of GSM8K (`answer` ends in `#### 72`) and MATH-500
(`problem`, `solution`, `answer`).
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lite.errors import LiteError
from lite.grading import final_answer
from lite.quickstart import world
from lite.records import Problem, located_records, write_records
from lite.stages import Run

QUICKSTART, GYM = "quickstart", "gym:"
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's marks, such as <<48/2=24>>
_GSM8K = re.compile(r"(.*)####\s*(\S.*)", re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")  # a lone surrogate, which no file can hold


@dataclass(frozen=True, slots=True)
class _Line:
    """The keys that problems come under."""

    id: Any = ""
    unique_id: Any = ""
    question: Any = ""
    problem: Any = ""
    answer: Any = ""
    solution: Any = ""
    cot: Any = ""


def _key(question: str) -> str:
    """What makes two questions the same: their words."""
    return " ".join(question.split()).casefold()


def _to_problem(line: _Line, where: str) -> Problem:
    values = {}
    for name in _Line.__slots__:
        value = getattr(line, name)
        if isinstance(value, (bool, list, dict)) or (isinstance(value, float) and not math.isfinite(value)):
            raise LiteError(f"{where}: {name} = {json.dumps(value)[:60]}: expected text or a number")
        if isinstance(value, str) and (half := _HALF.search(value)):
            raise LiteError(
                f"{where}: {name} has half a character, {half[0]!r}; write the whole one, or none"
            )
        values[name] = "" if value is None else str(value).strip()
    question = values["question"] or values["problem"]
    if not question:
        raise LiteError(f"{where}: no question; a problem needs the keys question (or problem) and answer")
    answer, cot = values["answer"], values["cot"] or values["solution"]
    if worked := _GSM8K.fullmatch(answer):
        cot = cot or _CALCULATOR.sub("", worked[1]).strip()
        answer = worked[2].strip()
    answer = answer or final_answer(cot) or ""
    if not answer:
        raise LiteError(f"{where}: no answer; a problem needs the keys question (or problem) and answer")
    made = hashlib.sha256(_key(question).encode()).hexdigest()[:12]
    return Problem(values["id"] or values["unique_id"] or made, question, answer, cot)


def read_file(path: Path) -> list[Problem]:
    """All problems of a JSONL file in its order, without repeated questions. Raises LiteError for bad lines."""
    problems: dict[str, Problem] = {}
    owners: dict[str, str] = {}
    for where, line in located_records(path, _Line):
        problem = _to_problem(line, where)
        key = _key(problem.question)
        if owners.setdefault(problem.id, key) != key:
            raise LiteError(f"{where}: id {problem.id!r} stands for two questions; make ids unique")
        problems.setdefault(key, problem)
    if not problems:
        raise LiteError(f"{path}: no problems in it; write one JSON object with question and answer per line")
    return list(problems.values())


def _gym(task: str, num: int, seed: int) -> Iterator[Problem]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at import, about its own source
            import reasoning_gym
    except ImportError:
        raise LiteError(f"source gym:{task} needs reasoning-gym; install extra-cot-lite[train]") from None
    try:
        data = reasoning_gym.create_dataset(task, size=num, seed=seed)
    except ValueError:
        raise LiteError(f"gym:{task}: reasoning-gym has no such task; try gym:gsm_symbolic") from None
    for index, row in enumerate(data):
        cot = str(row["metadata"].get("answer_cot") or "")
        yield Problem(f"{task}-{seed}-{index}", row["question"], str(row["answer"]), cot)


def generate(source: str, num: int, seed: int) -> Iterator[Problem]:
    """Up to `num` problems of a source that makes its own; repeatable by seed, repeated questions left in."""
    return world.problems(num, seed) if source == QUICKSTART else _gym(source.removeprefix(GYM), num, seed)


def generates(source: str) -> bool:
    """Whether a source makes its own problems, as many as asked."""
    return source == QUICKSTART or source.startswith(GYM)


def load(source: str, num: int | None = None, seed: int = 0) -> list[Problem]:
    """`num` different problems of a source. A file is drawn from by seed; `num=None` gives all of it, in its order.

    Raises LiteError for a source that is not there or has fewer problems.
    """
    if num is not None and num < 1:
        raise LiteError(f"num = {num}: ask for 1 problem or more")
    if generates(source):
        if num is None:
            raise LiteError(f"{source} makes as many problems as asked; say how many with --num")
        return _different(generate(source, 2 * num + 100, seed), num, source, set())
    problems = _read_source(source)
    if num is None:
        return problems
    random.Random(f"problems/{seed}").shuffle(problems)
    if len(problems) < num:
        raise LiteError(
            f"{source}: {num} problems are asked, {len(problems)} different ones are in it; ask for fewer"
        )
    return problems[:num]


def _read_source(source: str) -> list[Problem]:
    path = Path(source)
    if not path.is_file():
        raise LiteError(f"source {source!r}: no such file; give a JSONL file, {QUICKSTART!r} or 'gym:<task>'")
    return read_file(path)


def _different(problems: Iterable[Problem], num: int, source: str, seen: set[str]) -> list[Problem]:
    """The first `num` problems whose questions are not in `seen`, which learns them."""

    def unseen() -> Iterator[Problem]:
        for problem in problems:
            key = _key(problem.question)
            if key not in seen:
                seen.add(key)
                yield problem

    found = list(islice(unseen(), num))
    if len(found) < num:
        raise LiteError(
            f"{source}: {num} problems are asked, only {len(found)} different ones came; ask for fewer"
        )
    return found


def split(source: str, sizes: dict[str, int], seed: int) -> dict[str, list[Problem]]:
    """Sets of the given sizes without a common question. Raises LiteError where the source has too few."""
    if generates(source):
        seen: set[str] = set()
        made = {}
        for place, (name, num) in enumerate(sizes.items()):
            own_seed = 1_000 * (seed + 1) + place
            made[name] = _different(generate(source, 2 * num + 100, own_seed), num, source, seen)
        return made
    problems = _read_source(source)
    total = sum(sizes.values())
    if len(problems) < total:
        parts = " + ".join(f"num_{name} {num}" for name, num in sizes.items())
        raise LiteError(
            f"{source}: the recipe asks for {total} problems ({parts}), {len(problems)} different ones are in it;"
            " lower problems.num_train, num_rl or num_eval"
        )
    random.Random(f"problems/{seed}").shuffle(problems)
    rest = iter(problems)
    return {name: list(islice(rest, num)) for name, num in sizes.items()}


def run(run: Run) -> dict[str, Any]:
    """Write the three sets. `eval` is drawn first: it stays the same when the others grow."""
    config = run.recipe.problems
    sizes = {"eval": config.num_eval, "rl": config.num_rl, "train": config.num_train}
    for name, problems in split(config.source, sizes, run.recipe.seed).items():
        write_records(run.path("problems", f"{name}.jsonl"), problems)
    return {f"num_{name}": num for name, num in sizes.items()}
