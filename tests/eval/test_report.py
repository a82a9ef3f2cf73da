"""The report's numbers, computed by hand."""

from __future__ import annotations

import itertools
import json

import pytest
from matplotlib.text import Text

from lite.eval import report
from lite.eval.evaluate import Graded
from lite.eval.plot import plot


def graded(id, think, *, correct=True, ratio=None, unclosed=False, stop="eos", finished=1.0):
    return Graded(id, ratio, correct, think, think + 10, unclosed, stop, finished, "")


FULL = [graded("a", 100), graded("b", 50), graded("c", 0), graded("d", 200, unclosed=True, correct=False)]
POLICY = [
    graded("a", 20, ratio=0.2, finished=0.5),
    graded("b", 20, ratio=0.4, finished=3.0),
    graded("c", 5, ratio=0.2, correct=False, finished=1.0),
    graded("d", 120, ratio=None, correct=False, unclosed=True, stop="length", finished=2.0),
]
SFT = [graded("a", 50, ratio=0.6), graded("b", 30), graded("c", 5, correct=False), graded("d", 100)]


def test_wilson_by_hand():
    # 8 of 10: centre (0.8 + 1.9207/10) / 1.38415 = 0.71674, half width 0.22657
    assert report.wilson(8, 10) == pytest.approx([0.49016, 0.94331], abs=1e-4)
    # 10 of 10: [1 / (1 + z²/10), 1]
    assert report.wilson(10, 10) == pytest.approx([10 / (10 + 1.959964**2), 1.0])
    assert report.wilson(0, 10) == pytest.approx([0.0, 1.959964**2 / (10 + 1.959964**2)], abs=1e-6)


def test_bootstrap_mean():
    assert report.bootstrap_mean([4.0] * 9) == [4.0, 4.0]
    values = [0.0, 1.0] * 200
    low, high = report.bootstrap_mean(values)
    # The mean's standard error is 0.5 / sqrt(400) = 0.025.
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006) and high == pytest.approx(
        0.5 + 1.96 * 0.025, abs=0.006
    )
    assert report.bootstrap_mean(values) == [low, high]


def test_row_by_hand():
    row = report.row("policy", POLICY, {reply.id: reply.think_tokens for reply in FULL})
    assert row["mode"] == "policy" and row["num_problems"] == 4
    assert row["accuracy"] == 0.5 and row["accuracy_ci95"] == report.wilson(2, 4)
    assert row["think_tokens"] == (20 + 20 + 5 + 120) / 4
    assert row["total_tokens"] == (30 + 30 + 15 + 130) / 4
    # c has no think tokens under 1.0, so no ratio: (0.2 + 0.4 + 0.6) / 3 and 160 / 350
    assert row["act_ratio"] == pytest.approx(0.4)
    assert row["ratio_of_means"] == pytest.approx(160 / 350)
    assert row["ratio_problems"] == 3
    assert row["seconds_per_problem"] == 3.0 / 4
    assert row["unclosed_think"] == 1 and row["cut"] == 1
    assert row["chosen_ratios"] == {"0.2": 2, "0.4": 1, "0.6": 0, "0.8": 0, "1.0": 0, "none": 1}


def test_only_policy_modes_have_a_histogram_and_no_full_means_no_ratio():
    row = report.row("0.2", POLICY, {})
    assert "chosen_ratios" not in row and row["act_ratio"] is None and row["ratio_of_means"] is None
    assert "chosen_ratios" in report.row("sft-policy", SFT, {})


def sampled(id, answers, gold, tokens):
    return [
        Graded(
            id, 0.2, answer == gold, tokens, 2 * tokens, False, "eos", 1.0, "", 3, sample == 0, answer, sample
        )
        for sample, answer in enumerate(answers)
    ]


