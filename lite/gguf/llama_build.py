"""What the installed build of llama.cpp may be trusted with.

llama-cpp-python is compiled where it is installed. On a CPU with AMX, a build of 0.3.36 by GCC 12 loads the tile
configuration before it is written, and the first quantised prompt ends the process (SIGSEGV in
`ggml_backend_amx_mul_mat`; the compiler is suspected, not proven). Weights are kept out of the buffers of such kernels
wherever the build has AMX.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import llama_cpp


@functools.cache
def extra_buffers_are_safe() -> bool:
    """Whether weights may be repacked for the CPU's special kernels."""
    return b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()


def model_params() -> llama_cpp.llama_model_params:
    """llama.cpp's default parameters of a model, safe for this build."""
    return make_safe(llama_cpp.llama_model_default_params())


def make_safe(params: Any) -> Any:
    """Switch off what this build cannot do; the same object comes back."""
    params.use_extra_bufts = extra_buffers_are_safe()
    return params


def release_openmp_threads() -> None:
    """Let go of the OpenMP threads that the calling thread holds from earlier work, such as torch's.

    GNU's OpenMP counts them, and with more threads than cores lets all of them sleep at every barrier: decoding took
    four times as long in a process that had trained before. They come back when they are needed.
    """
    if not sys.platform.startswith("linux"):
        return
    lines = Path("/proc/self/maps").read_text().splitlines()
    for library in {line.split()[-1] for line in lines if "/libgomp" in line}:
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: older than GCC 9
            ctypes.CDLL(library).omp_pause_resource_all(1)
