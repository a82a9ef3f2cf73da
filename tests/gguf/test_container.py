"""The container reader: what it finds, and that no damage ever becomes more than one clear line."""

from __future__ import annotations

import os
import struct

import gguf
import numpy as np
import pytest
from tiny_gguf import changed, put, write_tiny_gguf

from lite.errors import LiteError
from lite.gguf import calibration
from lite.gguf import container as gguf_file


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_finds_what_gguf_finds(good):
    found, reader = gguf_file.read(good), gguf.GGUFReader(good)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            ours = found.metadata[name]
            assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == field.contents(), name
    assert len(found.tensors) == len(reader.tensors)
    for tensor in reader.tensors:
        ours = found.tensors[tensor.name]
        assert (ours.kind, ours.shape) == (tensor.tensor_type.name, tuple(map(int, tensor.shape)))
        assert (ours.offset, ours.num_bytes) == (tensor.data_offset, tensor.n_bytes)


def test_the_types_are_ggmls():
    known = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: known[number] for number in gguf_file.KINDS} == gguf_file.KINDS


HUGE = b"\xff" * 7 + b"\x7f"
TOKENS = "tokenizer.ggml.tokens"


@pytest.mark.parametrize(
    "edit, expected",
    [
        (lambda data: b"", "not a GGUF (it begins with b'')"),
        (lambda data: b"GGUF", "cut within its first 24 bytes"),
        (lambda data: b"<html>" + data, "not a GGUF"),
        (lambda data: data[:2000], "damaged near byte"),
        (lambda data: data[:-5000], "cut, tensor blk.1."),
        (lambda data: data[:4] + b"\0\0\0\3" + data[8:], "GGUF version 50331648"),
        (lambda data: data[:8] + HUGE + data[16:], "the number of tensors"),
        (lambda data: data[:16] + HUGE + data[24:], "the number of metadata entries"),
        (put(TOKENS, HUGE, 8), f"the length of '{TOKENS}' {2**63 - 1} where"),
        (put(TOKENS, b"\x09", 4), "is an array of type 9; texts and numbers only"),
        (put(TOKENS, b"\x63", 0), "of type 99, which there is not"),
        (put("general.name", HUGE, 4), "'general.name' takes"),
        (put("general.name", b"\xff\xfe", 12), "'general.name' is not UTF-8"),
        (put("tokenizer.ggml.add_bos_token", b"\x02"), "is a bool of 2"),
        (put("tokenizer.chat_template", b"\x04", 0), "chat_template is not a text|damaged"),
        (put("output.weight", struct.pack("<Q", 2**62), 4), "cannot be of shape [4611686018427387904, "),
        (put("output.weight", struct.pack("<I", 9), 0), "has 9 dimensions"),
        (put("output.weight", struct.pack("<I", 5), 20), "is of type 5, which is not known"),
        (put("output.weight", struct.pack("<I", 12), 20), "cannot be of shape"),  # Q4_K rows come in 256s
        (put("output.weight", struct.pack("<Q", 0), 24), "does not begin where the tensor before it ends"),
        (put("output.weight", struct.pack("<Q", 64), 24), "does not begin where the tensor before it ends"),
    ],
)
def test_damage_is_one_clear_line(good, tmp_path, edit, expected):
    path = changed(tmp_path / "bad.gguf", good, edit)
    with pytest.raises(LiteError) as fault:
        gguf_file.read(path)
    assert any(part in str(fault.value) for part in expected.split("|")), fault.value
    assert "\n" not in str(fault.value) and len(str(fault.value)) < 300


def test_texts_are_bounded_in_all(good, monkeypatch):
    num = len(gguf_file.read(good).metadata[TOKENS])
    monkeypatch.setattr(gguf_file, "MAX_ITEMS", num + 3)  # tokens fit, and with merges they do not
    with pytest.raises(LiteError, match="items; at most .* are read in all"):
        gguf_file.read(good)


def test_two_tensors_of_one_name_and_two_keys(good, tmp_path):
    def named(old: bytes, new: bytes):
        return lambda data: data.replace(struct.pack("<Q", len(old)) + old, struct.pack("<Q", len(new)) + new)

    edit = named(b"blk.1.ffn_up.weight", b"blk.0.ffn_up.weight")
    with pytest.raises(LiteError, match="'blk.0.ffn_up.weight' is empty, too long or there twice"):
        gguf_file.read(changed(tmp_path / "bad.gguf", good, edit))
    edit = named(b"qwen3.attention.key_length", b"qwen3.attention.head_count")
    with pytest.raises(LiteError, match="key 'qwen3.attention.head_count' is there twice"):
        gguf_file.read(changed(tmp_path / "bad.gguf", good, edit))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for path, expected in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is not a file"),
        (tmp_path / "a\0b", "not a file name"),
    ):
        with pytest.raises(LiteError, match=expected):
            gguf_file.read(path)


def test_a_sparse_file_that_claims_billions_is_refused_at_once(good, tmp_path):
    """A terabyte of zeros has room for any count; nothing of that size is made."""
    path = changed(tmp_path / "sparse.gguf", good, put(TOKENS, struct.pack("<Q", 10**10), 8))
    os.truncate(path, 2**40)
    with pytest.raises(LiteError, match="the length of|at most 2097152 are read"):
        gguf_file.read(path)


def test_calibration_round_trip(tmp_path):
    lengths = calibration.summarise({1.0: [100, 200], 0.2: [*range(10, 110, 10)]})
    # of 10, 20 .. 100: the mean is 55, the 90th percentile lies between 90 and 100: the one that was seen above
    assert lengths == calibration.Calibration((0.2, 1.0), (55.0, 150.0), (100.0, 200.0))
    writer = gguf.GGUFWriter(tmp_path / "c.gguf", "qwen3")
    for key, values in lengths.metadata().items():
        writer.add_array(key, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert calibration.of_gguf(gguf_file.read(tmp_path / "c.gguf")) == lengths


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_cot.ratios": None},
        {"extra_cot.ratios": [1.0, 0.2]},
        {"extra_cot.ratios": [0.2, 1.5]},
        {"extra_cot.think_tokens_p90": [1.0]},
        {"extra_cot.think_tokens_p90": [1.0, float("nan")]},
        {"extra_cot.think_tokens_mean": ["a", "b"]},
        {"extra_cot.think_tokens_mean": [-1.0, 2.0]},
    ],
    ids=str,
)
def test_a_calibration_that_makes_no_sense_is_none(good, changes):
    values = {
        "extra_cot.ratios": [0.2, 1.0],
        "extra_cot.think_tokens_mean": [1.0, 2.0],
        "extra_cot.think_tokens_p90": [2.0, 3.0],
    }
    values |= changes
    metadata = {
        key: array if isinstance(array[0], str) else np.array(array, np.float32)
        for key, array in values.items()
        if array is not None
    }
    container = gguf_file.read(good)
    container.metadata.update(metadata)
    assert calibration.of_gguf(container) is None
