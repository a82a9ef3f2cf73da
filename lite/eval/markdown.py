"""The report for people, in Markdown: a table of the modes, then what stands out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lite.tokens import BASE, POLICY, SFT_POLICY


def to_markdown(report: Mapping[str, Any]) -> str:
    """The text of report.md. `report`: what report.json holds."""
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
    ratios = any(row["act_ratio"] is not None for row in rows)
    names = ["mode", "accuracy (95 %)", "think tokens (95 %)", "visible", "all tokens", "markers"]
    names += [*(["realised ratio"] if ratios else []), "seconds", "unclosed"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        low, high = row["accuracy_ci95"]
        few, many = row["think_tokens_ci95"]
        ratio = "" if row["act_ratio"] is None else f"{row['act_ratio']:.2f}"
        ratio = f"| {ratio} " if ratios else ""
        lines.append(
            f"| {row['mode']} | {row['accuracy']:.1%} ({low:.1%} to {high:.1%}) "
            f"| {row['think_tokens']:.1f} ({few:.1f} to {many:.1f}) | {row['visible_tokens']:.1f} "
            f"| {row['total_tokens']:.1f} | {row['markers']} {ratio}| {row['seconds_per_problem']:.3f} | {row['unclosed_think']} |"
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
    for name, found in report.get("choices", {}).items():
        if found["spearman"] is not None:
            notes.append(
                f"policy's ratio against {name}: Spearman {found['spearman']:.2f} over {found['num_problems']} problems; "
                + "; ".join(
                    f"{hard}: " + ", ".join(f"{count} x {chosen}" for chosen, count in row.items() if count)
                    for hard, row in found["chosen"].items()
                )
                + "."
            )
    for mode, row in rows.items():
        if "chosen_ratios" in row:
            chosen = ", ".join(f"{ratio}: {count}" for ratio, count in row["chosen_ratios"].items() if count)
            notes.append(f"{mode} chose {chosen}.")
        if "vote" in row:
            seeds = row["accuracy_by_seed"]
            notes.append(
                f"{mode}: over {len(seeds)} seeds accuracy lies in {min(seeds):.1%} to {max(seeds):.1%}."
            )
        if row["cut"]:
            notes.append(f"{mode}: {row['cut']} replies were cut at the token limit and count as wrong.")
    notes += _vote_notes(report["rows"])
    notes.append(
        "Visible: tokens of the answer; markers: think markers in its text; all tokens: the whole reply."
    )
    budget = report["settings"].get("budget")
    if budget is not None:
        notes.append(
            f"All thinking was held to {budget} tokens; where a problem needs more, that costs accuracy, and there are"
            " no realised ratios."
        )
    else:
        others = " and ".join(mode for mode in (BASE, SFT_POLICY) if mode in rows)
        notes.append(
            "Realised ratio: mean over problems of think tokens / think tokens of this model under 1.0"
            + (f" ({others}: over the same 1.0)." if others else ".")
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


def _vote_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a majority vote gives each mode at the tokens that the dearest one spends on one reply."""
    votes = {row["mode"]: row["vote"] for row in rows if "vote" in row}
    if not votes:
        return []
    room = max(vote[0]["total_tokens"] for vote in votes.values())
    shown = []
    for mode, vote in votes.items():
        best = [each for each in vote if each["total_tokens"] <= room][-1]
        shown.append(
            f"{mode} {best['accuracy']:.1%} ({best['replies']} replies, {best['total_tokens']:.0f} tokens)"
        )
    return [f"Majority vote within {room:.0f} tokens a problem: {', '.join(shown)}."]
