"""Tiny random models of the three architectures, with the control tokens, saved as a trained run saves them."""

from __future__ import annotations

from pathlib import Path

from tiny_tokenizer import tiny_tokenizer

from lite import tokens

TEXTS = (
    tokens.INSTRUCTION,
    "user\nassistant\n",
    "Mia has 12 apples and buys 30 more. How many apples does she have now? What is left?",
    "So 12 + 30 = 42, the answer is \\boxed{42}. First, then, next, finally we add the numbers.",
)


def build_tokenizer(control: bool = True):
    """300 tokens learnt from a few texts, 3 special tokens, 2 think marks, 6 control tokens."""
    return tiny_tokenizer(TEXTS * 3, 300, control)


def build_model(name: str, num_rows: int, seed: int = 0, **changes):
    """A random model of 2 layers, hidden 64, 2 heads of 32, weights large enough that logits differ clearly."""
    import torch
    import transformers

    sizes = {
        "vocab_size": num_rows,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": name != "Llama",
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    if name == "Qwen3":
        sizes["head_dim"] = 32
    config = getattr(transformers, f"{name}Config")(**{**sizes, **changes})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for (
            key,
            parameter,
        ) in model.named_parameters():  # fresh biases are 0 and norms 1: hide no bug behind them
            if key.endswith("bias"):
                parameter.normal_(0, 0.2)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    return model


def save(folder: Path, name: str = "Qwen3", control: bool = True, **changes) -> Path:
    tokenizer = build_tokenizer(control)
    build_model(name, 320, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
