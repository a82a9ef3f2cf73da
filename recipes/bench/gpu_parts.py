"""The parts of recipes/bench/gpu.py; each runs in a process of its own, and `check` writes what it found."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpu import parse

OPTIONS = parse()
QUESTIONS = 2 if OPTIONS.dry_run else 8  # whose greedy replies are compared
SMALL = (
    "problems.num_train=60 problems.num_rl=12 problems.num_eval=8 traces.max_tokens=300 annotate.num_traces=12"
    " annotate.num_rounds=1 compressor.epochs=2 sft.max_steps={sft} probe.num_samples=1 probe.max_tokens=200"
    " probe.min_success=0.5 chrpo.steps={chrpo} chrpo.prompts=4 chrpo.max_tokens=200"
)


def check(name: str, ok: bool | None = None, **measured) -> None:
    """Write one line; `ok` None is a figure without a bar."""
    line = {"part": OPTIONS.part, "check": name} | ({} if ok is None else {"ok": bool(ok)}) | measured
    with open(OPTIONS.out / "checks.jsonl", "a") as handle:
        handle.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def hold_to_card() -> None:
    """Limit this process to --card-gb: torch's allocator, and what Unsloth reads as free memory."""
    import torch

    if not torch.cuda.is_available():
        return
    room = int((OPTIONS.card_gb - 0.6) * 1e9)  # the rest is the context's
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / torch.cuda.mem_get_info()[1]))

    def mem_get_info(device=None):
        return max(0, room - torch.cuda.memory_reserved(device)), int(OPTIONS.card_gb * 1e9)

    torch.cuda.mem_get_info = torch.cuda.memory.mem_get_info = mem_get_info


def versions() -> None:
    from lite.models import unsloth

    unsloth.prepare()
    from importlib.metadata import version

    import torch

    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    names = ("unsloth", "unsloth_zoo", "trl", "peft", "transformers", "bitsandbytes")
    check("versions", card=card, torch=torch.__version__, **{name: version(name) for name in names})


