"""The stages in their order, what each reads, and how a run resumes.

The run folder is the state: `<run>/<stage>/` holds what the stage wrote, and `manifest.json` in it, written
last, says that it is done. A stage whose manifest carries the current fingerprint (its recipe section, the
model, the seed and the fingerprints of what it reads) is skipped; any other one runs, and resumes from what
it left in its folder if that was made under the same fingerprint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite import costs, ranks, sources
from lite import recipe as recipes
from lite.endpoint import Endpoint, base_url, optional_key
from lite.errors import LiteError, Unreachable
from lite.progress import console
from lite.provenance import model_content, sha256, sha256_unchanged, versions
from lite.recipe import Recipe
from lite.records import atomic_write, write_json


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: its module has `run(run) -> dict`, and its recipe section the same name."""

    name: str
    module: str
    reads: tuple[str, ...] = ()


STAGES = (
    Stage("problems", "lite.problems"),
    Stage("traces", "lite.train.traces", ("problems",)),
    Stage("annotate", "lite.compress.annotate", ("traces",)),
    Stage("compressor", "lite.train.classifier", ("annotate",)),
    Stage("compress", "lite.compress.compress", ("traces", "compressor")),
    Stage("mixture", "lite.compress.mixture", ("traces", "compress")),
    Stage("sft", "lite.train.sft", ("mixture",)),
    Stage("probe", "lite.train.probe", ("problems", "sft")),
    Stage("chrpo", "lite.train.chrpo", ("sft", "probe")),
    Stage("merge", "export.merge", ("sft", "chrpo")),
    Stage("export", "export.export", ("problems", "merge")),
    Stage("evaluate", "lite.measure.evaluate", ("problems", "export")),
)
NAMES = tuple(stage.name for stage in STAGES)
SHARED = ("sft", "chrpo")  # may run in several processes, under `accelerate launch`
SERVED = ("traces", "annotate", "probe", "evaluate")  # may sample from an endpoint


def stage(name: str) -> Stage:
    if name not in NAMES:
        raise LiteError(f"stage {name!r} is unknown; the stages are {', '.join(NAMES)}")
    return STAGES[NAMES.index(name)]


