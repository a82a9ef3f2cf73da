"""Stage "chrpo": the model learns which ratio a problem needs, and to keep to it.

Takes sft/adapter and probe/ratios.jsonl, gives chrpo/adapter and chrpo/rewards.jsonl (every reward term, step by
step). Through TRL's GRPOTrainer on POLICY prompts: R_main is its reward, credited to all tokens; R_ctrl is
normalised over the group by itself and credited to the first output token only, as a loss term of its own on the
last prompt position (one short forward over the prompt; a per-token advantage would not line up in Unsloth's
CUDA loss). No KL, no entropy bonus. Source: Extra-CoT (arXiv 2602.08324), section on CHRPO. Departures: LoRA,
r* from success rates; the prompts of fixed ratios: trained on POLICY alone, the tiny model thought alike at every
ratio; R_cal divides by the model's current length at 1.0, not by the probe's; R_main's advantages divided by the spread
of the batch, not of the group (docs/log.md); `chrpo.explore`, drawn ratios in each group: where all rollouts of a problem
choose alike, R_ctrl has nothing to compare, and a choice that fell to one ratio would stay there.
"""

from __future__ import annotations

import math
import os
from statistics import fmean
from typing import Any

from lite.errors import LiteError
from lite.models import adapters, unsloth
from lite.run import Run
from lite.runtime import distributed
from lite.runtime.files import Journal, read_records, write_records
from lite.schema import TeacherRatio
from lite.train import checkpoints, rewards
from lite.train.rollouts import Environment, StepRewards, encode_prompts


def control_loss(log_probs, advantages):
    """-mean(A log p) over rollouts, both (B,), of the first output token.

    One update per rollout batch: the importance ratio is 1 there, so its clip never acts.
    """
    return -(advantages * log_probs).mean()