def test_samples_and_their_vote_by_hand(tmp_path):
    """Two of three right, none right, and a tie that goes to the first; equal answers are one: 7 is 7.0."""
    short = sampled("a", ["7", "8", "7.0"], "7", 10) + sampled("b", ["1", None, "2"], "3", 20)
    long = sampled("a", ["8", "8", "7"], "7", 45) + sampled("b", ["3", "3", "1"], "3", 60)
    made = whole_report({"lean:-1": short, "1.0": long}, None)
    row, other = made["rows"]
    assert (row["num_problems"], row["think_tokens"], row["total_tokens"]) == (2, 15, 30)
    assert (row["visible_tokens"], row["markers"], row["longest_reply"]) == (3, 2, 40)
    assert row["accuracy"] == pytest.approx(1 / 6) and row["accuracy_by_seed"] == [0.5, 0, 0]
    assert [vote["accuracy"] for vote in row["vote"]] == [0.5, 0.5, 0.5] and row["chosen_ratios"]["0.2"] == 6
    assert [vote["total_tokens"] for vote in row["vote"]] == [30, 60, 90]
    report.write(made, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert (
        "Majority vote within 105 tokens a problem: lean:-1 50.0% (3 replies, 90 tokens), 1.0 50.0% (1"
        in text
    )
    assert "lean:-1: over 3 seeds accuracy lies in 0.0% to 50.0%." in text


def test_compare_by_hand_joins_by_id():
    found = report.compare(POLICY, SFT[::-1])
    # Differences: -30, -10, 0, +20 of 185; correct: d was lost.
    assert found["think_tokens"] == -5.0 and found["think_tokens_percent"] == pytest.approx(100 * -20 / 185)
    assert found["accuracy"] == -0.25
    assert -30 <= found["think_tokens_ci95"][0] < -5 < found["think_tokens_ci95"][1] <= 20
    assert found["accuracy_ci95"][1] == 0.0


def whole_report(replies, full):
    return {
        "model": "tiny.gguf",
        "sha256": "0" * 64,
        "seed": 0,
        "settings": {"max_tokens": 30, "temperature": 0.0, "top_p": 1.0, "batch_size": 4},
        "versions": {},
        "command": "lite eval tiny.gguf",
        **report.build(replies, full),
    }


def test_files(tmp_path):
    replies = {"base": FULL, "1.0": FULL, "sft-policy": SFT, "policy": POLICY}
    made = whole_report(replies, FULL)
    report.write(made, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == made
    assert [row["mode"] for row in made["rows"]] == ["base", "1.0", "sft-policy", "policy"]
    assert (tmp_path / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = (tmp_path / "report.md").read_text()
    assert "| policy | 50.0% (15.0% to 85.0%) | 41.2 (" in text and "| 0.40 | 0.750 | 1 |" in text
    # base thinks 350 / 4 tokens, policy 165 / 4: 53 % fewer; accuracy 50 against 75 %
    assert "policy thinks in 53% fewer tokens than base, accuracy -25.0 points." in text
    assert "policy against sft-policy, problem by problem: -5.0 think tokens" in text
    assert "policy chose 0.2: 2, 0.4: 1, none: 1." in text
    assert "policy: 1 replies were cut" in text
    assert "1 of 4 problems have no think tokens under 1.0 and do not enter the realised ratios." in text
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "a, b, rank",
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        (
            [1, 2, 2, 3],
            [1, 2, 3, 4],
            3 / 10**0.5,
        ),  # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
        ([1, 1], [1, 2], None),
    ],
)
def test_spearman_by_hand(a, b, rank):
    assert report.spearman(a, b) == (None if rank is None else pytest.approx(rank))


def test_choices_by_difficulty():
    fixed = {
        "0.2": [graded("a", 1), graded("b", 1, correct=False), graded("c", 1)],
        "0.4": [graded("a", 1), graded("b", 1), graded("c", 1, correct=False)],
        **{ratio: [graded(id, 1) for id in "abc"] for ratio in ("0.6", "0.8", "1.0")},
    }
    # c is right at 0.2 and wrong at 0.4, so its smallest ratio from which all are right is 0.6.
    assert report.smallest_right(fixed) == {"a": 0.2, "b": 0.4, "c": 0.6}
    policy = [graded(id, 1, ratio=ratio) for id, ratio in zip("abc", (0.2, 0.2, 0.8), strict=True)]
    made = report.build({**fixed, "policy": policy}, None, needed={"a": 0.15, "b": 0.35, "c": 0.95})
    assert made["choices"]["r*"]["chosen"]["0.4"] == {"0.2": 1, "0.4": 0, "0.6": 0, "0.8": 0, "1.0": 0}
    assert made["choices"]["needed share"]["chosen"]["1.0"]["0.8"] == 1
    assert made["choices"]["r*"]["spearman"] == pytest.approx(3**0.5 / 2)


def test_no_comparison_without_both():
    assert "policy_vs_sft" not in report.build({"policy": POLICY}, None)


def test_each_data_set_has_its_table(tmp_path):
    replies = {"1.0": FULL, "policy": POLICY}
    made = whole_report(replies, FULL) | report.build(replies, FULL, {"a": "x", "b": "x", "c": "y", "d": "y"})
    assert list(made["data_sets"]) == ["x", "y"]
    policy = made["data_sets"]["x"][1]
    assert (policy["mode"], policy["num_problems"], policy["accuracy"]) == ("policy", 2, 1.0)
    assert policy["act_ratio"] == pytest.approx((0.2 + 0.4) / 2)
    report.write(made, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.count("| mode |") == 3 and "## y, 2 problems\n\n| mode |" in text
    assert "data_sets" not in report.build(replies, FULL, dict.fromkeys("abcd", ""))


def test_labels_do_not_overlap(tmp_path, monkeypatch):
    """Five modes on nearly the same point: every label stands clear of the others."""
    from lite.eval import plot as module

    seen = {}
    place = module._label

    def spy(axes, points, renderer):
        place(axes, points, renderer)
        for text in axes.texts:
            text.update_positions(renderer)
            seen[text.get_text()] = Text.get_window_extent(text, renderer)  # without the line to its point

    monkeypatch.setattr(module, "_label", spy)
    rows = [
        {
            "mode": mode,
            "accuracy": 0.95 + 0.001 * place,
            "accuracy_ci95": [0.93, 0.97],
            "think_tokens": 40 + place,
            "total_tokens": 54 + place,
            "num_problems": 500,
        }
        for place, mode in enumerate(("base", "0.2", "0.4", "sft-policy", "policy"))
    ]
    with open(tmp_path / "a.png", "wb") as handle:
        plot(rows, "tiny.gguf", handle)
    assert len(seen) == 5
    assert not [pair for pair in itertools.combinations(seen, 2) if seen[pair[0]].overlaps(seen[pair[1]])]
