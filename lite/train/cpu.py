"""Training on a CPU at speed: places where the stock path does work that has no effect.

Unsloth's kernels do this on CUDA; its CPU backend runs stock transformers, PEFT and TRL. `speed_up` changes one model's
layers in place, `by_length` the passes of a GRPO step; every result stays what it was, up to rounding.

- LoRA: one autograd function per layer instead of PEFT's casts, products, scaling and sum.
- Token rows: PEFT copies the embedding matrix (V, d) with the trained rows in it for every call, and its gradient is
  as large. Here the rows are put in after the lookup.
- The loss: logits of reply positions only, in chunks, with their gradient formed at once, so that (B, T, V) never
  exists; only the trained rows of the head get a gradient.
- GRPO's passes: TRL pads all rollouts of a step to the longest and mixes them.
"""

from __future__ import annotations

import types
from typing import Any

import torch

from lite.tokens import IGNORED

CHUNK_ELEMENTS = 8 * 1024 * 1024  # logits in memory at once; 32 MB in float32
GRAIN = 32  # sizes are multiples of it: oneDNN keeps a kernel for each size that it has seen


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + scale (x Aᵀ) Bᵀ for x (N, in), frozen W (out, in), A (r, in), B (out, r), all of x's dtype."""

    @staticmethod
    def forward(ctx, x, weight, a, b, scale):
        low = x @ a.t()  # (N, r)
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        return (x @ weight.t()).addmm_(low, b.t(), alpha=scale)  # (N, out)

    @staticmethod
    def backward(ctx, grad):
        x, weight, a, b, low = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scale)  # (N, r)
        grad_b = (grad.t() @ low).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(grad_low, a) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad_low.t() @ x, grad_b, None


def _lora_forward(self, x, *args, **kwargs):
    """A PEFT LoRA layer's forward in training; anything else is left to PEFT."""
    if args or kwargs or self.merged or self.disable_adapters or not torch.is_grad_enabled():
        return type(self).forward(self, x, *args, **kwargs)
    (name,) = self.active_adapters
    base, scale = self.base_layer, self.scaling[name]
    weight = base.weight
    x = x.to(weight.dtype)
    a, b = (layer[name].weight.to(weight.dtype) for layer in (self.lora_A, self.lora_B))
    with torch.autocast("cpu", enabled=False):
        y = _LoraLinear.apply(x.flatten(0, -2), weight, a, b, scale).unflatten(0, x.shape[:-1])
    return y if base.bias is None else y + base.bias


def _rows_forward(self, ids):
    """The embedding of `ids` (B, T) with the trained rows in their places."""
    if self.merged or self.disable_adapters:
        return type(self).forward(self, ids)
    (name,) = self.active_adapters
    rows = self.trainable_tokens_delta[name]  # (R, d)
    found = self.base_layer(ids)  # (B, T, d)
    match = ids[..., None] == torch.tensor(self.token_indices[name], device=ids.device)  # (B, T, R)
    return torch.where(match.any(-1, keepdim=True), rows.to(found.dtype)[match.int().argmax(-1)], found)


