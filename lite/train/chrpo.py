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
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from lite import grading, tokens
from lite.config import Chrpo
from lite.errors import LiteError
from lite.models import adapters, generate, unsloth
from lite.run import Run
from lite.runtime import distributed
from lite.runtime.files import Journal, read_records, write_records
from lite.runtime.progress import console
from lite.schema import TeacherRatio
from lite.train import checkpoints, rewards

FULL = tokens.RATIOS[-1]
DRIFT_STEPS = 20  # newest steps with a prompt of 1.0; they say how long its replies are
COLLAPSE_STEPS = 10  # newest steps that the detector of a collapsed choice looks at
COLLAPSED, SPREAD = (
    0.95,
    0.8,
)  # of the choices on one ratio; and of the problems, where more have one r* it is none


@dataclass(frozen=True, slots=True)
class StepRewards:
    """Means over the rollouts of one step; `chosen` counts POLICY's ratios, "none" where no ratio token led.

    `chosen_by_teacher` counts them by r*, and `entropy` (nats) is that of `chosen`: 0 where all choose alike.
    `realised_by_mode` are the mean realised ratios of the prompts of fixed ratios: over the model's current length at
    1.0, and at 1.0 over the probe's.
    """

    step: int
    acc: float
    mode: float
    cal: float
    empty: float
    main: float
    ctrl: float
    accuracy: float
    think_tokens: float
    realised: float
    entropy: float = 0.0
    chosen: dict[str, int] = field(default_factory=dict)
    chosen_by_teacher: dict[str, dict[str, int]] = field(default_factory=dict)
    realised_by_mode: dict[str, float] = field(default_factory=dict)


def judge(
    text: str, teacher: TeacherRatio, tokenizer, mode: str = tokens.POLICY, drift: float = 1.0
) -> tuple[rewards.Rollout, int]:
    """Grade a reply decoded with special tokens shown; returns (rollout, think tokens).

    `drift`: how long the model's replies at ratio 1.0 are by now, over those of the probe. Those at 1.0 itself stay by
    the probe's: by their own they could shrink unseen.

    A think block that is closed and never opened counts as none: whoever streams the reply takes it for an answer.
    """
    reply = tokens.parse_reply(text)
    num_tokens = generate.count_tokens(tokenizer, reply.think) if reply.opened else 0
    asked = None if mode == tokens.POLICY else float(mode)
    target = reply.ratio if asked is None else asked
    whole = teacher.full_tokens if target == FULL else drift * teacher.full_tokens
    rollout = rewards.Rollout(
        correct=grading.is_correct(reply.visible, teacher.answer),
        chosen=reply.ratio,
        teacher=teacher.ratio,
        realised=num_tokens / whole,
        has_think=num_tokens > 0,
        asked=asked,
    )
    return rollout, num_tokens


def summarise(
    step: int, rollouts: Sequence[rewards.Rollout], terms: Sequence[rewards.Rewards], lengths: Sequence[int]
) -> StepRewards:
    """One line of rewards.jsonl."""
    fixed = defaultdict(list)
    by_teacher: dict[str, Counter[str]] = defaultdict(Counter)
    for rollout in rollouts:
        if rollout.asked is not None:
            fixed[rollout.asked].append(rollout.realised)
        elif not rollout.explored:
            by_teacher[str(rollout.teacher)]["none" if rollout.chosen is None else str(rollout.chosen)] += 1
    chosen = sum(by_teacher.values(), Counter())
    means = {
        name: round(fmean(getattr(term, name) for term in terms), 4) for name in rewards.Rewards.__slots__
    }
    return StepRewards(
        step=step,
        **means,
        accuracy=round(fmean(rollout.correct for rollout in rollouts), 4),
        think_tokens=round(fmean(lengths), 2),
        realised=round(fmean(rollout.realised for rollout in rollouts), 4),
        entropy=round(entropy(chosen.values()), 4),
        chosen=dict(sorted(chosen.items())),
        chosen_by_teacher={
            teacher: dict(sorted(counts.items())) for teacher, counts in sorted(by_teacher.items())
        },
        realised_by_mode={str(asked): round(fmean(found), 3) for asked, found in sorted(fixed.items())},
    )


def entropy(counts: Iterable[int]) -> float:
    """Entropy of a histogram, in nats."""
    counts = list(counts)
    return -sum(n / sum(counts) * math.log(n / sum(counts)) for n in counts if n)


def collapse(lines: Sequence[StepRewards]) -> str:
    """What to say where POLICY's choice fell to one ratio over these steps although r* is spread; else "".

    It is none where nearly all problems have one r*: there the one ratio is right.
    """
    chosen: Counter[str] = Counter()
    teachers: Counter[str] = Counter()
    for line in lines:
        chosen.update(line.chosen)
        teachers.update({teacher: sum(counts.values()) for teacher, counts in line.chosen_by_teacher.items()})
    if not chosen:
        return ""
    (ratio, top), total = chosen.most_common(1)[0], chosen.total()
    if top < COLLAPSED * total or max(teachers.values()) > SPREAD * total:
        return ""
    spread = ", ".join(f"{teacher}: {count / total:.0%}" for teacher, count in sorted(teachers.items()))
    return (
        f"the choice has collapsed: {ratio} in {top / total:.0%} of the last {len(lines)} steps' POLICY rollouts, while"
        f" r* is spread ({spread}); lower chrpo.w_ctrl or chrpo.learning_rate, or set chrpo.correct_only"
    )


