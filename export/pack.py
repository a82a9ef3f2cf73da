"""`lite export`: a run, a Hugging Face folder or a base with an adapter as a folder to give away.

In it: a GGUF per quant, a Modelfile per preset of the dial, the model card and `manifest.json`, which is written
last: with it the folder is whole.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import calibrate, llama_cpp_converter, modelfile, vocab
from export.card import card
from export.export import export, local, num_bytes
from export.merge import merge
from export.quantize import QUANTS, require_quant, require_space
from lite import config as recipe
from lite.errors import LiteError
from lite.gguf import check
from lite.gguf.calibration import Calibration
from lite.models import adapters, pretrained
from lite.plan.estimate import MERGED_WIDTH
from lite.run import Run
from lite.runtime.files import atomic_write, write_json
from lite.runtime.provenance import sha256, versions
from lite.tokens import CONTROL_TOKENS

MADE_BY = "extra-cot-lite"


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported: a Hugging Face folder, its name, where it comes from, and what a run measured of it."""

    folder: Path
    name: str
    origin: str
    calibration: Calibration | None = None
    report: str | None = None  # report.md


def quants_of(text: str) -> list[str]:
    """Quants parted by commas, each once. Raises LiteError for an unknown one, or none."""
    quants = [part.strip().lower() for part in text.split(",") if part.strip()]
    if not quants:
        raise LiteError(f"--quant is empty; give some of {', '.join(QUANTS)}, parted by commas")
    for quant in quants:
        require_quant(quant)
    return [*dict.fromkeys(quants)]


def of_run(folder: Path) -> Source:
    """The product of a run, with what it measured where that is of the same model. Raises LiteError before merge."""
    run = Run(recipe.load(folder / "recipe.yaml"), folder)
    merged = run.path("merge", "policy")
    manifests = {name: run.manifest(name) or {} for name in ("merge", "export", "evaluate")}
    if not manifests["merge"] or not merged.is_dir():
        raise LiteError(f"{folder}: its stage merge is not done; finish the run with `lite train`")

    def follows(name: str, read: str) -> bool:
        made = manifests[read].get("fingerprint")
        return made is not None and manifests[name].get("inputs", {}).get(read) == made

    report, lengths = None, None
    if follows("export", "merge"):
        path = run.path("export", "calibration.json")
        if path.is_file():
            lengths = calibrate.load(path)
        if follows("evaluate", "export"):
            report = run.path("evaluate", "report.md").read_text(encoding="utf-8")
            lengths = calibrate.of_replies(run.path("evaluate")) or lengths
    name = run.recipe.name
    return Source(merged, name, f"the run `{name}` of `{run.recipe.model}`", lengths, report)


def _merged(base: str, adapter: Path, work: Path) -> Source:
    """Merge an adapter into its base, in the base's own number format, under `work`."""
    adapters.adapter_file(adapter)
    folder = local(base)
    config = vocab.read_json(folder / "config.json")
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if dtype not in MERGED_WIDTH:
        raise LiteError(
            f"{folder / 'config.json'}: dtype = {dtype!r}; {', '.join(MERGED_WIDTH)} can be merged"
        )
    require_space(work, sum(path.stat().st_size for path in pretrained.weight_files(folder)))
    merge(str(folder), adapter, work / "merged", dtype)
    name = f"{folder.name}-{adapter.name}"
    return Source(work / "merged", name, f"`{folder.name}` with the adapter `{adapter.name}`")


def find(source: str, adapter: Path | None, work: Path) -> Source:
    """What `lite export SOURCE` means. Raises LiteError where it is nothing that can be exported."""
    folder = Path(source)
    if (folder / "recipe.yaml").is_file():
        if adapter is not None:
            raise LiteError(f"{source}: a run has its own adapters; give its base model with --adapter")
        return of_run(folder)
    if adapter is not None:
        return _merged(source, adapter, work)
    found = local(source)
    return Source(found, found.resolve().name, f"the Hugging Face folder `{found.resolve().name}`")


def has_control_tokens(folder: Path) -> bool:
    """Whether a folder's tokenizer has the control tokens: then its model has learnt the dial."""
    return {*CONTROL_TOKENS} <= pretrained.load_tokenizer(folder, str(folder)).get_added_vocab().keys()


