"""CHRPO's rewards: one pure function per term of the table, and their sum.

Takes a graded rollout and the recipe's coefficients, gives every term. Source: Extra-CoT (arXiv 2602.08324),
section on CHRPO; the coefficients it does not publish are set in lite/config/sections.py. Departure: a rollout that
chose no ratio gets the worst R_ctrl that the table can give, and neither R_mode nor R_cal. Rollouts of fixed modes
get R_acc, R_cal around the ratio that was asked, and R_ctrl for repeating it. `correct_only` leaves the terms of length
and ratio to correct rollouts: charges on wrong ones inside a group's normalisation can collapse in long runs
(ACOER, arXiv 2606.22716). `length_penalty` is the plain penalty that the method is compared with.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from lite.config import Chrpo
from lite.tokens import RATIOS, ratio_index

WIDEST = len(RATIOS) - 1  # grid steps between the ends


@dataclass(frozen=True, slots=True)
class Rollout:
    """What the rewards look at. Ratios in (0, 1], `realised` may be above 1; `chosen` is None where no ratio token leads
    the reply."""

    correct: bool
    chosen: float | None
    teacher: float  # r*
    realised: float  # think tokens / think tokens at ratio 1.0
    has_think: bool
    asked: float | None = None  # the ratio of a fixed-mode prompt; None in POLICY mode
    explored: bool = False  # the ratio was drawn for it, not chosen by the model


@dataclass(frozen=True, slots=True)
class Rewards:
    """Every term of one rollout; `main` is for all tokens, `ctrl` for the first output token only."""

    acc: float
    mode: float
    cal: float
    empty: float
    main: float
    ctrl: float


def gap(chosen: float, teacher: float) -> int:
    """g: grid steps from r* to the chosen ratio, -4..4."""
    return ratio_index(chosen) - ratio_index(teacher)


def acc_reward(correct: bool) -> float:
    return 1.0 if correct else -1.0


def mode_reward(rollout: Rollout, config: Chrpo) -> float:
    """R_mode: a bonus for less than r* when correct, a cost for missing r* otherwise."""
    if rollout.chosen is None or rollout.asked is not None:
        return 0.0
    g = gap(rollout.chosen, rollout.teacher)
    if rollout.correct:
        return config.l_short * min(config.kappa, -g) if g < 0 else -config.l_over * g
    return -config.l_err_under * -g if g < 0 else -config.l_err_over * g


def ctrl_reward(rollout: Rollout, config: Chrpo) -> float:
    """R_ctrl, for the choice itself; in a fixed mode, for repeating what was asked."""
    if rollout.asked is not None and rollout.chosen == rollout.asked:
        return config.r0
    if rollout.chosen is None or rollout.asked is not None:
        return -max(WIDEST * max(config.h_over, config.h_err_under, config.h_err_over), config.h_0)
    g = gap(rollout.chosen, rollout.teacher)
    if rollout.correct:
        return config.r0 + config.h_short * min(config.kappa, -g) if g <= 0 else -config.h_over * g
    if g == 0:
        return -config.h_0
    return -config.h_err_under * -g if g < 0 else -config.h_err_over * g


def cal_reward(rollout: Rollout, config: Chrpo) -> float:
    """R_cal: a tent of half width eps around the asked or chosen ratio, 1 at its top, down to -1 far outside."""
    target = rollout.chosen if rollout.asked is None else rollout.asked
    if target is None or not rollout.has_think:
        return 0.0
    delta = abs(rollout.realised - target)
    if delta <= config.eps:
        return 1.0 - delta / config.eps
    return -min(1.0, (delta - config.eps) / (1.0 - config.eps))


def empty_reward(has_think: bool, config: Chrpo) -> float:
    return 0.0 if has_think else -config.l_0


def score(rollout: Rollout, config: Chrpo) -> Rewards:
    """All terms, those switched off as 0; R_main clipped to [-1, 1]."""
    acc = acc_reward(rollout.correct)
    mode = mode_reward(rollout, config) if config.use_mode else 0.0
    cal = cal_reward(rollout, config) if config.use_cal else 0.0
    empty = empty_reward(rollout.has_think, config) if config.use_empty else 0.0
    ctrl = ctrl_reward(rollout, config) if config.use_ctrl else 0.0
    if config.correct_only and not rollout.correct:
        mode = cal = 0.0
        ctrl = -config.h_0 if config.use_ctrl and rollout.asked is None else ctrl  # one charge at every ratio
    main = config.w_acc * acc + config.w_cal * cal + mode + empty
    main = max(-1.0, min(1.0, main - config.length_penalty * min(1.0, rollout.realised) * rollout.correct))
    return Rewards(acc, mode, cal, empty, main, ctrl)


def normalise(values: list[float], group: int) -> list[float]:
    """Advantages (value - mean) / (std + 1e-4) within consecutive groups, as GRPO makes them."""
    advantages = []
    for start in range(0, len(values), group):
        part = values[start : start + group]
        mean, deviation = statistics.fmean(part), statistics.stdev(part)
        advantages += [(value - mean) / (deviation + 1e-4) for value in part]
    return advantages
