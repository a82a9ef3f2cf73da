"""A run folder: its paths, its manifests, and how a stage resumes.

The folder is the state. `<run>/<stage>/` holds what the stage wrote; `manifest.json` in it, written last, says that the
stage is done. A stage whose manifest carries the current fingerprint (its recipe section, the model, the seed and the
fingerprints of what it reads) is skipped. Any other one runs, and resumes from its folder if that was made under the
same fingerprint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite.config import Recipe
from lite.data.sources import local_file
from lite.errors import LiteError, Unreachable
from lite.models.pretrained import model_content
from lite.remote.client import Endpoint, optional_key
from lite.runtime import distributed, hardware
from lite.runtime.files import atomic_write, write_json
from lite.runtime.provenance import sha256, sha256_unchanged, versions

# The stages in their order, and the earlier ones that each of them reads.
READS: dict[str, tuple[str, ...]] = {
    "problems": (),
    "traces": ("problems",),
    "annotate": ("traces",),
    "compressor": ("annotate",),
    "compress": ("traces", "compressor"),
    "mixture": ("traces", "compress"),
    "sft": ("mixture",),
    "probe": ("problems", "sft"),
    "chrpo": ("sft", "probe"),
    "merge": ("sft", "chrpo"),
    "export": ("problems", "merge"),
    "evaluate": ("problems", "export"),
}


def _num_bytes(path: Path) -> int:
    """Size of a file; -1 if it does not exist."""
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

    def path(self, stage: str, *parts: str) -> Path:
        """A path in a stage's folder."""
        return self.folder.joinpath(stage, *parts)

    def fingerprint(self, stage: str) -> str:
        """What decides a stage's result: its section, the model, the seed, its inputs; 16 hex digits."""
        what = {
            "stage": stage,
            "section": dataclasses.asdict(getattr(self.recipe, stage)),
            "seed": self.recipe.seed,
            "reads": [self.fingerprint(read) for read in READS[stage]],
        }
        if stage != "problems":
            what["model"] = model_content(self.recipe.model)
        if stage == "traces":
            what["four_bit"] = self.recipe.sft.four_bit  # of the model that samples
        if stage == "export":
            what["name"] = self.recipe.name  # the GGUFs carry it
        if stage == "problems":
            named = [*self.recipe.problems.source, *self.recipe.problems.eval]
            files = [local_file(source.name) for source in named]
            what["files"] = [sha256_unchanged(file) if file else None for file in files]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """A stage's manifest; None if it is missing or unreadable, so not done."""
        try:
            manifest = json.loads(self.path(stage, "manifest.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return manifest if isinstance(manifest, dict) else None

    def is_done(self, stage: str) -> bool:
        """Whether a stage finished under the current recipe and all its files are still there at full size."""
        manifest = self.manifest(stage) or {}
        sizes = manifest.get("bytes")
        return (
            manifest.get("fingerprint") == self.fingerprint(stage)
            and isinstance(sizes, dict)
            and all(_num_bytes(self.path(stage, file)) == size for file, size in sizes.items())
        )

    def gguf(self, which: str) -> Path:
        """Where the export stage puts a GGUF: "base", "sft" (before CHRPO) or "policy", the product."""
        middle = "" if which == "policy" else f"-{which}"
        return self.path("export", f"{self.recipe.name}{middle}-{self.recipe.export.quant}.gguf")

    def run_stage(self, stage: str, work: Callable[[Run], dict[str, Any]]) -> None:
        """Do the `work` of a stage and write its manifest. Raises LiteError if an input is missing."""
        for read in READS[stage]:
            if not self.is_done(read):
                raise LiteError(
                    f"stage {stage} reads {read}, which is not done in {self.folder}; run it first"
                )
        fingerprint = self.fingerprint(stage)
        if distributed.is_main():
            self._begin(stage, fingerprint)
        distributed.wait()
        hardware.reset_peak_memory()
        started = time.monotonic()
        try:
            measured = work(self)
        except Unreachable:
            raise  # the stage goes on once the server is back
        except LiteError:
            if distributed.is_main():
                self.restore(stage, failed=True)
            raise
        if distributed.is_main():
            self._write_manifest(stage, fingerprint, measured, time.monotonic() - started)
            self.restore(stage)

    def _begin(self, stage: str, fingerprint: str) -> None:
        """Make a stage's folder ready: set another recipe's aside, remove what a kill left half written."""
        folder = self.path(stage)
        if folder.exists() and not self._was_begun(stage):
            folder.rename(self.folder / f"{stage}.old")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        for partial in list(folder.rglob(".*.tmp")):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        with atomic_write(folder / "fingerprint") as handle:
            handle.write(fingerprint)

    def _was_begun(self, stage: str) -> bool:
        """Whether the current recipe made what is in a stage's folder."""
        started_under = self.path(stage, "fingerprint")
        return started_under.is_file() and started_under.read_text() == self.fingerprint(stage)

    def restore(self, stage: str, failed: bool = False) -> None:
        """Settle the folder `<stage>.old` of another recipe: remove it once its successor is done; bring it back if
        the successor `failed`, or was killed and is not this recipe's to go on with."""
        folder, old = self.path(stage), self.folder / f"{stage}.old"
        if self.manifest(stage) is not None:
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists() and (failed or not self._was_begun(stage)):
            (folder / "fingerprint").unlink(missing_ok=True)  # first: half of the folder must not be resumed
            shutil.rmtree(folder, ignore_errors=True)
            old.rename(folder)

    def _write_manifest(self, stage: str, fingerprint: str, measured: dict[str, Any], seconds: float) -> None:
        folder = self.path(stage)
        files = {
            str(path.relative_to(folder)): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("manifest.json", "fingerprint")
        }
        write_json(
            folder / "manifest.json",
            {
                "stage": stage,
                "fingerprint": fingerprint,
                "measured": measured,
                "seconds": round(seconds, 1),
                "peak_memory_gb": round(hardware.peak_memory_gb(), 3),
                "peak_gpu_memory_gb": hardware.peak_gpu_memory_gb(),
                "inputs": {read: self.fingerprint(read) for read in READS[stage]},
                "bytes": {name: path.stat().st_size for name, path in files.items()},
                "sha256": {name: sha256(path) for name, path in files.items()},
                "versions": versions(),
                "seed": self.recipe.seed,
                "endpoint": self.endpoint or None,
                "recipe": dataclasses.asdict(self.recipe),
            },
        )
