"""Stage `compressor`: a token classifier learns KEEP / DROP from the labels.

Takes annotate/labels.jsonl, gives compressor/model and compressor/loss.jsonl. Class-weighted focal loss, selection by
macro-F1 on held-out traces, early stopping; transformers.Trainer, which resumes from its last checkpoint. What is trained
is in lite.train.encoders.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lite import config as recipe
from lite.compress.classifier import CompressorModel, collate
from lite.errors import LiteError
from lite.models import classifier
from lite.run import Run
from lite.runtime.files import atomic_write, read_records
from lite.schema import Labels
from lite.tokens import IGNORED
from lite.train import checkpoints
from lite.train.encoders import fresh, merged


def token_labels(keep: Sequence[Sequence[int]], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """1 for a token that overlaps a kept character, else 0 (source: the authors' alignment)."""
    return [int(any(start < b and a < end for start, end in keep)) for a, b in offsets]


def macro_f1(predicted: np.ndarray, gold: np.ndarray) -> float:
    """Mean of the F1 of DROP (0) and of KEEP (1); a class that neither has counts as 1."""
    scores = []
    for label in (0, 1):
        hits = int(np.sum((predicted == label) & (gold == label)))
        size = int(np.sum(predicted == label) + np.sum(gold == label))
        scores.append(2 * hits / size if size else 1.0)
    return float(np.mean(scores))


def focal_loss(logits: Any, labels: Any, weights: Any, gamma: float) -> Any:
    """Class-weighted focal loss (Lin et al. 2017): mean of -w (1 - p)^gamma log p over labelled tokens.

    logits (B, T, 2), labels (B, T) with IGNORED, weights (2,).
    """
    import torch

    seen = labels != IGNORED
    log_p = torch.log_softmax(logits[seen].float(), dim=-1)  # (N, 2)
    gold = labels[seen]
    log_p = log_p.gather(1, gold[:, None])[:, 0]
    weight = weights[gold]
    return -(weight * (1 - log_p.exp()) ** gamma * log_p).sum() / weight.sum()


def rows(compressor: CompressorModel, labels: Sequence[Labels]) -> list[list[dict[str, list[int]]]]:
    """For each record its windows as `input_ids` and `labels`, IGNORED outside of the piece that is labelled."""
    nested = compressor.windows([record.question for record in labels], [record.think for record in labels])
    made: list[list[dict[str, list[int]]]] = []
    for record, group in zip(labels, nested, strict=True):
        made.append([])
        for window in group:
            targets = [IGNORED] * len(window.ids)
            targets[window.begin : window.begin + len(window.offsets)] = token_labels(
                record.keep, window.offsets
            )
            made[-1].append({"input_ids": window.ids, "labels": targets})
    return made


def make_trainer(
    compressor: CompressorModel,
    seen: list[dict[str, list[int]]],
    held_out: list[dict[str, list[int]]],
    keep_share: float,
    config: recipe.Compressor,
    seed: int,
    folder: Path,
) -> Any:
    """The trainer; its checkpoints, one an epoch, go to `folder`. `keep_share` of the tokens seen decides the weights."""
    import torch
    from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

    model, pad = compressor.model, compressor.tokenizer.pad_token_id
    cuda = model.device.type == "cuda"
    weights = (
        torch.tensor([1 / max(1 - keep_share, 0.01), 1 / max(keep_share, 0.01)], device=model.device) / 2
    )

    def collator(batch):
        made = collate([row["input_ids"] for row in batch], pad)
        made["labels"] = torch.full_like(made["input_ids"], IGNORED)
        for line, row in zip(made["labels"], batch, strict=True):
            line[: len(row["labels"])] = torch.tensor(row["labels"])
        return made

    def metrics(evaluated):
        gold = evaluated.label_ids
        return {"macro_f1": macro_f1(evaluated.predictions[gold != IGNORED], gold[gold != IGNORED])}

    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            per_device_eval_batch_size=config.batch_size,
            train_sampling_strategy="group_by_length",
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            warmup_steps=config.warmup,  # below 1: a share of all steps
            lr_scheduler_type="linear",
            optim="adamw_torch_fused",
            bf16=cuda and classifier.has_bf16(),
            fp16=cuda and not classifier.has_bf16(),
            gradient_checkpointing=cuda and compressor.origin is not None,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,  # the best one and the last one
            load_best_model_at_end=True,
            metric_for_best_model="macro_f1",
            restore_callback_states_from_checkpoint=True,  # how long early stopping has waited
            logging_steps=1,
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
            report_to="none",
            seed=seed,
        ),
        train_dataset=seen,
        eval_dataset=held_out,
        data_collator=collator,
        compute_loss_func=lambda outputs, labels, **_: focal_loss(
            outputs.logits, labels, weights, config.focal_gamma
        ),
        compute_metrics=metrics,
        preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
        callbacks=[EarlyStoppingCallback(config.patience)],
    )


def fit(trainer: Any, total: int, work: Path) -> None:
    """Train to the end, from the last checkpoint if there is one; the best weights stay."""
    from transformers import TrainerState

    resume = checkpoints.last_whole(work)
    if resume is not None:
        state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            if state.best_global_step:  # cut after its last epoch
                state.best_model_checkpoint = str(work / f"checkpoint-{state.best_global_step}")
                trainer.state = state
                trainer._load_best_model()
                return
            resume = None  # it has one step, and that was not evaluated
    checkpoints.fit(trainer, "compressor", total, resume)


def train(
    compressor: CompressorModel, labels: Sequence[Labels], config: recipe.Compressor, seed: int, work: Path
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Fit to labels; the weights with the best macro-F1 on held-out traces stay. Returns what was measured: numbers of
    the whole training, and its losses and scores by step. Raises LiteError."""
    if len(labels) < 2:
        raise LiteError(f"compressor: {len(labels)} labelled traces; at least 2 are needed to hold one out")
    nested = rows(compressor, labels)
    random.Random(seed).shuffle(nested)
    num_held_out = min(max(1, round(config.held_out * len(nested))), len(nested) - 1)
    held_out = [row for group in nested[:num_held_out] for row in group]
    seen = [row for group in nested[num_held_out:] for row in group]
    targets = np.concatenate([row["labels"] for row in seen])
    keep_share = float(np.mean(targets[targets != IGNORED] == 1))
    trainer = make_trainer(compressor, seen, held_out, keep_share, config, seed, work)
    fit(trainer, config.epochs * -(-len(seen) // config.batch_size), work)
    state = trainer.state
    if config.rank and compressor.origin is None:
        compressor.model = merged(work / "encoder", work / f"checkpoint-{state.best_global_step}")
    curve = [
        {"step": entry["step"], name: round(entry[key], 4)}
        for entry in state.log_history
        for key, name in (("loss", "loss"), ("eval_macro_f1", "macro_f1"))
        if key in entry
    ]
    measured = {
        "macro_f1": round(state.best_metric, 3),
        "keep_share": round(keep_share, 3),
        "epochs": round(state.epoch),
    }
    return measured, curve


def run(ctx: Run) -> dict[str, Any]:
    config, work = ctx.recipe.compressor, ctx.path("compressor", "checkpoints")
    labels = read_records(ctx.path("annotate", "labels.jsonl"), Labels)
    compressor = fresh(ctx.recipe, work)
    measured, curve = train(compressor, labels, config, ctx.recipe.seed, work)
    with atomic_write(ctx.path("compressor", "loss.jsonl")) as handle:
        handle.writelines(json.dumps(point) + "\n" for point in curve)
    compressor.save(ctx.path("compressor", "model"))
    checkpoints.clean(work)
    return measured
