"""The training backend: the only file that imports Unsloth.

The same lines serve a CUDA card and a CPU; Unsloth picks its backend by itself. Heavy imports happen inside
the functions, and `prepare` first: Unsloth patches transformers, TRL and PEFT and must come before them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lite import pretrained
from lite.decode import decode
from lite.errors import LiteError
from lite.tokens import CONTROL_TOKENS, CONTROL_WORDS, without_opened_think

_HUB_NAME = re.compile(r"[\w-][\w.-]*/\w(?:[\w.-]{0,94}\w)?", re.ASCII)
QUICKSTART = Path(__file__).parent / "quickstart" / "reasoner"
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_NOWHERE = open(os.devnull, "w")  # a real file, as vLLM wants; it stays open for who took it for stdout


def resolve(model: str) -> str:
    """What to load for a recipe's `model`: the packaged tiny reasoner, a local folder, or a hub name."""
    if model == "quickstart":
        if not (QUICKSTART / "config.json").is_file():
            raise LiteError(
                f"model quickstart: {QUICKSTART} holds no model; make it with recipes/tiny_reasoner.py"
            )
        return str(QUICKSTART)
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise LiteError(f"model {model}: the folder has no config.json; give a Hugging Face model folder")
        return str(folder)
    if not _HUB_NAME.fullmatch(model) or "--" in model or ".." in model or folder.exists():
        raise LiteError(
            f"model {model!r}: no such folder; give a folder, a hub name owner/name, or quickstart"
        )
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep banners off standard output; warnings about our own choices (spare rows, dtype) are noise, too."""
    with contextlib.redirect_stdout(_NOWHERE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def prepare() -> None:
    """Import Unsloth (10 to 25 s once). Call before importing transformers, TRL or PEFT."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extra-cot-lite" / "unsloth"
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache))  # else it writes into the working folder
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("UNSLOTH_CPU_BF16", str(int(multiplies_bf16())))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("UNSLOTH_VLLM_MERGED_ROLLOUT", "0")  # it would fold LoRA, and knows no trained rows
    # Notices about torchao's enums, and about kernels of the hub that bitsandbytes can do without.
    for name in ("torch.utils._pytree", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with _quiet():
            import unsloth  # noqa: F401
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
    except ImportError as fault:
        raise LiteError(
            f"training needs the extra `train` ({fault}); install it with `uv sync --extra train`"
        ) from None


def multiplies_bf16() -> bool:
    """Whether models are loaded in bf16 on a CPU: where it has units for matrices of it; else in float32.

    Unsloth by itself takes AVX512-BF16 for enough, where torch's products are slower in bf16 than in float32
    (docs/log.md). Where there is no /proc/cpuinfo it is float32, too.
    """
    override = os.environ.get("UNSLOTH_CPU_BF16", "").strip().lower()
    if override in ("0", "false", "no", "off", "1", "true", "yes", "on"):
        return override in ("1", "true", "yes", "on")
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="ignore").lower().split())
    except OSError:
        return False
    arm = platform.machine().lower() in ("aarch64", "arm64")
    return bool(flags & ({"bf16"} if arm else {"amx_bf16"}))


def unpatch(model_types: tuple[str, ...]) -> None:
    """Give transformers its own model classes back, for a plain model in float32 on the CPU.

    On CUDA Unsloth puts its own RoPE into them, whose tables lie on the GPU whatever the model's device is.
    """
    patched = sys.modules.get("unsloth.models.llama")
    if patched is not None:
        patched.restore_transformers_family(model_types)


def load_tokenizer(model: str):
    """The model's tokenizer with the six control tokens added as special tokens (one id each).

    Its template opens no think span: the reply does that, see `tokens.without_opened_think`.
    """
    prepare()
    from transformers import AddedToken

    tokenizer = pretrained.load_tokenizer(resolve(model), f"model {model!r}: tokenizer")
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS], special_tokens=True
    )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = without_opened_think(tokenizer.chat_template)
    return tokenizer


def control_ids(tokenizer) -> list[int]:
    """Ids of the control tokens, in the order of lite.tokens.CONTROL_TOKENS."""
    return [tokenizer.convert_tokens_to_ids(token) for token in CONTROL_TOKENS]


