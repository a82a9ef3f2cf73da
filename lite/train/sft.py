"""Stage "sft": teach the dial. LoRA on all linear layers, the six control token rows trained beside it.

Takes mixture/rows.jsonl, gives sft/adapter (PEFT adapter and tokenizer) and sft/loss.jsonl. Through Unsloth
and TRL's SFTTrainer; the rows are tokenised here, so that prompt and reply are token-exact, and the loss is on
the reply and its EOS only. Departure from Extra-CoT: adapters instead of full fine-tuning.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lite import tokens
from lite.config import Sft
from lite.errors import LiteError
from lite.models import unsloth
from lite.run import Run
from lite.runtime import distributed
from lite.runtime.files import atomic_write, read_records
from lite.schema import Row
from lite.train import checkpoints


def encode_row(tokenizer, row: Row) -> tuple[list[int], list[int]]:
    """A row as (input ids, labels), both (T,): labels are -100 over the prompt, then the reply and its EOS."""
    prompt = tokens.encode_prompt(tokenizer, row.question, row.mode)
    text = tokens.write_reply(row.ratio, row.think, row.visible)
    reply = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    return prompt + reply, [tokens.IGNORED] * len(prompt) + reply


def training_order(lengths: Sequence[int], per_step: int, epochs: float, seed: int) -> list[int]:
    """Indices of rows for all steps: a step holds rows of similar lengths, the steps are shuffled.

    The longest step comes first, so that memory runs out there or never. What does not fill a step waits for
    the next epoch.
    """
    rng = random.Random(f"sft/{seed}")
    num = len(lengths)
    steps: list[list[int]] = []
    for _ in range(math.ceil(epochs)):
        drawn = rng.sample(range(num), num - num % per_step if num >= per_step else num)
        drawn.sort(key=lambda i: lengths[i] * rng.uniform(0.95, 1.05))
        fresh = [drawn[at : at + per_step] for at in range(0, len(drawn), per_step)]
        rng.shuffle(fresh)
        steps += fresh
    steps = steps[: max(1, round(epochs * len(fresh)))]
    longest = max(range(len(steps)), key=lambda i: max(lengths[row] for row in steps[i]))
    steps[0], steps[longest] = steps[longest], steps[0]
    return [row for step in steps for row in step]


def prepare(
    tokenizer, rows: Sequence[Row], config: Sft, seed: int
) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """Encoded rows that fit `max_tokens`, and the order that they are trained in.

    Steps are made of rows whose traces are alike in length, so that each holds all ratios: by their own lengths
    each would hold one ratio, and the dial was not learnt so (docs/log.md). Within a step the order makes no
    difference to the gradient: there rows go by their own lengths, so that a pass has little padding.
    """
    encoded = [(row.id, encode_row(tokenizer, row)) for row in rows]
    longest: dict[str, int] = defaultdict(int)
    for id, (ids, _) in encoded:
        longest[id] = max(longest[id], len(ids))
    encoded = [(id, pair) for id, pair in encoded if len(pair[0]) <= config.max_tokens]
    if not encoded:
        raise LiteError(
            f"sft: none of {len(rows)} rows has at most {config.max_tokens} tokens; raise sft.max_tokens"
        )
    per_step = config.batch_size * config.accumulation
    order = training_order([longest[id] for id, _ in encoded], per_step, config.epochs, seed)
    pairs = [pair for _, pair in encoded]
    steps = [order[at : at + per_step] for at in range(0, len(order), per_step)]
    return pairs, [row for step in steps for row in sorted(step, key=lambda row: -len(pairs[row][0]))]


def trainer_class():
    """TRL's SFTTrainer (Unsloth's, where it replaces it); on a CPU with the loss of lite.train.cpu."""
    from trl import SFTTrainer

    class ReplyTrainer(SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            causal = self.accelerator.unwrap_model(model).get_base_model()
            if not getattr(causal, "has_reply_loss", False):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            # Rows are padded on the right, where a causal model does not look: no mask is needed.
            loss = model(input_ids=inputs["input_ids"], reply_labels=inputs["labels"])
            return loss * self.accelerator.num_processes / num_items_in_batch

    return ReplyTrainer


def make_trainer(
    model,
    tokenizer,
    pairs: list[tuple[list[int], list[int]]],
    order: list[int],
    config: Sft,
    seed: int,
    folder: str,
):
    """The trainer of a stage, on encoded rows in the order given; its checkpoints go to `folder`."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig

    if model.device.type == "cpu":
        from lite.train import cpu

        cpu.speed_up(model)
    inputs, labels = zip(*pairs, strict=True)
    batch_size, accumulation = distributed.share(config.batch_size, config.accumulation, "sft.batch_size")
    trainer = trainer_class()(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"input_ids": inputs, "labels": labels}).select(order),
        args=SFTConfig(
            output_dir=folder,
            dataset_kwargs={"skip_prepare_dataset": True},  # the rows are tokenised
            max_length=None,
            packing=False,
            pad_to_multiple_of=tokens.PAD_MULTIPLE,
            num_train_epochs=1,  # the order holds all epochs
            max_steps=config.max_steps,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            train_sampling_strategy="sequential",
            learning_rate=config.learning_rate,
            optim="adamw_torch_fused",  # Unsloth's default on CUDA is 8-bit
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup,  # below 1: a share of all steps
            weight_decay=0.0,
            gradient_checkpointing=torch.cuda.is_available(),
            save_steps=config.save_steps,
            save_total_limit=2,  # while one is being written, the one before is whole
            logging_steps=1,
            disable_tqdm=True,
            ddp_find_unused_parameters=False,  # all that trains is used in every step
            report_to=config.report_to,
            seed=seed,
        ),
    )
    return trainer


def run(ctx: Run) -> dict[str, Any]:
    config = ctx.recipe.sft
    rows = read_records(ctx.path("mixture", "rows.jsonl"), Row)
    model, tokenizer = unsloth.load_trainable(
        ctx.recipe.model,
        max_tokens=config.max_tokens,
        rank=config.rank,
        alpha=config.alpha,
        four_bit=config.four_bit,
        seed=ctx.recipe.seed,
    )
    pairs, order = prepare(tokenizer, rows, config, ctx.recipe.seed)
    work = ctx.path("sft", "checkpoints")
    per_step = config.batch_size * config.accumulation
    trainer = make_trainer(model, tokenizer, pairs, order, config, ctx.recipe.seed, str(work))
    resume = checkpoints.last_whole(work)
    total = config.max_steps if config.max_steps > 0 else math.ceil(len(order) / per_step)
    started = time.monotonic()
    checkpoints.fit(trainer, "sft", total, resume)
    seconds = time.monotonic() - started
    if not distributed.is_main():
        return {}
    curve = [
        {"step": entry["step"], "loss": entry["loss"]}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    with atomic_write(ctx.path("sft", "loss.jsonl")) as handle:
        handle.writelines(json.dumps(point) + "\n" for point in curve)
    checkpoints.save_adapter(trainer.model, tokenizer, ctx.path("sft", "adapter"))
    checkpoints.clean(work)
    num_new = trainer.state.global_step - checkpoints.step_of(resume)
    row_tokens = sum(len(ids) for ids, _ in pairs) / len(pairs)
    return {
        "rows": len(pairs),
        "steps": trainer.state.global_step,
        "loss_first": round(curve[0]["loss"], 4),
        "loss_last": round(curve[-1]["loss"], 4),
        "tokens_per_s": round(num_new * per_step * row_tokens / seconds),
    }
