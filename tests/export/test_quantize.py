import shutil
from collections import namedtuple

import gguf
import pytest

from export import convert, quantize
from lite.errors import LiteError


@pytest.fixture(scope="module")
def source(qwen3, tmp_path_factory):
    path = tmp_path_factory.mktemp("quantize") / "f32.gguf"
    convert.convert(qwen3, path, "f32", dial=True, name="tiny")
    return path


@pytest.mark.parametrize(
    ("quant", "matrix", "embedding", "num_fallback"),
    [
        ("f16", "F16", "F16", 0),
        ("bf16", "BF16", "BF16", 0),
        ("q8_0", "Q8_0", "Q8_0", 0),
        ("q6_k", "Q8_0", "Q8_0", 14),  # rows of 64 and 96 do not divide by 256: all 7 matrices of 2 layers
        ("q4_k_m", "Q5_0", "Q8_0", 14),
        ("q4_0", "Q4_0", "Q8_0", 0),
    ],
)
def test_formats(source, quant, matrix, embedding, num_fallback, tmp_path):
    out = tmp_path / "q.gguf"
    result = quantize.quantize(source, out, quant)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(out).tensors}
    assert kinds["blk.0.attn_q.weight"] == matrix
    assert kinds["token_embd.weight"] == embedding
    assert kinds["output_norm.weight"] == "F32"
    assert result.num_fallback == num_fallback
    assert result.num_bytes == out.stat().st_size


def test_unknown_quant_lists_them(source, tmp_path):
    with pytest.raises(LiteError, match="'q9'.*f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0"):
        quantize.quantize(source, tmp_path / "q.gguf", "q9")


def test_same_path_is_refused(source, tmp_path):
    copy, link = tmp_path / "copy.gguf", tmp_path / "link.gguf"
    shutil.copy(source, copy)
    link.symlink_to(copy)
    before = copy.read_bytes()
    for out in (copy, link, tmp_path / "." / "copy.gguf"):
        with pytest.raises(LiteError, match="is also the source"):
            quantize.quantize(copy, out, "q8_0")
    assert copy.read_bytes() == before


def test_refused_requantisation_leaves_nothing(source, tmp_path):
    small, out = tmp_path / "q4.gguf", tmp_path / "out.gguf"
    quantize.quantize(source, small, "q4_0")
    with pytest.raises(LiteError, match="requantizing from type q4_0 is disabled"):
        quantize.quantize(small, out, "q8_0")
    assert sorted(tmp_path.iterdir()) == [small]


def test_damaged_source(source, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(source.read_bytes()[:-5000])
    with pytest.raises(LiteError, match="corrupted or incomplete"):
        quantize.quantize(cut, tmp_path / "out.gguf", "q8_0")
    assert sorted(tmp_path.iterdir()) == [cut]


def test_no_space(source, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(LiteError, match=r"needs \d{8} bytes, only 1000 bytes are free"):
        quantize.quantize(source, tmp_path / "out.gguf", "q8_0")
    assert list(tmp_path.iterdir()) == []
