"""Stage export: base, SFT and policy model as quantised, verified GGUFs.

Each is converted to floating point beside its place, verified there against Hugging Face (the same token ids,
logits and greedy text), quantised, verified again, and renamed: a GGUF that is there is whole and right.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from export import convert, verify
from export.quantize import FLOATS, HEADER_BYTES, QUANTS, quantize, require_quant, require_space
from lite import backend
from lite.errors import LiteError
from lite.progress import console
from lite.records import atomic_write, write_json
from lite.stages import Run, sha256

# Below this a model is converted, and compared with Hugging Face, in f32: the noise is 1e-5 instead of 1e-2.
F32_MAX_PARAMETERS = 1_000_000_000


def _middle(num_parameters: int, quant: str) -> convert.Dtype:
    """Number format of the file that is verified for exactness."""
    return quant if quant in FLOATS else "f32" if num_parameters <= F32_MAX_PARAMETERS else "f16"


def _num_bytes(folder: Path, quant: str) -> tuple[int, int]:
    """Bytes, at most, of the GGUF of a folder and of the file it is made from."""
    num_parameters = convert.find_weights(folder).num_parameters
    final = HEADER_BYTES + int(num_parameters * QUANTS[quant][1])
    return final, HEADER_BYTES + int(num_parameters * QUANTS[_middle(num_parameters, quant)][1])


def export(source: Path, out: Path, quant: str, dial: bool = True) -> dict[str, Any]:
    """Export a Hugging Face folder as the verified GGUF `out`; return what was measured.

    `dial` puts the ratio dial into the chat template. Raises LiteError for an unknown quant, too little disk,
    a model that cannot be exported faithfully, and where the result is not the same model.
    """
    require_quant(quant)
    if not source.is_dir():
        raise LiteError(f"{source}: no such folder; give a Hugging Face model folder")
    if out.is_dir():
        raise LiteError(f"{out}: is a folder; give the file to write, such as {out / 'model.gguf'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a cut
    require_space(out.parent, sum(_num_bytes(source, quant)))
    dtype = _middle(convert.find_weights(source).num_parameters, quant)
    middle, final = part / f"{dtype}.gguf", part / out.name
    try:
        convert.convert(source, middle, dtype, dial, name=out.stem)
        tokenizer, samples = verify.reference(source)
        exact = verify.compare(middle, tokenizer, samples)
        measured = {"logits_off": exact["logits_off"], "near_ties": exact["near_ties"], "top1_agreement": 1.0}
        if quant == dtype:
            middle.rename(final)
            measured["top1_agreement"] = exact["top1_agreement"]
        else:
            quantised = quantize(middle, final, quant)
            if quantised.num_fallback:
                console.print(
                    f"  {out.name}: {quantised.num_fallback} tensors do not fit {quant}, took a larger format"
                )
            measured["top1_agreement"] = verify.compare(final, tokenizer, samples)["top1_agreement"]
        final.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return {"megabytes": round(out.stat().st_size / 1e6, 3), **measured}


def _local(model: str) -> Path:
    """The folder of a recipe's model; a hub name's is in the hub's cache once the model was trained."""
    name = backend.resolve(model)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))


def run(run: Run) -> dict[str, Any]:
    """Export the base, the SFT and the policy model; SHA256SUMS lists them, measured.json says how they came out."""
    quant = run.recipe.export.quant
    require_quant(quant)
    sources = {
        "base": _local(run.recipe.model),
        "sft": run.path("merge", "sft"),
        "policy": run.path("merge", "policy"),
    }
    folder = run.path("export")
    numbers = folder / "measured.json"  # what was measured on the GGUFs that are there
    measured = json.loads(numbers.read_text(encoding="utf-8")) if numbers.is_file() else {}
    missing = [which for which in sources if which not in measured or not run.gguf(which).is_file()]
    sizes = [_num_bytes(sources[which], quant) for which in missing]
    for leftover in folder.glob(".*"):  # of a cut
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    require_space(folder, sum(final for final, _ in sizes) + max((middle for _, middle in sizes), default=0))
    for which in missing:
        console.print(f"  {run.gguf(which).name}: convert, verify, quantise, verify")
        measured[which] = export(sources[which], run.gguf(which), quant, dial=which != "base")
        write_json(numbers, measured)
    with atomic_write(folder / "SHA256SUMS") as handle:
        for which in sources:
            handle.write(f"{sha256(run.gguf(which))}  {run.gguf(which).name}\n")
    return {f"{which}_{key}": value for which in sources for key, value in measured[which].items()}
