"""Where a run may go: graphics cards and the processor here, with the speeds that estimates assume. Loads no torch."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace

from lite.runtime.hardware import multiplies_bf16, num_cores


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run goes. Speeds are what is reached, not what is printed on the box."""

    name: str
    gpu_gb: float  # of GPU memory that a run may take; 0: there is no GPU
    flops: float  # a second, in training
    bandwidth: float  # bytes a second, of weights read while generating
    layer_seconds: float  # of overhead per layer: of a generating step on a GPU, of every token on a CPU
    byte_seconds: float = (
        0.0  # per byte of activations in training; a CPU spends as much on these as on products
    )
    bf16: bool = True  # computes in 16 bits; else in 32

    @property
    def on_gpu(self) -> bool:
        return self.gpu_gb > 0

    @property
    def width(self) -> int:
        """Bytes of a number in 16 or 32-bit computing."""
        return 2 if self.bf16 else 4


def _cpu() -> Machine:
    """This machine's processor; speeds as measured on two cores with AMX, in float32 on what is more common."""
    cores, bf16 = num_cores(), multiplies_bf16()
    return Machine("cpu", 0, (4e11 if bf16 else 5e10) * cores, 5e9 * cores, 2e-4 / cores, 4e-9 / cores, bf16)


# Three tenths of the printed bf16 rate of an RTX 3090, 4060 Ti, 3060, 3060 Ti, and half of its bandwidth. Of the
# memory, what is printed in GB of 1e9 bytes: the 7 % more that is there is left to the display.
CARDS = {
    "24gb": Machine("24gb", 24, 2.1e13, 4.7e11, 1e-3),
    "16gb": Machine("16gb", 16, 1.3e13, 1.4e11, 1e-3),
    "12gb": Machine("12gb", 12, 0.8e13, 1.8e11, 1e-3),
    "8gb": Machine("8gb", 8, 1.0e13, 2.2e11, 1e-3),
    "cpu": _cpu(),
}


def this_machine() -> Machine:
    """The first GPU here, taken to be as fast as the largest card of the list that it holds; the CPU without one."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        gpu_gb = float(told.split()[0]) * 2**20 / 1e9
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return CARDS["cpu"]
    like = next((card for card in CARDS.values() if card.on_gpu and card.gpu_gb <= gpu_gb), CARDS["8gb"])
    return replace(like, name=f"{gpu_gb:.0f} GB GPU", gpu_gb=0.93 * gpu_gb)