def prompt_order(num: int, per_step: int, steps: int, seed: int) -> list[int]:
    """Indices of `num` prompts for all steps, one shuffled epoch after the other; what does not fill a step is left out.

    Drawn beforehand, in the order of TRL's sampler: that one starts with its first epoch again after a resume.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < steps * per_step:
        order += torch.randperm(num, generator=generator)[: num - num % per_step].tolist()
    return order[: steps * per_step]


def trainer_class():
    """TRL's GRPOTrainer (Unsloth's, where it replaces it) with the control term."""
    import torch
    from trl import GRPOTrainer

    class ChrpoTrainer(GRPOTrainer):
        environment: Environment

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            advantages = rewards.normalise(self.environment.ctrl, self.environment.config.group)
            for place in self.environment.drawn:  # worse than the model's choice: nothing to unlearn
                advantages[place] = max(0.0, advantages[place])
            # (B,); shuffled and split into forward passes along with the rest
            output["ctrl_advantages"] = torch.tensor(advantages, device=output["completion_ids"].device)
            return output

        def _prepare_inputs(self, generation_batch):
            inputs = super()._prepare_inputs(generation_batch)
            if inputs["completion_ids"].device.type != "cpu" or self._step % self.args.steps_per_generation:
                return inputs
            from lite.train import cpu

            self._buffered_inputs = cpu.by_length(self._buffered_inputs)  # fresh rollouts
            return self._buffered_inputs[0]

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            main = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return main + self.control_term(model, inputs) / self.args.gradient_accumulation_steps

        def control_term(self, model, inputs):
            """The weighted control loss: the gradient reaches the model through its last prompt position only."""
            config, advantages = self.environment.config, inputs["ctrl_advantages"]
            if not advantages.any():  # also where it is switched off
                return torch.zeros((), device=advantages.device)
            width = inputs["prompt_ids"].shape[1]
            both = torch.cat([inputs["prompt_ids"], inputs["prompt_mask"]], 1)
            model = self.accelerator.unwrap_model(
                model
            )  # processes need not agree on whether there is a term
            both, group = torch.unique(both, dim=0, return_inverse=True)  # each prompt once
            logits = unsloth.last_logits(model, both[:, :width], both[:, width:])  # (U, V)
            log_probs = torch.log_softmax(logits.float() / config.temperature, -1)[group]  # (B, V)
            first = inputs["completion_ids"][:, :1]
            return config.w_ctrl * control_loss(log_probs.gather(1, first).squeeze(1), advantages)

    return ChrpoTrainer


def make_trainer(model, environment: Environment, folder: str):
    """The trainer of a stage, on the environment's prompts."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func: token-exact prompts, fast sampling on a CPU
    import torch
    from datasets import Dataset
    from trl import GRPOConfig

    if model.device.type == "cpu":
        from lite.train import cpu

        cpu.speed_up(model)
    config = environment.config
    ids = list(environment.prompts)
    ids *= -(-config.prompts // len(ids))  # enough for a step
    order = prompt_order(len(ids), config.prompts, config.steps, environment.seed)
    rollouts = config.prompts * config.group
    if config.prompts % distributed.num():
        raise LiteError(
            f"chrpo.prompts = {config.prompts}: {distributed.num()} processes cannot share them; make it a multiple"
        )
    rollouts //= distributed.num()  # whole groups in each process
    batch_size = math.gcd(min(config.batch_size, config.prompts * config.group), rollouts)

    def main(**arguments) -> list[float]:
        return environment.main(**arguments)

    trainer = trainer_class()(
        model=model,
        processing_class=environment.tokenizer,
        reward_funcs=[main],
        rollout_func=environment.rollout,
        train_dataset=Dataset.from_dict({"prompt": [ids[place] for place in order]}),
        args=GRPOConfig(
            output_dir=folder,
            max_steps=config.steps,
            shuffle_dataset=False,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=rollouts // batch_size,
            num_generations=config.group,
            max_completion_length=config.max_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=0,
            beta=0.0,  # no KL
            vllm_importance_sampling_correction=False,  # `rollout` gives no log-probabilities
            epsilon=config.clip_low,
            epsilon_high=config.clip_high,
            loss_type="dapo",  # a mean over tokens, so that long replies are not favoured
            scale_rewards="batch",  # by the group, the noise of R_cal among right replies weighs as much as an error
            mask_truncated_completions=False,  # a cut reply is wrong, and is to cost
            learning_rate=config.learning_rate,
            # Said here because Unsloth's defaults on CUDA differ: masking, 8-bit AdamW, a tenth of warmup.
            optim="adamw_torch_fused",
            warmup_steps=config.warmup,  # below 1: a share of all steps
            weight_decay=0.0,
            gradient_checkpointing=torch.cuda.is_available(),
            save_steps=config.save_steps,
            save_total_limit=2,
            logging_steps=1,
            disable_tqdm=True,
            ddp_find_unused_parameters=False,  # all that trains is used in every step
            report_to=config.report_to,
            seed=environment.seed,
        ),
    )
    trainer.environment = environment
    return trainer


def run(ctx: Run) -> dict[str, Any]:
    config = ctx.recipe.chrpo
    if config.vllm and distributed.num() > 1:
        raise LiteError(f"chrpo.vllm = {config.vllm}: for one process only; set it to 0 under a launcher")
    teachers = read_records(ctx.path("probe", "ratios.jsonl"), TeacherRatio)
    prompts = encode_prompts(unsloth.load_tokenizer(ctx.recipe.model), teachers, config.fixed_share)
    model, tokenizer = unsloth.load_trainable(
        ctx.recipe.model,
        max_tokens=config.max_tokens + max(map(len, prompts.values())),
        rank=ctx.recipe.sft.rank,
        alpha=ctx.recipe.sft.alpha,
        four_bit=ctx.recipe.sft.four_bit,
        seed=ctx.recipe.seed,
        adapter=ctx.path("sft", "adapter"),
        vllm=config.vllm,
    )
    work, log = ctx.path("chrpo", "checkpoints"), ctx.path("chrpo", "rewards.jsonl")
    resume = checkpoints.last_whole(work)
    if distributed.is_main():
        with Journal(log, StepRewards) as old:
            kept = [record for record in old.records if record.step <= checkpoints.step_of(resume)]
        write_records(log, kept)  # steps after the checkpoint are made again
    distributed.wait()
    with Journal(log, StepRewards) as journal:
        num_rows = model.get_input_embeddings().weight.shape[0]
        padding = adapters.with_own_pad(tokenizer, num_rows, prompts.values())
        environment = Environment(teachers, padding, config, ctx.recipe.seed, journal)
        trainer = make_trainer(model, environment, str(work))
        checkpoints.fit(trainer, "chrpo", config.steps, resume)
        steps = journal.records
    if not distributed.is_main():
        return {}
    checkpoints.save_adapter(trainer.model, tokenizer, ctx.path("chrpo", "adapter"))
    checkpoints.clean(work)
    early, late = steps[: max(1, len(steps) // 5)], steps[-max(1, len(steps) // 5) :]
    return {
        "problems": len(teachers),
        "steps": trainer.state.global_step,
        **({"collapsed_at": environment.collapsed_at} if environment.collapsed_at else {}),
        **{
            f"{name}_{when}": round(fmean(getattr(step, name) for step in part), 3)
            for name in ("accuracy", "think_tokens", "main", "ctrl", "entropy")
            for when, part in (("first", early), ("last", late))
        },
    }