def _claim(out: Path) -> None:
    """Make the folder, or see that what is in it is ours. Raises LiteError where it is somebody else's."""
    if out.suffix == ".gguf" or out.is_file():
        raise LiteError(f"{out}: give a folder to --out; the files in it are named after the model and quant")
    manifest = out / "manifest.json"
    if out.is_dir() and any(path.name[0] != "." for path in out.iterdir()):
        try:
            ours = json.loads(manifest.read_text(encoding="utf-8"))["made_by"] == MADE_BY
        except (OSError, ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise LiteError(f"{out}: is not empty and not an export of lite; give another folder to --out")
    out.mkdir(parents=True, exist_ok=True)


def _modelfiles(gguf: Path, folder: Path) -> dict[str, str]:
    """The name and text of the Modelfile of each preset of a GGUF, made from the Hugging Face `folder`."""
    template = vocab.chat_template(pretrained.load_tokenizer(folder, str(folder))) or ""
    container = check.check(gguf)
    words = container.metadata
    tokens = words["tokenizer.ggml.tokens"]
    ends = [tokens[words[key]] for name in vocab.ENDS if (key := f"tokenizer.ggml.{name}_token_id") in words]
    bos = tokens[words["tokenizer.ggml.bos_token_id"]] if "tokenizer.ggml.bos_token_id" in words else ""
    parts = modelfile.frame(modelfile.renderer(template, bos, ends[0]))
    context = words.get(f"{container.architecture}.context_length", modelfile.MAX_CONTEXT)
    return {
        f"Modelfile.{preset}": modelfile.modelfile(gguf.name, parts, mode, ends, context)
        for preset, mode in modelfile.PRESETS.items()
    }


def pack(
    source: str,
    quants: Sequence[str],
    out: Path,
    *,
    adapter: Path | None = None,
    checkout: Path | None = None,
) -> list[Path]:
    """Export into the folder `out`; return the GGUFs. Raises LiteError where `find` or `export.export` do."""
    if checkout is not None:
        llama_cpp_converter.script_of(checkout)
    new = not out.exists()
    _claim(out)
    work = out / ".work"
    shutil.rmtree(work, ignore_errors=True)  # left by a cut
    work.mkdir()
    try:
        made = find(source, adapter, work)
        require_space(out, sum(num_bytes(made.folder, quants)))
        dial = has_control_tokens(made.folder)
        lengths = made.calibration if dial else None
        files = {quant: work / f"{made.name}-{quant}.gguf" for quant in quants}
        measured = export(
            made.folder,
            files,
            made.name,
            dial=dial,
            extra=lengths.metadata() if lengths else None,
            checkout=checkout,
        )
        texts = _modelfiles(files[quants[0]], made.folder) if dial else {}
        presets = [name.partition(".")[2] for name in texts]
        digests = {quant: (path.name, sha256(path)) for quant, path in files.items()}
        texts["README.md"] = card(
            made.name,
            made.origin,
            digests,
            measured,
            dial=dial,
            calibration=lengths,
            report=made.report,
            presets=presets,
        )
        (out / "manifest.json").unlink(missing_ok=True)  # of the export before
        for path in files.values():
            path.replace(out / path.name)
        for name, text in texts.items():
            with atomic_write(out / name) as handle:
                handle.write(text)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if new and not any(out.iterdir()):  # it failed before there was anything to keep
            out.rmdir()
    ggufs = [out / path.name for path in files.values()]
    write_json(out / "manifest.json", _manifest(made, measured, [*ggufs, *(out / name for name in texts)]))
    return ggufs


def _manifest(made: Source, measured: dict[str, dict[str, Any]], files: Sequence[Path]) -> dict[str, Any]:
    return {
        "made_by": MADE_BY,
        "name": made.name,
        "origin": made.origin,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions(),
        "measured": measured,
        "calibration": dataclasses.asdict(made.calibration) if made.calibration else None,
        "bytes": {path.name: path.stat().st_size for path in files},
        "sha256": {path.name: sha256(path) for path in files},
    }
