"""What a result was made from and with: digests of files and models, versions of packages."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import sys
from pathlib import Path

PACKAGES = (
    "unsloth",
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "llama-cpp-python",
    "gguf",
    "numpy",
)


def versions() -> dict[str, str]:
    """Installed versions of what the results depend on."""
    found = {"python": sys.version.split()[0]}
    for package in ("extra-cot-lite", *PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@functools.cache
def _sha256_of_state(path: Path, num_bytes: int, mtime_ns: int) -> str:
    return sha256(path)


def sha256_unchanged(path: Path) -> str:
    """`sha256`, once in a process for a file that does not change."""
    state = path.stat()
    return _sha256_of_state(path, state.st_size, state.st_mtime_ns)
