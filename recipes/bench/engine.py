"""The engine against one-by-one llama-cpp-python and a stock llama.cpp server; the controller's cost; budgets.

    python recipes/bench/engine.py --small smollm2-q8_0.gguf --quickstart runs/quickstart/export/quickstart-q8_0.gguf

Three parts, in one run on one machine, greedy, with as many threads for everyone:
1. `batched`: every problem at five ratios (a GGUF without a dial is asked with five different last words instead):
   our batched engine, `create_completion` one after the other (its prefix cache on, sweeps in its favour one after
   the other), and xllamacpp's server in process with as many slots. Texts must be the same as one by one.
2. `overhead`: our engine with one slot and a budget that never binds, against `Llama.generate`, token by token, taking
   turns; tokens/s of generation and prompt together.
3. `budgets`: thinking held to N tokens, greedy and at temperature 0.8, with and without a system turn: think tokens
   beyond N, think markers in the visible text, the longest whole reply, replies with an answer, accuracy, beside that
   of plain truncation at N (the same replies without a budget, of which those whose thinking is longer count as wrong).
Needs a quiet machine. Prints tables; `--out` writes everything as JSON.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import llama_cpp

from export import selfcheck
from lite.data import word_problems
from lite.gguf.calibration import summarise
from lite.grading import final_answer, is_correct
from lite.infer.engine import Engine
from lite.infer.request import Ask, Message, question
from lite.tokens import BASE, MODES, RATIOS

SLOTS = 16
SEED = 4242  # of the problems; no recipe uses it
LAST_WORDS = ("Be brief.", "Be short.", "Be clear.", "Be exact.", "Be thorough.")
BUDGETS = (1, 8, 16, 24, 32, 48, 64, 96, 128, 200, 400)
SYSTEM = Message("system", "You are a careful and friendly assistant.")
BARS = {"small": 2.5, "quickstart": 1.5}  # times the problems/s of one by one


def sweep(engine: Engine, num: int, max_tokens: int) -> list[Ask]:
    """Every problem at five ratios, the five of a problem side by side."""
    asks = []
    for problem in word_problems.problems(num, SEED):
        for mode, words in zip(MODES[:5], LAST_WORDS, strict=True):
            if engine.has_dial:
                asks.append(question(problem.question, mode, max_tokens=max_tokens))
            else:
                asks.append(question(f"{problem.question} {words}", BASE, max_tokens=max_tokens))
    return asks


def without_specials(engine: Engine) -> Callable[[str], str]:
    """Takes control tokens out of a text, as create_completion does."""
    vocab, control = engine.model._vocab, llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    texts = [
        engine.model.bytes_of([token]).decode(errors="replace")
        for token in range(engine.model.num_vocab)
        if llama_cpp.llama_vocab_get_attr(vocab, token) & control
    ]
    pattern = re.compile("|".join(map(re.escape, texts)))
    return lambda text: pattern.sub("", text).rstrip("\ufffd")


def stock_server(
    gguf: Path, prompts: list[list[int]], max_tokens: int, cells: int, threads: int
) -> float | None:
    """Seconds that xllamacpp takes with as many slots and requests under way; None where it is not installed."""
    try:
        import xllamacpp
    except ModuleNotFoundError:
        return None
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.verbosity, params.warmup = str(gguf), 0, 0, True
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * cells
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def complete(prompt: list[int], server=server) -> None:
        body = {"prompt": prompt, "n_predict": max_tokens, "temperature": 0.0, "cache_prompt": True}
        reply = server.handle_completions(body)
        if "error" in reply or "choices" not in reply and "content" not in reply:
            raise SystemExit(f"xllamacpp: {str(reply)[:300]}")

    complete(prompts[0])
    with ThreadPoolExecutor(SLOTS) as pool:
        started = time.monotonic()
        list(pool.map(complete, prompts))
        seconds = time.monotonic() - started
    del server
    gc.collect()  # its destructor stops it
    return seconds


def batched(name: str, gguf: Path, num: int, max_tokens: int, threads: int) -> dict:
    """Part 1 on one GGUF."""
    with Engine(gguf, batch_size=SLOTS, num_threads=threads) as engine:
        asks = sweep(engine, num, max_tokens)
        prompts = [engine.prompt(ask).ids for ask in asks]
        plain = without_specials(engine)
        engine.generate([replace(ask, max_tokens=1) for ask in asks[:1]])
        started = time.monotonic()
        answers = engine.generate(asks)
        ours = time.monotonic() - started
        cells = engine._loop._slots.num_cells
        num_tokens = sum(answer.total_tokens for answer in answers)
    model = selfcheck.load(
        gguf, n_ctx=cells, n_threads=threads, n_threads_batch=threads, flash_attn=False, n_batch=512
    )
    model.create_completion(prompts[0], max_tokens=1, temperature=0.0)
    texts, started = [], time.monotonic()
    for prompt in prompts:
        reply = model.create_completion(prompt, max_tokens=max_tokens, temperature=0.0)
        texts.append(reply["choices"][0]["text"].rstrip("\ufffd"))
    one_by_one = time.monotonic() - started
    model.close()
    stock = stock_server(gguf, prompts, max_tokens, cells, threads)
    return {
        "model": name,
        "replies": len(asks),
        "tokens": num_tokens,
        "same_texts": sum(plain(mine.text) == theirs for mine, theirs in zip(answers, texts, strict=True)),
        "ours_per_s": len(asks) / ours,
        "one_by_one_per_s": len(asks) / one_by_one,
        "stock_server_per_s": len(asks) / stock if stock else None,
        "times_one_by_one": one_by_one / ours,
        "times_stock_server": stock / ours if stock else None,
    }


def overhead(gguf: Path, num: int, num_tokens: int, threads: int) -> dict:
    """Part 2: replies of exactly `num_tokens` tokens or to their end, each generated by both in turn."""
    model = selfcheck.load(gguf, n_ctx=1024, n_threads=threads, n_threads_batch=threads, flash_attn=False)
    raw = [0, 0.0]
    ours = [0, 0.0]
    with Engine(gguf, batch_size=1, context_tokens=1024, num_threads=threads) as engine:
        mode = MODES[4] if engine.has_dial else BASE
        texts = [problem.question for problem in word_problems.problems(num + 1, SEED + 1)]
        for place, text in enumerate(texts):
            ask = question(text, mode, budget=2 * num_tokens, max_tokens=num_tokens + 400)
            prompt = engine.prompt(ask).ids
            started = time.monotonic()
            count = 0
            for token in model.generate(prompt, temp=0.0):
                count += 1
                if count == num_tokens or token in engine.model.lexicon.ends:
                    break
            if place:  # the first pages the weights in
                raw[0], raw[1] = raw[0] + count, raw[1] + time.monotonic() - started
            started = time.monotonic()
            stream, written = engine.submit(ask), 0
            for piece in stream:
                written += piece.num_tokens
                if written >= num_tokens:
                    break
            seconds = time.monotonic() - started
            stream.cancel()
            answer = stream.answer()
            if place:
                ours[0], ours[1] = ours[0] + min(answer.total_tokens, num_tokens), ours[1] + seconds
    model.close()
    mine, theirs = ours[0] / ours[1], raw[0] / raw[1]
    return {"replies": num, "ours_tokens_per_s": mine, "raw_tokens_per_s": theirs, "cost": 1 - mine / theirs}


def budgets(gguf: Path, num: int, max_tokens: int, threads: int) -> list[dict]:
    """Part 3: under the ratio that the calibration picks, which is measured here where the GGUF carries none."""
    problems = list(word_problems.problems(num, SEED))
    rows = []
    with Engine(gguf, batch_size=SLOTS, num_threads=threads) as engine:

        def asked(
            turns: tuple[Message, ...], mode: str | None, temperature: float, budget: int | None
        ) -> list:
            asks = [
                replace(
                    question(p.question, mode, budget=budget, max_tokens=max_tokens),
                    messages=(*turns, Message("user", p.question)),
                    temperature=temperature,
                    seed=place,
                )
                for place, p in enumerate(problems)
            ]
            return engine.generate(asks)

        if engine.has_dial and engine.model.calibration is None:
            counts = {ratio: [a.think_tokens for a in asked((), str(ratio), 0.0, None)] for ratio in RATIOS}
            engine.model.calibration = summarise(counts)
        for turns, temperature in itertools.product(((), (SYSTEM,)), (0.0, 0.8)):
            free: dict[str, list] = {}
            for budget in BUDGETS:
                answers = asked(turns, None, temperature, budget)
                picked = answers[0].mode
                if picked not in free:
                    free[picked] = asked(turns, picked, temperature, None)
                truncated = [
                    a.stop == "eos" and a.think_tokens <= budget and is_correct(a.visible, p.answer)
                    for a, p in zip(free[picked], problems, strict=True)
                ]
                right = [is_correct(a.visible, p.answer) for a, p in zip(answers, problems, strict=True)]
                rows.append(
                    {
                        "system": bool(turns),
                        "T": temperature,
                        "budget": budget,
                        "picked": picked,
                        "overruns": sum(a.think_tokens > budget for a in answers),
                        "markers": sum(a.markers for a in answers),
                        "answered": sum(final_answer(a.visible) is not None for a in answers) / num,
                        "accuracy": sum(right) / num,
                        "truncated": sum(truncated) / num,
                        "think": sum(a.think_tokens for a in answers) / num,
                        "visible": sum(a.visible_tokens for a in answers) / num,
                        "longest": max(a.total_tokens for a in answers),
                        "loops": sum(a.stop == "loop" for a in answers),
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def show(rows: list[dict]) -> None:
    """A Markdown table."""

    def cell(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)

    print("\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(cell, row.values())) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", type=Path, help="SmolLM2-135M as Q8_0; batched, and overhead")
    parser.add_argument("--quickstart", type=Path, help="the quickstart's GGUF; batched, and budgets")
    parser.add_argument("--num-small", type=int, default=40, help="problems")
    parser.add_argument("--num-quickstart", type=int, default=200, help="problems")
    parser.add_argument("--tokens-small", type=int, default=128, help="of a reply, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip", default="", help="parts to leave out, parted by commas")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    arguments = parser.parse_args()
    skip, threads, found = arguments.skip.split(","), arguments.threads, {}
    sizes = {
        "small": (arguments.small, arguments.num_small, arguments.tokens_small),
        "quickstart": (arguments.quickstart, arguments.num_quickstart, 520),
    }
    if "batched" not in skip:
        found["batched"] = [batched(name, *size, threads) for name, size in sizes.items() if size[0]]
        show(found["batched"])
        for row in found["batched"]:
            print(f"{row['model']}: {row['times_one_by_one']:.2f} times one by one, bar {BARS[row['model']]}")
    if "overhead" not in skip and arguments.small:
        found["overhead"] = [overhead(arguments.small, 12, 96, threads)]
        show(found["overhead"])
    if "budgets" not in skip and arguments.quickstart:
        found["budgets"] = budgets(arguments.quickstart, arguments.num_quickstart, 900, threads)
        show(found["budgets"])
        below = [row for row in found["budgets"] if row["accuracy"] < row["truncated"]]
        print(
            f"overruns {sum(row['overruns'] for row in found['budgets'])}, least answered"
            f" {min(row['answered'] for row in found['budgets']):.3f}, below truncation {len(below)} of"
            f" {len(found['budgets'])}"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
