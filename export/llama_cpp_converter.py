"""Architectures that we do not convert ourselves: through the converter of a llama.cpp checkout.

It runs in a process of its own and writes the folder's own chat template; the dial and the calibration are put
into the metadata of its file afterwards. What came out is verified like every other export: the official
converter can succeed and be wrong.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from export.convert import Dtype, dial_of
from export.vocab import read_json
from lite.errors import LiteError
from lite.gguf import check
from lite.gguf import container as gguf_file
from lite.runtime.files import atomic_write

SCRIPT = "convert_hf_to_gguf.py"
COPY_BYTES = 2**24


def script_of(checkout: Path) -> Path:
    """The converter of a checkout. Raises LiteError where there is none."""
    script = checkout / SCRIPT
    if not script.is_file():
        raise LiteError(f"{checkout}: no {SCRIPT} in it; give a checkout of llama.cpp to --llama-cpp")
    return script


def convert(
    checkout: Path,
    folder: Path,
    out: Path,
    dtype: Dtype,
    dial: bool,
    name: str,
    extra: Mapping[str, list[float]],
) -> None:
    """As `export.convert.convert`, by the checkout's converter. Raises LiteError with its last line where it fails.

    The converter runs code that a folder's settings name (trust_remote_code), so a folder that names some is refused.
    """
    for name_of in ("config.json", "tokenizer_config.json"):
        if (folder / name_of).is_file() and "auto_map" in read_json(folder / name_of):
            raise LiteError(
                f"{folder / name_of}: auto_map names code of its own, which llama.cpp's converter would run; take a"
                " model without"
            )
    command = [sys.executable, str(script_of(checkout).absolute()), str(folder.absolute())]
    command += ["--outfile", str(out.absolute()), "--outtype", dtype, "--model-name", name]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode or not out.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"code {done.returncode}"]
        raise LiteError(
            f"{folder}: llama.cpp's converter failed ({said[-1].strip()[:300]}); it cannot be exported"
        )
    changes: dict[str, str | list[float]] = dict(extra)
    if dial:
        made = check.check(out)
        changes["tokenizer.chat_template"] = dial_of(
            folder, made.metadata.get("tokenizer.ggml.tokens", []), made.template or None
        )
    if changes:
        set_metadata(out, changes)


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _field(key: str, value: str | list[float]) -> bytes:
    """A metadata entry of a GGUF: a text, or an array of float32."""
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", gguf_file.TEXT) + _text(value)
    head = struct.pack("<IIQ", gguf_file.ARRAY, gguf_file.FLOAT32, len(value))
    return _text(key) + head + struct.pack(f"<{len(value)}f", *value)


def set_metadata(path: Path, changes: Mapping[str, str | list[float]]) -> None:
    """Replace or add metadata of a GGUF, atomically. Offsets of tensors count from their data and so stay."""
    container = gguf_file.read(path)
    kept = [span for key, span in container.fields.items() if key not in changes]
    with open(path, "rb") as source, atomic_write(path, "wb") as out:

        def copy(start: int, end: int) -> None:
            source.seek(start)
            while start < end:
                block = source.read(min(COPY_BYTES, end - start))
                out.write(block)
                start += len(block)

        out.write(source.read(8))  # magic and version
        out.write(struct.pack("<QQ", len(container.tensors), len(kept) + len(changes)))
        for start, end in kept:
            copy(start, end)
        for key, value in changes.items():
            out.write(_field(key, value))
        copy(*container.infos)
        out.write(bytes(-out.tell() % container.alignment))
        copy(container.data_start, os.fstat(source.fileno()).st_size)
