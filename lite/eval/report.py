"""The report: accuracy against think tokens per mode, as JSON, as a table and as a picture.

Intervals: accuracy by Wilson's score interval; means of tokens, and paired differences, by the bootstrap
over problems (percentiles of 2,000 resamples, fixed seed).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lite.eval.plot import plot
from lite.runtime.files import atomic_write, write_json
from lite.tokens import BASE, POLICY, RATIOS, SFT_POLICY

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


def row(mode: str, replies: Sequence[Graded], full: Mapping[str, int]) -> dict[str, Any]:
    """One mode's numbers. `full`: think tokens under 1.0 per problem; where it is 0 there is no ratio."""
    total = len(replies)
    correct = sum(reply.correct for reply in replies)
    think = [reply.think_tokens for reply in replies]
    paired = [(reply.think_tokens, full[reply.id]) for reply in replies if full.get(reply.id)]
    numbers: dict[str, Any] = {
        "mode": mode,
        "num_problems": total,
        "accuracy": correct / total,
        "accuracy_ci95": wilson(correct, total),
        "think_tokens": sum(think) / total,
        "think_tokens_ci95": bootstrap_mean(think),
        "total_tokens": sum(reply.total_tokens for reply in replies) / total,
        "act_ratio": sum(mine / whole for mine, whole in paired) / len(paired) if paired else None,
        "ratio_of_means": sum(mine for mine, _ in paired) / sum(whole for _, whole in paired)
        if paired
        else None,
        "ratio_problems": len(paired),
        "seconds_per_problem": max(reply.finished for reply in replies) / total,
        "unclosed_think": sum(reply.unclosed for reply in replies),
        "cut": sum(reply.stop == "length" for reply in replies),
    }
    if mode.endswith(POLICY):
        chosen = Counter(reply.ratio for reply in replies)
        numbers["chosen_ratios"] = {str(ratio): chosen[ratio] for ratio in RATIOS} | {"none": chosen[None]}
    return numbers


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


def build(
    replies: Mapping[str, Sequence[Graded]],
    full: Sequence[Graded] | None,
    data_sets: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """`rows`, `policy_vs_sft` where both are there, and `data_sets`, the rows of each where there are several.

    `full`: the replies under 1.0. `data_sets` names each problem's.
    """
    tokens = {reply.id: reply.think_tokens for reply in full or ()}
    made: dict[str, Any] = {"rows": [row(mode, mine, tokens) for mode, mine in replies.items()]}
    if SFT_POLICY in replies and POLICY in replies:
        made["policy_vs_sft"] = compare(replies[POLICY], replies[SFT_POLICY])
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
        plot(report["rows"], report["model"], handle)
    write_json(out / "report.json", report)


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report for people: a table, then what stands out."""
    rows, settings = report["rows"], report["settings"]
    greedy = settings["temperature"] <= 0
    how = "greedy" if greedy else f"temperature {settings['temperature']}, top-p {settings['top_p']}"
    budget = settings.get("budget")
    bound = "" if budget is None else f", thinking held to {budget}"
    lines = [
        f"# {report['model']}",
        "",
        f"{rows[0]['num_problems']} problems, {how}, replies of at most {settings['max_tokens']} tokens{bound}.",
        "",
        *_table(rows),
    ]
    for name, own in report.get("data_sets", {}).items():
        lines += ["", f"## {name}, {own[0]['num_problems']} problems", "", *_table(own)]
    lines += ["", *(f"- {note}" for note in _notes(report)), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| mode | accuracy (95 %) | think tokens (95 %) | all tokens | realised ratio | seconds | unclosed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["accuracy_ci95"]
        few, many = row["think_tokens_ci95"]
        ratio = "" if row["act_ratio"] is None else f"{row['act_ratio']:.2f}"
        lines.append(
            f"| {row['mode']} | {row['accuracy']:.1%} ({low:.1%} to {high:.1%}) "
            f"| {row['think_tokens']:.1f} ({few:.1f} to {many:.1f}) | {row['total_tokens']:.1f} "
            f"| {ratio} | {row['seconds_per_problem']:.3f} | {row['unclosed_think']} |"
        )
    return lines


def _notes(report: Mapping[str, Any]) -> list[str]:
    rows = {row["mode"]: row for row in report["rows"]}
    notes = []
    if POLICY in rows and BASE in rows and rows[BASE]["think_tokens"]:
        fewer = 1 - rows[POLICY]["think_tokens"] / rows[BASE]["think_tokens"]
        points = 100 * (rows[POLICY]["accuracy"] - rows[BASE]["accuracy"])
        notes.append(f"policy thinks in {fewer:.0%} fewer tokens than base, accuracy {points:+.1f} points.")
    if "policy_vs_sft" in report:
        found = report["policy_vs_sft"]
        low, high = found["think_tokens_ci95"]
        worst, best = (100 * bound for bound in found["accuracy_ci95"])
        share = found["think_tokens_percent"]
        notes.append(
            f"policy against {SFT_POLICY}, problem by problem: {found['think_tokens']:+.1f} think tokens "
            f"(95 % interval {low:+.1f} to {high:+.1f}"
            + (f", {share:+.0f} %" if share is not None else "")
            + f"), accuracy {100 * found['accuracy']:+.1f} points ({worst:+.1f} to {best:+.1f})."
        )
    for mode, row in rows.items():
        if "chosen_ratios" in row:
            chosen = ", ".join(f"{ratio}: {count}" for ratio, count in row["chosen_ratios"].items() if count)
            notes.append(f"{mode} chose {chosen}.")
        if row["cut"]:
            notes.append(f"{mode}: {row['cut']} replies were cut at the token limit and count as wrong.")
    notes.append(
        "Realised ratio: mean over problems of think tokens / think tokens of this model under 1.0 "
        f"({BASE} and {SFT_POLICY}: over the same 1.0)."
    )
    missing = {row["num_problems"] - row["ratio_problems"] for row in rows.values() if row["ratio_problems"]}
    if missing - {0}:
        notes.append(
            f"{max(missing)} of {report['rows'][0]['num_problems']} problems have no think tokens under 1.0 and do not "
            "enter the realised ratios."
        )
    notes.append(
        f"Seconds: wall time of the mode / problems, {report['settings']['batch_size']} replies decoded together; "
        "not the time that one question alone takes."
    )
    notes.append(f"Made by `{report['command']}`, seed {report['seed']}, GGUF sha256 {report['sha256']}.")
    return notes
