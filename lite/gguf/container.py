"""The container of a GGUF, read strictly and within bounds.

Every count and length is held against what is left of the file before anything is made of it, and offsets and
sizes of tensors must be those that ggml computes. Source: the GGUF specification (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lite.errors import LiteError

MAGIC, VERSIONS = b"GGUF", (2, 3)
ALIGNMENT = 32  # of tensor data, where general.alignment does not say otherwise
MAX_HEADER_BYTES = 2**28  # the largest vocabularies in use take about 2**24
MAX_ITEMS = 2**21  # of one array, and texts in all arrays; the largest vocabularies have about 2**19 merges
MAX_DIMS, MAX_NAME_BYTES = 4, 63  # ggml's

# Metadata types by number, as struct and numpy spell them; 8 is a text, 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY, BOOL = 8, 9, 7
FLOAT32 = 6

# Tensor types by number: their name, values in a block, bytes of a block (ggml's).
KINDS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's place. `shape` is ggml's: the length of a row first, then how many rows."""

    kind: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Container:
    """What a GGUF says. A metadata value is a number, a bool, a text, a list of texts or a 1-d numpy array.

    `fields` and `infos` are byte spans [start, end) in the file: of each metadata entry, and of the tensor
    infos; tensor data starts at `data_start`.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    fields: dict[str, tuple[int, int]]
    infos: tuple[int, int]
    data_start: int
    alignment: int

    @property
    def architecture(self) -> str:
        return self.metadata.get("general.architecture", "")

    @property
    def template(self) -> str:
        """The chat template; empty where there is none."""
        return self.metadata.get("tokenizer.chat_template", "")


class _Header:
    """A cursor over a file's header that never passes its end."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.at, self.num_texts = path, data, 0, 0
        self.end = min(len(data), MAX_HEADER_BYTES)

    def fault(self, what: str) -> LiteError:
        return LiteError(f"{self.path}: damaged near byte {self.at}, {what}; download or export it again")

    def skip(self, num_bytes: int, what: str) -> int:
        """Go past `num_bytes`, which must be there; return where they begin."""
        start = self.at
        if num_bytes > self.end - start:
            raise self.fault(f"{what} takes {num_bytes} bytes where {self.end - start} are left")
        self.at += num_bytes
        return start

    def number(self, code: str, what: str) -> Any:
        form = "<" + code
        (value,) = struct.unpack_from(form, self.data, self.skip(struct.calcsize(form), what))
        return value

    def count(self, code: str, bytes_each: int, what: str) -> int:
        """A number of things that take at least `bytes_each`: there must be room for them."""
        value = self.number(code, what)
        if value > (self.end - self.at) // bytes_each:
            raise self.fault(f"{what} {value} where {self.end - self.at} bytes are left")
        return value

    def text(self, what: str) -> str:
        length = self.number("Q", f"the length of {what}")
        start = self.skip(length, what)
        try:
            return self.data[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fault(f"{what} is not UTF-8") from None

    def value(self, kind: int, what: str) -> Any:
        if kind == TEXT:
            return self.text(what)
        if kind == ARRAY:
            return self.array(what)
        if kind not in SCALARS:
            raise self.fault(f"{what} is of type {kind}, which there is not")
        if kind == BOOL:
            value = self.number("B", what)
            if value > 1:
                raise self.fault(f"{what} is a bool of {value}")
            return bool(value)
        return self.number(SCALARS[kind], what)

    def array(self, what: str) -> list[str] | np.ndarray:
        kind = self.number("I", f"the type of {what}")
        if kind == TEXT:
            count = self.count("Q", 8, f"the length of {what}")
            self.num_texts += count
        elif kind in SCALARS:
            width = struct.calcsize("<" + SCALARS[kind])
            count = self.count("Q", width, f"the length of {what}")
        else:
            raise self.fault(f"{what} is an array of type {kind}; texts and numbers only")
        if max(count, self.num_texts) > MAX_ITEMS:
            raise self.fault(f"{what} has {count} items; at most {MAX_ITEMS} are read in all")
        if kind == TEXT:
            return [self.text(what) for _ in range(count)]
        start = self.skip(count * width, what)
        return np.frombuffer(self.data[start : self.at], np.dtype(SCALARS[kind]).newbyteorder("<"))


def read(path: Path) -> Container:
    """Read the container of a GGUF; tensor data is not touched.

    Raises LiteError for what is no file, no GGUF, cut, or not as the specification wants it.
    """
    try:
        with open(path, "rb", opener=_open_file) as handle:
            magic = handle.read(4)
            if magic != MAGIC:
                raise LiteError(f"{path}: not a GGUF (it begins with {magic!r}); `lite export` makes one")
            if os.fstat(handle.fileno()).st_size < 24:
                raise LiteError(f"{path}: a GGUF cut within its first 24 bytes; download or export it again")
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Header(path, data))
    except FileNotFoundError:
        raise LiteError(f"{path}: no such file; give the path of a GGUF") from None
    except OSError as fault:
        raise LiteError(f"{path}: cannot read it ({fault.strerror}); give the path of a GGUF") from None
    except ValueError:  # a zero byte in the name
        raise LiteError(f"{str(path)!r}: not a file name; give the path of a GGUF") from None


