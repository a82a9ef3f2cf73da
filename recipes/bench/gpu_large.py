"""The parts of recipes/bench/gpu.py that take a large model: peaks against the plan, tokens/s, milliseconds a step."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import random
import time

from gpu_parts import OPTIONS, check

RANK, ALPHA, STEPS, ACCUMULATION = 32, 64, 6, 1
SAMPLING_SECONDS = 12  # of a rollout; then replies are filled up with random ids


def memory() -> dict[str, float]:
    """Peaks since the last call, in GB."""
    import torch

    if not torch.cuda.is_available():
        return {"allocated_gb": 0.0, "reserved_gb": 0.0}
    torch.cuda.synchronize()
    peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    return dict(zip(("allocated_gb", "reserved_gb"), (round(peak / 1e9, 2) for peak in peaks), strict=True))


def against(plan: dict[str, float], peaks: dict[str, float]) -> dict:
    """Measured peaks beside the plan's terms; the check holds within 25 % of what torch reserved."""
    planned = sum(plan.values()) / 1e9
    share = planned / peaks["reserved_gb"] - 1 if peaks["reserved_gb"] else 0.0
    terms = {name: round(size / 1e9, 2) for name, size in plan.items()}
    return {"planned_gb": round(planned, 2), "share": f"{share:+.0%}", "terms": terms} | peaks


def fits(found: dict) -> bool:
    return abs(float(found["share"].rstrip("%"))) <= 25 and found["reserved_gb"] <= OPTIONS.card_gb - 0.6


