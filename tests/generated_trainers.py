"""Gradients of our two trainers on a CPU, through the trainers that Unsloth writes for CUDA, or by plain TRL.

    python tests/generated_trainers.py unsloth|plain OUT.pt

With UNSLOTH_ALLOW_CPU=1 Unsloth leaves TRL's own trainers in place; put back to 0 after its import, `PatchFastRL` writes
and installs those for CUDA. Each way runs in a process of its own: the import cannot be undone.
"""

from __future__ import annotations

import os
import sys
import tempfile
from itertools import product
from pathlib import Path

WAY, OUT = sys.argv[1:3]
os.environ.update(
    UNSLOTH_ALLOW_CPU="1",
    UNSLOTH_DISABLE_STATISTICS="1",
    HF_HUB_OFFLINE="1",
    TORCHDYNAMO_DISABLE="1",
    ACCELERATE_USE_CPU="1",
    CUDA_VISIBLE_DEVICES="",
)
if WAY == "unsloth":
    import unsloth  # noqa: F401
    from unsloth import FastLanguageModel
    from unsloth.models import rl

    os.environ["UNSLOTH_ALLOW_CPU"] = "0"
    rl.PatchFastRL(FastLanguageModel=FastLanguageModel)

else:  # TRL's settings are for bf16 where nothing says otherwise
    import functools

    import trl

    trl.GRPOConfig = functools.partial(trl.GRPOConfig, bf16=False)
    trl.SFTConfig = functools.partial(trl.SFTConfig, bf16=False)

import tiny_model  # noqa: E402
import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from transformers.modeling_outputs import CausalLMOutputWithPast  # noqa: E402

from lite import tokens  # noqa: E402
from lite.config import Chrpo, Sft  # noqa: E402
from lite.models import adapters, unsloth  # noqa: E402
from lite.runtime.files import Journal  # noqa: E402
from lite.schema import TeacherRatio  # noqa: E402
from lite.train import chrpo, cpu, sft  # noqa: E402
from lite.train.rollouts import Environment, StepRewards  # noqa: E402

unsloth.prepare = lambda: None  # what it imports would be Unsloth for a CPU
cpu.speed_up = lambda model: None
TEMPERATURE, PROMPT, COMPLETION = 0.7, 20, 24


def load(folder: Path, tied: bool, pad_is_eos: bool):
    """A PEFT model with moved LoRA weights and its tokenizer, the same for both ways."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    controls = [AddedToken(token, special=True, normalized=False) for token in tokens.CONTROL_TOKENS]
    tokenizer.add_tokens(controls, special_tokens=True)
    if pad_is_eos:
        tokenizer.pad_token = tokenizer.eos_token
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = adapters.control_ids(tokenizer)
    rows = ids if tied else {"embed_tokens": ids, "lm_head": ids}
    settings = {"r": 8, "lora_alpha": 16, "target_modules": unsloth.LINEAR_LAYERS}
    model = get_peft_model(base, LoraConfig(**settings, trainable_token_indices=rows))
    generator = torch.Generator().manual_seed(1)
    for name, param in sorted(model.named_parameters()):
        if "lora_" in name:
            param.data.normal_(0, 0.05, generator=generator)
    model.get_output_embeddings().bias = None
    model.for_training = lambda **_: model.train()
    model.for_inference = lambda **_: model.eval()
    if WAY == "unsloth":
        _return_hidden_states(model)
    return model, tokenizer


def _return_hidden_states(model) -> None:
    """What Unsloth's own forward does for GRPO: hidden states in place of logits."""
    causal = model.get_base_model()
    stock = causal.forward

    def forward(*arguments, **keywords):
        if os.environ.get("UNSLOTH_RETURN_HIDDEN_STATES", "0") != "1":
            return stock(*arguments, **keywords)
        keep = keywords.pop("logits_to_keep", 0)
        keywords.pop("labels", None)
        hidden = causal.model(*arguments, **keywords).last_hidden_state
        return CausalLMOutputWithPast(logits=hidden[:, -keep:] if keep else hidden)

    causal.forward = forward
    for part in (model, causal, type(causal)):
        part.__UNSLOTH_SUPPORTS_RETURN_HIDDEN_STATES__ = True


def gradients(loss, model) -> dict:
    """The loss and the gradient of every parameter that trains."""
    model.zero_grad()
    loss.backward()
    found = {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}
    return {"loss": float(loss.detach()), "gradients": found}


