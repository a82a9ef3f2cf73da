"""Stage "traces": the base model samples its own chains of thought; correct, closed ones go on.

Takes problems/train.jsonl, gives traces/traces.jsonl (Trace) and traces/samples.jsonl (every Sample, the
journal that a cut run resumes from). Source: Extra-CoT trains on the backbone's own correct traces.

Departures, for bases that the paper has not: one that writes no think span has its whole reply taken as the chain
of thought, with a closing sentence behind it, and learns the span in SFT; for one that is too weak to be right by
itself, method "gold" takes the worked solutions of the data set.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lite import grading, tokens
from lite.errors import LiteError
from lite.models import generate, unsloth
from lite.models.rollouts import Sample, Task, room, sample_replies
from lite.run import Run
from lite.runtime.files import read_records, write_records
from lite.schema import Problem, Trace


def conclusion(answer: str) -> str:
    """The visible answer behind a chain of thought that came without one."""
    return f"The answer is \\boxed{{{answer}}}."


def gold_trace(problem: Problem, markers: Collection[str]) -> Trace | None:
    """A worked solution as a trace; None where there is none, it contradicts its problem's answer, or holds a marker.

    One that a reasoning model wrote brings its own think span.
    """
    reply = tokens.parse_reply(problem.cot)
    said = grading.final_answer(reply.visible)
    if said is not None and not grading.same(said, problem.answer):
        return None
    think, visible = (reply.think, reply.visible) if reply.closed else (problem.cot, "")
    if said is None or not reply.closed:
        visible = f"{visible}\n\n{conclusion(problem.answer)}".strip()
    trace = Trace(f"{problem.id}/gold", problem.question, problem.answer, think, visible)
    return trace if think and not _holds(trace, markers) else None


def sampled_trace(sample: Sample, problem: Problem, markers: Collection[str]) -> Trace | None:
    """A correct reply as a trace; None for a wrong one, one whose think span is not closed, or that holds a marker."""
    if not sample.correct or not (sample.closed or not sample.think):
        return None
    think, visible = sample.think, sample.visible
    if not sample.closed:  # no think span at all
        think, visible = visible, conclusion(problem.answer)
    trace = Trace(sample.id, problem.question, problem.answer, think, visible)
    return trace if think and not _holds(trace, markers) else None


def _markers(tokenizer) -> frozenset[str]:
    """What the text of a trace must not hold: SFT would teach it in the middle of a reply."""
    special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return frozenset({tokens.THINK_OPEN, tokens.THINK_CLOSE, *special})


def _holds(trace: Trace, markers: Collection[str]) -> bool:
    return any(marker in text for text in (trace.think, trace.visible) for marker in markers)


def _write(run: Run, tokenizer, traces: list[Trace]) -> dict[str, Any]:
    write_records(run.path("traces", "traces.jsonl"), traces)
    counts = [generate.count_tokens(tokenizer, trace.think) for trace in traces]
    return {"traces": len(traces), "think_tokens": round(sum(counts) / len(counts), 1)}


def run(ctx: Run) -> dict[str, Any]:
    config = ctx.recipe.traces
    problems = {problem.id: problem for problem in read_records(ctx.path("problems", "train.jsonl"), Problem)}
    tokenizer = unsloth.load_tokenizer(ctx.recipe.model)
    markers = _markers(tokenizer)
    if config.method == "gold":
        made = (gold_trace(problem, markers) for problem in problems.values())
        traces = list(filter(None, made))
        if not traces:
            raise LiteError(
                f"traces.method = gold: none of {len(problems)} problems has a worked solution that leads to its answer;"
                " name its column (cot) in problems.source, or sample"
            )
        return _write(ctx, tokenizer, traces)
    tasks = []
    for problem in problems.values():
        prompt = tokens.encode_prompt(tokenizer, problem.question, tokens.BASE)
        tasks += [
            Task(f"{problem.id}/{index}", prompt, problem.answer) for index in range(config.num_samples)
        ]
    model = (
        ctx.server(config.batch_size)
        or unsloth.load(ctx.recipe.model, max_tokens=room(tasks, config), four_bit=ctx.recipe.sft.four_bit)[0]
    )
    samples = sample_replies(
        model,
        tokenizer,
        tasks,
        config,
        ctx.path("traces", "samples.jsonl"),
        seed=ctx.recipe.seed,
        name="traces",
    )
    made = (sampled_trace(sample, problems[sample.id.rpartition("/")[0]], markers) for sample in samples)
    traces = sorted(filter(None, made), key=lambda trace: trace.id)
    if not traces:
        raise LiteError(
            f"traces: none of {len(samples)} replies is correct and closes its think span within"
            f" {config.max_tokens} tokens; raise traces.max_tokens, take easier problems, or traces.method = gold"
        )
    correct = sum(sample.correct for sample in samples) / len(samples)
    return {"sampled": len(samples), "correct": round(correct, 4), **_write(ctx, tokenizer, traces)}
