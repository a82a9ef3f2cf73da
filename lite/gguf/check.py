"""Is what a GGUF says of its model sound? llama.cpp sees a file only after this has.

llama.cpp trusts much of what a file says of itself, and a lie there ends the process. Here its container is read
strictly (lite/gguf/container.py), and for the architectures that we export the sizes, the vocabulary and the tensors must
agree with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lite.errors import LiteError
from lite.gguf.container import Container, read


def check(path: Path) -> Container:
    """Read a GGUF that llama.cpp shall load, and hold what it says of its model against itself.

    Raises LiteError where `read` does, for a vocabulary that ends llama.cpp, and, for the architectures that
    we export, for sizes and tensors that do not go together.
    """
    container = read(Path(path))
    _check_vocabulary(container)
    if container.architecture in SHAPES and container.tensors and not _num_experts(container):
        _check_tensors(container)
    return container


def _fail(container: Container, what: str) -> LiteError:
    return LiteError(f"{container.path}: not a sound model, {what}; download or export it again")


def _num_experts(container: Container) -> int:
    """Experts of a layer, 0 for a dense model. Raises LiteError where llama.cpp would assert."""
    count, used = (
        container.metadata.get(f"{container.architecture}.{key}", 0)
        for key in ("expert_count", "expert_used_count")
    )
    if type(count) is not int or type(used) is not int or not (0 < used <= count or count == used == 0):
        raise _fail(container, f"it uses {used!r} of {count!r} experts")
    return count


def _check_vocabulary(container: Container) -> None:
    """What llama.cpp asserts, or reads without looking."""
    words = container.metadata
    tokens = words.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    if not isinstance(tokens, list) or not tokens:
        raise _fail(container, "its tokens are no list of texts")
    if len(set(tokens)) != len(tokens):
        raise _fail(container, "it has the same token twice")
    for key, kind in (("token_type", np.integer), ("scores", np.floating)):
        values = words.get(f"tokenizer.ggml.{key}")
        if values is None:
            continue
        if (
            not isinstance(values, np.ndarray)
            or values.itemsize != 4
            or not np.issubdtype(values.dtype, kind)
        ):
            raise _fail(container, f"tokenizer.ggml.{key} is no array of 32-bit numbers")
        if len(values) != len(tokens):
            raise _fail(container, f"tokenizer.ggml.{key} has {len(values)} items for {len(tokens)} tokens")
    merges = words.get("tokenizer.ggml.merges", [])
    if not isinstance(merges, list) and len(merges):
        raise _fail(container, "its merges are no list of texts")


# Tensors of a layer, shapes in the letters of `_sizes`.
_LAYER = {
    "attn_norm.weight": "d",
    "attn_q.weight": "dq",
    "attn_k.weight": "dk",
    "attn_v.weight": "dv",
    "attn_output.weight": "od",
    "ffn_norm.weight": "d",
    "ffn_gate.weight": "df",
    "ffn_up.weight": "df",
    "ffn_down.weight": "fd",
}
_BIASES = {"attn_q.bias": "q", "attn_k.bias": "k", "attn_v.bias": "v"}
_NORMS = {"attn_q_norm.weight": "h", "attn_k_norm.weight": "h"}
# Architecture: the tensors that each layer must have, and those that it may have.
SHAPES = {
    "llama": (_LAYER, {**_BIASES, "attn_output.bias": "d"}),
    "qwen2": ({**_LAYER, **_BIASES}, {}),
    "qwen3": ({**_LAYER, **_NORMS}, {}),
}


def _sizes(container: Container) -> dict[str, int]:
    """What the letters of `SHAPES` stand for, and `layers`. Raises LiteError for sizes that cannot be."""

    def size(key: str, default: int | None = None) -> int:
        value = container.metadata.get(f"{container.architecture}.{key}", default)
        if type(value) is not int or not 1 <= value < 2**31:
            raise _fail(container, f"{container.architecture}.{key} is {value!r}")
        return value

    width, heads = size("embedding_length"), size("attention.head_count")
    heads_kv = size("attention.head_count_kv", heads)
    key, value = (size(f"attention.{name}_length", max(1, width // heads)) for name in ("key", "value"))
    size("context_length")
    epsilon = container.metadata.get(f"{container.architecture}.attention.layer_norm_rms_epsilon")
    if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
        raise _fail(container, f"attention.layer_norm_rms_epsilon is {epsilon!r}")
    if heads % heads_kv:
        raise _fail(container, f"{heads} attention heads cannot share {heads_kv}")
    if size("rope.dimension_count", key) > key or size("rope.dimension_count", key) % 2:
        raise _fail(container, f"rope.dimension_count {size('rope.dimension_count', key)} of a head of {key}")
    return {
        "layers": size("block_count"),
        "d": width,
        "f": size("feed_forward_length"),
        "h": key,
        "q": heads * key,
        "k": heads_kv * key,
        "v": heads_kv * value,
        "o": heads * value,
        "n": len(container.metadata.get("tokenizer.ggml.tokens", [])) or size("vocab_size"),
        "r": key // 2,
    }


def _check_tensors(container: Container) -> None:
    """Every tensor that the architecture needs is there, each of the shape that the sizes ask for."""
    sizes = _sizes(container)
    must, may = SHAPES[container.architecture]
    if sizes["layers"] > len(container.tensors):  # before a plan of so many is made
        raise _fail(container, f"{sizes['layers']} layers of {len(container.tensors)} tensors")
    needed = {"token_embd.weight": "dn", "output_norm.weight": "d"}
    allowed = {"output.weight": "dn", "rope_freqs.weight": "r"}
    for layer in range(sizes["layers"]):
        needed.update({f"blk.{layer}.{name}": shape for name, shape in must.items()})
        allowed.update({f"blk.{layer}.{name}": shape for name, shape in may.items()})
    for name in needed:
        if name not in container.tensors:
            raise _fail(container, f"it has no tensor {name}")
    letters: Mapping[str, str] = {**allowed, **needed}
    for name, shape in letters.items():
        wanted, tensor = tuple(sizes[letter] for letter in shape), container.tensors.get(name)
        if tensor is not None and tensor.shape != wanted:
            raise _fail(
                container, f"{name} is of shape {list(tensor.shape)}, its sizes ask for {list(wanted)}"
            )
