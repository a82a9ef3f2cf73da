from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from lite.plan import doctor


def test_gpu_memory_from_both_forms():
    assert doctor._gpu_gb("NVIDIA GeForce RTX 4090, 24 GB") == 24.0
    assert round(doctor._gpu_gb("NVIDIA GeForce RTX 4090, 24564 MiB"), 2) == 25.76
    assert doctor._gpu_gb("Apple GPU") == doctor._gpu_gb("") == 0.0


def test_rows_say_what_runs(monkeypatch):
    monkeypatch.setattr(doctor, "accelerator", lambda: "Some Card, 24 GB")
    monkeypatch.setattr(doctor, "memory_gb", lambda: 16.0)
    monkeypatch.setattr(doctor, "versions", lambda: dict.fromkeys(("torch", "unsloth", "trl", "peft"), "1"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=100e9))
    rows = dict(doctor.examine())
    assert rows["lite quickstart"] == "yes, on the GPU" and rows["the 24 GB recipes"] == "yes"
    assert rows["lite ask, lite eval"].startswith("no")

    monkeypatch.setattr(doctor, "accelerator", lambda: "")
    rows = dict(doctor.examine())
    assert rows["lite quickstart"] == "yes, on the CPU" and rows["the 24 GB recipes"].startswith("no")

    monkeypatch.setattr(doctor, "memory_gb", lambda: 2.0)
    assert dict(doctor.examine())["lite quickstart"].startswith("no: it takes 4 GB")

    monkeypatch.setattr(doctor, "versions", lambda: {"llama-cpp-python": "1"})
    rows = dict(doctor.examine())
    assert rows["training"].startswith("no") and rows["lite ask, lite eval"].startswith("yes")


def test_a_failing_probe_is_no_accelerator():
    assert doctor._output(sys.executable, "-c", "raise SystemExit(1)") == ""
    assert doctor._output("no-such-command-here") == ""


def test_it_loads_no_torch():
    code = "import sys; from lite.plan.doctor import memory_gb; memory_gb(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
