"""What a GGUF says of its model, held against itself: no damage ever becomes more than one clear line."""

from __future__ import annotations

import random
import struct

import pytest
from tiny_gguf import changed, put, write_tiny_gguf

from lite.errors import LiteError
from lite.gguf import calibration, check, container


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_sound_model(good):
    assert check.check(good).architecture == "qwen3"


@pytest.mark.parametrize(
    "edit, expected",
    [
        (lambda data: data[:2000], "damaged near byte"),  # as the container's reader says it
        # the first token, "!", becomes the third
        (put("tokenizer.ggml.tokens", b"#", 24), "the same token twice"),
        (put("qwen3.block_count", struct.pack("<I", 2**30)), "1073741824 layers of 25 tensors"),
        (put("qwen3.block_count", b"\3"), "it has no tensor blk.2.attn_norm.weight"),
        (put("qwen3.attention.head_count", b"\0"), "qwen3.attention.head_count is 0"),
        (
            put("qwen3.attention.head_count", b"\4"),
            "attn_q.weight is of shape [64, 64], its sizes ask for [64, 128]",
        ),
        (put("qwen3.embedding_length", struct.pack("<I", 96)), "output.weight is of shape"),
        (put("qwen3.attention.layer_norm_rms_epsilon", struct.pack("<f", float("nan"))), "epsilon is nan"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(good, tmp_path, edit, expected):
    path = changed(tmp_path / "bad.gguf", good, edit)
    with pytest.raises(LiteError) as fault:
        check.check(path)
    assert expected in str(fault.value)
    assert "\n" not in str(fault.value) and len(str(fault.value)) < 300


WORDS = [0, 1, 2, 3, 8, 9, 12, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**63, 2**64 - 1]


def mutated(good: bytes, header: int, rng: random.Random) -> bytes:
    """One to four random changes, most of them in the header."""
    data = bytearray(good)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(min(header, len(data)))
        size, word = rng.randrange(1, 64), rng.choice(WORDS)
        change = rng.randrange(7)
        if change == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at] = rng.randrange(256)
        elif change == 2:
            data[at : at + 8] = struct.pack("<Q", word)
        elif change == 3:
            data[at : at + 4] = struct.pack("<I", word & 0xFFFFFFFF)
        elif change == 4:
            del data[at : at + size]
        elif change == 5:
            data[at:at] = rng.randbytes(size)
        else:
            del data[max(at, 1) :]
    return bytes(data)


def test_fuzz(good, tmp_path):
    """Every mutation is sound or a LiteError of one line."""
    data, header, rng = good.read_bytes(), container.read(good).data_start, random.Random(4)
    path, faults = tmp_path / "mutated.gguf", 0
    for _ in range(600):
        path.write_bytes(mutated(data, header, rng))
        try:
            calibration.of_gguf(check.check(path))
        except LiteError as fault:
            faults += 1
            assert len(str(fault)) < 600
    assert 300 < faults < 600
