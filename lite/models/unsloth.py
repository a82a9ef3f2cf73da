"""The training backend: the only file that imports Unsloth.

The same lines serve a CUDA card and a CPU; Unsloth picks its backend by itself. Heavy imports happen inside
the functions, and `prepare` first: Unsloth patches transformers, TRL and PEFT and must come before them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lite.errors import LiteError
from lite.models import pretrained
from lite.models.adapters import adapter_file, control_ids, init_rows, load_adapter_weights, place_rows
from lite.runtime.hardware import multiplies_bf16
from lite.tokens import CONTROL_TOKENS, PAD_MULTIPLE, without_opened_think

LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_NOWHERE = open(os.devnull, "w")  # a real file, as vLLM wants; it stays open for who took it for stdout


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep banners off standard output; warnings about our own choices (spare rows, dtype) are noise, too."""
    with contextlib.redirect_stdout(_NOWHERE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def prepare() -> None:
    """Import Unsloth (10 to 25 s once). Call before importing transformers, TRL or PEFT."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extra-cot-lite" / "unsloth"
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache))  # else it writes into the working folder
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("UNSLOTH_CPU_BF16", str(int(multiplies_bf16())))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("UNSLOTH_DECODE_CUDA_GRAPHS", "1")  # by itself only inside TRL's own generation
    os.environ.setdefault("UNSLOTH_DECODE_GRAPH_PREALLOC", "1")  # a cache that grows is there twice meanwhile
    os.environ.setdefault("UNSLOTH_VLLM_MERGED_ROLLOUT", "0")  # it would fold LoRA, and knows no trained rows
    # Notices about torchao's enums, and about kernels of the hub that bitsandbytes can do without.
    for name in ("torch.utils._pytree", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with _quiet():
            import unsloth  # noqa: F401
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
    except ImportError as fault:
        raise LiteError(
            f"training needs the extra `train` ({fault}); install it with `uv sync --extra train`"
        ) from None


def unpatch(model_types: tuple[str, ...]) -> None:
    """Give transformers its own model classes back, for a plain model in float32 on the CPU.

    On CUDA Unsloth puts its own RoPE into them, whose tables lie on the GPU whatever the model's device is.
    """
    patched = sys.modules.get("unsloth.models.llama")
    if patched is not None:
        patched.restore_transformers_family(model_types)


def load_tokenizer(model: str):
    """The model's tokenizer with the six control tokens added as special tokens (one id each).

    Its template opens no think span: the reply does that, see `tokens.without_opened_think`.
    """
    prepare()
    from transformers import AddedToken

    tokenizer = pretrained.load_tokenizer(pretrained.resolve(model), f"model {model!r}: tokenizer")
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS], special_tokens=True
    )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = without_opened_think(tokenizer.chat_template)
    return tokenizer


def load_base(model: str, tokenizer, *, max_tokens: int, four_bit: bool, rank: int = 0, vllm: float = 0.0):
    """The base model with a row for every token; ties are kept.

    With `vllm`, a share of the card's free memory, Unsloth starts vLLM on the same weights, for adapters of `rank`.
    """
    import torch
    from unsloth import FastLanguageModel

    name, what = pretrained.resolve(model), f"model {model!r}"
    pretrained.check_weights(name, what)
    # Asked for more than the model was trained on, Unsloth on CUDA stretches its RoPE: another model. It cuts inputs,
    # but not labels, at the window: SFT pads rows to a multiple of 16.
    config = pretrained.load_config(name, what)
    window = min(
        -(-max_tokens // PAD_MULTIPLE) * PAD_MULTIPLE, getattr(config, "max_position_embeddings", max_tokens)
    )
    engine = {}
    if vllm:
        if len(tokenizer) > config.vocab_size:
            raise LiteError(
                f"chrpo.vllm = {vllm}: {what} has no spare rows for control tokens, and vLLM's table does not grow;"
                " set it to 0"
            )
        engine = {"fast_inference": True, "gpu_memory_utilization": vllm, "max_lora_rank": rank}
    with pretrained.reported(what):
        with _quiet():
            base, _ = FastLanguageModel.from_pretrained(
                name,
                max_seq_length=window,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=None,  # on a CPU see multiplies_bf16
                load_in_4bit=four_bit,
                use_exact_model_name=True,  # else a quantised copy of Unsloth's, which is another model
                use_gradient_checkpointing="unsloth" if torch.cuda.is_available() else False,
                **engine,
            )
    if vllm:
        if not hasattr(base, "vllm_engine"):  # Unsloth then goes on without it
            raise LiteError(f"chrpo.vllm = {vllm}: vLLM does not run here; set it to 0, rollouts do without")
        # Unsloth lowers it to what the memory holds.
        room = base.vllm_engine.llm_engine.model_config.max_model_len
        if room < max_tokens:
            raise LiteError(
                f"chrpo.vllm = {vllm}: prompt and rollout take {max_tokens} tokens, and vLLM has room for {room};"
                " raise it, or lower chrpo.max_tokens"
            )
    _check_base(base, name, what, four_bit and getattr(config, "quantization_config", None) is None)
    rows = base.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:  # most bases have spare rows; then nothing is resized
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return base


def _check_base(base, name: str, what: str, quantised: bool) -> None:
    """Raise LiteError where Unsloth loaded another model than the one named, or left linear layers unquantised."""
    loaded = base.config._name_or_path
    if loaded != name:
        raise LiteError(f"{what}: Unsloth loaded {loaded} in its place; give a local copy of the model")
    if quantised:
        layers = [module for key, module in base.named_modules() if key.rpartition(".")[2] in LINEAR_LAYERS]
        num = sum(type(module).__name__ == "Linear4bit" for module in layers)
        if num != len(layers):
            raise LiteError(
                f"{what}: {num} of {len(layers)} linear layers were loaded in NF4; set sft.four_bit to false"
            )


def add_lora(base: Any, *, rank: int, alpha: int, seed: int, rows: Any = None) -> Any:
    """The base with fresh LoRA on all linear layers, as a PEFT model; `rows`: token ids whose rows train, too."""
    import torch
    from unsloth import FastLanguageModel

    with _quiet():
        return FastLanguageModel.get_peft_model(
            base,
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=LINEAR_LAYERS,
            use_gradient_checkpointing="unsloth" if torch.cuda.is_available() else False,
            random_state=seed,
            trainable_token_indices=rows,
        )


def ready(base: Any, adapter: Path | None, four_bit: bool) -> Any:
    """The base for generating and scoring, with the adapter merged into it; a quantised base keeps it beside."""
    from unsloth import FastLanguageModel

    if adapter is not None:
        from peft import PeftModel

        adapter_file(adapter)
        with _quiet():
            base = PeftModel.from_pretrained(base, str(adapter))
            if four_bit:
                place_rows(base)
            else:
                base = base.merge_and_unload()
    FastLanguageModel.for_inference(base)
    return base


def load_trainable(
    model: str,
    *,
    max_tokens: int,
    rank: int,
    alpha: int,
    four_bit: bool,
    seed: int,
    adapter: Path | None = None,
    vllm: float = 0.0,
):
    """Base with LoRA on all linear layers and the six control token rows trained beside it.

    Returns (PEFT model, tokenizer). `adapter` continues from a saved one of the same rank. With `vllm`, a share of the
    card's free memory, `generate` samples through vLLM.
    """
    tokenizer = load_tokenizer(model)
    base = load_base(model, tokenizer, max_tokens=max_tokens, four_bit=four_bit, rank=rank, vllm=vllm)
    ids = control_ids(tokenizer)
    init_rows(base, tokenizer, seed)
    tied = base.get_input_embeddings().weight.data_ptr() == base.get_output_embeddings().weight.data_ptr()
    # PEFT follows a tie by itself
    rows = ids if tied else {"embed_tokens": ids, "lm_head": ids}
    peft_model = add_lora(base, rank=rank, alpha=alpha, seed=seed, rows=rows)
    for name, param in peft_model.named_parameters():
        if "trainable_tokens_delta" in name:
            param.requires_grad_(True)  # Unsloth on CUDA freezes all but LoRA's A and B
    head = peft_model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.bias = None  # PEFT's wrapper hides it from TRL's fused head
    if adapter is not None:
        load_adapter_weights(peft_model, adapter)
    return peft_model, tokenizer


def load(model: str, *, max_tokens: int, adapter: Path | None = None, four_bit: bool = False):
    """Base, or base with an adapter, for generating and scoring. Returns (model, tokenizer).

    The adapter is merged unless the base is quantised: a tiny model generates twice as fast without LoRA's
    extra small products, and the merged model is what is exported.
    """
    tokenizer = load_tokenizer(model)
    base = load_base(model, tokenizer, max_tokens=max_tokens, four_bit=four_bit)
    return ready(base, adapter, four_bit), tokenizer


def release_memory(model=None) -> None:
    """Hand back the GPU memory that nothing uses: Unsloth sizes its chunks by what is free."""
    import gc

    import torch

    if not torch.cuda.is_available():
        return
    if model is not None:
        from unsloth.models import _decode_graphs

        _decode_graphs.release_for_training(model)  # captured steps, and the key-value cache of the last call
    gc.collect()
    torch.cuda.empty_cache()


@contextlib.contextmanager
def for_rollouts(model) -> Iterator[Any]:
    """A PEFT model in training made ready to generate; the same weights, mode and free memory come back after.

    On a CPU the adapter is folded into the base for that time: LoRA's small products cost more than the base.
    Elsewhere only the token rows are.
    """
    import torch
    from unsloth import FastLanguageModel

    fold = model.device.type == "cpu" and not getattr(model, "is_loaded_in_4bit", False)
    frozen = [param for param in model.parameters() if not param.requires_grad] if fold else []
    saved = [param.detach().clone() for param in frozen]
    release_memory()
    FastLanguageModel.for_inference(model)
    take_out = model.unmerge_adapter if fold else place_rows(model)
    if fold:
        model.merge_adapter()
    try:
        yield model.get_base_model() if fold else model
    finally:
        take_out()
        with torch.no_grad():  # unmerging leaves rounding errors
            for param, before in zip(frozen, saved, strict=True):
                param.copy_(before)
        FastLanguageModel.for_training(model)
        release_memory(model)


def last_logits(model, ids, mask):
    """Logits (B, V) after the last token of left-padded `ids` (B, T), with their gradient."""
    os.environ["UNSLOTH_RETURN_HIDDEN_STATES"] = "0"  # GRPO on CUDA asks for hidden states instead
    return model(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits[:, -1]
