"""The report: accuracy against think tokens per mode, as JSON, as a table and as a picture.

Intervals: accuracy by Wilson's score interval; means of tokens, and paired differences, by the bootstrap
over problems (percentiles of 2,000 resamples, fixed seed).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lite.eval.markdown import to_markdown
from lite.eval.modes import LEAN
from lite.eval.plot import plot
from lite.grading import same
from lite.runtime.files import atomic_write, write_json
from lite.tokens import POLICY, RATIOS, SFT_POLICY

if TYPE_CHECKING:
    from lite.eval.evaluate import Graded

RESAMPLES = 2000
Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


def plain(record: Any) -> dict[str, Any]:
    return dataclasses.asdict(record)


def digest(value: Any) -> str:
    """Hex sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def wilson(correct: int, total: int) -> list[float]:
    """Wilson's 95 % score interval [low, high] of correct / total."""
    share, spread = correct / total, Z95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 * np.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return [float(max(0.0, centre - half)), float(min(1.0, centre + half))]


def bootstrap_mean(values: Sequence[float] | np.ndarray) -> list[float]:
    """95 % interval [low, high] of the mean over problems; the same values give the same interval."""
    numbers, rng = np.asarray(values, float), np.random.default_rng(0)
    means = [numbers[rng.integers(0, numbers.size, numbers.size)].mean() for _ in range(RESAMPLES)]
    return [float(bound) for bound in np.percentile(means, [2.5, 97.5])]


def row(mode: str, replies: Sequence[Graded], full: Mapping[str, float]) -> dict[str, Any]:
    """One mode's numbers. `full`: think tokens under 1.0 per problem; where it is 0 there is no ratio."""
    total = len(replies)
    correct = sum(reply.correct for reply in replies)
    by_problem = list(_grouped(replies).values())
    samples = max(map(len, by_problem))
    think = [_mean(reply.think_tokens for reply in mine) for mine in by_problem]
    right = [_mean(reply.correct for reply in mine) for mine in by_problem]
    paired = [(reply.think_tokens, full[reply.id]) for reply in replies if full.get(reply.id)]
    numbers: dict[str, Any] = {
        "mode": mode,
        "num_problems": len(by_problem),
        "accuracy": correct / total,
        "accuracy_ci95": wilson(correct, total) if samples == 1 else bootstrap_mean(right),
        "think_tokens": sum(think) / len(think),
        "think_tokens_ci95": bootstrap_mean(think),
        "visible_tokens": sum(reply.visible_tokens for reply in replies) / total,
        "total_tokens": sum(reply.total_tokens for reply in replies) / total,
        "longest_reply": max(reply.total_tokens for reply in replies),
        "markers": sum(reply.markers for reply in replies),
        "act_ratio": sum(mine / whole for mine, whole in paired) / len(paired) if paired else None,
        "ratio_of_means": sum(mine for mine, _ in paired) / sum(whole for _, whole in paired)
        if paired
        else None,
        "ratio_problems": len({reply.id for reply in replies if full.get(reply.id)}),
        "seconds_per_problem": max(reply.finished for reply in replies) / len(by_problem),
        "unclosed_think": sum(reply.unclosed for reply in replies),
        "cut": sum(reply.stop == "length" for reply in replies),
    }
    if samples > 1:
        numbers["accuracy_by_seed"] = [
            _mean(reply.correct for reply in replies if reply.sample == sample) for sample in range(samples)
        ]
        numbers["vote"] = _votes(by_problem, samples)
    if mode.endswith(POLICY) or mode.startswith(LEAN):
        chosen = Counter(reply.ratio for reply in replies)
        numbers["chosen_ratios"] = {str(ratio): chosen[ratio] for ratio in RATIOS} | {"none": chosen[None]}
    return numbers


def _grouped(replies: Sequence[Graded]) -> dict[str, list[Graded]]:
    """The replies to each problem."""
    groups: dict[str, list[Graded]] = {}
    for reply in replies:
        groups.setdefault(reply.id, []).append(reply)
    return groups


def _mean(values: Iterable[float]) -> float:
    numbers = [*values]
    return sum(numbers) / len(numbers)


def _votes(by_problem: Sequence[Sequence[Graded]], samples: int) -> list[dict[str, float]]:
    """Accuracy of the majority of the first k replies of each problem, and what these cost in tokens."""
    return [
        {
            "replies": num,
            "total_tokens": _mean(sum(reply.total_tokens for reply in mine[:num]) for mine in by_problem),
            "accuracy": _mean(_majority(mine[:num]) for mine in by_problem),
        }
        for num in range(1, samples + 1)
    ]


