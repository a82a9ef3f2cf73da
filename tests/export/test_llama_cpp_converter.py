"""Other architectures, through a checkout's converter: here a stand-in that copies a GGUF and says what it was told."""

import json
import shutil

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf

from export import export, llama_cpp_converter, pack
from lite.errors import LiteError
from lite.gguf import check
from lite.tokens import POLICY_TOKEN

CONVERTER = """import json, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
(here / "told.json").write_text(json.dumps(sys.argv[1:]))
if (here / "fail").exists():
    sys.exit("INFO: loading\\nNotImplementedError: Architecture 'OddForCausalLM' not supported!\\n")
shutil.copy(here / "made.gguf", sys.argv[sys.argv.index("--outfile") + 1])
"""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "a checkout; rm -rf"  # no shell reads this
    folder.mkdir()
    (folder / llama_cpp_converter.SCRIPT).write_text(CONVERTER)
    write_tiny_gguf(folder / "made.gguf", dial=False)
    return folder


def test_its_file_gets_the_dial_and_the_calibration(checkout, qwen3, tmp_path):
    out = tmp_path / "out.gguf"
    llama_cpp_converter.convert(checkout, qwen3, out, "f32", True, "odd", {"extra_cot.ratios": [0.5, 1.0]})
    told = json.loads((checkout / "told.json").read_text())
    assert told == [str(qwen3), "--outfile", str(out), "--outtype", "f32", "--model-name", "odd"]
    before, after = check.check(checkout / "made.gguf"), check.check(out)
    assert POLICY_TOKEN in after.template and POLICY_TOKEN not in before.template
    assert after.metadata["extra_cot.ratios"].tolist() == [0.5, 1.0]
    assert {*after.metadata} == {*before.metadata, "extra_cot.ratios"}
    for name, tensor in before.tensors.items():  # the same bytes, wherever they lie now
        there = after.tensors[name]
        data = [np.fromfile(path, np.uint8, there.num_bytes, offset=place.offset) for path, place in (
            (checkout / "made.gguf", tensor), (out, there))]  # fmt: skip
        assert (there.kind, there.shape) == (tensor.kind, tensor.shape) and (data[0] == data[1]).all()


def test_its_fault_is_one_line(checkout, qwen3, tmp_path):
    (checkout / "fail").touch()
    with pytest.raises(
        LiteError, match="converter failed .*Architecture 'OddForCausalLM' not supported!"
    ) as fault:
        llama_cpp_converter.convert(checkout, qwen3, tmp_path / "out.gguf", "f32", False, "odd", {})
    assert "\n" not in str(fault.value)
    with pytest.raises(LiteError, match="no convert_hf_to_gguf.py in it"):
        pack.pack(str(qwen3), ["f32"], tmp_path / "out", checkout=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_folder_with_code_of_its_own_is_refused(checkout, qwen3, tmp_path, file):
    """The real converter loads tokenizers with trust_remote_code."""
    evil = tmp_path / "evil"
    shutil.copytree(qwen3, evil)
    config = json.loads((evil / file).read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (evil / file).write_text(json.dumps(config))
    with pytest.raises(LiteError, match=f"{file}: auto_map names code of its own"):
        llama_cpp_converter.convert(checkout, evil, tmp_path / "out.gguf", "f32", False, "evil", {})
    assert not (checkout / "told.json").exists()


def test_only_what_we_do_not_convert_goes_there(checkout, qwen3, tmp_path):
    """Another architecture is sent there, and what comes back is verified: the stand-in's is another model."""
    export.export(qwen3, {"f32": tmp_path / "own.gguf"}, "own", dial=True, checkout=checkout)
    assert not (checkout / "told.json").exists()
    odd = tmp_path / "odd"
    shutil.copytree(qwen3, odd)
    config = json.loads((odd / "config.json").read_text()) | {"architectures": ["OddForCausalLM"]}
    (odd / "config.json").write_text(json.dumps(config))
    with pytest.raises(LiteError, match="token|logits"):
        export.export(odd, {"f32": tmp_path / "odd.gguf"}, "odd", dial=True, checkout=checkout)
    assert (checkout / "told.json").exists() and not (tmp_path / "odd.gguf").exists()
    with pytest.raises(LiteError, match="'OddForCausalLM'; .* any other one with .*--llama-cpp DIR"):
        export.export(odd, {"f32": tmp_path / "odd.gguf"}, "odd", dial=True)
