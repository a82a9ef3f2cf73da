"""Random weights in the shapes of Qwen3: right for memory and speed, useless for replies."""

from __future__ import annotations

import shutil
from pathlib import Path

SHAPES = {  # hidden, intermediate, layers, heads, key-value heads, head size
    "tiny": (128, 256, 2, 4, 2, 32),
    "0.6b": (1024, 3072, 28, 16, 8, 128),
    "1.7b": (2048, 6144, 28, 16, 8, 128),
    "4b": (2560, 9728, 36, 32, 8, 128),
}
QWEN_ROWS = 151_936  # of Qwen3's embedding table, spare ones included


def write_model(folder: Path, shape: str, tokenizer_folder: str) -> None:
    """Save a bf16 model of a shape with a tokenizer beside it; on the GPU, where there is one."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    hidden, inner, layers, heads, kv_heads, head = SHAPES[shape]
    config = Qwen3Config(
        vocab_size=QWEN_ROWS if shape != "tiny" else len(tokenizer) + 16,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        tie_word_embeddings=True,
        max_position_embeddings=40_960,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(kept)
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


if __name__ == "__main__":
    import sys

    write_model(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