def rows() -> list[list[int]]:
    """Random rows: a pass of the longest, then passes of mixed lengths, as the five ratios make them."""
    draw = random.Random(0)
    top = OPTIONS.tokens
    lengths = [top] * OPTIONS.rows * ACCUMULATION
    lengths += [draw.randint(top // 16, top // 3) for _ in range((STEPS - 1) * OPTIONS.rows * ACCUMULATION)]
    most = 140_000 if OPTIONS.shape != "tiny" else 600
    return [[draw.randrange(200, most) for _ in range(length)] for length in lengths]


def planner(model: str):
    """(recipe, shape, machine): what lite/plan/estimate.py needs."""
    from lite.config import Chrpo, Recipe, Sft
    from lite.plan.machine import CARDS
    from lite.plan.model_shape import read_shape

    sft = Sft(rank=RANK, alpha=ALPHA, four_bit=True, max_tokens=OPTIONS.tokens, batch_size=OPTIONS.rows)
    chrpo = Chrpo(
        prompts=OPTIONS.rollouts // 4,
        group=4,
        batch_size=OPTIONS.rows,
        max_tokens=OPTIONS.rollout_tokens,
        steps=2,
        save_steps=1000,
    )
    recipe = Recipe(model=model, sft=sft, chrpo=chrpo)
    card = CARDS["cpu"] if OPTIONS.dry_run else dataclasses.replace(CARDS["24gb"], gpu_gb=OPTIONS.card_gb)
    return recipe, read_shape(model), card


def timed(trainer) -> list[float]:
    """Train, and return the seconds of each optimiser step."""
    import torch
    from transformers import TrainerCallback

    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            self.began = time.monotonic()

        def on_step_end(self, *_, **__):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.monotonic() - self.began)

    trainer.add_callback(Clock())
    with open(OPTIONS.work / "lock", "w") as handle:  # parts that run at once do not train at once
        fcntl.flock(handle, fcntl.LOCK_EX)
        trainer.train()
    return seconds


def speed(batches: list[list[list[int]]], seconds: list[float]) -> float:
    """Tokens of rows a second, without padding, from the third step on: the first two compile."""
    num = sum(len(row) for batch in batches[2:] for row in batch)
    return round(num / sum(seconds[2:]))


def sft(model: str, hold) -> None:
    from lite import tokens
    from lite.models import unsloth
    from lite.plan import terms
    from lite.train import sft

    unsloth.prepare()
    hold()
    recipe, shape, card = planner(model)
    config = dataclasses.replace(recipe.sft, accumulation=ACCUMULATION, max_steps=STEPS, save_steps=1000)
    began = time.monotonic()
    peft_model, tokenizer = unsloth.load_trainable(
        model, max_tokens=OPTIONS.tokens, rank=RANK, alpha=ALPHA, four_bit=True, seed=0
    )
    loaded = memory()
    weights = terms.weights(shape, True, card.width)
    planned = {"weights": weights, "LoRA": 4.0 * shape.num_lora(RANK)}
    check("load", **against(planned, loaded), seconds=round(time.monotonic() - began, 1))
    data = rows()
    pairs = [(row, [tokens.IGNORED] * (len(row) // 8) + row[len(row) // 8 :]) for row in data]
    trainer = sft.make_trainer(
        peft_model, tokenizer, pairs, list(range(len(pairs))), config, 0, str(OPTIONS.work / "sft")
    )
    seconds = timed(trainer)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    plan, _ = terms.training(recipe, shape, card, OPTIONS.rows, OPTIONS.tokens, weights)
    found = against(plan, memory())
    step = OPTIONS.rows * ACCUMULATION
    batches = [data[at : at + step] for at in range(0, len(data), step)]
    longest = round(sum(map(len, batches[0])) / seconds[0])
    check(
        "sft",
        fits(found) if not OPTIONS.dry_run else None,
        **found,
        tokens_per_s=speed(batches, seconds),
        tokens_per_s_longest_first_step=longest,
        loss=[round(loss, 4) for loss in losses],
        seconds=[round(second, 2) for second in seconds],
    )


def plain(model: str, hold) -> None:
    """TRL, PEFT and bitsandbytes without Unsloth: the same rows, drawn at random, with what fits into the card."""
    for batch_size in dict.fromkeys((OPTIONS.rows, 1)):
        try:
            _plain(model, hold, batch_size)
            return
        except Exception as fault:  # out of memory, in one of several classes
            if "out of memory" not in str(fault).lower():
                raise
            check("plain", None, rows_in_a_pass=batch_size, fault=str(fault)[:120])
        import gc

        import torch

        gc.collect()
        torch.cuda.empty_cache()


def _plain(model: str, hold, batch_size: int) -> None:
    if OPTIONS.dry_run:  # TRL's loss has no CPU kernel of its own
        from lite.models import unsloth

        unsloth.prepare()
    hold()
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    memory()
    tokenizer = AutoTokenizer.from_pretrained(model)
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    on_gpu = torch.cuda.is_available()
    base = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        quantization_config=quantised,
        device_map={"": 0} if on_gpu else "cpu",
    )
    base = prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs={"use_reentrant": False})
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    peft_model = get_peft_model(
        base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers, task_type="CAUSAL_LM")
    )
    data = rows()
    step = OPTIONS.rows * ACCUMULATION
    batches = [data[at : at + step] for at in range(0, len(data), step)]
    masks = [[0] * (len(row) // 8) + [1] * (len(row) - len(row) // 8) for row in data]
    trainer = SFTTrainer(
        model=peft_model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"input_ids": data, "completion_mask": masks}),
        args=SFTConfig(
            output_dir=str(OPTIONS.work / "plain"),
            max_steps=STEPS,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=step // batch_size,
            learning_rate=2e-4,
            lr_scheduler_type="cosine",
            max_length=None,
            completion_only_loss=True,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            train_sampling_strategy="sequential",
            bf16=on_gpu,
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            report_to="none",
            seed=0,
        ),
    )
    seconds = timed(trainer)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    mine = OPTIONS.out / "checks.jsonl"
    lines = [json.loads(line) for line in mine.read_text().splitlines()] if mine.exists() else []
    ours = next((line for line in reversed(lines) if line["check"] == "sft"), None)
    told = {"rows_in_a_pass": batch_size, "tokens_per_s": speed(batches, seconds)} | memory()
    told |= {"loss": [round(loss, 4) for loss in losses], "seconds": [round(second, 2) for second in seconds]}
    if ours is None:
        check("plain", None, **told)
        return
    times = ours["tokens_per_s"] / told["tokens_per_s"]
    same = abs(ours["loss"][0] / losses[0] - 1) < 0.02
    check(
        "plain",
        (times >= 1.3 and same) if not OPTIONS.dry_run else None,
        ours_is_times=round(times, 2),
        **told,
    )


def chrpo(model: str, hold) -> None:
    from lite import tokens
    from lite.models import adapters, unsloth
    from lite.plan import terms
    from lite.runtime.files import Journal
    from lite.schema import TeacherRatio
    from lite.train import chrpo
    from lite.train.rollouts import Environment, StepRewards

    unsloth.prepare()
    hold()
    recipe, shape, card = planner(model)
    config = recipe.chrpo
    teachers = [
        TeacherRatio(str(n), f"What is {n} + 3?", str(n + 3), 0.4, [], 100.0) for n in range(config.prompts)
    ]
    tokenizer = unsloth.load_tokenizer(model)
    longest = max(len(tokens.encode_prompt(tokenizer, one.question, tokens.POLICY)) for one in teachers)
    peft_model, tokenizer = unsloth.load_trainable(
        model, max_tokens=config.max_tokens + longest, rank=RANK, alpha=ALPHA, four_bit=True, seed=0
    )
    prompts = [tokens.encode_prompt(tokenizer, one.question, tokens.POLICY) for one in teachers]
    padding = adapters.with_own_pad(tokenizer, peft_model.get_input_embeddings().weight.shape[0], prompts)
    folder = OPTIONS.work / "chrpo"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rewards.jsonl").unlink(missing_ok=True)
    phases: list[dict] = []
    peft_model.get_base_model().generation_config.max_time = SAMPLING_SECONDS
    with Journal(folder / "rewards.jsonl", StepRewards) as journal:
        environment = Environment(teachers, padding, config, 0, journal)
        sample = environment.rollout

        def rollout(prompts, trainer):
            if phases:
                phases[-1] |= {f"update_{name}": peak for name, peak in memory().items()}
                check("chrpo, an update", None, **phases[-1])
            memory()
            began = time.monotonic()
            output = sample(prompts, trainer)
            seconds = time.monotonic() - began
            steps = max(map(len, output["completion_ids"]))
            for ids in output["completion_ids"]:
                ids += [draw.randrange(200, 600) for _ in range(config.max_tokens - len(ids))]
            num = sum(map(len, output["completion_ids"]))
            phases.append(
                {
                    "rollout_s": round(seconds, 2),
                    "steps": steps,
                    "tokens": num,
                    "ms_per_step": round(1e3 * seconds / steps, 2),
                }
            )
            phases[-1] |= {f"rollout_{name}": peak for name, peak in memory().items()}
            check("chrpo, a rollout", None, **phases[-1], graphs=graphs(peft_model))
            return output

        environment.rollout = rollout
        # Random weights are always wrong: drawn rewards give every loss term something to do.
        draw = random.Random(0)
        chrpo.rewards.score = lambda *_: chrpo.rewards.Rewards(0, 0, 0, 0, draw.random(), draw.random())
        trainer = chrpo.make_trainer(peft_model, environment, str(folder))
        seconds = timed(trainer)
        phases[-1] |= {f"update_{name}": peak for name, peak in memory().items()}
    weights = terms.weights(shape, True, card.width)
    update, _ = terms.training(
        recipe, shape, card, config.batch_size, longest + config.max_tokens, weights
    )
    generating = terms.generating(shape, card, OPTIONS.rollouts, longest + config.max_tokens, weights)
    generating["LoRA, gradients, AdamW"] = update.get("LoRA, gradients, AdamW", 0.0)
    for phase, plan in (("rollout", generating), ("update", update)):
        peaks = {name: phases[-1][f"{phase}_{name}"] for name in ("allocated_gb", "reserved_gb")}
        found = against(plan, peaks)
        check(f"chrpo, {phase}", fits(found) if not OPTIONS.dry_run else None, **found)
    told = {
        name: [phase[name] for phase in phases] for name in ("rollout_s", "steps", "tokens", "ms_per_step")
    }
    check("chrpo, time", None, **told, step_s=[round(second, 2) for second in seconds])


def graphs(model) -> list[dict]:
    """What Unsloth says of its captured decode steps."""
    import torch

    if not torch.cuda.is_available():
        return []
    from unsloth.models import _decode_graphs

    names = ("captures", "replays", "eager_steps", "disabled")
    return [{name: getattr(state, name) for name in names} for state in _decode_graphs._states(model)]


def decode(model: str, hold) -> None:
    """Milliseconds of a decode step of all rollouts, with PEFT's wrappers or rows in the base, and CUDA graphs."""
    from lite.models import generate, unsloth

    unsloth.prepare()
    hold()
    length = 64 if not OPTIONS.dry_run else 8
    peft_model, tokenizer = unsloth.load_trainable(
        model, max_tokens=32 + 4 * length, rank=RANK, alpha=ALPHA, four_bit=True, seed=0
    )
    import torch
    from unsloth import FastLanguageModel

    prompts = [[200 + n for n in range(24)]] * OPTIONS.rollouts
    how = {"temperature": 1.0, "top_p": 1.0, "seed": 0, "batch_size": OPTIONS.rollouts}

    def seconds(model, num: int) -> float:
        began = time.monotonic()
        generate.generate(model, tokenizer, prompts, max_tokens=num, **how)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic() - began

    def step(model) -> float:
        seconds(model, length // 2)
        return round(1e3 * (seconds(model, 3 * length) - seconds(model, length)) / (2 * length), 2)

    found = {}
    for switch in ("0", "1"):
        os.environ["UNSLOTH_DECODE_CUDA_GRAPHS"] = switch
        FastLanguageModel.for_inference(peft_model)
        found[f"PEFT's wrappers, graphs {switch}"] = step(peft_model)
        FastLanguageModel.for_training(peft_model)
        with unsloth.for_rollouts(peft_model) as inner:
            found[f"rows in the base, graphs {switch}"] = step(inner)
    check("ms per decode step", None, sequences=OPTIONS.rollouts, **found, graphs=graphs(peft_model))
