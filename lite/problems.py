"""Stage `problems`: problems from one source or several, cut into train, rl and eval sets that share no question.

Sources: "quickstart", the embedded world; "gym:<task>", a task of reasoning-gym; a file, or a data set of the Hugging
Face Hub (see `lite.sources`). Columns are named by the recipe, as paths, or known: GSM8K's (`answer` ends in
`#### 72`), MATH's (`problem`, `solution`), MetaMathQA's (`query`, `response`), verl's and DAPO's (`prompt`,
`reward_model.ground_truth`), chats as `messages` or ShareGPT's `conversations`, and plain `question`, `answer`, `cot`.
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

from lite import sources
from lite.errors import LiteError
from lite.grading import final_answer, plain_number
from lite.progress import console
from lite.quickstart import world
from lite.recipe import Source
from lite.records import Problem, write_records
from lite.stages import Run
from lite.tokens import THINK_CLOSE, parse_reply

QUICKSTART, GYM = "quickstart", "gym:"
COLUMNS = {  # what a problem's parts are called, the first that is there
    "id": ("id", "unique_id"),
    "question": ("question", "problem", "query", "extra_info.question", "prompt[user].content", "prompt")
    + ("messages[user].content", "conversations[user].content", "conversations[human].value"),
    "answer": ("answer", "reward_model.ground_truth"),
    "cot": ("cot", "solution", "response", "messages[assistant].content")
    + ("conversations[assistant].content", "conversations[gpt].value"),
}
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's marks, such as <<48/2=24>>
_GSM8K = re.compile(r"(.*)####[ \t]*(\S[^\n]*)", re.DOTALL)
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|does|did|will|can|needs?|makes?|costs?|takes?|gets?|gives?|sold|sells?|buys?"
    r"|bought|there|equals?|paid|pays?|spends?|spent|earn(?:s|ed)?|left|remains?)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?(?!\w)")
_HALF = re.compile("[\ud800-\udfff]")  # a lone surrogate, which no file can hold


def _key(question: str) -> str:
    """What makes two questions the same: their words."""
    return " ".join(question.split()).casefold()


def _id_of(key: str) -> str:
    """An id made from a question's `_key`."""
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def _text(row: Mapping[str, Any], columns: Sequence[str], where: str) -> str:
    """The first of the columns that holds anything, as text."""
    for name in columns:
        try:
            value = sources.at(row, name)
        except KeyError:
            continue
        if isinstance(value, (bool, bytes, list, dict)) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise LiteError(
                f"{where}: {name} = {json.dumps(value, default=repr)[:60]}: expected text or a number"
            )
        if isinstance(value, str) and (half := _HALF.search(value)):
            raise LiteError(
                f"{where}: {name} has half a character, {half[0]!r}; write the whole one, or none"
            )
        if text := "" if value is None else str(value).strip():
            return text
    return ""


def _without_conclusion(cot: str, answer: str) -> str:
    """A worked solution without the lines that say the answer alone: GSM8K's `#### 72`, MetaMathQA's after it."""
    lines = cot.strip().split("\n")
    while len(lines) > 1 and re.match(r"\s*(?:####|The answer is:|$)", lines[-1]):
        lines.pop()
    head, hashes, said = lines[-1].rpartition("####")
    if hashes and said.strip() == answer:
        lines[-1] = head
    return "\n".join(lines).strip()


def _gold(answer: str, where: str, said: list[str]) -> str:
    """The answer alone. Of a sentence its number, which `said` then tells; LiteError where it has none or several."""
    if "\\boxed" in answer:
        return final_answer(answer) or answer
    prose = re.sub(r"\\text\w*\s*\{[^{}]*\}|\$[^$]*\$|\\[A-Za-z]+", " ", answer)
    num_words = len(re.findall(r"[^\W\d_]{2,}", prose))
    sentence = num_words > 1 and _VERB.search(prose) or num_words > 3 and _NUMBER.search(prose)
    if not sentence or plain_number(answer) is not None:
        return answer
    formulas = re.findall(r"\$([^$]+)\$(?!\d)", answer)
    numbers = (
        {formulas[0]} if len(formulas) == 1 else {number.rstrip(",") for number in _NUMBER.findall(answer)}
    )
    concluded = _NUMBER.match((final_answer(answer) or "").lstrip("$ "))
    concluded = concluded or ("=" in answer and _NUMBER.match(answer.rpartition("=")[2].lstrip("$ "))) or None
    number = concluded[0].rstrip(",") if concluded else numbers.pop() if len(numbers) == 1 else None
    if number is None:
        raise LiteError(
            f"{where}: answer {answer[:60]!r} is a sentence with {len(numbers) or 'no'} number{'s' * (len(numbers) > 1)};"
            " give the answer alone"
        )
    said.append(f"{number} of {answer[:60]!r}")
    return number


def to_problem(row: Mapping[str, Any], source: Source, where: str, said: list[str] | None = None) -> Problem:
    """A problem from a row. Raises LiteError, with the row's place, where it has no question or no answer.

    `said` gains a text where the answer was a sentence and its number was taken.
    """
    named = {"question": source.question, "answer": source.answer, "cot": source.cot}
    there = f"there are {sources.columns_of(row)}"
    for part, column in named.items():
        try:
            if column:
                sources.at(row, column)
        except KeyError:
            raise LiteError(
                f"{where}: no column {column!r}, which the recipe names for {part}; {there}"
            ) from None
    id, question, answer, cot = (
        _text(row, [named[part]] if named.get(part) else known, where) for part, known in COLUMNS.items()
    )
    needs = f"{there}; name the problem's question and answer, or its columns in the recipe"
    if not question:
        raise LiteError(f"{where}: no question; {needs}")
    if worked := _GSM8K.fullmatch(answer):
        cot, answer = cot or worked[1], worked[2].strip()
    visible = cot
    if THINK_CLOSE in cot:
        reply = parse_reply(cot)
        cot, visible = reply.think, reply.visible
    answer = _gold(answer, where, [] if said is None else said) if answer else final_answer(visible) or ""
    if not answer:
        raise LiteError(f"{where}: no answer; {needs}")
    cot = _without_conclusion(_CALCULATOR.sub("", cot), answer)
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
    return world.problems(enough, seed) if name == QUICKSTART else _gym(name.removeprefix(GYM), enough, seed)


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
            key = _key(problem.question)
            if owners.setdefault(problem.id, key) != key:
                if mendable:
                    raise LiteError(f"{where}: id {problem.id!r} stands for two questions; make ids unique")
                problem = dataclasses.replace(problem, id=_id_of(key))
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


def run(run: Run) -> dict[str, Any]:
    """Write the three sets. What is evaluated on is drawn first: it stays the same when the others grow."""
    config, seed = run.recipe.problems, run.recipe.seed
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
        write_records(run.path("problems", f"{name}.jsonl"), problems)
    return {f"num_{name}": len(problems) for name, problems in sets.items()}
