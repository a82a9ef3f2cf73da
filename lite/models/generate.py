"""Replies sampled from a model that is loaded here, in batches: on a CPU, through vLLM, or Hugging Face's way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from lite.models.cpu_decode import decode


def stop_ids(model, tokenizer) -> list[int]:
    """Ids that end a reply: the tokenizer's EOS and those of the model's generation config."""
    config = getattr(model, "generation_config", None)
    also = getattr(config, "eos_token_id", None)
    also = [] if also is None else [also] if isinstance(also, int) else list(also)
    return sorted({tokenizer.eos_token_id, *also} - {None})


def count_tokens(tokenizer, text: str) -> int:
    """Length of a model's own text in its tokens; a control token in it counts as one."""
    return len(tokenizer.encode(text, add_special_tokens=False))


def _sample_vllm(
    model,
    prompts: list[list[int]],
    stops: list[int],
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[list[int]]:
    """One reply per prompt from the vLLM that shares the model's weights, with the adapter as it is now.

    Call in `for_rollouts`: the trained rows stand in the shared table. Unsloth hands LoRA over.
    """
    from vllm import SamplingParams

    params = [
        SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed * 65_537 + place,  # one for all would give a group one reply
            stop_token_ids=stops,
            detokenize=False,
        )
        for place in range(len(prompts))
    ]
    with tempfile.TemporaryDirectory() as folder:  # for the adapter's settings; its tensors go directly
        outputs = model.fast_generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            sampling_params=params,
            use_tqdm=False,
            lora_request=model.load_lora(folder, load_tensors=True),
        )
    return [list(output.outputs[0].token_ids) for output in outputs]


def generate(
    model,
    tokenizer,
    prompts: list[list[int]],
    *,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int,
    advance: Callable[[int], object] | None = None,
) -> list[list[int]]:
    """Sample one reply per prompt (greedy at temperature 0); new ids only, without the EOS.

    Prompts of similar length share a batch, padded on the left. `advance` is told how many are finished.
    A reply of `max_tokens` ids was cut; a shorter one ended by itself.
    """
    import torch

    pad = tokenizer.pad_token_id
    stops = sorted({*stop_ids(model, tokenizer), pad})
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    torch.manual_seed(seed)
    replies: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [prompts[index] for index in chosen]
        width = len(batch[0])
        with torch.inference_mode():
            if model.device.type == "cpu":  # two to three times as fast there as `generate`
                outputs = decode(model, batch, pad, stops, max_tokens, temperature, top_p).tolist()
            elif hasattr(model, "vllm_engine"):
                outputs = _sample_vllm(model, batch, stops, max_tokens, temperature, top_p, seed + start)
            else:
                if len(batch) == 1:  # Unsloth's NF4 step for one row gave other tokens (docs/benchmarks.md)
                    batch = batch * 2
                ids = [[pad] * (width - len(prompt)) + prompt for prompt in batch]
                mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch]
                outputs = model.generate(
                    input_ids=torch.tensor(ids, device=model.device),  # (B, width)
                    attention_mask=torch.tensor(mask, device=model.device),
                    max_new_tokens=max_tokens,
                    eos_token_id=stops,
                    pad_token_id=pad,
                    use_cache=True,
                    **sampling,
                )[:, width:].tolist()
        for index, reply in zip(chosen, outputs[: len(chosen)], strict=True):
            end = next((place for place, token in enumerate(reply) if token in stops), len(reply))
            replies[index] = reply[:end]
        if advance is not None:
            advance(len(chosen))
    return replies
