"""What this machine has, and what will run on it. Imports no torch: a process of its own looks for a GPU."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from lite.runtime.hardware import num_cores
from lite.runtime.provenance import versions

PROBE = (
    "import torch\n"
    "if torch.cuda.is_available():\n"
    "    one = torch.cuda.get_device_properties(0)\n"
    "    print(f'{one.name}, {one.total_memory / 1e9:.0f} GB', end='')\n"
    "elif torch.backends.mps.is_available():\n"
    "    print('Apple GPU', end='')\n"
)
CARD_GB = 20.0  # of GPU memory that the 24 GB recipes need at least
QUICKSTART_GB = 4.0  # of memory and of disk


def memory_gb() -> float | None:
    """Memory that is free for use, in GB (1e9 bytes); all of it where the system does not say; None unknown."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e9
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (AttributeError, ValueError, OSError):
        return None


def _output(*command: str) -> str:
    """What a command prints; empty where it is not there, fails, or takes longer than a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def accelerator() -> str:
    """The GPU that torch would use, or the one that nvidia-smi sees; empty where there is none."""
    if importlib.util.find_spec("torch"):
        return _output(sys.executable, "-c", PROBE)
    query = ("--query-gpu=name,memory.total", "--format=csv,noheader")
    return _output("nvidia-smi", *query).partition("\n")[0]


def _gpu_gb(found: str) -> float:
    """Memory named at the end of an accelerator line, "NAME, 24 GB" or "NAME, 24564 MiB"; 0 unnamed."""
    number, _, unit = found.rpartition(", ")[2].partition(" ")
    try:
        return float(number) * {"GB": 1.0, "MiB": 2**20 / 1e9}[unit]
    except (ValueError, KeyError):
        return 0.0


def examine() -> list[tuple[str, str]]:
    """Rows (what, finding): versions, hardware, and what runs where."""
    found, gpu, memory = versions(), accelerator(), memory_gb()
    disk = shutil.disk_usage(Path.cwd()).free / 1e9
    trains = all(package in found for package in ("torch", "unsloth", "trl", "peft"))
    enough = disk >= QUICKSTART_GB and (memory is None or memory >= QUICKSTART_GB)
    rows = [(package, version) for package, version in found.items()]
    rows += [
        ("system", f"{platform.system()} {platform.machine()}"),
        ("cores", str(num_cores())),
        ("memory free", "unknown" if memory is None else f"{memory:.1f} GB"),
        ("disk free here", f"{disk:.1f} GB"),
        ("accelerator", gpu or "none"),
        (
            "lite ask, lite eval",
            "yes, llama.cpp" if "llama-cpp-python" in found else "no, llama-cpp-python is missing",
        ),
    ]
    if not trains:
        return [*rows, ("training", "no: the extra `train` is missing; `uv sync --extra train` brings it")]
    small = f"no: it takes {QUICKSTART_GB:.0f} GB of memory and of disk"
    rows.append(("lite quickstart", f"yes, on {'the GPU' if gpu else 'the CPU'}" if enough else small))
    card = "yes" if _gpu_gb(gpu) >= CARD_GB else f"no: they take a GPU with {CARD_GB:.0f} GB or more"
    rows.append(("the 24 GB recipes", card))
    return rows


def doctor() -> None:
    """Print the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "found")
    for row in examine():
        table.add_row(*row)
    Console().print(table)
