"""Compressor throughput against LLMLingua-2: the same encoder weights, texts and cores, in one process.

    uv pip install --no-deps --target /tmp/llmlingua llmlingua==0.2.2 nltk tiktoken   # no dependency of ours
    PYTHONPATH=/tmp/llmlingua python recipes/bench/compressor.py --encoder models/minilm-l6 --problems gsm8k.jsonl

Both cut every text to `--ratio`, the encoder's classification head being the same untrained one: what is kept does
not matter here, what it costs does. Time is wall time after one warming call, best of `--rounds`, tokens are the
encoder's. LLMLingua-2 is called as its README says, on all texts at once. Two things are put in its way by its own
code and are taken out here, in its favour: it counts tokens with a tokenizer that it downloads, which is replaced by
one that costs nothing; it knows only two encoders by name, so ours is laid out under one of these names.

`--join N` puts N solutions together into one text, for chains as long as a reasoning model's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

NAME_IT_KNOWS = "bert-base-multilingual-cased"  # its word pieces are BERT's, as MiniLM's are


class OneToken:
    """A tokenizer that costs nothing: whatever it is given is one token."""

    def encode(self, text: str) -> list[int]:
        return [0]


def seconds(call: Callable[[], object], rounds: int) -> float:
    """The best wall time of some calls, after a first one to warm up."""
    call()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--encoder", required=True, help="a BERT-like Hugging Face folder")
    options.add_argument("--problems", required=True, help="a source of problems with worked solutions")
    options.add_argument("--num", type=int, default=200, help="texts")
    options.add_argument("--join", type=int, default=1, help="solutions in one text")
    options.add_argument("--ratio", type=float, default=0.4)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    asked = options.parse_args()

    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    from lite import shorten
    from lite.compress.classifier import CompressorModel
    from lite.data.problems import load

    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    cots = [problem.cot for problem in load(asked.problems, asked.num * asked.join)]
    texts = ["\n".join(cots[at : at + asked.join]) for at in range(0, len(cots), asked.join)]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / NAME_IT_KNOWS
        AutoModelForTokenClassification.from_pretrained(asked.encoder, num_labels=2).save_pretrained(weights)
        AutoTokenizer.from_pretrained(asked.encoder).save_pretrained(weights)
        ours = CompressorModel.load(weights)
        num_tokens = sum(map(len, ours.tokenizer(texts, add_special_tokens=False)["input_ids"]))
        print(f"{len(texts)} texts, {num_tokens} tokens, ratio {asked.ratio}, {asked.threads} threads")

        def lite() -> list:
            return list(shorten(ours, texts, ratios=(asked.ratio,)))

        rates = {"lite": num_tokens / seconds(lite, asked.rounds)}
        print(f"lite          {rates['lite']:9.0f} tokens/s")
        try:
            import tiktoken

            tiktoken.encoding_for_model = lambda name: OneToken()
            from llmlingua import PromptCompressor
        except ImportError as fault:
            sys.exit(f"llmlingua is not there ({fault}); see the first lines of {os.path.basename(__file__)}")
        theirs = PromptCompressor(str(weights), use_llmlingua2=True, device_map="cpu")

        def llmlingua() -> dict:
            return theirs.compress_prompt_llmlingua2(texts, rate=asked.ratio)

        rates["llmlingua"] = num_tokens / seconds(llmlingua, asked.rounds)
        print(f"LLMLingua-2   {rates['llmlingua']:9.0f} tokens/s")
        print(f"lite is {rates['lite'] / rates['llmlingua']:.2f} times as fast")


if __name__ == "__main__":
    main()