def control_loss(log_probs, advantages):
    """-mean(A log p) over rollouts, both (B,), of the first output token.

    One update per rollout batch: the importance ratio is 1 there, so its clip never acts.
    """
    return -(advantages * log_probs).mean()


def encode_prompts(tokenizer, teachers: list[TeacherRatio], fixed_share: float) -> dict[str, list[int]]:
    """Prompts by `mode/id`: POLICY for every problem, and the fixed ratios in turn for `fixed_share` of all."""
    num_fixed = round(len(teachers) * fixed_share / (1 - fixed_share))
    pairs = [(tokens.POLICY, teacher) for teacher in teachers]
    for turn in range(num_fixed):
        lap, place = divmod(turn, len(teachers))  # a problem has another ratio in each lap
        pairs.append((str(tokens.RATIOS[(place + lap) % len(tokens.RATIOS)]), teachers[place]))
    return {
        f"{mode}/{teacher.id}": tokens.encode_prompt(tokenizer, teacher.question, mode)
        for mode, teacher in pairs
    }


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


class Environment:
    """Rollouts and their rewards for one trainer: what TRL calls back, and the journal of each step.

    A prompt is known to TRL by its mode and problem id, and is read as exact token ids here.
    """

    def __init__(self, teachers: list[TeacherRatio], tokenizer, config: Chrpo, seed: int, journal: Journal):
        self.teachers = {teacher.id: teacher for teacher in teachers}
        self.prompts = encode_prompts(tokenizer, teachers, config.fixed_share)
        self.tokenizer = tokenizer  # its pad must be its own, see adapters.with_own_pad
        self.config, self.seed, self.journal = config, seed, journal
        self.ctrl: list[float] = []  # R_ctrl of the newest rollouts
        self.drawn: dict[int, int] = {}  # places among the newest rollouts whose ratio was drawn: its token
        self.collapsed_at = 0  # the step from which the choice has been collapsed
        # Realised ratios at 1.0, by the probe's replies.
        self.at_full = deque([1.0] * DRIFT_STEPS, DRIFT_STEPS)
        for line in journal.records:
            self._follow(line)

    def _follow(self, line: StepRewards) -> None:
        """Take note of how long replies at 1.0 were in a step."""
        if str(FULL) in line.realised_by_mode:
            self.at_full.append(line.realised_by_mode[str(FULL)])

    def rollout(self, prompts: list[str], trainer) -> dict[str, Any]:
        """Sample a completion for each prompt; groups are consecutive."""
        config = self.config
        prompt_ids = [self.prompts[id] for id in prompts]
        self.drawn = self.draw(prompts, trainer.state.global_step)
        begun = [ids + [self.drawn[i]] if i in self.drawn else ids for i, ids in enumerate(prompt_ids)]
        with unsloth.for_rollouts(trainer.model) as model:
            replies = generate.generate(
                model,
                self.tokenizer,
                begun,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                seed=self.seed + 1 + trainer.state.global_step + 1_000_003 * distributed.index(),
                batch_size=len(prompts),
            )
        end = [self.tokenizer.eos_token_id]
        completions = [reply + end if len(reply) < config.max_tokens else reply for reply in replies]
        for i, id in self.drawn.items():
            completions[i] = [id, *completions[i]][: config.max_tokens]
        return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": None}

    def draw(self, prompts: Sequence[str], step: int) -> dict[int, int]:
        """Ratio tokens for `explore` of each POLICY group, by their places: a choice that all make alike has no rival."""
        rng = random.Random(f"explore/{self.seed}/{step}/{distributed.index()}")
        ids = self.tokenizer.convert_tokens_to_ids(list(tokens.RATIO_TOKENS))
        num = round(self.config.explore * self.config.group)
        return {
            i: rng.choice(ids)
            for i, prompt in enumerate(prompts)
            if i % self.config.group < num and prompt.startswith(f"{tokens.POLICY}/")
        }

    def main(
        self, prompts: list[str], completion_ids: list[list[int]], trainer_state, **_kwargs
    ) -> list[float]:
        """TRL's reward function: R_main of each completion. Keeps R_ctrl and writes the step's line."""
        end = self.tokenizer.eos_token_id
        replies = [ids[:-1] if ids[-1] == end else ids for ids in completion_ids]
        texts = self.tokenizer.batch_decode(replies, skip_special_tokens=False)
        drift = max(0.5, fmean(self.at_full))  # below a half the replies are broken, not shorter
        judged = []
        for place, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            mode, _, id = prompt.partition("/")
            rollout, length = judge(text, self.teachers[id], self.tokenizer, mode, drift)
            judged.append((replace(rollout, explored=place in self.drawn), length))
        terms = [rewards.score(rollout, self.config) for rollout, _ in judged]
        self.ctrl = [term.ctrl for term in terms]
        everyone = distributed.gather(list(zip(judged, terms, strict=True)))
        rollouts, lengths = zip(*(pair for pair, _ in everyone), strict=True)
        step = trainer_state.global_step + 1
        line = summarise(step, rollouts, [term for _, term in everyone], lengths)
        self._follow(line)
        if distributed.is_main():
            self.journal.append([line])
            warning = collapse(self.journal.records[-COLLAPSE_STEPS:]) if step >= COLLAPSE_STEPS else ""
            if warning and not self.collapsed_at:
                console.print(f"  chrpo, step {step}: {warning}")
            self.collapsed_at = (self.collapsed_at or step) if warning else 0
        return [term.main for term in terms]


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