def _load_base(model: str, tokenizer, *, max_tokens: int, four_bit: bool, rank: int = 0, vllm: float = 0.0):
    """The base model with a row for every token; ties are kept.

    With `vllm`, a share of the card's free memory, Unsloth starts vLLM on the same weights, for adapters of `rank`.
    """
    import torch
    from unsloth import FastLanguageModel

    name, what = resolve(model), f"model {model!r}"
    pretrained.check_weights(name, what)
    # Asked for more than the model was trained on, Unsloth on CUDA stretches its RoPE: another model.
    config = pretrained.load_config(name, what)
    window = min(max_tokens, getattr(config, "max_position_embeddings", max_tokens))
    engine = {}
    if vllm:
        if len(tokenizer) > config.vocab_size:
            raise LiteError(
                f"chrpo.vllm = {vllm}: {what} has no spare rows for control tokens, and vLLM's table does not grow;"
                " set it to 0"
            )
        engine = {"fast_inference": True, "gpu_memory_utilization": vllm, "max_lora_rank": rank}
    with pretrained.reported(what):
        with _quiet():
            base, _ = FastLanguageModel.from_pretrained(
                name,
                max_seq_length=window,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=None,  # on a CPU see multiplies_bf16
                load_in_4bit=four_bit,
                use_gradient_checkpointing="unsloth" if torch.cuda.is_available() else False,
                **engine,
            )
    if vllm:
        if not hasattr(base, "vllm_engine"):  # Unsloth then goes on without it
            raise LiteError(f"chrpo.vllm = {vllm}: vLLM does not run here; set it to 0, rollouts do without")
        # Unsloth lowers it to what the memory holds.
        room = base.vllm_engine.llm_engine.model_config.max_model_len
        if room < max_tokens:
            raise LiteError(
                f"chrpo.vllm = {vllm}: prompt and rollout take {max_tokens} tokens, and vLLM has room for {room};"
                " raise it, or lower chrpo.max_tokens"
            )
    rows = base.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:  # most bases have spare rows; then nothing is resized
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return base


def _init_rows(base, tokenizer, seed: int) -> None:
    """Start each control token's row between a word's embedding and a random direction, at the average length.

    The word gives the model something it heeds already, the direction keeps the rows apart: alike (cosine .95,
    around the mean of all others) the tiny model did not learn the dial.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = control_ids(tokenizer)
    layers = {
        id(layer.weight): layer for layer in (base.get_input_embeddings(), base.get_output_embeddings())
    }
    for layer in layers.values():  # one layer where they are tied
        weight = layer.weight.data  # (V, d)
        length = weight[: min(ids)].float().norm(dim=1).mean()
        for row, word in zip(ids, CONTROL_WORDS, strict=True):
            meaning = weight[tokenizer.encode(word, add_special_tokens=False)].float().mean(0)
            noise = torch.randn(len(meaning), generator=generator).to(weight.device)
            start = torch.nn.functional.normalize(meaning, dim=0) + 0.7 * torch.nn.functional.normalize(
                noise, dim=0
            )
            weight[row] = (torch.nn.functional.normalize(start, dim=0) * length).to(weight.dtype)


def adapter_file(adapter: Path) -> Path:
    """The weights of a saved adapter. Raises LiteError where they are not there."""
    path = adapter / "adapter_model.safetensors"
    if not path.is_file():
        raise LiteError(f"{adapter}: holds no {path.name}; run the stage that trains it again")
    return path


def load_adapter_weights(model, adapter: Path) -> None:
    """Put a saved adapter's weights into a model from `load_trainable` of the same rank."""
    from peft import load_peft_weights, set_peft_model_state_dict

    adapter_file(adapter)
    loaded = set_peft_model_state_dict(model, load_peft_weights(str(adapter), device="cpu"))
    if loaded.unexpected_keys:
        raise LiteError(f"{adapter}: made for another model (it has {loaded.unexpected_keys[0]})")


def load_trainable(
    model: str,
    *,
    max_tokens: int,
    rank: int,
    alpha: int,
    four_bit: bool,
    seed: int,
    adapter: Path | None = None,
    vllm: float = 0.0,
):
    """Base with LoRA on all linear layers and the six control token rows trained beside it.

    Returns (PEFT model, tokenizer). `adapter` continues from a saved one of the same rank. With `vllm`, a share of the
    card's free memory, `generate` samples through vLLM.
    """
    tokenizer = load_tokenizer(model)
    import torch
    from unsloth import FastLanguageModel

    base = _load_base(model, tokenizer, max_tokens=max_tokens, four_bit=four_bit, rank=rank, vllm=vllm)
    ids = control_ids(tokenizer)
    _init_rows(base, tokenizer, seed)
    tied = base.get_input_embeddings().weight is base.get_output_embeddings().weight
    with _quiet():
        peft_model = FastLanguageModel.get_peft_model(
            base,
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=LINEAR_LAYERS,
            use_gradient_checkpointing="unsloth" if torch.cuda.is_available() else False,
            random_state=seed,
            # PEFT follows a tie by itself
            trainable_token_indices=ids if tied else {"embed_tokens": ids, "lm_head": ids},
        )
    for name, param in peft_model.named_parameters():
        if "trainable_tokens_delta" in name:
            param.requires_grad_(True)  # Unsloth on CUDA freezes all but LoRA's A and B
    head = peft_model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.bias = None  # PEFT's wrapper hides it from TRL's fused head
    if adapter is not None:
        load_adapter_weights(peft_model, adapter)
    return peft_model, tokenizer


