"""Stage export: base, SFT and policy model as quantised, verified GGUFs; `lite export` packs with the same lines.

A folder is converted to floating point once, verified there against Hugging Face (the same token ids, logits and
greedy text), quantised as often as asked, each file verified again, and renamed: a GGUF that is there is whole
and right.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from export import calibrate, convert, llama_cpp_converter, verify
from export.quantize import FLOATS, HEADER_BYTES, QUANTS, quantize, require_quant, require_space
from lite.gguf.calibration import Calibration
from lite.models import pretrained
from lite.run import Run
from lite.runtime.files import atomic_write, write_json
from lite.runtime.progress import console
from lite.runtime.provenance import sha256

# Below this a model is converted, and compared with Hugging Face, in f32: the noise is 1e-5 instead of 1e-2.
F32_MAX_PARAMETERS = 1_000_000_000


def _middle(num_parameters: int, quants: Collection[str]) -> convert.Dtype:
    """Number format of the file that the others are made from: one of those asked for, where none is lost by it."""
    if "f32" in quants or num_parameters <= F32_MAX_PARAMETERS:
        return "f32"
    return "bf16" if "bf16" in quants else "f16"


def num_bytes(folder: Path, quants: Collection[str]) -> tuple[int, int]:
    """Bytes, at most, of the GGUFs of a folder, and of the file between that is not one of them."""
    num_parameters = convert.find_weights(folder).num_parameters
    sizes = {quant: HEADER_BYTES + int(num_parameters * QUANTS[quant][1]) for quant in QUANTS}
    middle = _middle(num_parameters, quants)
    return sum(sizes[quant] for quant in quants), 0 if middle in quants else sizes[middle]


def export(
    folder: Path,
    outs: Mapping[str, Path],
    name: str,
    *,
    dial: bool,
    extra: Mapping[str, list[float]] | None = None,
    checkout: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Export a Hugging Face folder as verified GGUFs, `outs[quant]` each; return what was measured, per quant.

    `name` is the model's in its metadata, `extra` more metadata; `dial` puts the ratio dial into the chat
    template. `checkout` is a llama.cpp one, for architectures that we do not convert. All files appear together,
    at the end. Raises LiteError for an unknown quant, too little disk, a model that cannot be exported
    faithfully, and where the result is not the same model.
    """
    for quant in outs:
        require_quant(quant)
    place = next(iter(outs.values())).parent
    place.mkdir(parents=True, exist_ok=True)
    require_space(place, sum(num_bytes(folder, outs)))
    num_parameters = convert.find_weights(folder).num_parameters
    dtype = _middle(num_parameters, outs)
    part = place / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)  # left by a cut
    part.mkdir()
    middle = part / f"{dtype}.gguf"
    try:
        if convert.architecture_of(folder) in convert.ARCHITECTURES or checkout is None:
            convert.convert(folder, middle, dtype, dial, name, extra)
        else:
            llama_cpp_converter.convert(checkout, folder, middle, dtype, dial, name, extra or {})
        tokenizer, samples = verify.reference(folder)
        exact = verify.compare(middle, tokenizer, samples)
        made, measured = {}, {}
        for quant, out in outs.items():
            made[quant] = middle if quant == dtype else part / out.name
            found = exact
            if quant != dtype:
                fallback = quantize(middle, made[quant], quant).num_fallback
                if fallback:
                    console.print(
                        f"  {out.name}: {fallback} tensors do not fit {quant}, took a larger format"
                    )
                found = verify.compare(made[quant], tokenizer, samples)
            reported = (
                exact if quant not in FLOATS else found
            )  # of a quantised file: the exactness of its source
            measured[quant] = {
                "megabytes": round(made[quant].stat().st_size / 1e6, 3),
                "logits_off": reported["logits_off"],
                "near_ties": reported["near_ties"],
                "top1_agreement": found["top1_agreement"],
            }
        for quant, out in outs.items():
            made[quant].replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return measured


def local(model: str) -> Path:
    """The folder of a recipe's model; a hub name's is in the hub's cache once the model was trained."""
    name = pretrained.resolve(model)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    with pretrained.reported(f"model {model!r}"):
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))


def _calibration(run: Run) -> Calibration:
    """How long the policy model thinks at each ratio: what calibration.json holds, else measured now."""
    path = run.path("export", "calibration.json")
    if path.is_file():
        return calibrate.load(path)
    measured = calibrate.measure(run, run.path("export", "calibration.jsonl"))
    write_json(path, dataclasses.asdict(measured))
    return measured


def run(ctx: Run) -> dict[str, Any]:
    """Export the base, the SFT and the policy model; SHA256SUMS lists them, measured.json says how they came out.

    calibration.json holds what the policy model's GGUF carries of `lite.gguf.calibration`.
    """
    quant = ctx.recipe.export.quant
    require_quant(quant)
    sources = {
        "base": local(ctx.recipe.model),
        "sft": ctx.path("merge", "sft"),
        "policy": ctx.path("merge", "policy"),
    }
    folder = ctx.path("export")
    numbers = folder / "measured.json"  # what was measured on the GGUFs that are there
    measured = json.loads(numbers.read_text(encoding="utf-8")) if numbers.is_file() else {}
    missing = [which for which in sources if which not in measured or not ctx.gguf(which).is_file()]
    sizes = [num_bytes(sources[which], [quant]) for which in missing]
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*"):  # of a cut
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    require_space(folder, sum(final for final, _ in sizes) + max((middle for _, middle in sizes), default=0))
    for which in missing:
        extra = _calibration(ctx).metadata() if which == "policy" else None
        path = ctx.gguf(which)
        console.print(f"  {path.name}: convert, verify, quantise, verify")
        made = export(sources[which], {quant: path}, path.stem, dial=which != "base", extra=extra)
        measured[which] = made[quant]
        write_json(numbers, measured)
    with atomic_write(folder / "SHA256SUMS") as handle:
        for which in sources:
            handle.write(f"{sha256(ctx.gguf(which))}  {ctx.gguf(which).name}\n")
    return {f"{which}_{key}": value for which in sources for key, value in measured[which].items()}
