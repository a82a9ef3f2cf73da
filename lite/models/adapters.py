"""What is trained beside the base: LoRA files, and the rows of the control tokens in embedding and head."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

from lite.errors import LiteError
from lite.tokens import CONTROL_TOKENS, CONTROL_WORDS


def control_ids(tokenizer) -> list[int]:
    """Ids of the control tokens, in the order of lite.tokens.CONTROL_TOKENS."""
    return [tokenizer.convert_tokens_to_ids(token) for token in CONTROL_TOKENS]


def with_own_pad(tokenizer, num_rows: int, prompts: Iterable[list[int]]):
    """The tokenizer, or a copy, whose pad is neither its EOS nor in a prompt; `generate` ends replies at it.

    Unsloth's GRPO on CUDA takes every pad id for padding: an EOS or a turn's end that is one would get no gradient.
    `num_rows` is the length of the embedding table. Raises LiteError where no id is left.
    """
    used = {tokenizer.eos_token_id, *control_ids(tokenizer), *itertools.chain.from_iterable(prompts)}
    if tokenizer.pad_token_id not in used:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    special = (id for id, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special)
    free = next((id for id in special if id not in used), None)
    if free is None and len(tokenizer) == num_rows:
        raise LiteError("chrpo: the tokenizer has no token left to pad with; add a pad token to it")
    name = "<|padding|>" if free is None else tokenizer.convert_ids_to_tokens(free)
    tokenizer.add_special_tokens({"pad_token": name})
    return tokenizer


def init_rows(base, tokenizer, seed: int) -> None:
    """Start each control token's row between a word's embedding and a random direction, at the average length.

    The word gives the model something it heeds already, the direction keeps the rows apart: alike (cosine .95,
    around the mean of all others) the tiny model did not learn the dial.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = control_ids(tokenizer)
    layers = {
        id(layer.weight): layer for layer in (base.get_input_embeddings(), base.get_output_embeddings())
    }
    for layer in layers.values():  # one layer where they are tied
        weight = layer.weight.data  # (V, d)
        length = torch.linalg.vector_norm(weight[: min(ids)], dim=1, dtype=torch.float32).mean()
        for row, word in zip(ids, CONTROL_WORDS, strict=True):
            meaning = weight[tokenizer.encode(word, add_special_tokens=False)].float().mean(0)
            noise = torch.randn(len(meaning), generator=generator).to(weight.device)
            start = torch.nn.functional.normalize(meaning, dim=0) + 0.7 * torch.nn.functional.normalize(
                noise, dim=0
            )
            weight[row] = (torch.nn.functional.normalize(start, dim=0) * length).to(weight.dtype)


def adapter_file(adapter: Path) -> Path:
    """The weights of a saved adapter. Raises LiteError where they are not there."""
    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise LiteError(f"{adapter}: holds no {path.name}; run the stage that trains it again")
    return path


def load_adapter_weights(model, adapter: Path) -> None:
    """Put a saved adapter's weights into a model from `load_trainable` of the same rank."""
    from peft import load_peft_weights, set_peft_model_state_dict

    adapter_file(adapter)
    loaded = set_peft_model_state_dict(model, load_peft_weights(str(adapter), device="cpu"))
    if loaded.unexpected_keys:
        raise LiteError(f"{adapter}: made for another model (it has {loaded.unexpected_keys[0]})")


def place_rows(model) -> Callable[[], None]:
    """Write the trained token rows of a PEFT model into its base; returns what takes them out again.

    PEFT's wrappers around embedding and head are left out meanwhile: they copy the (V, d) table at every use.
    """
    import torch
    from peft.utils.other import TrainableTokensWrapper

    undo: list[Callable[[], object]] = []
    wrappers = [
        (key, part) for key, part in model.named_modules() if isinstance(part, TrainableTokensWrapper)
    ]
    for key, wrapper in wrappers:
        layer = wrapper.token_adapter
        weight = layer.get_base_layer().weight.data  # (V, d)
        for name in layer.active_adapters:
            rows = layer.token_indices[name]
            undo.append(functools.partial(weight.__setitem__, rows, weight[rows].clone()))
            weight[rows] = layer.trainable_tokens_delta[name].detach().to(weight)
        parent, _, leaf = key.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
        undo.append(functools.partial(setattr, model.get_submodule(parent), leaf, wrapper))

    def take_out() -> None:
        with torch.no_grad():
            for step in reversed(undo):
                step()

    return take_out