def load(model: str, *, max_tokens: int, adapter: Path | None = None, four_bit: bool = False):
    """Base, or base with an adapter, for generating and scoring. Returns (model, tokenizer).

    The adapter is merged unless the base is quantised: a tiny model generates twice as fast without LoRA's
    extra small products, and the merged model is what is exported.
    """
    tokenizer = load_tokenizer(model)
    from unsloth import FastLanguageModel

    base = _load_base(model, tokenizer, max_tokens=max_tokens, four_bit=four_bit)
    if adapter is not None:
        from peft import PeftModel

        adapter_file(adapter)
        with _quiet():
            base = PeftModel.from_pretrained(base, str(adapter))
            if not four_bit:
                base = base.merge_and_unload()
    FastLanguageModel.for_inference(base)
    return base, tokenizer


@contextlib.contextmanager
def for_rollouts(model) -> Iterator[Any]:
    """A PEFT model in training made ready to generate; the same weights and mode come back after.

    On a CPU the adapter is folded into the base for that time: LoRA's small products cost more than the base.
    """
    import torch
    from unsloth import FastLanguageModel

    fold = model.device.type == "cpu" and not getattr(model, "is_loaded_in_4bit", False)
    frozen = [param for param in model.parameters() if not param.requires_grad] if fold else []
    saved = [param.detach().clone() for param in frozen]
    FastLanguageModel.for_inference(model)
    if fold:
        model.merge_adapter()
    try:
        yield model.get_base_model() if fold else model
    finally:
        if fold:
            model.unmerge_adapter()
            with torch.no_grad():  # unmerging leaves rounding errors
                for param, before in zip(frozen, saved, strict=True):
                    param.copy_(before)
        FastLanguageModel.for_training(model)


def last_logits(model, ids, mask):
    """Logits (B, V) after the last token of left-padded `ids` (B, T), with their gradient."""
    os.environ["UNSLOTH_RETURN_HIDDEN_STATES"] = "0"  # GRPO on CUDA asks for hidden states instead
    return model(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits[:, -1]


def stop_ids(model, tokenizer) -> list[int]:
    """Ids that end a reply: the tokenizer's EOS and those of the model's generation config."""
    config = getattr(model, "generation_config", None)
    also = getattr(config, "eos_token_id", None)
    also = [] if also is None else [also] if isinstance(also, int) else list(also)
    return sorted({tokenizer.eos_token_id, *also} - {None})


def count_tokens(tokenizer, text: str) -> int:
    """Length of a model's own text in its tokens; a control token in it counts as one."""
    return len(tokenizer.encode(text, add_special_tokens=False))


def _sample_vllm(
    model,
    prompts: list[list[int]],
    stops: list[int],
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[list[int]]:
    """One reply per prompt from the vLLM that shares the model's weights, with the adapter as it is now.

    Call in inference mode. Unsloth hands LoRA over. The trained rows go into the shared table, where training does not
    read them: PEFT puts its own in their place.
    """
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from vllm import SamplingParams

    for layer in model.modules():
        if isinstance(layer, TrainableTokensLayer):
            weight = layer.get_base_layer().weight  # (V, d)
            for name, rows in layer.trainable_tokens_delta.items():
                weight[layer.token_indices[name]] = rows.to(weight)
    params = [
        SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed * 65_537 + place,  # one for all would give a group one reply
            stop_token_ids=stops,
            detokenize=False,
        )
        for place in range(len(prompts))
    ]
    with tempfile.TemporaryDirectory() as folder:  # for the adapter's settings; its tensors go directly
        outputs = model.fast_generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            sampling_params=params,
            use_tqdm=False,
            lora_request=model.load_lora(folder, load_tensors=True),
        )
    return [list(output.outputs[0].token_ids) for output in outputs]


def generate(
    model,
    tokenizer,
    prompts: list[list[int]],
    *,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int,
    advance: Callable[[int], object] | None = None,
) -> list[list[int]]:
    """Sample one reply per prompt (greedy at temperature 0); new ids only, without the EOS.

    Prompts of similar length share a batch, padded on the left. `advance` is told how many are finished.
    A reply of `max_tokens` ids was cut; a shorter one ended by itself.
    """
    import torch

    stops = stop_ids(model, tokenizer)
    pad = tokenizer.pad_token_id
    sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    torch.manual_seed(seed)
    replies: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [prompts[index] for index in chosen]
        width = len(batch[0])
        with torch.inference_mode():
            if model.device.type == "cpu":  # two to three times as fast there as `generate`
                outputs = decode(model, batch, pad, stops, max_tokens, temperature, top_p).tolist()
            elif hasattr(model, "vllm_engine"):
                outputs = _sample_vllm(model, batch, stops, max_tokens, temperature, top_p, seed + start)
            else:
                ids = [[pad] * (width - len(prompt)) + prompt for prompt in batch]
                mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch]
                outputs = model.generate(
                    input_ids=torch.tensor(ids, device=model.device),  # (B, width)
                    attention_mask=torch.tensor(mask, device=model.device),
                    max_new_tokens=max_tokens,
                    eos_token_id=stops,
                    pad_token_id=pad,
                    use_cache=True,
                    **sampling,
                )[:, width:].tolist()
        for index, reply in zip(chosen, outputs, strict=True):
            end = next((place for place, token in enumerate(reply) if token in stops), len(reply))
            replies[index] = reply[:end]
        if advance is not None:
            advance(len(chosen))
    return replies
