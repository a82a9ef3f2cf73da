"""Stage merge: the adapters into the 16 or 32-bit base, as plain Hugging Face folders.

The base is loaded anew, never in 4 bit: merging into a quantised base is refused on a CPU and inexact
anywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lite.errors import LiteError
from lite.models import adapters, pretrained
from lite.run import Run
from lite.runtime.files import atomic_folder
from lite.runtime.progress import progress

SOURCES = {"sft": "sft", "policy": "chrpo"}  # what is merged: the stage whose adapter it is


def _num_rows(weights: Path, num_tokens: int, num_base: int) -> int:
    """Embedding rows the merged model needs: the adapter's where it saved them, else room for its tokens."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as handle:
        for name in handle.keys():
            if ".embed_tokens." in name and name.endswith(("embed_tokens.weight", ".base_layer.weight")):
                return handle.get_slice(name).get_shape()[0]
    return max(num_tokens, num_base)


def merge(base: str, adapter: Path, out: Path, dtype: str) -> None:
    """Merge a PEFT adapter with its trained token rows into `base`, as a folder at `out`, atomically.

    Spare embedding rows of the base take the new tokens; where there are none the embedding grows. Tied
    embeddings stay tied. Raises LiteError where the adapter is not there or does not fit.
    """
    weights = adapters.adapter_file(adapter)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokenizer = pretrained.load_tokenizer(adapter, f"adapter {adapter}")
    model = pretrained.load_model(AutoModelForCausalLM, base, f"model {base!r}", dtype=getattr(torch, dtype))
    num_base = model.get_input_embeddings().num_embeddings
    num_rows = _num_rows(weights, len(tokenizer), num_base)
    if num_rows != num_base:
        model.resize_token_embeddings(num_rows, mean_resizing=False)
    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except (RuntimeError, ValueError) as fault:
        reason = str(fault).strip().splitlines()[-1].strip()
        raise LiteError(
            f"{adapter}: does not fit the base {base} ({reason}); train it again on that base"
        ) from None
    merged = adapted.merge_and_unload(safe_merge=True)
    if merged.config.tie_word_embeddings:
        inputs, outputs = merged.get_input_embeddings().weight, merged.get_output_embeddings().weight
        assert inputs.data_ptr() == outputs.data_ptr(), "merging untied the embeddings"

    with atomic_folder(out) as folder:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def run(ctx: Run) -> dict[str, Any]:
    """Merge the SFT and the CHRPO adapter into merge/sft and merge/policy."""
    base = pretrained.resolve(ctx.recipe.model)
    with progress("merge", len(SOURCES), "models") as meter:
        for name, stage in SOURCES.items():
            out = ctx.path("merge", name)
            if not out.is_dir():  # a folder that is there is whole
                merge(base, ctx.path(stage, "adapter"), out, ctx.recipe.merge.dtype)
            meter.advance()
    config = json.loads(ctx.path("merge", "policy", "config.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in ctx.path("merge", "policy").iterdir())
    return {"embedding_rows": config["vocab_size"], "megabytes": round(size / 1e6, 1)}
