"""What the stage `compressor` trains, before its training and after it.

- `encoder: base`: the recipe's model through Unsloth, with LoRA of `rank`, in NF4 where `four_bit` says so;
- an encoder by name, or "tiny", a small ModernBERT with random weights on the base model's tokenizer: all of its weights
  with `rank: 0`, else LoRA through PEFT and bitsandbytes, merged into its float32 weights at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lite.compress.classifier import CompressorModel, Origin
from lite.config import Recipe
from lite.models import classifier, pretrained, unsloth
from lite.runtime.files import atomic_folder

TINY = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
# What transformers calls the layer that gives the labels; it is always trained in full.
HEADS = ["classifier", "score"]


def tiny_encoder(tokenizer: Any, max_tokens: int) -> Any:
    """A small ModernBERT for tokens' labels, with random weights."""
    from transformers import ModernBertConfig, ModernBertForTokenClassification

    shape = ModernBertConfig(
        **TINY,
        vocab_size=len(tokenizer),
        max_position_embeddings=max_tokens,
        global_attn_every_n_layers=3,
        local_attention=32,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        num_labels=2,
    )
    return ModernBertForTokenClassification(shape)


def fresh(recipe: Recipe, work: Path) -> CompressorModel:
    """The compressor of a recipe before training. An encoder that is not trained in full is first saved to `work`."""
    unsloth.prepare()
    import torch
    from transformers import AutoModelForTokenClassification

    config = recipe.compressor
    if config.encoder == "base":
        model, tokenizer = classifier.load(
            recipe.model,
            max_tokens=config.max_tokens,
            four_bit=config.four_bit,
            rank=config.rank,
            seed=recipe.seed,
        )
        origin = Origin(recipe.model, config.four_bit, config.max_tokens)
        return CompressorModel(model, tokenizer, config.max_tokens, origin)
    torch.manual_seed(recipe.seed)  # the head (and all of "tiny") starts from random weights
    if config.encoder == "tiny":
        tokenizer = unsloth.load_tokenizer(recipe.model)
        model = tiny_encoder(tokenizer, config.max_tokens)
    else:
        what = f"compressor.encoder = {config.encoder!r}"
        tokenizer = pretrained.load_tokenizer(config.encoder, what)
        model = pretrained.load_model(
            AutoModelForTokenClassification, config.encoder, what, new_head=True, num_labels=2
        )
    if config.rank:
        if not (work / "encoder").is_dir():
            with atomic_folder(work / "encoder") as temporary:
                model.save_pretrained(temporary)
        model = lora_encoder(work / "encoder", config.rank, config.four_bit)
    elif torch.cuda.is_available():
        model = model.to("cuda")
    return CompressorModel(model, tokenizer, config.max_tokens)


def lora_encoder(folder: Path, rank: int, four_bit: bool) -> Any:
    """The encoder in a folder with LoRA on its linear layers, these in NF4 with `four_bit`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForTokenClassification, BitsAndBytesConfig

    cuda = torch.cuda.is_available()
    half = torch.bfloat16 if cuda and classifier.has_bf16() else torch.float16
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=half if cuda else torch.float32,
        llm_int8_skip_modules=HEADS,
    )
    model = pretrained.load_model(
        AutoModelForTokenClassification,
        folder,
        f"compressor {folder}",
        quantization_config=quantised if four_bit else None,
        device_map={"": "cuda" if cuda else "cpu"},
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # With it, bitsandbytes repacks weights at the first evaluation, and gradients are wrong from then on.
            module.support_avx512bf16_for_cpu = False
    config = LoraConfig(
        task_type="TOKEN_CLS",
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        exclude_modules=HEADS,
        modules_to_save=[name for name in HEADS if hasattr(model, name)],
    )
    return get_peft_model(model, config)


def merged(encoder: Path, adapter: Path) -> Any:
    """An encoder's float32 weights with a trained adapter in them, as export does it with the reasoner's."""
    from peft import PeftModel
    from transformers import AutoModelForTokenClassification

    plain = pretrained.load_model(AutoModelForTokenClassification, encoder, f"compressor {encoder}")
    return PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload()
