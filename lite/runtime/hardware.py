"""What the machine can do, and what a stage took of its memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import sys
from pathlib import Path


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


def num_cores() -> int:
    """Cores that this process may run on: more threads than these would wait for each other."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bf16() -> bool:
    """Whether models are loaded in bf16 on a CPU: where it has units for matrices of it; else in float32.

    Unsloth by itself takes AVX512-BF16 for enough, where torch's products are slower in bf16 than in float32
    (docs/log.md). Where there is no /proc/cpuinfo it is float32, too.
    """
    override = os.environ.get("UNSLOTH_CPU_BF16", "").strip().lower()
    if override in ("0", "false", "no", "off", "1", "true", "yes", "on"):
        return override in ("1", "true", "yes", "on")
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").lower().split())
    except OSError:
        return False
    arm = platform.machine().lower() in ("aarch64", "arm64")
    return bool(flags & ({"bf16"} if arm else {"amx_bf16"}))
