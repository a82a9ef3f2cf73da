"""Random texts, a tiny tokenizer and traces for the tests of compression."""

from __future__ import annotations

import random

import pytest
from tiny_tokenizer import tiny_tokenizer

from lite import backend
from lite.quickstart import world
from lite.records import Trace

PIECES = (
    "word and/or Wait, -3.5 kg $12 40% 1,234 3/4 2:1 12+5=17. = + - * / x y ( ) $x+1$ $$ $ \\( \\) \\[ \\] \\boxed{3} { } "
    "\\ ``` ```math\u00a0 \u5171\u6709\u3002 \u00bd <think> ... ,, \U0001f600 a\u0301 0 \\frac{1}{2} \\begin{a} \\end{a}"
).split(" ")


@pytest.fixture(scope="session")
def random_text():
    """Draw a text of hard pieces from a random.Random."""

    def draw(rng: random.Random) -> str:
        gaps = (" ", " ", " ", "\n", "", "  ", "\t")
        return "".join(rng.choice(PIECES) + rng.choice(gaps) for _ in range(rng.randint(0, 40)))

    return draw


@pytest.fixture(scope="session")
def traces() -> list[Trace]:
    """Twelve worked solutions of the quickstart's world."""
    return [
        Trace(f"{p.id}/0", p.question, p.answer, p.cot, f"The answer is \\boxed{{{p.answer}}}.")
        for p in world.problems(12, seed=7)
    ]


@pytest.fixture(scope="session")
def tokenizer(traces):
    """400 tokens learnt from the traces."""
    backend.prepare()  # Unsloth comes before transformers
    return tiny_tokenizer((trace.think for trace in traces), 400, control=False)


@pytest.fixture(scope="session")
def reasoner(tokenizer):
    """A causal language model of two layers with random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=len(tokenizer) + 16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(shape).eval()
