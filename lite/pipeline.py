"""The stages in their order: `train` runs those of a recipe that are not done."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lite import config
from lite.config import Recipe
from lite.errors import LiteError
from lite.remote.client import base_url
from lite.run import READS, Run
from lite.runtime import distributed
from lite.runtime.files import atomic_write
from lite.runtime.progress import console

Work = Callable[[Run], dict[str, Any]]
SHARED = ("sft", "chrpo")  # may run in several processes, under `accelerate launch`
SERVED = ("traces", "annotate", "probe", "evaluate")  # may sample from an endpoint


def work_of(stage: str) -> Work:
    """The function that does a stage's work. Imported here, so that a stage loads only what it needs."""
    match stage:
        case "problems":
            from lite.data.problems import run
        case "traces":
            from lite.data.traces import run
        case "annotate":
            from lite.compress.annotate import run
        case "compressor":
            from lite.train.classifier import run
        case "compress":
            from lite.compress.compress import run
        case "mixture":
            from lite.compress.mixture import run
        case "sft":
            from lite.train.sft import run
        case "probe":
            from lite.train.probe import run
        case "chrpo":
            from lite.train.chrpo import run
        case "merge":
            from export.merge import run
        case "export":
            from export.export import run
        case "evaluate":
            from lite.eval.evaluate import run
        case _:
            raise ValueError(stage)
    return run


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder against a second run. The system lets go of it when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as handle:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, children do not inherit it
            except (BlockingIOError, PermissionError):
                raise LiteError(
                    f"{folder}: another run is at work in it; wait for it, or give another --out"
                ) from None
        yield


def _check_packages(recipe: Recipe) -> None:
    """Raise LiteError where a trainer needs a package that is not here: now, not after hours."""
    if recipe.chrpo.vllm and not importlib.util.find_spec("vllm"):
        raise LiteError(
            f"chrpo.vllm = {recipe.chrpo.vllm}: vllm is not installed; `uv pip install vllm` (CUDA only), or 0"
        )
    for name in ("sft", "chrpo"):
        package = getattr(recipe, name).report_to
        if package != "none" and not importlib.util.find_spec(package):
            raise LiteError(
                f"{name}.report_to = {package}: the package is not installed; `uv pip install {package}`, or none"
            )


def train(
    recipe: Recipe, folder: Path, only: str | None = None, until: str | None = None, endpoint: str = ""
) -> Run:
    """Run the stages of a recipe that are not done: all, only one, or all up to one.

    `endpoint` is the API of a server that serves what the stage `only` samples from.
    """
    for name in (only, until):
        if name is not None and name not in READS:
            raise LiteError(f"stage {name!r} is unknown; the stages are {', '.join(READS)}")
    _check_packages(recipe)
    if endpoint and only not in SERVED:
        raise LiteError(
            f"--endpoint: a server serves one stage's model; add --stage with one of {', '.join(SERVED)}"
        )
    if distributed.num() > 1 and only not in SHARED:
        raise LiteError(
            f"{distributed.num()} processes share one stage; add --stage with one of {', '.join(SHARED)}, and run the"
            " others without a launcher"
        )
    if distributed.num() > 1:
        from lite.models import unsloth

        unsloth.prepare()
    run = Run(recipe, folder, base_url(endpoint) if endpoint else "")
    if not distributed.is_main():
        distributed.wait()  # the main process has the folder to itself until it is ready
        assert only is not None
        if not run.is_done(only):
            run.run_stage(only, work_of(only))
        return run
    with locked(folder):
        for partial in folder.glob(".recipe.yaml.*.tmp"):  # a killed process's
            partial.unlink()
        with atomic_write(folder / "recipe.yaml") as handle:
            handle.write(config.dump(recipe))
        names = list(READS)
        for name in names:
            run.restore(name)
        distributed.wait()
        for name in [only] if only else names[: names.index(until) + 1] if until else names:
            place = f"[{names.index(name) + 1}/{len(names)}] {name}"
            if run.is_done(name):
                console.print(f"{place}: done before, skipped")
                continue
            console.print(f"{place} ...")
            run.run_stage(name, work_of(name))
            manifest = run.manifest(name)
            assert manifest is not None
            numbers = ", ".join(f"{key} {value}" for key, value in manifest["measured"].items())
            console.print(
                f"{place}: {manifest['seconds']:.0f} s, {manifest['peak_memory_gb']:.1f} GB, {numbers}"
            )
    return run
