"""SFT throughput: the stage `sft` against a plain TRL SFTTrainer loop, on the same rows and steps.

    python recipes/bench/sft.py                                                   # the tiny reasoner
    python recipes/bench/sft.py --model FOLDER --source gym:gsm_symbolic --steps 20 --batch-size 4 --accumulation 4

Rows are worked solutions of a source, cut to the five ratios by random drop. All sides start from the same base in
the same dtype, with the same LoRA, token rows, optimiser, learning rate and number of rows in a step, and each runs
in a process of its own, in turn. `plain` is what one writes first: transformers' model, PEFT, SFTTrainer on prompt and
completion, rows drawn at random and padded to the longest of a batch. Gradient checkpointing, TRL's default, is off
in it: recomputing costs a third, and memory is no matter here. Unsloth is imported in it, too, for TRL's loss has no
CPU kernel of its own. `ordered` is the plain loop on the rows of the stage's own steps, one by one: what that order
gives in speed, and the loss that the stage has to reach within noise.

tokens/s: tokens of the rows, without padding, over the seconds of `trainer.train()`. loss: mean cross entropy of
reply tokens on rows that no side has seen. A bar of 1.3 is asked of the ratio of tokens/s.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time

from lite import backend, tokens
from lite.costs import peak_memory_gb
from lite.recipe import Sft
from lite.records import Row
from lite.train import sft

SIDES = ("plain", "ordered", "lite")
HELD_OUT = 100  # rows for the loss


def make_rows(source: str, num_rows: int, tokenizer, seed: int) -> list[Row]:
    """Rows in all five ratios from worked solutions, shuffled."""
    import random

    from lite.compress.compress import compress, encoder
    from lite.compress.select import random_scores
    from lite.compress.units import segment
    from lite.problems import load

    problems = [p for p in load(source, -(-num_rows // len(tokens.RATIOS)), seed) if p.cot.strip()]
    scores = [random_scores(len(segment(p.cot)), p.id) for p in problems]
    cut = compress([p.cot for p in problems], scores, tokens.RATIOS[:-1], encoder(tokenizer))
    rows = [
        Row(p.id, str(ratio), p.question, ratio, think, f"\\boxed{{{p.answer}}}")
        for p, versions in zip(problems, cut, strict=True)
        for ratio, think in zip(tokens.RATIOS, [*(text for text, *_ in versions), p.cot], strict=True)
    ]
    random.Random(seed).shuffle(rows)
    return rows


def ordered(rows: list[Row], model: str, config: Sft, seed: int, folder: str):
    """The plain loop on the rows of the stage's steps."""
    return plain(rows, model, config, seed, folder, in_our_order=True)


def plain(rows: list[Row], model: str, config: Sft, seed: int, folder: str, in_our_order: bool = False):
    """The plain loop, up to its trainer."""
    backend.prepare()
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    ours, tokenizer = backend.load_trainable(model, **loading(config, seed))
    dtype = ours.get_input_embeddings().weight.dtype
    start = {name: param.detach().clone() for name, param in ours.named_parameters()}
    del ours
    base = AutoModelForCausalLM.from_pretrained(backend.resolve(model), dtype=dtype)
    if len(tokenizer) > base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    peft_model = get_peft_model(
        base,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=backend.LINEAR_LAYERS,
            trainable_token_indices=backend.control_ids(tokenizer),
            task_type="CAUSAL_LM",
        ),
    )
    for name, param in peft_model.named_parameters():  # the same start
        param.data.copy_(start[name])
    head = peft_model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.bias = None  # PEFT's wrapper hides it from TRL's fused head
    encoded = [sft.encode_row(tokenizer, row) for row in rows]
    if in_our_order:
        pairs, order = sft.prepare(tokenizer, rows, config, seed)
        encoded = [pairs[place] for place in order]
    data = {
        "input_ids": [ids for ids, _ in encoded],
        "completion_mask": [[int(label != tokens.IGNORED) for label in labels] for _, labels in encoded],
    }
    trainer = SFTTrainer(
        model=peft_model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(data),
        args=SFTConfig(
            output_dir=folder,
            max_steps=config.max_steps,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulation,
            learning_rate=config.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=config.warmup,
            weight_decay=0.0,
            max_length=None,
            completion_only_loss=True,  # not by itself where rows come as ids
            gradient_checkpointing=False,
            train_sampling_strategy="sequential" if in_our_order else "random",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            seed=seed,
        ),
    )
    return trainer, encoded


