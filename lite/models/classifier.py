"""A causal base as a classifier of tokens: KEEP or DROP, by a head on its last hidden states; and half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lite.models import pretrained, unsloth

HEAD = "keep_head"


def load(
    model: str,
    *,
    max_tokens: int,
    four_bit: bool,
    rank: int = 0,
    seed: int = 0,
    adapter: Path | None = None,
) -> tuple[Any, Any]:
    """The base with `.logits` (B, T, 2) of `input_ids` (B, T), padded right. Returns (model, tokenizer).

    Without `adapter` ready to train: fresh LoRA of `rank` on all linear layers, and a fresh head in float32, which PEFT
    saves and loads with the adapter. With one ready to score. Raises LiteError.
    """
    tokenizer = unsloth.load_tokenizer(model)
    import torch
    from peft.utils import set_additional_trainable_modules
    from transformers.modeling_outputs import TokenClassifierOutput

    base = unsloth.load_base(model, tokenizer, max_tokens=max_tokens, four_bit=four_bit)
    decoder = base.get_decoder()
    torch.manual_seed(seed)
    setattr(base, HEAD, torch.nn.Linear(base.config.get_text_config().hidden_size, 2).to(base.device))

    def forward(input_ids, **_):
        # Padding stands on the right, where a causal model does not look: no mask is needed.
        hidden = decoder(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, d)
        with torch.autocast(hidden.device.type, enabled=False):
            return TokenClassifierOutput(logits=getattr(base, HEAD)(hidden.float()))

    base.forward = forward
    if adapter is not None:
        with pretrained.reported(f"compressor {adapter}"):
            return unsloth.ready(base, adapter, four_bit), tokenizer
    peft_model = unsloth.add_lora(base, rank=rank, alpha=2 * rank, seed=seed)
    # Unsloth on CUDA takes no head of ours in `modules_to_save`; PEFT does.
    (name,) = peft_model.active_adapters
    config = peft_model.peft_config[name]
    config.modules_to_save = [HEAD]
    set_additional_trainable_modules(
        peft_model.base_model, config, peft_model.base_model.get_model_config(base), name
    )
    return peft_model, tokenizer


def has_bf16() -> bool:
    """Whether the GPU multiplies in bf16; a T4 only emulates it."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def half_on_cuda(device: Any) -> Any:
    """A context that computes in half precision on a GPU; on a CPU it does nothing."""
    import torch

    cuda = device.type == "cuda"
    dtype = torch.float16 if cuda and not has_bf16() else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=cuda)
