"""A problem from a row of a source: its columns, its gold answer, its worked solution.

Columns are named by the recipe, as paths, or known: GSM8K's (`answer` ends in `#### 72`), MATH's (`problem`,
`solution`), MetaMathQA's (`query`, `response`), verl's and DAPO's (`prompt`, `reward_model.ground_truth`), chats as
`messages` or ShareGPT's `conversations`, and plain `question`, `answer`, `cot`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lite.config import Source
from lite.data import sources
from lite.errors import LiteError
from lite.grading import final_answer
from lite.grading.find import is_plain_number
from lite.schema import Problem
from lite.tokens import THINK_CLOSE, parse_reply

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


def question_key(question: str) -> str:
    """What makes two questions the same: their words."""
    return " ".join(question.split()).casefold()


def id_of(key: str) -> str:
    """An id made from a question's `question_key`."""
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
    if not sentence or is_plain_number(answer):
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
    return Problem(id or id_of(question_key(question)), question, answer, cot)