def _majority(replies: Sequence[Graded]) -> bool:
    """Whether the answer that most replies give is right; of equals the first, and no answer has no vote."""
    groups: list[tuple[str, list[Graded]]] = []  # with the answer of their first
    for reply in replies:
        if reply.answer is None:
            continue
        mine = next((group for answer, group in groups if same(answer, reply.answer)), None)
        mine.append(reply) if mine else groups.append((reply.answer, [reply]))
    return max((group for _, group in groups), key=len)[0].correct if groups else False


def compare(policy: Sequence[Graded], sft: Sequence[Graded]) -> dict[str, Any]:
    """Policy minus sft-policy on the same problems: means and paired bootstrap intervals."""
    before = {reply.id: reply for reply in sft}
    pairs = [(after, before[after.id]) for after in policy]
    think = [after.think_tokens - old.think_tokens for after, old in pairs]
    right = [float(after.correct) - float(old.correct) for after, old in pairs]
    whole = sum(old.think_tokens for _, old in pairs)
    return {
        "think_tokens": sum(think) / len(think),
        "think_tokens_ci95": bootstrap_mean(think),
        "think_tokens_percent": 100 * sum(think) / whole if whole else None,
        "accuracy": sum(right) / len(right),
        "accuracy_ci95": bootstrap_mean(right),
    }


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Rank correlation of two equally long lists, ties at their mean rank; None where one of them is constant."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def smallest_right(replies: Mapping[str, Sequence[Graded]]) -> dict[str, float]:
    """r* of each problem by the replies under fixed ratios: the smallest from which on all are right. Others have none."""
    found: dict[str, float] = {}
    previous = None
    for ratio in reversed(RATIOS):  # of a problem whose larger ones are right
        for reply in replies.get(str(ratio), ()):
            if reply.correct and found.get(reply.id) == previous:
                found[reply.id] = ratio
        previous = ratio
    return found


def choices(policy: Sequence[Graded], difficulty: Mapping[str, float]) -> dict[str, Any]:
    """How POLICY's choice follows a difficulty: counts of chosen ratios by its nearest ratio, and the rank correlation."""
    pairs = [(difficulty[r.id], r.ratio) for r in policy if r.id in difficulty and r.ratio is not None]
    table = {str(ratio): {str(chosen): 0 for chosen in RATIOS} for ratio in RATIOS}
    for hard, chosen in pairs:
        table[str(min(RATIOS, key=lambda ratio: abs(ratio - hard)))][str(chosen)] += 1
    return {
        "num_problems": len(pairs),
        "spearman": spearman(*zip(*pairs, strict=True)) if pairs else None,
        "chosen": {hard: row for hard, row in table.items() if any(row.values())},
    }


def build(
    replies: Mapping[str, Sequence[Graded]],
    full: Sequence[Graded] | None,
    data_sets: Mapping[str, str] | None = None,
    needed: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """`rows`, `policy_vs_sft` where both are there, `choices`, and `data_sets`, the rows of each where there are several.

    `full`: the replies under 1.0. `data_sets` names each problem's; `needed` is the share of its chain that it needs.
    """
    tokens = {id: _mean(reply.think_tokens for reply in mine) for id, mine in _grouped(full or ()).items()}
    made: dict[str, Any] = {"rows": [row(mode, mine, tokens) for mode, mine in replies.items()]}
    if SFT_POLICY in replies and POLICY in replies:
        made["policy_vs_sft"] = compare(replies[POLICY], replies[SFT_POLICY])
    if POLICY in replies:
        ways = {"r*": smallest_right(replies), "needed share": dict(needed or {})}
        made["choices"] = {name: choices(replies[POLICY], way) for name, way in ways.items() if way}
    names = list(dict.fromkeys((data_sets or {}).values()))
    if data_sets is not None and len(names) > 1:
        made["data_sets"] = {
            name: [
                row(mode, [reply for reply in mine if data_sets[reply.id] == name], tokens)
                for mode, mine in replies.items()
            ]
            for name in names
        }
    return made


def write(report: Mapping[str, Any], out: Path) -> None:
    """Write report.md, report.png and, last, report.json into a folder."""
    with atomic_write(out / "report.md") as handle:
        handle.write(to_markdown(report))
    with atomic_write(out / "report.png", "wb") as handle:
        plot(report["rows"], report["model"], handle, report.get("choices"))
    write_json(out / "report.json", report)
