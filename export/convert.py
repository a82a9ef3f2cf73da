"""A Hugging Face folder to GGUF on the official `gguf` package: Llama, Qwen2 and Qwen3.

Tensors are read from safetensors and written one at a time, so memory stays at the largest of them. Names
come from gguf's own map; Llama's q and k rows are permuted to llama.cpp's rotary order; tied embeddings stay tied
(no output.weight). What llama.cpp would silently compute otherwise is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from safetensors import SafetensorError, safe_open

from export import vocab
from export.template import dial_template
from lite.errors import LiteError
from lite.models import pretrained
from lite.plan.model_shape import whole
from lite.runtime.files import atomic_write
from lite.runtime.progress import progress
from lite.tokens import CONTROL_TOKENS

Dtype = Literal["f32", "f16", "bf16"]
ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a folder: where each is, and its shape."""

    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    def load(self, name: str) -> np.ndarray:
        """One tensor as float32."""
        with safe_open(self.files[name], framework="pt") as handle:
            return handle.get_tensor(name).float().numpy()


def find_weights(folder: Path) -> Weights:
    """Look up the tensors of a folder's safetensors files. Raises LiteError for none and for a cut file."""
    files, shapes = {}, {}
    for path in pretrained.weight_files(folder):
        try:
            with safe_open(path, framework="pt") as handle:
                for name in handle.keys():
                    files[name], shapes[name] = path, tuple(handle.get_slice(name).get_shape())
        except (SafetensorError, OSError) as fault:
            raise LiteError(
                f"{path}: not a whole safetensors file ({fault}); save or download it again"
            ) from None
    return Weights(files, shapes)


# What is written of each rope type's parameters, beside its name and theta.
ROPE_KEYS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {"factor", "original_max_position_embeddings", "attention_factor", "mscale", "mscale_all_dim"},
}
# What llama.cpp computes in any case.
ROPE_FIXED = {"partial_rotary_factor": 1, "beta_fast": 32, "beta_slow": 1, "truncate": True}


