"""A random Qwen3 of 120 k parameters with a byte-level tokenizer, in the form that a base model has."""

from __future__ import annotations

from pathlib import Path

from tiny_tokenizer import tiny_tokenizer

from lite import tokens
from lite.models import unsloth


def write(folder: Path, spare_rows: int = 11, tied: bool = True) -> Path:
    """Save the model; 261 tokens, and as many unused embedding rows as asked for."""
    unsloth.prepare()
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = tiny_tokenizer(control=False)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer) + spare_rows,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompt_ids(model, tokenizer, question: str, mode: str):
    """A prompt as ids (1, T), where the model is."""
    import torch

    return torch.tensor([tokens.encode_prompt(tokenizer, question, mode)], device=model.device)


def near(model) -> dict[str, float]:
    """How near two ways of computing the same must come: a GPU computes in bf16."""
    import torch

    single = model.get_input_embeddings().weight.dtype == torch.float32
    return {"atol": 1e-4} if single else {"atol": 5e-2, "rtol": 5e-2}
