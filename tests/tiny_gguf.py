"""Writes a random Qwen3 GGUF of a few hundred kB, with the control tokens and a dial in its template."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from tiny_tokenizer import CHAT_TEMPLATE, SPECIAL, THINK_MARKS

from export.template import dial_template
from lite.tokens import CONTROL_TOKENS

CONTEXT, HIDDEN, INNER, LAYERS, HEADS, HEAD_DIM = 512, 64, 128, 2, 2, 32
MERGES = ("t h", "i n", "Ġ a", "o u", "th e", "Ġ s")
BASE_TEMPLATE = CHAT_TEMPLATE


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of its vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in plain] + [chr(256 + place) for place in range(256 - len(plain))]


def write_tiny_gguf(path: Path, *, dial: bool = True, seed: int = 0, end_bias: float = 0.0) -> Path:
    """Write the file; the same seed gives the same weights. `end_bias` scales the row of the end token."""
    tokens = byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    tokens += [*SPECIAL, *CONTROL_TOKENS, *THINK_MARKS]
    kinds += [gguf.TokenType.CONTROL] * (len(SPECIAL) + len(CONTROL_TOKENS)) + [
        gguf.TokenType.USER_DEFINED
    ] * 2

    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(list(MERGES))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(dial_template(BASE_TEMPLATE) if dial else BASE_TEMPLATE)

    rng = np.random.default_rng(seed)

    def matrix(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        writer.add_tensor(
            name, (scale * rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)
        )

    def norm(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    matrix("token_embd.weight", len(tokens), HIDDEN, 8.0)
    output = rng.standard_normal((len(tokens), HIDDEN)).astype(np.float32)
    output[tokens.index("<|im_end|>")] *= 1 + end_bias
    writer.add_tensor("output.weight", output)
    norm("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        norm(prefix + "attn_norm.weight", HIDDEN)
        norm(prefix + "ffn_norm.weight", HIDDEN)
        norm(prefix + "attn_q_norm.weight", HEAD_DIM)
        norm(prefix + "attn_k_norm.weight", HEAD_DIM)
        for name in ("attn_q", "attn_k", "attn_v"):
            matrix(f"{prefix}{name}.weight", HEADS * HEAD_DIM, HIDDEN, 2.0)
        matrix(prefix + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM, 2.0)
        matrix(prefix + "ffn_gate.weight", INNER, HIDDEN, 2.0)
        matrix(prefix + "ffn_up.weight", INNER, HIDDEN, 2.0)
        matrix(prefix + "ffn_down.weight", HIDDEN, INNER, 2.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def changed(path: Path, good: Path, edit: Callable[[bytearray], bytes | None]) -> Path:
    """A copy with its bytes edited in place, or replaced by what `edit` returns."""
    data = bytearray(good.read_bytes())
    made = edit(data)
    path.write_bytes(data if made is None else made)
    return path


def put(key: str, value: bytes, behind: int = 4) -> Callable[[bytearray], None]:
    """An edit that overwrites what stands `behind` bytes after a metadata key: 4 is its value, 0 its type."""

    def edit(data: bytearray) -> None:
        start = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + behind
        data[start : start + len(value)] = value

    return edit
