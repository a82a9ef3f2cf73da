"""What quantising costs: the log-likelihood of worked answers under each GGUF, through llama.cpp.

    python recipes/bench/quant_likelihood.py model-f16.gguf model-q8_0.gguf --problems gsm8k_train.jsonl --num 100

Reads GSM8K's own JSONL (`question`, `answer`). The question is put through the GGUF's chat template as a plain user
turn, the answer follows (without GSM8K's <<...>> annotations), teacher-forced. An answer counts by its nats per token,
each answer alike. Prints their mean with its standard error, the perplexity of that mean, and, of every file after
the first, the paired difference from the first.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np

from export import selfcheck
from lite.tokens import BASE

CONTEXT_TOKENS = 1024


def pairs(path: Path, num: int) -> list[tuple[str, str]]:
    """The first `num` questions with their worked answers."""
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(num), lines, strict=False)]
    return [(row["question"], re.sub(r"<<.*?>>", "", row["answer"])) for row in rows]


def log_likelihoods(gguf: Path, problems: list[tuple[str, str]]) -> np.ndarray:
    """Per problem, nats per token of its answer."""
    model = selfcheck.load(gguf, n_ctx=CONTEXT_TOKENS, n_batch=CONTEXT_TOKENS, logits_all=True)
    rows = []
    for question, answer in problems:
        prompt = selfcheck.token_ids(model, selfcheck.render(model, question, BASE))
        reply = selfcheck.token_ids(model, answer, special=False)
        model.reset()
        model.eval(prompt + reply)
        logits = model.scores[len(prompt) - 1 : model.n_tokens - 1].astype(np.float64)  # (A, V)
        best = logits.max(axis=1)
        norm = best + np.log(np.exp(logits - best[:, None]).sum(axis=1))  # (A,)
        rows.append(float((logits[np.arange(len(reply)), reply] - norm).mean()))
    model.close()
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ggufs", nargs="+", type=Path)
    parser.add_argument("--problems", type=Path, required=True, help="GSM8K's JSONL")
    parser.add_argument("--num", type=int, default=100)
    arguments = parser.parse_args()
    problems = pairs(arguments.problems, arguments.num)
    print(f"{len(problems)} answers, nats per answer token")
    print("| file | MB | nats/token | perplexity | against the first | seconds |\n|---|---|---|---|---|---|")
    first = None
    for gguf in arguments.ggufs:
        started = time.monotonic()
        each = log_likelihoods(gguf, problems)
        mean = each.mean()
        error = each.std(ddof=1) / len(each) ** 0.5
        first = each if first is None else first
        gap = each - first
        against = f"{gap.mean():+.4f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.4f}" if gap.any() else ""
        print(
            f"| {gguf.name} | {gguf.stat().st_size / 1e6:.1f} | {mean:.4f} ± {error:.4f} | {np.exp(-mean):.3f} "
            f"| {against} | {time.monotonic() - started:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
