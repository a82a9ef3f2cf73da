import copy
import json
import shutil
import subprocess
import sys

import gguf
import numpy as np
import pytest
from tiny_models import build_model, save

from export import convert, quantize, selfcheck, template, verify
from lite.errors import LiteError
from lite.tokens import CONTROL_TOKENS


@pytest.fixture(scope="module")
def good(qwen3, tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "good.gguf"
    convert.convert(qwen3, path, "f32", dial=True, name="tiny")
    return path


@pytest.fixture(scope="module")
def reference(qwen3):
    return verify.reference(qwen3)


def set_field(path, name, place, value):
    """Overwrite one number of a GGUF's header."""
    reader = gguf.GGUFReader(path, "r+")
    field = reader.fields[name]
    field.parts[field.data[place]][0] = value
    reader.data.flush()


def test_alone_and_against_the_folder(good, reference):
    assert verify.verify(good) == {
        "architecture": "qwen3",
        "layers": 2,
        "parameters": 82368,
        "types": ["F32"],
        "tied": True,
        "dial": True,
    }
    measured = verify.compare(good, *reference)
    assert measured["logits_off"] < 1e-4
    assert measured["top1_agreement"] == 1.0
    assert measured["near_ties"] == 0


def test_alone_imports_no_torch(good):
    code = f"import sys; from export.verify import verify; from pathlib import Path; print(verify(Path({str(good)!r})))"
    code += "; print([m for m in ('torch', 'transformers', 'gguf') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'dial': True" in out and out.splitlines()[-1] == "[]"


def test_a_base_has_no_dial(base, tmp_path):
    out = tmp_path / "base.gguf"
    convert.convert(base, out, "f32", dial=False, name="base")
    assert not verify.verify(out, base)["dial"]
    template = gguf.GGUFReader(out).fields["tokenizer.chat_template"].contents()
    assert template == (base / "chat_template.jinja").read_text()


def test_quantised_is_measured(good, reference, tmp_path):
    out = tmp_path / "q8.gguf"
    quantize.quantize(good, out, "q8_0")
    measured = verify.compare(out, *reference)
    assert 1e-3 < measured["logits_off"] < 1
    assert 0.8 < measured["top1_agreement"] <= 1


def test_other_weights_fail(good, tmp_path):
    other = save(tmp_path / "other", seed=1)
    with pytest.raises(LiteError, match="logits are off by"):
        verify.verify(good, other)


def test_one_wrong_row_fails(good, reference, tmp_path):
    """The norm of the first layer, one value of 64 changed by a tenth."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(good.read_bytes())
    reader = gguf.GGUFReader(bad, "r+")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.attn_norm.weight")
    tensor.data[3] *= 1.1
    reader.data.flush()
    with pytest.raises(LiteError, match="logits are off by"):
        verify.compare(bad, *reference)


def test_greedy_divergence_beyond_noise_fails(good, reference, monkeypatch):
    """Only a near tie may go the other way; a wrong token with the right logits is a fault of the cache."""
    tokenizer, samples = reference
    wrong = [(samples[0].reply[0] + 1) % 320, *samples[0].reply[1:]]
    monkeypatch.setattr(verify, "_greedy", lambda model, prompt, num: wrong)
    with pytest.raises(LiteError, match="greedy token 0 is"):
        verify.compare(good, tokenizer, samples)


def test_greedy_near_tie_passes(good, reference, monkeypatch):
    """Hugging Face's logits put both tokens within the noise: either is right."""
    tokenizer, [first, *_] = reference
    logits, place = first.logits.copy(), len(first.prompt) - 1
    best = first.reply[0]
    second = int(np.argsort(logits[place])[-2])
    logits[place, best] = logits[place, second] + 1e-5
    monkeypatch.setattr(verify, "FLOATS", {0: ("f32", 10.0)})
    near = verify.Sample(first.prompt, first.reply, first.ends, logits)
    monkeypatch.setattr(verify, "_greedy", lambda model, prompt, num: [second, *first.reply[1:]])
    assert verify.compare(good, tokenizer, [near])["near_ties"] == 1


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("tokenizer.ggml.token_type", 305, 1, "<COMP_20> is not of type CONTROL|not one token"),
        ("tokenizer.ggml.token_type", 305, 4, "<COMP_20> is not of type CONTROL"),
        ("tokenizer.ggml.token_type", 303, 3, "<think> is a control token"),
        ("tokenizer.ggml.eos_token_id", 0, 100000, "no EOS token"),
    ],
)
def test_wrong_tokens_fail(good, name, place, value, message, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(good.read_bytes())
    set_field(bad, name, place, value)
    with pytest.raises(LiteError, match=message):
        verify.verify(bad)


def test_other_token_ids_fail(good, reference, tmp_path):
    """`</think>` as a NORMAL token is never matched in text: several ids where Hugging Face has one."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(good.read_bytes())
    set_field(bad, "tokenizer.ggml.token_type", 304, 1)
    with pytest.raises(LiteError, match="token ids of .*12 \\+ 30"):
        verify.compare(bad, *reference)


def test_damaged_files(good, tmp_path):
    data = good.read_bytes()
    cases = {
        "empty": b"",
        "text": b"hello, this is no model" * 100,
        "magic only": b"GGUF",
        "cut header": data[:2000],
        "cut tensors": data[:-10000],
        "version 99": data[:4] + b"\x63" + data[5:],
        "huge count": data[:8] + b"\xff" * 8 + data[16:],
    }
    for name, content in cases.items():
        path = tmp_path / "bad.gguf"
        path.write_bytes(content)
        with pytest.raises(LiteError, match="not a GGUF|GGUF version 99|cut|damaged near byte"):
            verify.verify(path)
            pytest.fail(name)
    with pytest.raises(LiteError, match="no such file"):
        verify.verify(tmp_path / "none.gguf")


def with_metadata(path, good, **changes):
    """A copy with 32-bit integers and floats, or texts, in its metadata changed or added."""
    reader = gguf.GGUFReader(good)
    writer = gguf.GGUFWriter(path, "qwen3")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in changes and key != "general.architecture":
            array = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], array)
    for key, value in changes.items():
        kinds = {
            int: gguf.GGUFValueType.UINT32,
            float: gguf.GGUFValueType.FLOAT32,
            str: gguf.GGUFValueType.STRING,
        }
        writer.add_key_value(key, value, kinds[type(value)])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_ends_llama_cpp_ends_only_the_process_apart(good, tmp_path):
    """With experts the shapes are not ours to check; an epsilon that is no number fails an assertion of ggml."""
    changes = {"qwen3.expert_count": 2, "qwen3.expert_used_count": 1}
    changes["qwen3.attention.layer_norm_rms_epsilon"] = float("nan")
    with pytest.raises(LiteError, match=r"llama.cpp breaks on it \(SIGABRT\)"):
        verify.verify(with_metadata(tmp_path / "bad.gguf", good, **changes))


def test_a_template_without_end(good, tmp_path):
    """Its prelude is ours, so it is rendered; what follows would take days."""
    loops = "{%- for i in range(99999) -%}" * 3 + "{%- endfor -%}" * 3
    path = with_metadata(
        tmp_path / "bad.gguf", good, **{"tokenizer.chat_template": template.dial_template(loops)}
    )
    with pytest.raises(LiteError, match="not done after 4 s, its chat template may never end"):
        selfcheck.apart(path, timeout_s=4)


def test_a_foreign_template_is_shown_and_never_rendered(good, tmp_path, monkeypatch, lite):
    """Not even where it speaks of our tokens: rendering this one would fail, or be seen."""
    foreign = "{{ raise_exception('rendered') }}" + CONTROL_TOKENS[-1] + " comp_ratio \x1b[2J\nsecond line"
    path = with_metadata(tmp_path / "foreign.gguf", good, **{"tokenizer.chat_template": foreign})
    found = verify.verify(path)
    assert (found["dial"], found["foreign_template"]) == (False, foreign)
    code, out, _ = lite("verify", str(path))
    assert code == 0 and out.splitlines()[-1] == "sound"
    assert "  | second line" in out and "\\x1b[2J" in out and "\x1b" not in out


def test_ties_must_be_the_folders(good, qwen3, tmp_path):
    other = tmp_path / "apart"
    shutil.copytree(qwen3, other)
    config = json.loads((other / "config.json").read_text()) | {"tie_word_embeddings": False}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(LiteError, match="its embedding and output rows are tied, .*apart has them apart"):
        verify.verify(good, other)


def test_broken_template(good, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(good.read_bytes().replace(b"{%- endif -%}", b"{%- endfor -%"))
    with pytest.raises(LiteError, match="its chat template is broken"):
        verify.verify(bad)


def test_another_architecture(good, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(good.read_bytes().replace(b"qwen3", b"qwen9"))
    with pytest.raises(LiteError, match="qwen9"):
        verify.verify(bad)


def test_models_differ_by_seed():
    one, two = build_model("Qwen3", 320), build_model("Qwen3", 320, seed=1)
    assert not (one.model.norm.weight == two.model.norm.weight).all()


def test_where_text_ends(good, reference, monkeypatch, capsys):
    """An end that llama.cpp does not have is a fault; one that only llama.cpp has is told."""
    tokenizer, [first, *_] = reference
    stop = verify.Sample(
        first.prompt, first.reply[:1], [302, first.reply[0]], first.logits[: len(first.prompt)]
    )
    with pytest.raises(LiteError, match=rf"\(id {first.reply[0]}\) ends a reply in Hugging Face and not in"):
        verify.compare(good, tokenizer, [stop])
    monkeypatch.setattr(verify, "_greedy", lambda model, prompt, num: first.reply[:2])
    verify.compare(good, tokenizer, [first])
    assert "good.gguf: llama.cpp ends a reply at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("id", "name", "message"), [(311, "<other>", "token 311 is"), (320, "<far>", r"token 31\d is b'.PAD")]
)
def test_the_vocabulary_is_hugging_faces(good, reference, id, name, message):
    samples = reference[1]
    tokenizer = copy.deepcopy(reference[0])
    tokenizer.add_tokens([name if number == id else f"<{number}>" for number in range(311, id + 1)])
    with pytest.raises(LiteError, match=message):
        verify.compare(good, tokenizer, samples)
