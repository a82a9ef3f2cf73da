"""Loading from folders that are damaged, incomplete or hostile: one line, and none of their code runs."""

import json
import re
import shutil
from pathlib import Path

import pytest

from lite.compress import compress
from lite.errors import LiteError
from lite.eval.fidelity import Judge
from lite.models import pretrained

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(reasoner, tokenizer, tmp_path):
    """A causal model and its tokenizer."""
    reasoner.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder):
    from transformers import AutoModelForCausalLM

    pretrained.load_tokenizer(folder, "model m")
    return pretrained.load_model(AutoModelForCausalLM, folder, "model m")


def configured(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_folder(folder):
    assert load(folder).config.hidden_size


def test_code_beside_the_weights_never_runs(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask
    ran = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    own = {
        "AutoConfig": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
    }
    configured(folder, auto_map=own, model_type="evil")
    with pytest.raises(LiteError, match="model m: could not be loaded"):
        load(folder)
    with pytest.raises(LiteError, match="could not be loaded"):
        Judge.load(str(folder))
    assert not ran.exists()


def test_pickles_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LiteError, match="no model.safetensors in it"):
        load(folder)


@pytest.mark.parametrize(
    "name, content",
    [
        ("model.safetensors", ""),
        ("model.safetensors", "\xff" * 100),
        ("config.json", "[]"),
        ("config.json", "{"),
        ("tokenizer.json", '{"version": "1.0"}'),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_damaged_files(folder, name, content):
    (folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(LiteError, match="^model m: could not be loaded") as fault:
        load(folder)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 7}, {"intermediate_size": 8}])
def test_weights_that_are_not_there_are_not_made_up(folder, changes):
    configured(folder, **changes, layer_types=None)
    with pytest.raises(LiteError, match="model m: "):
        load(folder)


def test_what_is_no_compressor(folder, tmp_path):
    with pytest.raises(LiteError, match="missing or of another shape"):
        compress.load(folder)
    shutil.move(folder / "tokenizer.json", tmp_path)
    with pytest.raises(LiteError, match=r"no compressor there \(no tokenizer.json\)"):
        compress.load(folder)


def test_nothing_else_loads_from_the_outside():
    own = re.compile(r"(?:Auto\w+|auto)\.from_pretrained\(")
    for room in ("lite", "export"):
        for path in (ROOT / room).rglob("*.py"):
            assert path.name == "pretrained.py" or not own.search(path.read_text()), path
