"""What a result was made from and with: digests of files and models, versions of packages."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import sys
from pathlib import Path

from lite.models import unsloth

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


MODEL_FILES = (".json", ".jinja", ".model", ".safetensors", ".txt")  # weights, config, tokenizer


@functools.cache
def _sha256_of_state(path: Path, num_bytes: int, mtime_ns: int) -> str:
    return sha256(path)


def sha256_unchanged(path: Path) -> str:
    """`sha256`, once in a process for a file that does not change."""
    state = path.stat()
    return _sha256_of_state(path, state.st_size, state.st_mtime_ns)


def model_content(model: str) -> str | dict[str, str]:
    """What a recipe's model is: the digests of a local folder's files, so that another training is another model.

    A hub name stands for itself.
    """
    folder = Path(unsloth.resolve(model))
    if not folder.is_dir():
        return model
    return {
        path.name: sha256_unchanged(path) for path in sorted(folder.iterdir()) if path.suffix in MODEL_FILES
    }