def numbers(four_bit: bool) -> None:
    """What must hold exactly, or nearly, on the quickstart's reasoner."""
    from lite import tokens
    from lite.data.problems import load
    from lite.models import generate, unsloth

    settings = {"max_tokens": 640, "rank": 8, "alpha": 16, "four_bit": four_bit, "seed": 0}
    model, tokenizer = unsloth.load_trainable("quickstart", **settings)
    import torch
    from unsloth import FastLanguageModel

    generator = torch.Generator().manual_seed(1)
    for _, param in sorted(model.named_parameters()):
        if param.requires_grad:
            noise = torch.randn(param.shape, generator=generator).to(param.device)
            param.data.add_(0.02 * noise.to(param.dtype))
    kinds = [type(part).__name__ for part in model.get_base_model().modules()]
    check("layers in NF4", (kinds.count("Linear4bit") > 0) == four_bit, num=kinds.count("Linear4bit"))
    rows = [param for name, param in model.named_parameters() if "trainable_tokens_delta" in name]
    check("token rows in float32", all(row.dtype == torch.float32 for row in rows), num=len(rows))
    ends = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    check("tie kept", torch.equal(*ends) == model.config.tie_word_embeddings)
    questions = [problem.question for problem in load("quickstart", QUESTIONS, 0)]
    prompts = [tokens.encode_prompt(tokenizer, question, "0.4") for question in questions]
    greedy = {"max_tokens": 24 if OPTIONS.dry_run else 128, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    with unsloth.for_rollouts(model) as inner:
        together = generate.generate(inner, tokenizer, prompts, batch_size=len(prompts), **greedy)
        alone = generate.generate(inner, tokenizer, prompts, batch_size=1, **greedy)
    changed = [name for name, param in model.named_parameters() if not torch.equal(param, before[name])]
    check("weights as they were after rollouts", not changed, changed=changed[:3])
    check("batched replies equal to single ones", **agree(together, alone))
    FastLanguageModel.for_inference(model)
    os.environ["UNSLOTH_DECODE_CUDA_GRAPHS"] = "0"
    wrapped = generate.generate(model, tokenizer, prompts, batch_size=len(prompts), **greedy)
    os.environ["UNSLOTH_DECODE_CUDA_GRAPHS"] = "1"
    check("rows in the base against PEFT's wrappers, graphs on against off", **agree(together, wrapped))
    FastLanguageModel.for_training(model)
    control_at_the_end(model, tokenizer, prompts[0])
    one_step(model, tokenizer, questions)


def agree(ours: list[list[int]], theirs: list[list[int]]) -> dict:
    """Whether 95 % of places hold the same token up to each reply's first difference."""
    same = total = 0
    for left, right in zip(ours, theirs, strict=True):
        length = max(len(left), len(right))
        same += next((at for at in range(length) if left[at : at + 1] != right[at : at + 1]), length)
        total += length
    return {"ok": same >= 0.95 * total, "share": round(same / max(1, total), 4)}


def control_at_the_end(model, tokenizer, prompt: list[int]) -> None:
    """The control term's log-probabilities of a prompt padded by 100 places, against those of it alone."""
    import torch

    from lite.models import unsloth

    ids = torch.tensor([[tokenizer.pad_token_id] * 100 + prompt], device=model.device)
    mask = (torch.arange(ids.shape[1], device=model.device) >= 100).long()[None]
    with torch.no_grad():
        padded = torch.log_softmax(unsloth.last_logits(model, ids, mask).float(), -1)
        alone = torch.log_softmax(unsloth.last_logits(model, ids[:, 100:], mask[:, 100:]).float(), -1)
    most = float((padded - alone)[alone > -10].abs().max())
    check("control term of a padded prompt", most < 0.1, difference=round(most, 4))


def one_step(model, tokenizer, questions: list[str]) -> None:
    """Everything that trains moves in a step of SFT, and no base weight does."""
    import torch

    from lite import tokens
    from lite.config import Sft
    from lite.schema import Row
    from lite.train import sft

    base = {
        name: param.detach().clone() for name, param in model.named_parameters() if not param.requires_grad
    }
    trained = {
        name: param.detach().clone() for name, param in model.named_parameters() if param.requires_grad
    }
    rows = [
        Row(str(n), mode, question, ratio, "1 + 2 = 3", "\\boxed{3}")
        for n, question in enumerate(questions)
        for mode, ratio in [*((str(ratio), ratio) for ratio in tokens.RATIOS), (tokens.POLICY, 0.2)]
    ]
    config = Sft(batch_size=len(rows), accumulation=1, max_tokens=640, max_steps=2)
    pairs, order = sft.prepare(tokenizer, rows, config, 0)
    trainer = sft.make_trainer(
        model, tokenizer, pairs, order * 2, config, 0, str(OPTIONS.work / OPTIONS.part)
    )
    trainer.train()
    now = dict(model.named_parameters())
    still = [name for name, param in trained.items() if torch.equal(now[name], param)]
    moved = [name for name, param in base.items() if not torch.equal(now[name], param)]
    check(
        "all that trains moved, no base weight did", not still and not moved, still=still[:3], moved=moved[:3]
    )
    window = getattr(model, "max_seq_length", None)
    check("window", trainer.args.max_length in (None, window), args=trainer.args.max_length, model=window)


def lite(*arguments: str, wait: bool = True) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-m", "lite.cli", *arguments])
    if wait and process.wait() != 0:
        sys.exit(f"lite {' '.join(arguments)} ended with {process.returncode}")
    return process


def settings(sft: int, chrpo: int, four_bit: bool) -> list[str]:
    text = SMALL.format(sft=sft, chrpo=chrpo) + f" sft.four_bit={str(four_bit).lower()}"
    return [part for setting in text.split() for part in ("--set", setting)]


def pipeline(four_bit: bool) -> None:
    """`lite train quickstart --until merge`, small; then the merged model against its adapter."""
    folder = OPTIONS.work / f"run-{OPTIONS.part}"
    steps = (4, 2) if OPTIONS.dry_run else (20, 4)
    lite("train", "quickstart", "--out", str(folder), "--until", "merge", *settings(*steps, four_bit))
    for stage in ("traces", "sft", "probe", "chrpo", "merge"):
        manifest = json.loads((folder / stage / "manifest.json").read_text())
        falls = stage != "sft" or manifest["measured"]["loss_last"] < manifest["measured"]["loss_first"]
        check(
            stage,
            falls,
            seconds=manifest["seconds"],
            gpu=manifest["peak_gpu_memory_gb"],
            **manifest["measured"],
        )
    from lite import tokens
    from lite.data.problems import load
    from lite.models import generate, unsloth

    questions = [problem.question for problem in load("quickstart", QUESTIONS, 5)]
    model, tokenizer = unsloth.load(
        "quickstart", max_tokens=640, adapter=folder / "chrpo" / "adapter", four_bit=four_bit
    )
    prompts = [tokens.encode_prompt(tokenizer, question, "0.6") for question in questions]
    greedy = {"max_tokens": 200, "temperature": 0.0, "top_p": 1.0, "seed": 0, "batch_size": QUESTIONS}
    adapted = generate.generate(model, tokenizer, prompts, **greedy)
    merged_folder = next(path.parent for path in (folder / "merge").rglob("config.json"))
    model, _ = unsloth.load(str(merged_folder), max_tokens=640)
    found = agree(adapted, generate.generate(model, tokenizer, prompts, **greedy))
    if four_bit:  # NF4's error is in the adapter's model alone, as in every QLoRA merge
        found["ok"] = None
    check("merged replies equal to the adapter's", **found)


def resume() -> None:
    """SFT killed after a checkpoint ends where it ends uninterrupted."""
    first, second = OPTIONS.work / "whole", OPTIONS.work / "killed"
    small = [*settings(8, 1, True), "--set", "sft.save_steps=2"]
    lite("train", "quickstart", "--out", str(first), "--until", "sft", *small)
    lite("train", "quickstart", "--out", str(second), "--until", "mixture", *small)
    process = lite("train", "quickstart", "--out", str(second), "--until", "sft", *small, wait=False)
    while process.poll() is None and not (second / "sft" / "checkpoints" / "checkpoint-4" / "whole").exists():
        time.sleep(0.02)
    killed = process.poll() is None
    if killed:
        process.send_signal(signal.SIGKILL)
        process.wait()
    lite("train", "quickstart", "--out", str(second), "--until", "sft", *small)
    curves = [(folder / "sft" / "loss.jsonl").read_text().splitlines() for folder in (first, second)]
    losses = [json.loads(lines[-1])["loss"] for lines in curves]
    near = abs(losses[0] - losses[1]) < 0.01 * losses[0]
    check("loss of the last step after kill -9 and resume", near, losses=losses, killed=killed)


def large_model() -> str:
    """--model, or random weights of --shape, written once."""
    if OPTIONS.model:
        return OPTIONS.model
    folder = OPTIONS.work / f"qwen3-{OPTIONS.shape}"
    with open(OPTIONS.work / "model.lock", "w") as handle:  # parts may run at once
        fcntl.flock(handle, fcntl.LOCK_EX)
        if (folder / "config.json").is_file():
            return str(folder)
        from lite.models import pretrained

        tokenizer = (
            pretrained.resolve("quickstart") if OPTIONS.tokenizer == "quickstart" else OPTIONS.tokenizer
        )
        script = Path(__file__).with_name("shapes.py")  # by itself: Unsloth wants to be imported first
        made = [str(folder), OPTIONS.shape, tokenizer]
        subprocess.run([sys.executable, str(script), *made], check=True)
    return str(folder)


def main() -> None:
    part = OPTIONS.part
    OPTIONS.work.mkdir(parents=True, exist_ok=True)
    if part in ("sft", "chrpo", "decode", "plain"):
        import gpu_large

        getattr(gpu_large, part)(large_model(), hold_to_card)
    elif part in ("versions", "resume"):
        globals()[part]()
    else:
        name, _, dtype = part.partition("-")
        {"numbers": numbers, "pipeline": pipeline}[name](dtype == "nf4")


if __name__ == "__main__":
    main()
