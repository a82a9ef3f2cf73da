"""Stage "sft": teach the dial. LoRA on all linear layers, the six control token rows trained beside it.

Takes mixture/rows.jsonl, gives sft/adapter (PEFT adapter and tokenizer) and sft/loss.jsonl. Through Unsloth
and TRL's SFTTrainer; the rows are tokenised here, so that prompt and reply are token-exact, and the loss is on
the reply and its EOS only. Departure from Extra-CoT: adapters instead of full fine-tuning.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lite import backend, tokens
from lite.errors import LiteError
from lite.recipe import Sft
from lite.records import Row, atomic_write, read_records
from lite.stages import Run
from lite.train import checkpoints

IGNORED = -100  # label of a token without a loss


def encode_row(tokenizer, row: Row) -> tuple[list[int], list[int]]:
    """A row as (input ids, labels), both (T,): labels are -100 over the prompt, then the reply and its EOS."""
    prompt = tokens.encode_prompt(tokenizer, row.question, row.mode)
    text = tokens.write_reply(row.ratio, row.think, row.visible)
    reply = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    return prompt + reply, [IGNORED] * len(prompt) + reply


def encode_rows(tokenizer, rows: Sequence[Row], max_tokens: int) -> list[dict[str, Any]]:
    """The rows of at most `max_tokens`, as `input_ids` and `labels` of `encode_row` and a `length` to group by.

    That is the length of the longest row of the same trace, so that a batch holds all ratios of some traces.
    Batches by a row's own length hold one ratio each, and the dial was not learnt so (docs/log.md).
    """
    pairs = [encode_row(tokenizer, row) for row in rows]
    longest: dict[str, int] = defaultdict(int)
    for row, (ids, _) in zip(rows, pairs, strict=True):
        longest[row.id] = max(longest[row.id], len(ids))
    return [
        {"input_ids": ids, "labels": labels, "length": longest[row.id]}
        for row, (ids, labels) in zip(rows, pairs, strict=True)
        if len(ids) <= max_tokens
    ]


def make_trainer(model, tokenizer, examples: list[dict[str, Any]], config: Sft, seed: int, folder: str):
    """The trainer of a stage, on encoded rows; its checkpoints go to `folder`."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(examples),
        args=SFTConfig(
            output_dir=folder,
            dataset_kwargs={"skip_prepare_dataset": True},  # the rows are tokenised
            max_length=None,
            packing=False,
            num_train_epochs=config.epochs,
            max_steps=config.max_steps,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulation,
            train_sampling_strategy="group_by_length",
            remove_unused_columns=False,  # keeps "length"
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
            report_to=config.report_to,
            seed=seed,
        ),
    )
    return trainer


def run(run: Run) -> dict[str, Any]:
    config = run.recipe.sft
    rows = read_records(run.path("mixture", "rows.jsonl"), Row)
    model, tokenizer = backend.load_trainable(
        run.recipe.model,
        max_tokens=config.max_tokens,
        rank=config.rank,
        alpha=config.alpha,
        four_bit=config.four_bit,
        seed=run.recipe.seed,
    )
    examples = encode_rows(tokenizer, rows, config.max_tokens)
    if not examples:
        raise LiteError(
            f"sft: none of {len(rows)} rows has at most {config.max_tokens} tokens; raise sft.max_tokens"
        )
    work = run.path("sft", "checkpoints")
    trainer = make_trainer(model, tokenizer, examples, config, run.recipe.seed, str(work))
    resume = checkpoints.last_whole(work)
    per_step = config.batch_size * config.accumulation
    total = (
        config.max_steps
        if config.max_steps > 0
        else math.ceil(math.ceil(len(examples) / per_step) * config.epochs)
    )
    started = time.monotonic()
    checkpoints.fit(trainer, "sft", total, resume)
    seconds = time.monotonic() - started
    curve = [
        {"step": entry["step"], "loss": entry["loss"]}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    with atomic_write(run.path("sft", "loss.jsonl")) as handle:
        handle.writelines(json.dumps(point) + "\n" for point in curve)
    checkpoints.save_adapter(trainer.model, tokenizer, run.path("sft", "adapter"))
    checkpoints.clean(work)
    num_new = trainer.state.global_step - checkpoints.step_of(resume)
    row_tokens = sum(len(example["input_ids"]) for example in examples) / len(examples)
    return {
        "rows": len(examples),
        "steps": trainer.state.global_step,
        "loss_first": round(curve[0]["loss"], 4),
        "loss_last": round(curve[-1]["loss"], 4),
        "tokens_per_s": round(num_new * per_step * row_tokens / seconds),
    }