def rollouts(pad: int, eos: int, controls: list[int]) -> dict:
    """A batch as TRL makes one: padded prompts that hold an EOS, completions that end with one."""
    generator = torch.Generator().manual_seed(2)
    prompts = torch.randint(10, 250, (4, PROMPT), generator=generator)
    completions = torch.randint(10, 250, (4, COMPLETION), generator=generator)
    completions[:, 0], prompts[:, -3] = torch.tensor(controls[:4]), controls[5]
    prompt_mask, completion_mask = torch.ones_like(prompts), torch.ones_like(completions)
    for row, (left, right) in enumerate([(0, 0), (5, 3), (9, 10), (2, 0)]):
        prompts[row, :left], prompt_mask[row, :left] = pad, 0
        prompts[row, left + 2] = eos  # a chat template closes its turns with it
        end = COMPLETION - right
        completions[row, end:], completion_mask[row, end:] = pad, 0
        completions[row, end - 1] = eos
    return {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([1.0, -0.5, 0.3, -0.8]),
        "ctrl_advantages": torch.tensor([0.5, -1.0, 0.7, -0.2]),
        "num_items_in_batch": torch.tensor(2 * int(completion_mask.sum())),
    }


def of_chrpo(model, tokenizer, folder: str) -> dict:
    teachers = [TeacherRatio(str(n), f"{n} + 3", str(n + 3), 0.4, [], 20.0) for n in range(2)]
    config = Chrpo(prompts=2, group=4, batch_size=4, steps=1, temperature=TEMPERATURE, max_tokens=COMPLETION)
    with Journal(Path(folder) / "rewards.jsonl", StepRewards) as journal:
        prompts = [tokens.encode_prompt(tokenizer, teacher.question, tokens.POLICY) for teacher in teachers]
        padding = adapters.with_own_pad(tokenizer, model.get_input_embeddings().weight.shape[0], prompts)
        environment = Environment(teachers, padding, config, 0, journal)
        trainer = chrpo.make_trainer(model, environment, folder)
    if WAY == "plain":  # TRL's fused head is a Triton kernel: the same log-probabilities from logits
        trainer._get_per_token_logps_and_entropies = log_probs
    model.train()
    trainer.current_gradient_accumulation_steps = 2
    inputs = rollouts(padding.pad_token_id, padding.eos_token_id, adapters.control_ids(padding))
    classes = [cls.__name__ for cls in type(trainer).__mro__]
    return gradients(trainer.compute_loss(trainer.model, inputs), model) | {"classes": classes}


def log_probs(model, input_ids, attention_mask, logits_to_keep, *_, **__):
    places = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=input_ids, attention_mask=attention_mask, position_ids=places).logits
    chosen = (logits[:, -logits_to_keep - 1 : -1] / TEMPERATURE).log_softmax(-1)
    found = chosen.gather(-1, input_ids[:, -logits_to_keep:, None]).squeeze(-1)
    return found, torch.zeros_like(found), None


def of_sft(model, tokenizer, folder: str) -> dict:
    lengths = (37, 30, 21, 50)
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(10, 250, (length,), generator=generator).tolist() for length in lengths]
    end, (choice, *_, asked) = tokenizer.eos_token_id, adapters.control_ids(tokenizer)
    rows = [[*row[:2], end, row[3], asked, row[5], choice, *row[7:-1], end] for row in rows]
    pairs = [(row, [tokens.IGNORED] * 6 + row[6:]) for row in rows]
    config = Sft(batch_size=4, accumulation=2, max_tokens=64)
    trainer = sft.make_trainer(model, tokenizer, pairs, list(range(4)), config, 0, folder)
    batch = next(iter(trainer.get_train_dataloader()))
    num = sum(length - 6 for length in lengths)
    model.train()
    if WAY == "unsloth":
        trainer.current_gradient_accumulation_steps = 2
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(num))
    else:  # row by row, without padding
        total = torch.zeros(())
        for ids, labels in pairs:
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
            total = total + torch.nn.functional.cross_entropy(
                logits, torch.tensor(labels[1:]), reduction="sum"
            )
        loss = total / num
    args = {
        name: str(getattr(trainer.args, name)) for name in ("optim", "max_length", "padding_free", "packing")
    }
    classes = [cls.__name__ for cls in type(trainer).__mro__]
    return gradients(loss, model) | {"classes": classes, "width": batch["input_ids"].shape[1], "asked": args}


def main() -> None:
    found = {}
    for tied, pad_is_eos in product((True, False), repeat=2):
        with tempfile.TemporaryDirectory() as folder:
            model_folder = tiny_model.write(Path(folder) / "model", tied=tied)
            for stage in (of_chrpo, of_sft):
                model, tokenizer = load(model_folder, tied, pad_is_eos)
                found[f"{stage.__name__} tied={tied} pad_is_eos={pad_is_eos}"] = stage(
                    model, tokenizer, folder
                )
    torch.save(found, OUT)


if __name__ == "__main__":
    main()