class _ReplyLoss(torch.autograd.Function):
    """Sum of cross entropies of `targets` (N,) under hidden (N, d) and a head whose `rows` (R, d) stand at `ids`.

    Places whose target is IGNORED do not count.
    """

    @staticmethod
    def forward(ctx, hidden, weight, rows, ids, targets):
        grad_hidden = torch.empty_like(hidden)
        grad_rows = torch.zeros(rows.shape, dtype=torch.float32)
        total = hidden.new_zeros((), dtype=torch.float32)
        own = rows.to(hidden.dtype)
        step = max(1, CHUNK_ELEMENTS // weight.shape[0])
        for start in range(0, len(hidden), step):
            part, target = hidden[start : start + step], targets[start : start + step, None]
            counts, target = target != IGNORED, target.clamp(min=0)
            raw = part @ weight.t()  # (n, V)
            raw[:, ids] = part @ own.t()
            logits = raw.float()
            log_z = logits.logsumexp(-1, keepdim=True)
            total += ((log_z - logits.gather(-1, target)) * counts).sum()
            grad = logits.sub_(log_z).exp_()  # softmax; less one at the target
            grad.scatter_add_(-1, target, torch.full_like(log_z, -1.0))
            grad = grad.mul_(counts).to(hidden.dtype)
            of_rows = grad[:, ids].contiguous()  # (n, R)
            grad[:, ids] = 0
            grad_hidden[start : start + step] = (grad @ weight).addmm_(of_rows, own)
            grad_rows += (of_rows.t() @ part).float()
        ctx.save_for_backward(grad_hidden, grad_rows)
        ctx.dtype = rows.dtype
        return total

    @staticmethod
    def backward(ctx, scale):
        grad_hidden, grad_rows = ctx.saved_tensors
        return grad_hidden * scale, None, (grad_rows * scale).to(ctx.dtype), None, None


def _reply_forward(original):
    """A causal model's forward that also gives the loss of replies: `model(input_ids=..., reply_labels=...)`."""

    def forward(self, *args, reply_labels=None, **kwargs):
        if reply_labels is None:
            return original(*args, **kwargs)
        hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state[:, :-1]  # (B, T - 1, d)
        targets = reply_labels[:, 1:].flatten()
        places = (targets != IGNORED).nonzero().squeeze(1)
        rest = (targets == IGNORED).nonzero().squeeze(1)[: -len(places) % (8 * GRAIN)]
        places = torch.cat([places, rest])
        head = self.get_output_embeddings().token_adapter
        (name,) = head.active_adapters
        return _ReplyLoss.apply(
            hidden.flatten(0, 1)[places],
            head.base_layer.weight,
            head.trainable_tokens_delta[name],
            head.token_indices[name],
            targets[places],
        )

    return forward


def _has_plain_head(config) -> bool:
    """Whether logits are the head's product alone, without a scale or a cap."""
    names = (
        "final_logit_softcapping",
        "logit_scale",
        "logits_scaling",
        "lm_head_multiplier",
        "output_multiplier",
    )
    return all(getattr(config, name, None) in (None, 1, 1.0) for name in names)


def speed_up(model) -> None:
    """Give the layers of a PEFT model from `lite.models.unsloth.load_trainable`, on a CPU, the forwards above."""
    from peft.tuners.lora.layer import Linear
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    for module in model.modules():
        if type(module) is Linear and type(module.base_layer) is torch.nn.Linear:
            module.forward = types.MethodType(_lora_forward, module)
        elif type(module) is TrainableTokensLayer and type(module.base_layer) is torch.nn.Embedding:
            module.forward = types.MethodType(_rows_forward, module)
    causal = model.get_base_model()
    if _has_plain_head(causal.config) and getattr(causal.get_output_embeddings(), "bias", None) is None:
        causal.forward = types.MethodType(_reply_forward(causal.forward), causal)
        causal.has_reply_loss = True


def by_length(passes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rollouts of a GRPO step in as many passes, those of like length together, without shared padding.

    `passes` are TRL's: prompts (B, P) padded on the left, completions and their masks (B, C) on the right, one number
    per rollout (B,), and scalars for the whole step. The longest come first, so that memory runs out there or never.
    """
    rows = passes[0]["completion_ids"].shape[0]
    whole = {
        name: torch.cat([part[name] for part in passes]) if torch.is_tensor(value) and value.dim() else value
        for name, value in passes[0].items()
    }
    order = whole["completion_mask"].sum(1).argsort(descending=True)
    made = []
    for own in order.split(rows):
        batch = {
            name: value[own] if torch.is_tensor(value) and value.dim() else value
            for name, value in whole.items()
        }
        for part in ("prompt", "completion"):
            width = -(-int(batch[f"{part}_mask"].sum(1).max()) // GRAIN) * GRAIN
            for name in (f"{part}_ids", f"{part}_mask"):
                batch[name] = batch[name][:, -width:] if part == "prompt" else batch[name][:, :width]
        made.append(batch)
    return made
