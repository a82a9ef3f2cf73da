"""The fidelity report: measures by hand on a random reasoner, and a compressor that must be told from its control."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lite.compress.classifier import CompressorModel
from lite.errors import LiteError
from lite.eval import fidelity
from lite.eval.equations import Equation, equations, num_cut
from lite.eval.fidelity import Judge, Judged, measure
from lite.schema import Problem
from lite.train.encoders import tiny_encoder

COT = "She sold 48/2 = 24 clips in May. Altogether 48 + 24 = 72 clips."


def test_equations():
    assert equations(COT) == [Equation(2, "24", 2), Equation(7, "72", 2)]
    assert [
        e.result for e in equations("He pays 12/60 = $0.20. So 3 > 2 and x = y, then 5 * 2 = 10 = 10.0!")
    ] == ["0.20", "10.0"]
    assert equations("No sums, 5 words.") == []


@pytest.mark.parametrize(
    "short, cut",
    [
        (COT, 0),
        ("She sold 48/2 = 24", 0),
        ("48/2 = 24 48 + 24 = 72", 0),
        ("She sold 48/2 =", 1),
        ("sold 4 clips", 1),
        ("8/2 = 24 clips 7", 2),
        ("", 0),
    ],
)
def test_cut_units_are_found_in_the_text(short, cut):
    assert num_cut(COT, short) == cut


def test_the_measures_by_hand(reasoner, tokenizer):
    import torch

    def alone(context, target):
        ids = tokenizer.encode(context + target, add_special_tokens=False)
        own = len(ids) - len(tokenizer.encode(context, add_special_tokens=False))
        with torch.inference_mode():
            log_p = reasoner(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(log_p[at - 1, ids[at]].item() for at in range(len(ids) - own, len(ids)))

    problem = Problem("p", "How many?", "72", COT)
    [[all_, none, some]] = Judge(reasoner, tokenizer).judge([problem], [[list(range(9)), [], [2, 7, 8]]])
    assert none.answer == pytest.approx(alone("How many?\n\nThe answer is ", "72"), abs=1e-3)
    assert some.answer == pytest.approx(
        alone("How many?\n48/2 = 24 48 + 24 = 72 clips.\nThe answer is ", "72"), abs=1e-3
    )
    steps = alone("How many?\n = ", "24"), alone("How many?\n48/2 = 24 = ", "72")
    assert some.step == pytest.approx(np.mean(steps), abs=1e-3)
    results = alone("How many?\n48/2 = ", "24"), alone("How many?\n48/2 = 24 48 + 24 = ", "72")
    assert some.result == pytest.approx(np.mean(results), abs=1e-3)
    assert none.result == pytest.approx(none.step, abs=1e-3)
    assert (all_.whole_equations, none.whole_equations, some.whole_equations) == (1, 0, 1)
    assert (all_.realised, none.realised, some.cut) == (1, 0, 0)


class Keeps:
    """A compressor that knows what it wants: the second equation."""

    def score(self, questions, cots):
        return [np.eye(9)[7] for _ in cots]


def test_measure(reasoner, tokenizer, monkeypatch):
    problems = [Problem(f"p{n}", "How many?", "72", COT) for n in range(5)] + [Problem("bare", "q", "1")]
    judge = Judge(reasoner, tokenizer)
    made = measure(Keeps(), judge, problems, (0.3, 0.6), cohesion=0.0)
    assert made["num_problems"] == 5
    rows = {(row["method"], row["asked"]): row for row in made["rows"]}
    assert len(rows) == 2 + 4 * 2 and all(row["cut"] == 0 for row in rows.values())
    assert rows["trained", 0.3]["whole_equations"] == 0.5
    assert rows["whole", 1.0]["realised"] == 1.0 and rows["nothing", 0.0]["realised"] == 0.0
    assert all(row["miss"] < 0.15 for row in rows.values())
    assert len(made["differences"]) == 2 * 3
    for row in made["differences"]:
        mine, other = rows["trained", row["asked"]], rows[row["against"], row["asked"]]
        assert row["answer"]["mean"] == pytest.approx(
            mine["answer"]["mean"] - other["answer"]["mean"], abs=1e-9
        )
    with pytest.raises(LiteError, match="no problem has a worked solution"):
        measure(Keeps(), judge, problems[5:], (0.3,))


def test_rows_leave_out_what_has_no_equation():
    row = fidelity._row("x", 0.5, [Judged(-1, -2, -2, 1.0, 0, 0.5), Judged(-3, *[float("nan")] * 3, 1, 0.4)])
    assert row["answer"]["mean"] == -2 and row["step"]["mean"] == -2 and row["whole_equations"] == 1
    assert (row["realised"], row["cut"]) == (pytest.approx(0.45), 1) and row["miss"] == pytest.approx(0.05)


def test_the_verb(lite, reasoner, tokenizer, tmp_path):
    reasoner.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    CompressorModel(tiny_encoder(tokenizer, 256), tokenizer, 256).save(tmp_path / "compressor" / "model")
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"question": "How many?", "answer": "72", "cot": COT}) + "\n"
    )
    arguments = ("--model", "model", "--compressor", ".", "--problems", "p.jsonl", "--out", "report")
    code, out, _ = lite("fidelity", *arguments, "--ratio", "0.4")
    assert code == 0 and out == (tmp_path / "report/fidelity.md").read_text() + "\n"
    assert "| trained | 0.4 |" in out and "| rules | 0.4 | " in out
    made = json.loads((tmp_path / "report/fidelity.json").read_text())
    assert [row["method"] for row in made["rows"]] == [
        "nothing",
        "trained",
        "random",
        "self-information",
        "rules",
        "whole",
    ]
    code, _, err = lite("fidelity", *arguments[:2], *arguments[2:], "--ratio", "200")
    assert code == 2 and "ratio 200: must lie in (0, 1]" in err