def _open_file(path: str, flags: int) -> int:
    """Open a regular file only: a pipe would block, a device never ends."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(0, "is a folder" if stat.S_ISDIR(mode) else "is not a file")
    return os.open(path, flags)


def _read(header: _Header) -> Container:
    header.at = len(MAGIC)
    version = header.number("I", "the version")
    if version not in VERSIONS:
        raise LiteError(f"{header.path}: GGUF version {version}; 2 and 3, little-endian, can be read")
    num_tensors = header.count("Q", 33, "the number of tensors")
    num_fields = header.count("Q", 14, "the number of metadata entries")

    metadata: dict[str, Any] = {}
    fields: dict[str, tuple[int, int]] = {}
    for _ in range(num_fields):
        start = header.at
        key = header.text("a metadata key")
        if not key or key in metadata:
            raise header.fault(f"the metadata key {key[:64]!r} is {'there twice' if key else 'empty'}")
        kind = header.number("I", f"the type of {key[:64]!r}")
        metadata[key] = header.value(kind, repr(key[:64]))
        fields[key] = (start, header.at)
    for key in ("general.architecture", "tokenizer.chat_template"):
        if not isinstance(metadata.get(key, ""), str):
            raise header.fault(f"{key} is not a text")
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise header.fault(f"general.alignment is {alignment!r}, not a power of two")

    start, places = header.at, _read_infos(header, num_tensors, alignment)
    infos = (start, header.at)
    data_start = _align(header.at, alignment)
    tensors = {name: Tensor(kind, shape, data_start + at, n) for name, (kind, shape, at, n) in places.items()}
    for name, tensor in tensors.items():
        if tensor.offset + tensor.num_bytes > len(header.data):
            raise LiteError(
                f"{header.path}: cut, tensor {name} ends at byte {tensor.offset + tensor.num_bytes}"
                f" of {len(header.data)}; download or export it again"
            )
    return Container(header.path, metadata, tensors, fields, infos, data_start, alignment)


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _read_infos(
    header: _Header, num_tensors: int, alignment: int
) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
    """Kind, shape, offset in the data and size of each tensor; they lie one after the other, as ggml wants."""
    found: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    offset = 0
    for _ in range(num_tensors):
        name = header.text("a tensor's name")
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES or name in found:
            raise header.fault(f"the tensor name {name[:64]!r} is empty, too long or there twice")
        num_dims = header.number("I", f"the dimensions of {name}")
        if not 1 <= num_dims <= MAX_DIMS:
            raise header.fault(f"{name} has {num_dims} dimensions; 1 to {MAX_DIMS}")
        shape = tuple(header.number("Q", f"the shape of {name}") for _ in range(num_dims))
        number = header.number("I", f"the type of {name}")
        if number not in KINDS:
            raise header.fault(f"{name} is of type {number}, which is not known")
        kind, per_block, block_bytes = KINDS[number]
        num_values = math.prod(shape)
        if not 0 < num_values < 2**62 or shape[0] % per_block:
            raise header.fault(f"{name} cannot be of shape {list(shape)} in {kind}")
        if header.number("Q", f"the offset of {name}") != offset:
            raise header.fault(f"{name} does not begin where the tensor before it ends")
        num_bytes = num_values // per_block * block_bytes
        found[name] = (kind, shape, offset, num_bytes)
        offset = _align(offset + num_bytes, alignment)
    return found
