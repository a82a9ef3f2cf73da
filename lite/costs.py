"""What a stage costs, for its manifest: expected before it by lite/footprint.py, and the peak memory of its run."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

from lite import footprint, lengths
from lite.errors import LiteError
from lite.machine import this_machine
from lite.recipe import Recipe
from lite.shape import PlainTokenizer, read_encoder, read_shape


def expected(
    name: str, recipe: Recipe, folder: Path, is_done: Callable[[str], bool]
) -> dict[str, float] | None:
    """What a stage should take by lite/footprint.py; None where the model's small files are not here.

    `is_done` says of which stages the folder holds what this recipe makes.
    """
    with contextlib.suppress(LiteError, ImportError):
        shape, tokenizer = read_shape(recipe.model), PlainTokenizer(recipe.model)
        known = lengths.of_run(recipe, folder, tokenizer, is_done) or lengths.at_most(recipe)
        encoder = read_encoder(recipe.compressor.encoder)
        planner = footprint.Planner(recipe, shape, known, this_machine(), encoder)
        return planner.all()[name].shown()
    return None


def _cuda():
    """torch.cuda where a stage has loaded torch and there is a GPU; else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def reset_peak_memory() -> None:
    """Start a new measurement of peak memory (Linux; elsewhere the peak of the whole process stays).

    What the stage before has freed goes back to the system first.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    if cuda := _cuda():
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_gb() -> float:
    """Peak resident memory since the last reset, in GB (1e9 bytes)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    import resource

    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    )


def peak_gpu_memory_gb() -> dict[str, float]:
    """Peaks since the last reset, in GB: `allocated` to tensors, and `reserved` by torch for them; 0 without a GPU."""
    cuda = _cuda()
    return {
        "allocated": round(cuda.max_memory_allocated() / 1e9, 3) if cuda else 0.0,
        "reserved": round(cuda.max_memory_reserved() / 1e9, 3) if cuda else 0.0,
    }
