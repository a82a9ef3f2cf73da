"""The reward table, row by row, against hand-computed values."""

from __future__ import annotations

import math

import pytest

from lite.config import Chrpo
from lite.train import rewards
from lite.train.rewards import Rollout

CONFIG = Chrpo(
    w_acc=0.5, w_cal=0.2, eps=0.1, kappa=2, l_short=0.15, l_over=0.07, l_err_under=0.2, l_err_over=0.03, l_0=0.8,
    r0=0.9, h_short=0.4, h_over=0.3, h_err_under=0.6, h_0=0.5, h_err_over=0.1,
)  # fmt: skip


def rollout(correct=True, chosen=0.6, teacher=0.6, realised=0.6, has_think=True):
    return Rollout(correct, chosen, teacher, realised, has_think)


@pytest.mark.parametrize(
    "correct, chosen, teacher, mode, ctrl",
    [
        (True, 0.4, 0.6, 0.15, 1.3),  # g = -1: 1 * 0.15, 0.9 + 1 * 0.4
        (True, 0.2, 1.0, 0.30, 1.7),  # g = -4: kappa caps at 2
        (True, 0.6, 0.6, 0.0, 0.9),
        (True, 1.0, 0.6, -0.14, -0.6),  # g = 2
        (False, 0.2, 0.8, -0.6, -1.8),  # g = -3: no cap on costs
        (False, 0.6, 0.6, 0.0, -0.5),
        (False, 1.0, 0.2, -0.12, -0.4),  # g = 4
        (True, None, 0.6, 0.0, -2.4),  # no ratio token: the worst of the table, 4 * 0.6
        (False, None, 0.6, 0.0, -2.4),
    ],
)
def test_mode_and_ctrl(correct, chosen, teacher, mode, ctrl):
    one = rollout(correct, chosen, teacher)
    assert rewards.mode_reward(one, CONFIG) == pytest.approx(mode)
    assert rewards.ctrl_reward(one, CONFIG) == pytest.approx(ctrl)


@pytest.mark.parametrize(
    "realised, cal",
    [
        (0.6, 1.0),
        (0.65, 0.5),
        (0.55, 0.5),
        (0.7, 0.0),
        (0.79, -0.1),  # (0.19 - 0.1) / 0.9
        (0.05, -0.5),  # (0.55 - 0.1) / 0.9
        (3.0, -1.0),
    ],
)
def test_cal(realised, cal):
    assert rewards.cal_reward(rollout(realised=realised), CONFIG) == pytest.approx(cal)


def test_cal_needs_a_think_block_and_a_choice():
    assert rewards.cal_reward(rollout(has_think=False), CONFIG) == 0
    assert rewards.cal_reward(rollout(chosen=None), CONFIG) == 0
    assert rewards.empty_reward(False, CONFIG) == -0.8
    assert rewards.empty_reward(True, CONFIG) == 0


@pytest.mark.parametrize(
    "one, main",
    [
        (rollout(chosen=0.4, realised=0.4), 0.85),  # 0.5 + 0.2 + 0.15
        (rollout(chosen=0.2, teacher=1.0, realised=0.2), 1.0),  # 0.5 + 0.2 + 0.3
        (rollout(chosen=1.0, realised=0.95), 0.46),  # 0.5 + 0.2 * 0.5 - 0.14
        (rollout(False, chosen=0.2, teacher=1.0, realised=3.0), -1.0),  # -0.5 - 0.2 - 0.8 = -1.5, clipped
        (rollout(True, realised=0.0, has_think=False), -0.3),  # 0.5 + 0 + 0 - 0.8
    ],
)
def test_main(one, main):
    assert rewards.score(one, CONFIG).main == pytest.approx(main)


@pytest.mark.parametrize(
    "switch, one, main, ctrl",
    [
        ("use_mode", rollout(chosen=1.0, realised=1.0), 0.7, -0.6),
        ("use_cal", rollout(chosen=1.0, realised=1.0), 0.36, -0.6),
        ("use_ctrl", rollout(chosen=1.0, realised=1.0), 0.56, 0.0),
        ("use_empty", rollout(chosen=0.6, realised=0.0, has_think=False), 0.5, 0.9),
    ],
)
def test_switches(switch, one, main, ctrl):
    import dataclasses

    terms = rewards.score(one, dataclasses.replace(CONFIG, **{switch: False}))
    assert (terms.main, terms.ctrl) == (pytest.approx(main), pytest.approx(ctrl))


@pytest.mark.parametrize(
    "change, one, main, ctrl",
    [
        (
            "correct_only",
            rollout(False, chosen=0.2, teacher=1.0, realised=3.0),
            -0.5,
            -0.5,
        ),  # h_0 at every ratio
        ("correct_only", rollout(chosen=1.0, realised=1.0), 0.56, -0.6),  # correct: as ever
        ("length_penalty", rollout(realised=0.6), 0.4, 0.9),  # 0.5 + 0.2 - 0.5 * 0.6
        (
            "length_penalty",
            rollout(False, realised=0.6),
            -0.3,
            -0.5,
        ),  # a wrong one pays nothing for its length
    ],
)
def test_rivals(change, one, main, ctrl):
    import dataclasses

    value = True if change == "correct_only" else 0.5
    terms = rewards.score(one, dataclasses.replace(CONFIG, **{change: value}))
    assert (terms.main, terms.ctrl) == (pytest.approx(main), pytest.approx(ctrl))


def test_normalise_is_by_group():
    # (1, 3): mean 2, std sqrt(2); (5, 5): no spread, no advantage
    assert rewards.normalise([1.0, 3.0, 5.0, 5.0], 2) == pytest.approx(
        [-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4), 0, 0]
    )


@pytest.mark.parametrize(
    "chosen, realised, cal, ctrl",
    [
        (0.4, 0.4, 1.0, 0.9),  # r0 for repeating what was asked
        (0.4, 0.45, 0.5, 0.9),
        (0.2, 0.2, -1 / 9, -2.4),  # calibrated on what was asked, not on what was written: (0.2 - 0.1) / 0.9
        (None, 0.4, 1.0, -2.4),
    ],
)
def test_fixed_modes(chosen, realised, cal, ctrl):
    one = Rollout(True, chosen, 0.8, realised, True, asked=0.4)
    assert rewards.mode_reward(one, CONFIG) == 0
    assert rewards.cal_reward(one, CONFIG) == pytest.approx(cal)
    assert rewards.ctrl_reward(one, CONFIG) == pytest.approx(ctrl)
