"""CHRPO's rollouts: their prompts, how they are sampled and graded, and the line of rewards.jsonl of each step."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from lite import grading, tokens
from lite.config import Chrpo
from lite.models import generate, unsloth
from lite.runtime import distributed
from lite.runtime.files import Journal
from lite.runtime.progress import console
from lite.schema import TeacherRatio
from lite.train import rewards

FULL = tokens.RATIOS[-1]
DRIFT_STEPS = 20  # newest steps with a prompt of 1.0; they say how long its replies are
COLLAPSE_STEPS = 10  # newest steps that the detector of a collapsed choice looks at
COLLAPSED = 0.95  # of the choices on one ratio
SPREAD = 0.8  # of the problems: where more have one r*, nothing has collapsed


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

    Where nearly all problems have one r* that ratio is right, and nothing is said.
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