def _add_rope(
    writer: gguf.GGUFWriter, config: dict[str, Any], head_dim: int, folder: Path
) -> np.ndarray | None:
    """Write rotary settings; return Llama 3's frequency factors, (head_dim / 2,), where the model has them.

    llama.cpp divides each rotary frequency by its factor. The scaling itself is transformers' own computation.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    where = folder / "config.json"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}  # transformers 5, 4
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ROPE_KEYS:
        raise LiteError(f"{where}: rope type {kind!r}; {', '.join(ROPE_KEYS)} can be exported")
    for key in rope.keys() - ROPE_KEYS[kind] - {"rope_type", "type", "rope_theta"}:
        if rope[key] not in (None, ROPE_FIXED.get(key)):
            raise LiteError(
                f"{where}: {key} = {rope[key]!r} of rope type {kind} cannot be written into a GGUF; remove it only if"
                " the model was trained without it"
            )
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    writer.add_rope_freq_base(theta)
    writer.add_rope_dimension_count(head_dim)
    if kind == "default":
        return None
    loaded = pretrained.load_config(folder, str(where))
    frequencies, attention_factor = ROPE_INIT_FUNCTIONS[kind](loaded, "cpu")  # (head_dim / 2,)
    if kind == "llama3":
        plain = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)  # (head_dim / 2,)
        return (plain / frequencies.double().numpy()).astype(np.float32)
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    writer.add_rope_scaling_factor(factor := float(loaded.rope_parameters["factor"]))
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(loaded.rope_parameters["original_max_position_embeddings"]))
        own = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0  # llama.cpp's
        writer.add_rope_scaling_attn_factors(attention_factor / own)
    return None


def _add_config(
    writer: gguf.GGUFWriter, config: dict[str, Any], num_rows: int, folder: Path
) -> np.ndarray | None:
    """Write the model's sizes; return rotary frequency factors, if any."""
    where = folder / "config.json"
    for key, wanted in (("hidden_act", "silu"), ("use_sliding_window", False), ("quantization_config", None)):
        if config.get(key, wanted) not in (wanted, None):
            raise LiteError(f"{where}: {key} = {config[key]!r}; only {wanted!r} can be exported")
    model = str(folder)
    num_heads, hidden_size = (whole(config, key, model) for key in ("num_attention_heads", "hidden_size"))
    head_dim = whole(config, "head_dim", model, max(1, hidden_size // num_heads))
    try:
        writer.add_vocab_size(num_rows)
        writer.add_context_length(whole(config, "max_position_embeddings", model))
        writer.add_embedding_length(hidden_size)
        writer.add_block_count(whole(config, "num_hidden_layers", model))
        writer.add_feed_forward_length(whole(config, "intermediate_size", model))
        writer.add_head_count(num_heads)
        writer.add_head_count_kv(whole(config, "num_key_value_heads", model, num_heads))
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
        return _add_rope(writer, config, head_dim, folder)
    except KeyError as fault:
        raise LiteError(f"{where}: no {fault}; save the model with save_pretrained") from None
    except (TypeError, ValueError) as fault:
        raise LiteError(
            f"{where}: a size is no number ({fault}); save the model with save_pretrained"
        ) from None


def _add_vocabulary(writer: gguf.GGUFWriter, words: vocab.Vocabulary, template: str | None) -> None:
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    for name, number in words.special_ids.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(words.add_bos)
    if template is not None:
        writer.add_chat_template(template)


def permute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Reorder the rows of Llama's q or k (weight or bias): rotary halves become rotary pairs.

    Within a head Hugging Face pairs row i with row i + d/2, llama.cpp row 2i with row 2i + 1.
    """
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _row_order(
    arch: gguf.MODEL_ARCH, config: dict[str, Any], name: str
) -> Callable[[np.ndarray], np.ndarray]:
    """What reorders the rows of a tensor."""
    num_heads = int(config["num_attention_heads"])
    heads = {"q_proj": num_heads, "k_proj": int(config.get("num_key_value_heads") or num_heads)}
    layer = name.split(".")[-2]
    if arch != gguf.MODEL_ARCH.LLAMA or layer not in heads:
        return lambda rows: rows
    return lambda rows: permute(rows, heads[layer])


def _pack(tensor: np.ndarray, dtype: Dtype, name: str) -> np.ndarray:
    """A float32 tensor in the file's number format. Raises LiteError where float16 cannot hold it."""
    if not np.isfinite(tensor).all():
        raise LiteError(f"{name}: holds NaN or infinity; the model is broken, train it again")
    if dtype == "f16":
        if np.abs(tensor).max(initial=0) > np.finfo(np.float16).max:
            raise LiteError(f"{name}: holds {np.abs(tensor).max():.3g}, too large for f16; use bf16 or f32")
        return tensor.astype(np.float16)
    return gguf.quants.quantize(tensor, TYPES[dtype][0])


def architecture_of(folder: Path) -> str | None:
    """The first architecture that a folder's config.json names."""
    return (vocab.read_json(folder / "config.json").get("architectures") or [None])[0]


def dial_of(folder: Path, tokens: Sequence[str], template: str | None) -> str:
    """The chat template with the dial. Raises LiteError where the model has not learnt it."""
    missing = [token for token in CONTROL_TOKENS if token not in tokens]
    if missing or template is None:
        raise LiteError(
            f"{folder}: no {missing[0] if missing else 'chat template'}; only a trained chat model has a dial"
        )
    return dial_template(template)


def convert(
    folder: Path,
    out: Path,
    dtype: Dtype,
    dial: bool,
    name: str,
    extra: Mapping[str, list[float]] | None = None,
) -> None:
    """Write the model of a Hugging Face folder as a GGUF called `name` at `out`, atomically.

    Vectors stay f32, matrices become `dtype`. `dial` puts the ratio dial into the chat template and needs the
    control tokens. `extra` is more metadata. Raises LiteError for what cannot be exported faithfully.
    """
    config = vocab.read_json(folder / "config.json")
    architecture = architecture_of(folder)
    if architecture not in ARCHITECTURES:
        raise LiteError(
            f"{folder}: architecture {architecture!r}; {', '.join(ARCHITECTURES)} can be exported,"
            " any other one with a llama.cpp checkout: --llama-cpp DIR"
        )
    arch, weights = ARCHITECTURES[architecture], find_weights(folder)
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    tied = bool(config.get("tie_word_embeddings", False))
    for needed in (embedding,) if tied else (embedding, head):
        if needed not in weights.shapes:
            raise LiteError(f"{folder}: no tensor {needed}; save the whole model")
    if tied and head in weights.shapes and not np.array_equal(weights.load(head), weights.load(embedding)):
        raise LiteError(
            f"{folder / 'config.json'}: tie_word_embeddings is true, and {weights.files[head].name} has a {head} of its"
            " own; set it to false, or remove that tensor"
        )
    num_rows = weights.shapes[embedding][0]
    words = vocab.read(folder, num_rows)
    template = dial_of(folder, words.tokens, words.chat_template) if dial else words.chat_template

    num_layers = whole(config, "num_hidden_layers", str(folder))
    if num_layers > len(weights.shapes):
        raise LiteError(
            f"{folder}: {num_layers} layers, and {len(weights.shapes)} tensors; save the whole model"
        )
    names = gguf.get_tensor_name_map(arch, num_layers)
    plan: dict[str, str] = {}  # name here: name there
    for tensor in weights.shapes:
        if (tied and tensor == head) or tensor.endswith("rotary_emb.inv_freq"):
            continue
        there = names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if there is None:
            raise LiteError(
                f"{folder}: tensor {tensor} has no place in a GGUF of {architecture}; merge adapters first"
            )
        plan[tensor] = there

    with atomic_write(out, "wb") as handle:  # the writer opens it by name; the handle keeps it and syncs it
        writer = gguf.GGUFWriter(Path(handle.name), gguf.MODEL_ARCH_NAMES[arch])
        writer.add_name(name)
        writer.add_file_type(TYPES[dtype][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        factors = _add_config(writer, config, num_rows, folder)
        _add_vocabulary(writer, words, template)
        for key, values in (extra or {}).items():
            writer.add_array(key, values)
        for tensor, there in plan.items():
            shape = weights.shapes[tensor]
            kind = TYPES[dtype if len(shape) > 1 else "f32"][0]
            bytes_each = 4 if kind == gguf.GGMLQuantizationType.F32 else 2
            writer.add_tensor_info(there, shape, np.dtype(np.float32), math.prod(shape) * bytes_each, kind)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress(f"convert to {dtype}", len(plan), "tensors") as meter:
            for tensor in plan:
                array: np.ndarray = _row_order(arch, config, tensor)(weights.load(tensor))
                writer.write_tensor_data(_pack(array, dtype if array.ndim > 1 else "f32", tensor))
                meter.advance()
        if factors is not None:
            writer.write_tensor_data(factors)
        writer.close()
