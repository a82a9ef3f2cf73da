"""`lite export`: where a model comes from, and what lies in the folder that is given away."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from test_merge import make_adapter
from tiny_models import save

from export import pack
from lite import config
from lite.errors import LiteError
from lite.gguf import calibration, check
from lite.run import Run
from lite.runtime.files import write_json
from lite.tokens import CONTROL_TOKENS, RATIOS


@pytest.fixture(scope="module")
def packed(qwen3, tmp_path_factory):
    out = tmp_path_factory.mktemp("pack") / "out"
    pack.pack(str(qwen3), ["q8_0", "f16"], out)
    return out


def test_what_lies_in_the_folder(packed, qwen3):
    manifest = json.loads((packed / "manifest.json").read_text())
    files = {path.name for path in packed.iterdir()} - {"manifest.json"}
    presets = {f"Modelfile.{preset}" for preset in ("policy", "20", "60", "100")}
    assert files == {"qwen3-q8_0.gguf", "qwen3-f16.gguf", "README.md", *presets}
    assert {*manifest["sha256"]} == files
    for name in files:
        data = (packed / name).read_bytes()
        assert manifest["sha256"][name] == hashlib.sha256(data).hexdigest()
        assert manifest["bytes"][name] == len(data)
    assert manifest["measured"]["f16"]["top1_agreement"] > 0.98
    card = (packed / "README.md").read_text()
    assert (
        "from the Hugging Face folder `qwen3`" in card and manifest["sha256"]["qwen3-q8_0.gguf"][:16] in card
    )
    assert "ollama create my-model-20 -f Modelfile.20" in card and "## Measured" not in card
    assert str(qwen3) not in card


def test_the_modelfiles_name_the_first_quant_and_end_at_eos(packed):
    text = (packed / "Modelfile.60").read_text()
    assert "\nFROM ./qwen3-q8_0.gguf\n" in text and '\nPARAMETER stop "<|im_end|>"\n' in text
    assert "\nPARAMETER num_ctx 256\n" in text  # what the tiny model was made for
    assert CONTROL_TOKENS[2] in text and CONTROL_TOKENS[0] not in text


def test_an_export_may_be_repeated_but_nobody_elses_folder_is_touched(packed, qwen3, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "export", lambda *_, **__: pytest.fail("nothing may be converted"))
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(LiteError, match="is not empty and not an export of lite"):
        pack.pack(str(qwen3), ["q8_0"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    with pytest.raises(LiteError, match="give a folder to --out"):
        pack.pack(str(qwen3), ["q8_0"], tmp_path / "model.gguf")

    def fail(*_, **__):
        raise LiteError("not this time")

    monkeypatch.setattr(pack, "export", fail)
    (tmp_path / "empty").mkdir()
    for own in (tmp_path / "empty", tmp_path / "new"):
        with pytest.raises(LiteError, match="not this time"):
            pack.pack(str(qwen3), ["q8_0"], own)
    assert (tmp_path / "empty").is_dir() and not (tmp_path / "new").exists()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(LiteError, match="not this time"):
        pack.pack(str(qwen3), ["q8_0"], Path("."))
    before = {path.name: path.read_bytes() for path in packed.iterdir()}
    with pytest.raises(LiteError, match="not this time"):
        pack.pack(str(qwen3), ["q8_0"], packed)
    assert {path.name: path.read_bytes() for path in packed.iterdir()} == before


def test_a_base_without_a_dial(base, tmp_path):
    (path,) = pack.pack(str(base), ["q8_0"], tmp_path / "out")
    assert check.check(path).template == (base / "chat_template.jinja").read_text()
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "README.md",
        "base-q8_0.gguf",
        "manifest.json",
    ]
    assert "has not learnt the thinking dial" in (path.parent / "README.md").read_text()


def test_a_base_with_an_adapter(tmp_path):
    base = save(tmp_path / "base", control=False)
    make_adapter(base, tmp_path / "tuned")
    (path,) = pack.pack(str(base), ["f32"], tmp_path / "out", adapter=tmp_path / "tuned")
    assert path.name == "base-tuned-f32.gguf"
    assert "`base` with the adapter `tuned`" in (path.parent / "README.md").read_text()
    assert not (path.parent / ".work").exists()
    with pytest.raises(LiteError, match="holds no adapter_model.safetensors"):
        pack.pack(str(base), ["f32"], tmp_path / "other", adapter=tmp_path)


@pytest.fixture
def finished(qwen3, tmp_path):
    """A run whose merge, export and evaluate are done, as far as packing looks."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(config.dump(config.build({"name": "mine"})))
    run = Run(config.load(folder / "recipe.yaml"), folder)
    shutil.copytree(qwen3, run.path("merge", "policy"))
    write_json(run.path("merge", "manifest.json"), {"fingerprint": "m"})
    write_json(run.path("export", "manifest.json"), {"fingerprint": "e", "inputs": {"merge": "m"}})
    write_json(
        run.path("export", "calibration.json"), {"ratios": RATIOS, "mean": [1.0] * 5, "p90": [2.0] * 5}
    )
    write_json(run.path("evaluate", "manifest.json"), {"fingerprint": "v", "inputs": {"export": "e"}})
    run.path("evaluate", "report.md").write_text("# mine-q8_0.gguf\n\n| mode | accuracy |\n")
    for place, ratio in enumerate(RATIOS):
        lines = [json.dumps({"think_tokens": 10 * (place + 1) + i}) for i in range(3)]
        run.path("evaluate", f"replies-{ratio}.jsonl").write_text("\n".join(lines) + "\n")
    return run


def test_a_run_brings_its_name_its_report_and_its_lengths(finished, tmp_path):
    (path,) = pack.pack(str(finished.folder), ["q8_0"], tmp_path / "out")
    assert path.name == "mine-q8_0.gguf"
    card = (path.parent / "README.md").read_text()
    assert (
        "## Measured\n\nOn the run's own `mine-q8_0.gguf`: " in card and "\n\n| mode | accuracy |\n" in card
    )
    assert "the run `mine` of `quickstart`" in card
    assert "| 0.2 | 11.0 | 12 |" in card  # of 10, 11, 12
    lengths = calibration.of_gguf(check.check(path))
    assert lengths.mean == (11.0, 21.0, 31.0, 41.0, 51.0)
    assert lengths.p90 == (12.0, 22.0, 32.0, 42.0, 52.0)


def test_a_report_on_another_model_is_not_shown(finished):
    write_json(finished.path("export", "manifest.json"), {"fingerprint": "e2", "inputs": {"merge": "m"}})
    found = pack.of_run(finished.folder)
    assert (found.report, found.calibration.p90) == (None, (2.0,) * 5)  # the export stage's own stays
    write_json(finished.path("merge", "manifest.json"), {"fingerprint": "m2"})
    assert pack.of_run(finished.folder).calibration is None
    shutil.rmtree(finished.path("merge"))
    with pytest.raises(LiteError, match="its stage merge is not done"):
        pack.of_run(finished.folder)


def test_damaged_replies_are_one_line(finished):
    finished.path("evaluate", "replies-0.4.jsonl").write_text('{"think": 1}\n')
    with pytest.raises(LiteError, match="replies-0.4.jsonl: not the replies of a report"):
        pack.of_run(finished.folder)


def test_quants():
    assert pack.quants_of(" Q8_0, q4_k_m,q8_0 ") == ["q8_0", "q4_k_m"]
    with pytest.raises(LiteError, match="'q3' is unknown"):
        pack.quants_of("q8_0,q3")
    with pytest.raises(LiteError, match="--quant is empty"):
        pack.quants_of(",")
