import hashlib
import json
import shutil
from collections import namedtuple

import pytest
from tiny_models import save

from export import export, verify
from lite.config import build
from lite.errors import LiteError
from lite.gguf import calibration, check
from lite.run import Run
from lite.runtime.files import write_records
from lite.schema import Problem
from lite.tokens import RATIOS


def test_several_quants_of_one_conversion(qwen3, tmp_path, monkeypatch):
    converted = []
    original = export.convert.convert
    monkeypatch.setattr(export.convert, "convert", lambda *a: converted.append(a[2]) or original(*a))
    outs = {quant: tmp_path / "deep" / f"tiny-{quant}.gguf" for quant in ("q4_k_m", "f16")}
    measured = export.export(qwen3, outs, "tiny", dial=True)
    assert converted == ["f32"]
    assert measured["q4_k_m"]["logits_off"] < 1e-4  # of what it was made from
    assert 1e-4 < measured["f16"]["logits_off"] < 5e-2
    assert measured["f16"]["top1_agreement"] > 0.98
    for out in outs.values():
        assert check.check(out).metadata["general.name"] == "tiny"
    assert sorted((tmp_path / "deep").iterdir()) == sorted(outs.values())


def test_the_format_between_loses_nothing_that_is_asked_for():
    assert export._middle(10**8, ["q8_0"]) == "f32"
    assert export._middle(2 * 10**9, ["q8_0", "q4_k_m"]) == "f16"
    assert export._middle(2 * 10**9, ["q8_0", "bf16"]) == "bf16"
    assert export._middle(2 * 10**9, ["f16", "f32"]) == "f32"


def test_failed_verification_leaves_nothing(qwen3, tmp_path, monkeypatch):
    def fail(*_):
        raise LiteError("logits are off")

    monkeypatch.setattr(verify, "compare", fail)
    with pytest.raises(LiteError, match="logits are off"):
        export.export(qwen3, {"q8_0": tmp_path / "tiny.gguf"}, "tiny", dial=True)
    assert list(tmp_path.iterdir()) == []


def test_bad_requests(qwen3, tmp_path, monkeypatch):
    out = tmp_path / "tiny.gguf"
    with pytest.raises(LiteError, match="'q3' is unknown"):
        export.export(qwen3, {"q3": out}, "tiny", dial=True)
    with pytest.raises(LiteError, match="no model.safetensors in it"):
        export.export(tmp_path, {"q8_0": out}, "tiny", dial=True)
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(LiteError, match=r"needs \d{8,9} bytes, only 1000 bytes are free"):
        export.export(qwen3, {"q8_0": out, "f16": out}, "tiny", dial=True)
    assert list(tmp_path.iterdir()) == []


def test_stage(base, qwen3, tmp_path, monkeypatch):
    values = {"name": "r", "model": str(base), "export": {"quant": "q8_0"}}
    values |= {"probe": {"max_tokens": 12, "batch_size": 16}, "sft": {"four_bit": False}}
    run = Run(build(values), tmp_path)
    shutil.copytree(qwen3, run.path("merge", "policy"))
    save(run.path("merge", "sft"), seed=5)
    write_records(
        run.path("problems", "rl.jsonl"), [Problem(f"p{i}", f"{i} + 1?", str(i + 1)) for i in range(3)]
    )
    run.path("export", ".r-q8_0.part").mkdir(parents=True)  # left by a cut
    measured = export.run(run)
    assert measured["base_logits_off"] < 1e-4 and measured["sft_logits_off"] < 1e-4
    assert measured["policy_top1_agreement"] > 0.8
    names = ["r-base-q8_0.gguf", "r-sft-q8_0.gguf", "r-q8_0.gguf"]
    assert sorted(path.name for path in run.path("export").iterdir()) == sorted(
        ["SHA256SUMS", "measured.json", "calibration.json", "calibration.jsonl", *names]
    )
    lines = [f"{hashlib.sha256(run.path('export', name).read_bytes()).hexdigest()}  {name}" for name in names]
    assert run.path("export", "SHA256SUMS").read_text().splitlines() == lines
    assert not verify.verify(run.gguf("base"))["dial"]
    assert verify.verify(run.gguf("sft"))["dial"]

    lengths = calibration.of_gguf(check.check(run.gguf("policy")))
    assert lengths.ratios == RATIOS
    samples = [json.loads(line) for line in run.path("export", "calibration.jsonl").open()]
    assert len(samples) == 3 * len(RATIOS)
    for ratio, p90 in zip(lengths.ratios, lengths.p90, strict=True):
        assert p90 == max(each["num_tokens"] for each in samples if each["id"].endswith(f"/{ratio}"))
    assert calibration.of_gguf(check.check(run.gguf("sft"))) is None

    run.gguf("sft").unlink()  # the next run makes what is missing, no more
    made = []
    original = export.export
    monkeypatch.setattr(
        export, "export", lambda source, outs, *a, **k: made.append(outs) or original(source, outs, *a, **k)
    )
    resumed = export.run(run)
    assert made == [{"q8_0": run.gguf("sft")}]
    assert resumed == measured  # also of those that were there
    assert run.path("export", "SHA256SUMS").read_text().splitlines() == lines
