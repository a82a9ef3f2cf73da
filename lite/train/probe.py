"""Stage "probe": the teacher ratio r* of each RL problem, by the SFT model's success rate at each ratio.

Takes problems/rl.jsonl and sft/adapter, gives probe/ratios.jsonl (TeacherRatio), and the journals
probe/samples.jsonl and probe/greedy.jsonl (one more reply at 1.0). Departure from
Extra-CoT: several samples per ratio and a success rate, not one sample, so that luck decides less. Problems that
are not solved at ratio 1.0, or solved at a ratio below one that is not, are discarded as in the paper.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

from lite.errors import LiteError
from lite.models import unsloth
from lite.models.rollouts import Sample, Task, room, sample_replies
from lite.run import Run
from lite.runtime.files import read_records, write_records
from lite.schema import Problem, TeacherRatio
from lite.tokens import RATIOS, encode_prompt


def teacher_ratio(success: list[float], min_success: float) -> float | None:
    """r*: the smallest ratio whose success rate is at least `min_success` together with all larger ones.

    `success` is per ratio of the grid, ascending. None where the problem is unsolvable (not solved at 1.0) or
    not monotone (a ratio below r* is solved although one between is not).
    """
    solved = [rate >= min_success for rate in success]
    first = solved.index(True) if any(solved) else len(solved)
    return RATIOS[first] if all(solved[first:]) and first < len(solved) else None


def run(ctx: Run) -> dict[str, Any]:
    config = ctx.recipe.probe
    problems = read_records(ctx.path("problems", "rl.jsonl"), Problem)
    tokenizer = unsloth.load_tokenizer(ctx.recipe.model)
    tasks = []
    for problem in problems:
        for ratio in RATIOS:
            prompt = encode_prompt(tokenizer, problem.question, str(ratio))
            tasks += [
                Task(f"{problem.id}/{ratio}/{i}", prompt, problem.answer) for i in range(config.num_samples)
            ]
    model = (
        ctx.server(config.batch_size)
        or unsloth.load(
            ctx.recipe.model,
            max_tokens=room(tasks, config),
            adapter=ctx.path("sft", "adapter"),
            four_bit=ctx.recipe.sft.four_bit,
        )[0]
    )
    samples = sample_replies(
        model,
        tokenizer,
        tasks,
        config,
        ctx.path("probe", "samples.jsonl"),
        seed=ctx.recipe.seed,
        name="probe",
    )
    greedy = sample_replies(
        model,
        tokenizer,
        [Task(p.id, encode_prompt(tokenizer, p.question, str(RATIOS[-1])), p.answer) for p in problems],
        dataclasses.replace(config, temperature=0.0),
        ctx.path("probe", "greedy.jsonl"),
        seed=ctx.recipe.seed,
        name="greedy at 1.0",
    )
    greedy_tokens = {sample.id: sample.num_tokens for sample in greedy}
    by_ratio: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_ratio[sample.id.rpartition("/")[0]].append(sample)
    found = []
    for problem in problems:
        groups = [by_ratio[f"{problem.id}/{ratio}"] for ratio in RATIOS]
        success = [sum(sample.correct for sample in group) / len(group) for group in groups]
        best = teacher_ratio(success, config.min_success)
        whole = greedy_tokens[problem.id]  # the reference of reports; samples are a few per cent longer
        if best is not None and whole > 0:
            found.append(TeacherRatio(problem.id, problem.question, problem.answer, best, success, whole))
    if not found:
        raise LiteError(
            f"probe: none of {len(problems)} problems is solved at ratio 1.0 in {config.min_success:.0%} of samples;"
            " train longer in sft, or lower probe.min_success"
        )
    write_records(ctx.path("probe", "ratios.jsonl"), found)
    rates = {
        f"success_{ratio}": round(
            sum(s.correct for p in problems for s in by_ratio[f"{p.id}/{ratio}"])
            / (len(problems) * config.num_samples),
            3,
        )
        for ratio in RATIOS
    }
    return {
        "problems": len(problems),
        "kept": len(found),
        "mean_teacher_ratio": round(sum(record.ratio for record in found) / len(found), 3),
        **rates,
    }
