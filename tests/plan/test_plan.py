"""`lite plan`: rows with their loss mask, the table, what does not fit, and faults in one line."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest

from lite import pipeline
from lite.cli.recipes import folder
from lite.config import parse
from lite.models import pretrained
from lite.plan import machine, plan
from lite.plan.estimate import Planner
from lite.plan.machine import CARDS
from lite.plan.model_shape import PlainTokenizer, read_shape
from lite.remote import hub
from lite.run import READS, Run
from lite.runtime.files import write_json, write_records
from lite.schema import Problem, Row


def test_a_row_with_its_loss_mask():
    row = Row("a", "0.4", "1+1?", 0.4, "1+1=2", "\\boxed{2}")
    lines = plan.render(PlainTokenizer("quickstart"), row).split("\n")
    learnt = [line[2:] for line in lines if line.startswith("> ")]
    assert learnt == ["<COMP_40>", "<think>", "1+1=2", "</think>", "", "\\boxed{2}<|im_end|>"]
    given = [line[2:] for line in lines if line.startswith("| ")]
    assert given[-2:] == ["1+1? <COMP_40><|im_end|>", "<|im_start|>assistant"]
    assert len(lines) == 1 + len(given) + len(learnt)


def rows_of(run) -> None:
    rows = [Row("a", mode, "1+1?", 0.2, "x", "2") for mode in ("policy", "0.6", "0.2")]
    write_records(run.path("mixture", "rows.jsonl"), [*rows, Row("b", "1.0", "2+2?", 1.0, "y" * 500, "4")])


def done(run, name) -> None:
    write_json(run.path(name, "manifest.json"), {"fingerprint": run.fingerprint(name), "bytes": {}})


def test_rows_come_from_the_mixture_else_from_problems_else_from_the_source(tmp_path):
    recipe, tokenizer = parse("problems: {num_train: 20}"), PlainTokenizer("quickstart")
    run = Run(recipe, tmp_path)
    rows, known = plan.look(run, tokenizer)
    assert [row.mode for row in rows] == ["1.0", "policy"] and rows[0].think
    assert known.num_rows == round(20 * 5 / 0.85) and known.prompt < known.row < 640
    write_records(
        run.path("problems", "train.jsonl"), [Problem("a", "1+1?", "2"), Problem("b", "1+1=?", "2", "2.")]
    )
    assert plan.look(run, tokenizer)[0][0].id != "b"  # another recipe's, for all that is known
    done(run, "problems")
    rows, _ = plan.look(run, tokenizer)
    assert rows[0].id == "b"  # the one with a worked solution
    rows_of(run)
    done(run, "mixture")
    rows, known = plan.look(run, tokenizer)
    assert [row.mode for row in rows] == ["0.2", "policy"] and known.num_rows == 4
    assert known.row > 400 > known.prompt


def test_the_verb(lite, tmp_path):
    code, out, err = lite("plan", "quickstart", "--card", "cpu", "--set", "sft.batch_size=3")
    assert code == 0 and err == ""
    assert "  batch_size: 3\n" in lite("recipes", "show", "quickstart", "--set", "sft.batch_size=3")[1]
    assert "quickstart: 1.0 M parameters; 4 layers of 128" in out
    assert out.count("with a loss (lines with >)") == 2 and "> <COMP_100>" in out
    for name in READS:
        assert f"│ {name} " in out
    assert "fits this machine's memory" in out
    assert not (tmp_path / "runs").exists()


def test_what_does_not_fit_says_what_to_turn_down(lite):
    code, out, _ = lite("plan", "quickstart", "--card", "8gb", "--set", "sft.batch_size=4000")
    assert code == 1
    (line,) = [line for line in out.splitlines() if "does not fit" in line]
    assert line.startswith("sft does not fit 8gb: ") and "largest term is activations" in line
    assert "turn down sft.batch_size (and raise sft.accumulation by as much), then sft.max_tokens" in line


def test_measured_stands_beside_expected(lite, tmp_path):
    recipe = parse("name: measured\nproblems: {num_train: 5, num_rl: 1, num_eval: 1}")
    run = pipeline.train(recipe, tmp_path / "run", only="problems")
    manifest = run.manifest("problems")
    assert manifest["peak_memory_gb"] > 0
    assert manifest["peak_gpu_memory_gb"] == {"allocated": 0, "reserved": 0}
    code, out, _ = lite("plan", str(tmp_path / "run" / "recipe.yaml"), "--out", str(tmp_path / "run"))
    (line,) = [line for line in out.splitlines() if line.startswith("│ problems ")]
    assert code == 0 and f"{manifest['peak_memory_gb']:.1f} GB, " in line


def test_without_tokenizer_or_problems_the_estimate_remains(lite, tmp_path):
    shutil.copy(pretrained.QUICKSTART / "config.json", tmp_path)
    (tmp_path / "p.jsonl").write_text(json.dumps({"question": "1+1?", "answer": "2"}) + "\n")
    code, out, _ = lite(
        "plan", "quickstart", "--set", f"model={tmp_path}", "--set", "problems.source=p.jsonl"
    )
    assert code == 0 and "no tokenizer: " in out and "no rows: " in out
    assert "│ sft " in out and "lines with >" not in out


@pytest.mark.parametrize("card", ["48gb", ""])
def test_an_unknown_card(lite, card):
    code, _, err = lite("plan", "quickstart", "--card", card)
    assert code == 2 and f"card '{card}' is unknown; use one of 24gb, 16gb, 12gb, 8gb, cpu" in err


def test_the_machine_here(monkeypatch):
    def told(text):
        class Done:
            stdout = text

        return lambda *_, **__: Done

    for text, name, gpu_gb in (
        ("24564\n", "24gb", 25.8),
        ("81559\n81559\n", "24gb", 85.5),  # its speed is not known, its memory is
        ("16380\n", "16gb", 17.2),
        ("6144\n", "8gb", 6.4),
    ):
        monkeypatch.setattr(machine.subprocess, "run", told(text))
        here = machine.this_machine()
        assert here.flops == CARDS[name].flops and here.gpu_gb == pytest.approx(
            gpu_gb - 0.07 * gpu_gb, abs=0.05
        )
    monkeypatch.setattr(machine.subprocess, "run", told("no devices were found"))
    assert machine.this_machine() is CARDS["cpu"]


def test_the_tiny_model_takes_little():
    known = plan.look(Run(parse(""), plan.Path("nowhere")), None)[1]
    estimates = Planner(parse("sft: {batch_size: 16}"), read_shape("quickstart"), known, CARDS["cpu"]).all()
    assert sum(estimates["sft"].ram.values()) < 3e9


@pytest.mark.parametrize("card", ["24gb", "8gb"])
@pytest.mark.parametrize("name", sorted(path.stem for path in folder().glob("*.yaml")))
def test_the_packaged_recipes_are_planned_without_a_network(lite, monkeypatch, name, card):
    monkeypatch.setattr("lite.remote.hub.is_reachable", lambda: False)
    code, out, err = lite("plan", name, "--card", card)
    assert code in (0, 1) and (code == 0) == (f"\nfits {card}: " in out) and err.count("error:") == 0
    assert all(f"│ {stage} " in out for stage in READS)


def test_the_hub_is_asked_for_a_few_seconds_only(monkeypatch):
    asked = []

    def away(url, timeout):
        asked.append(timeout)
        raise httpx.ConnectTimeout("no route")

    monkeypatch.setattr(httpx, "head", away)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    assert not hub.is_reachable() and not hub.is_reachable() and asked == [4.0]
