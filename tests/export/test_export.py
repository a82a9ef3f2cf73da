import hashlib
import shutil
from collections import namedtuple

import pytest
from tiny_models import save

from export import export, verify
from lite.errors import LiteError
from lite.recipe import Recipe, build
from lite.stages import Run


@pytest.mark.parametrize("quant", ["f16", "q4_k_m"])
def test_export(qwen3, quant, tmp_path):
    out = tmp_path / "deep" / "tiny.gguf"
    measured = export.export(qwen3, out, quant)
    assert measured["logits_off"] < (5e-2 if quant == "f16" else 1e-4)
    assert verify.verify(out) == {"dial": True}
    assert list(out.parent.iterdir()) == [out]


def test_failed_verification_leaves_nothing(qwen3, tmp_path, monkeypatch):
    def fail(*_):
        raise LiteError("logits are off")

    monkeypatch.setattr(verify, "compare", fail)
    with pytest.raises(LiteError, match="logits are off"):
        export.export(qwen3, tmp_path / "tiny.gguf", "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_bad_requests(qwen3, tmp_path, monkeypatch):
    with pytest.raises(LiteError, match="'q3' is unknown"):
        export.export(qwen3, tmp_path / "tiny.gguf", "q3")
    with pytest.raises(LiteError, match="is a folder; give the file to write, such as .*model.gguf"):
        export.export(qwen3, tmp_path, "q8_0")
    with pytest.raises(LiteError, match="no such folder"):
        export.export(tmp_path / "none", tmp_path / "tiny.gguf", "q8_0")
    with pytest.raises(LiteError, match="no \\*.safetensors"):
        export.export(tmp_path, tmp_path / "tiny.gguf", "q8_0")
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(LiteError, match=r"needs \d{8} bytes, only 1000 bytes are free"):
        export.export(qwen3, tmp_path / "tiny.gguf", "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_stage(base, qwen3, tmp_path, monkeypatch):
    run = Run(build(Recipe, {"name": "r", "model": str(base), "export": {"quant": "q8_0"}}), tmp_path)
    shutil.copytree(qwen3, run.path("merge", "policy"))
    save(run.path("merge", "sft"), seed=5)
    run.path("export", ".r-q8_0.gguf.part").mkdir(parents=True)  # left by a cut
    measured = export.run(run)
    assert measured["base_logits_off"] < 1e-4 and measured["sft_logits_off"] < 1e-4
    assert measured["policy_top1_agreement"] > 0.8
    names = ["r-base-q8_0.gguf", "r-sft-q8_0.gguf", "r-q8_0.gguf"]
    assert sorted(path.name for path in run.path("export").iterdir()) == sorted(
        ["SHA256SUMS", "measured.json", *names]
    )
    lines = [f"{hashlib.sha256(run.path('export', name).read_bytes()).hexdigest()}  {name}" for name in names]
    assert run.path("export", "SHA256SUMS").read_text().splitlines() == lines
    assert not verify.verify(run.gguf("base"))["dial"]
    assert verify.verify(run.gguf("sft"))["dial"]

    run.gguf("sft").unlink()  # the next run makes what is missing, no more
    made = []
    original = export.export
    monkeypatch.setattr(
        export, "export", lambda source, out, *a, **k: made.append(out.name) or original(source, out, *a, **k)
    )
    resumed = export.run(run)
    assert made == ["r-sft-q8_0.gguf"]
    assert resumed == measured  # also of those that were there
    assert run.path("export", "SHA256SUMS").read_text().splitlines() == lines