def lite(rows: list[Row], model: str, config: Sft, seed: int, folder: str):
    """The stage, up to its trainer."""
    peft_model, tokenizer = backend.load_trainable(model, **loading(config, seed))
    pairs, order = sft.prepare(tokenizer, rows, config, seed)
    return sft.make_trainer(peft_model, tokenizer, pairs, order, config, seed, folder), pairs


def loading(config: Sft, seed: int) -> dict:
    names = ("max_tokens", "rank", "alpha", "four_bit")
    return {name: getattr(config, name) for name in names} | {"seed": seed}


def mean_loss(model, pairs) -> float:
    """Mean cross entropy of the labels, row by row."""
    import torch

    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for ids, labels in pairs:
            logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, :-1].float()
            targets = torch.tensor(labels[1:], device=model.device)
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            count += int((targets != tokens.IGNORED).sum())
    return total / count


def measure(side: str, options: argparse.Namespace) -> dict:
    """Train one side and measure it."""
    from lite.train.checkpoints import silence

    config = Sft(
        max_steps=options.steps,
        batch_size=options.batch_size,
        accumulation=options.accumulation,
        learning_rate=options.learning_rate,
        save_steps=10 * options.steps,
        max_tokens=options.max_tokens,
    )
    per_step = config.batch_size * config.accumulation
    tokenizer = backend.load_tokenizer(options.model)
    made = make_rows(options.source, config.max_steps * per_step + HELD_OUT, tokenizer, options.seed)
    made = [row for row in made if len(sft.encode_row(tokenizer, row)[0]) <= config.max_tokens]
    held_out = [sft.encode_row(tokenizer, row) for row in made[:HELD_OUT]]
    rows = made[HELD_OUT:]
    with tempfile.TemporaryDirectory() as folder:
        trainer, pairs = {"plain": plain, "ordered": ordered, "lite": lite}[side](
            rows, options.model, config, options.seed, folder
        )
        silence(trainer)
        mean_tokens = sum(len(ids) for ids, _ in pairs) / len(pairs)
        begun, begun_cpu = time.monotonic(), time.process_time()
        trainer.train()
        seconds, cpu = time.monotonic() - begun, time.process_time() - begun_cpu
        trained = config.max_steps * per_step * mean_tokens
        peak = peak_memory_gb()
        loss = mean_loss(trainer.model, held_out)
    return {
        "tokens_per_s": trained / seconds,
        "tokens_per_cpu_s": trained / cpu,
        "loss": loss,
        "peak_memory_gb": peak,
        "seconds": seconds,
        "mean_tokens": mean_tokens,
        "dtype": str(trainer.model.get_input_embeddings().weight.dtype).removeprefix("torch."),
    }


def main() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Sft)}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="quickstart", help="a model folder or hub name")
    parser.add_argument("--source", default="quickstart", help="of problems with worked solutions")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=16, help="rows in one pass")
    parser.add_argument("--accumulation", type=int, default=2, help="passes in one step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument(
        "--max-tokens", type=int, default=defaults["max_tokens"], help="longer rows are left out"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=SIDES, help="only this one, as JSON")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options)))
        return
    found = {}
    for side in SIDES:
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found[side] = json.loads(out.strip().splitlines()[-1])
        print(
            side,
            json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in found[side].items()}),
        )
    ours = found["lite"]
    for side in SIDES[:-1]:
        times, less = ours["tokens_per_s"] / found[side]["tokens_per_s"], ours["loss"] - found[side]["loss"]
        print(f"against {side}: {times:.2f} times the tokens/s, loss {less:+.4f}")


if __name__ == "__main__":
    main()