def _num_bytes(path: Path) -> int:
    """Size of a file; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


@dataclass(frozen=True)
class Run:
    """A recipe and the folder it runs in: all that a stage is given."""

    recipe: Recipe
    folder: Path
    endpoint: str = ""  # the API that samples for a stage instead of a model loaded here; decides no result

    def server(self, num_parallel: int) -> Endpoint | None:
        """The run's endpoint, if it has one, with so many requests in flight."""
        return (
            Endpoint(self.endpoint, key=optional_key(), num_parallel=num_parallel) if self.endpoint else None
        )

    def path(self, stage_name: str, *parts: str) -> Path:
        """A path in a stage's folder."""
        return self.folder.joinpath(stage_name, *parts)

    def fingerprint(self, name: str) -> str:
        """What decides a stage's result: its section, the model, the seed, its inputs; 16 hex digits."""
        what = {
            "stage": name,
            "section": dataclasses.asdict(getattr(self.recipe, name)),
            "seed": self.recipe.seed,
            "reads": [self.fingerprint(read) for read in stage(name).reads],
        }
        if name != "problems":
            what["model"] = model_content(self.recipe.model)
        if name == "traces":
            what["four_bit"] = self.recipe.sft.four_bit  # of the model that samples
        if name == "export":
            what["name"] = self.recipe.name  # the GGUFs carry it
        if name == "problems":
            named = [*self.recipe.problems.source, *self.recipe.problems.eval]
            files = [sources.local_file(source.name) for source in named]
            what["files"] = [sha256_unchanged(file) if file else None for file in files]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def manifest(self, name: str) -> dict[str, Any] | None:
        """A stage's manifest, or None where it is not done."""
        try:
            manifest = json.loads(self.path(name, "manifest.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return manifest if isinstance(manifest, dict) else None

    def is_done(self, name: str) -> bool:
        """Whether a stage finished under the current recipe and all that it wrote is still there, uncut."""
        manifest = self.manifest(name) or {}
        sizes = manifest.get("bytes")
        return (
            manifest.get("fingerprint") == self.fingerprint(name)
            and isinstance(sizes, dict)
            and all(_num_bytes(self.path(name, file)) == size for file, size in sizes.items())
        )

    def gguf(self, which: str) -> Path:
        """Where the export stage puts a GGUF: "base", "sft" (before CHRPO) or "policy", the product."""
        middle = "" if which == "policy" else f"-{which}"
        return self.path("export", f"{self.recipe.name}{middle}-{self.recipe.export.quant}.gguf")

    def run_stage(self, name: str) -> None:
        """Run one stage and write its manifest. Raises LiteError where an input is not there."""
        this = stage(name)
        for read in this.reads:
            if not self.is_done(read):
                raise LiteError(
                    f"stage {name} reads {read}, which is not done in {self.folder}; run it first"
                )
        fingerprint = self.fingerprint(name)
        if ranks.is_main():
            self._begin_stage(name, fingerprint)
        ranks.wait()
        try:
            self._finish_stage(this, fingerprint)
        except Unreachable:
            raise  # this stage goes on once the server is back
        except LiteError:
            if ranks.is_main():
                self._put_back(name)
            raise
        if ranks.is_main():
            shutil.rmtree(self._before(name), ignore_errors=True)

    def _begin_stage(self, name: str, fingerprint: str) -> None:
        """Make a stage's folder ready: what another recipe left is set aside, what a kill tore is removed."""
        folder = self.path(name)
        if folder.exists() and not self._was_begun(name):
            folder.rename(self._before(name))  # another recipe's: kept until this one is done
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        for torn in list(folder.rglob(".*.tmp")):  # a killed process's
            shutil.rmtree(torn) if torn.is_dir() else torn.unlink(missing_ok=True)
        with atomic_write(folder / "fingerprint") as handle:
            handle.write(fingerprint)

    def _before(self, name: str) -> Path:
        """Where another recipe's folder of a stage is kept while this recipe's is being made."""
        return self.folder / f".{name}.before"

    def _was_begun(self, name: str) -> bool:
        """Whether what is in a stage's folder was made under the current recipe."""
        started_under = self.path(name, "fingerprint")
        return started_under.is_file() and started_under.read_text() == self.fingerprint(name)

    def _put_back(self, name: str) -> None:
        """Bring back what was set aside. What stands in its place goes, its fingerprint first: half of it is none."""
        if self._before(name).exists():
            self.path(name, "fingerprint").unlink(missing_ok=True)
            shutil.rmtree(self.path(name), ignore_errors=True)
            self._before(name).rename(self.path(name))

    def mend_stage(self, name: str) -> None:
        """After a kill: what was set aside goes where its successor got done, and comes back where the successor is
        not this recipe's. Else this recipe goes on with its work, and what was set aside stays."""
        if self.manifest(name) is not None:
            shutil.rmtree(self._before(name), ignore_errors=True)
        elif self._before(name).exists() and not self._was_begun(name):
            self._put_back(name)

    def _finish_stage(self, this: Stage, fingerprint: str) -> None:
        """Do the work of a stage in its folder, then write its manifest."""
        folder = self.path(this.name)
        expected = costs.expected(this.name, self.recipe, self.folder, self.is_done)
        costs.reset_peak_memory()
        started = time.monotonic()
        measured = importlib.import_module(this.module).run(self)
        if not ranks.is_main():
            return
        files = [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("manifest.json", "fingerprint")
        ]
        write_json(
            folder / "manifest.json",
            {
                "stage": this.name,
                "fingerprint": fingerprint,
                "measured": measured,
                "seconds": round(time.monotonic() - started, 1),
                "peak_memory_gb": round(costs.peak_memory_gb(), 3),
                "peak_gpu_memory_gb": round(costs.peak_gpu_memory_gb(), 3),
                "expected": expected,
                "inputs": {read: self.fingerprint(read) for read in this.reads},
                "bytes": {str(path.relative_to(folder)): path.stat().st_size for path in files},
                "sha256": {str(path.relative_to(folder)): sha256(path) for path in files},
                "versions": versions(),
                "seed": self.recipe.seed,
                "endpoint": self.endpoint or None,
                "recipe": dataclasses.asdict(self.recipe),
            },
        )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
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
        if name is not None:
            stage(name)
    _check_packages(recipe)
    if endpoint and only not in SERVED:
        raise LiteError(
            f"--endpoint: a server serves one stage's model; add --stage with one of {', '.join(SERVED)}"
        )
    if ranks.num() > 1 and only not in SHARED:
        raise LiteError(
            f"{ranks.num()} processes share one stage; add --stage with one of {', '.join(SHARED)}, and run the"
            " others without a launcher"
        )
    run = Run(recipe, folder, base_url(endpoint) if endpoint else "")
    if not ranks.is_main():
        ranks.wait()  # the main process has the folder to itself until it is ready
        assert only is not None
        if not run.is_done(only):
            run.run_stage(only)
        return run
    with _alone_in(folder):
        for torn in folder.glob(".recipe.yaml.*.tmp"):  # a killed process's
            torn.unlink()
        with atomic_write(folder / "recipe.yaml") as handle:
            handle.write(recipes.dump(recipe))
        wanted: Sequence[str] = (only,) if only else NAMES[: NAMES.index(until) + 1] if until else NAMES
        for name in NAMES:
            run.mend_stage(name)
        ranks.wait()
        for name in wanted:
            place = f"[{NAMES.index(name) + 1}/{len(NAMES)}] {name}"
            if run.is_done(name):
                console.print(f"{place}: done before, skipped")
                continue
            console.print(f"{place} ...")
            run.run_stage(name)
            manifest = run.manifest(name)
            assert manifest is not None
            numbers = ", ".join(f"{key} {value}" for key, value in manifest["measured"].items())
            console.print(
                f"{place}: {manifest['seconds']:.0f} s, {manifest['peak_memory_gb']:.1f} GB, {numbers}"
            )
    return run
