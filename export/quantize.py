"""Quantise a GGUF with llama.cpp's own quantiser, through llama_cpp; no torch.

llama.cpp destroys a file that is quantised onto itself, leaves a partial file where it refuses, and swaps
formats that do not fit a tensor without saying so; all three are caught here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from lite.errors import LiteError
from lite.runtime.hardware import num_cores

# llama.cpp's file type, and the most bytes a weight takes: k-quants fall back to at most Q8_0.
QUANTS = {
    "f32": (llama_cpp.LLAMA_FTYPE_ALL_F32, 4.0),
    "f16": (llama_cpp.LLAMA_FTYPE_MOSTLY_F16, 2.0),
    "bf16": (llama_cpp.LLAMA_FTYPE_MOSTLY_BF16, 2.0),
    "q8_0": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, 1.0625),
    "q6_k": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K, 1.0625),
    "q5_k_m": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M, 1.0625),
    "q4_k_m": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, 1.0625),
    "q4_0": (llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, 1.0625),
}
FLOATS = ("f32", "f16", "bf16")
HEADER_BYTES = 32 * 2**20  # a vocabulary of 150,000 tokens takes about 6 MiB


@dataclass(frozen=True, slots=True)
class Quantised:
    """What came out: the file's size, and how many tensors fell back to another format than asked."""

    num_bytes: int
    num_fallback: int


def require_quant(quant: str) -> None:
    """Raise LiteError for an unknown quantisation."""
    if quant not in QUANTS:
        raise LiteError(f"quant {quant!r} is unknown; use one of {', '.join(QUANTS)}")


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise LiteError, with both numbers, where `folder`'s disk cannot take `num_bytes`."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise LiteError(
            f"{folder}: needs {num_bytes} bytes, only {free} bytes are free; free some or write elsewhere"
        )


@contextlib.contextmanager
def captured_log() -> Iterator[list[str]]:
    """Collect llama.cpp's log instead of printing it."""
    before, data, pieces = llama_cpp.llama_log_callback(), ctypes.c_void_p(), []
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(data))

    @llama_cpp.llama_log_callback
    def collect(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        pieces.append(text.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    try:
        yield pieces
    finally:
        llama_cpp.llama_log_set(before, data)


def quantize(source: Path, out: Path, quant: str) -> Quantised:
    """Quantise the f32, f16 or bf16 GGUF `source` to `out`, atomically.

    Embedding and output rows stay at Q8_0 or better: the control tokens live there. Raises LiteError for an
    unknown quant, for out == source, for too little disk, and where llama.cpp refuses.
    """
    require_quant(quant)
    if not source.is_file():
        raise LiteError(f"{source}: no such file; give a GGUF")
    if source.resolve() == out.resolve() or (out.exists() and os.path.samefile(source, out)):
        raise LiteError(f"{out}: is also the source, which llama.cpp would destroy; write to another file")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, _ = QUANTS[quant]
    params.nthread = num_cores()
    if quant not in FLOATS:
        params.token_embedding_type = params.output_tensor_type = llama_cpp.GGML_TYPE_Q8_0
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        params.dry_run = True
        size = re.search(r"quant size\s*=\s*([\d.]+) MiB", _quantize(source, temporary, params))
        require_space(
            out.parent, HEADER_BYTES + int(float(size.group(1)) * 2**20 if size else source.stat().st_size)
        )
        params.dry_run = False
        log = _quantize(source, temporary, params)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    fallback = re.search(r"(\d+) of (\d+) tensor\(s\) required fallback", log)
    return Quantised(out.stat().st_size, int(fallback.group(1)) if fallback else 0)


def _quantize(source: Path, out: Path, params: llama_cpp.llama_model_quantize_params) -> str:
    """One call of llama.cpp's quantiser; return its log. Raises LiteError where it refuses."""
    with captured_log() as pieces:
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    log = "".join(pieces)
    if failed:
        reason = log.rpartition("failed to quantize:")[2].strip() or "no reason given"
        raise LiteError(
            f"{source}: llama.cpp refused to quantise it ({reason}); give a whole f32, f16 or bf16 GGUF"
        )
    return log
