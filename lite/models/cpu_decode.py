"""Sampling a batch on a CPU with a model's own forward: what `lite.models.generate.generate` does there.

Written because transformers' `generate` spent four fifths of its time copying the cache of a tiny model.
"""

from __future__ import annotations

LIKELIEST = 1024  # ids that are sorted; all, where their probability does not reach top_p


def sample(logits, temperature: float, top_p: float):
    """Draw one id per row of `logits` (B, V); greedy at temperature 0."""
    import torch

    if temperature == 0:
        return logits.argmax(-1)
    everything = torch.softmax(logits.float() / temperature, -1)
    probs, ids = everything.topk(min(LIKELIEST, logits.shape[-1]))  # to sort a large vocabulary is slow
    if probs.sum(-1).min() < top_p:
        probs, ids = everything.sort(-1, descending=True)
    before = probs.cumsum(-1) - probs  # (B, V) probability of all likelier ids
    place = torch.multinomial(probs.masked_fill(before >= top_p, 0.0), 1)
    return ids.gather(1, place).squeeze(1)  # (B,)


def _growing_cache(num_layers: int):
    """A key-value cache that grows 64 places at a time; DynamicCache copies itself for every token."""
    import torch
    from transformers.cache_utils import Cache, DynamicLayer

    class GrowingLayer(DynamicLayer):
        room = None  # (2, B, heads, capacity, head_dim); keys and values are views of its front

        def update(self, key_states, value_states, *_args, **_kwargs):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            start = self.get_seq_length()
            end = start + key_states.shape[-2]
            if self.room is None or end > self.room.shape[-2]:
                batch, heads, _, dim = key_states.shape
                room = key_states.new_empty(2, batch, heads, end + 64, dim)
                if start:
                    room[0, :, :, :start], room[1, :, :, :start] = self.keys, self.values
                self.room = room
            self.room[0, :, :, start:end], self.room[1, :, :, start:end] = key_states, value_states
            self.keys, self.values = self.room[0, :, :, :end], self.room[1, :, :, :end]
            return self.keys, self.values

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            super().batch_select_indices(indices)
            self.room = None

    return Cache(layers=[GrowingLayer() for _ in range(num_layers)])


def decode(
    model,
    prompts: list[list[int]],
    pad: int,
    stops: list[int],
    max_tokens: int,
    temperature: float,
    top_p: float,
):
    """Sample a reply for each of B prompts; returns ids (B, max_tokens), of which those after a stop mean nothing.

    Faster than `generate` on a CPU: equal prompts are read once, and rows that are done leave the batch.
    """
    import torch

    unique = list(dict.fromkeys(map(tuple, prompts)))
    width = max(map(len, unique))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in unique])  # (U, width)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in unique])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = _growing_cache(model.config.num_hidden_layers)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits  # (U, 1, V)
    place = {prompt: index for index, prompt in enumerate(unique)}
    rows = torch.tensor([place[tuple(prompt)] for prompt in prompts])
    cache.batch_select_indices(rows)
    logits, mask, positions = logits[rows, -1], mask[rows], positions[rows, -1:]
    stop = torch.tensor(stops)
    replies = torch.full((len(prompts), max_tokens), stops[0])
    alive = torch.arange(len(prompts))  # rows of `replies` in the batch
    done = torch.zeros(len(prompts), dtype=torch.bool)
    for step in range(max_tokens):
        token = sample(logits, temperature, top_p)
        replies[alive, step] = token
        done |= torch.isin(token, stop)
        if done.all() or step == max_tokens - 1:
            break
        if done.float().mean() >= 0.2:  # below that, copying the cache costs more than it saves
            keep = (~done).nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            alive, token, mask, positions, done = (
                part[keep] for part in (alive, token, mask, positions, done)
            )
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        positions = positions + 1
        logits = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return replies
