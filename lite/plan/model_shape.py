"""A model without its weights: its sizes, and its tokenizer, from the small files of its folder. Loads no torch.

Serves estimates (lite/plan/estimate.py) and `lite plan`. What is read: config.json (the fields of `Shape`), the headers
of safetensors files where they are there, tokenizer.json, tokenizer_config.json and chat_template.jinja. For a hub
name these files come from the local cache, else, where that is allowed, from the Hub; weights are never fetched.
"""

from __future__ import annotations

import json
import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite.errors import LiteError
from lite.models import pretrained
from lite.plan.known import CONFIGS
from lite.remote import hub
from lite.tokens import CONTROL_TOKENS, without_opened_think


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder of the Llama family; the field names are config.json's."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int  # rows of the embedding, spare ones included
    tie_word_embeddings: bool
    qk_norm: bool = False  # norms on queries and keys, as Qwen3 has
    file_bytes: int = 0  # of the weights on disk; 0 unknown

    @property
    def query(self) -> int:
        """Width of the queries of a layer."""
        return self.num_attention_heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of the keys, and of the values, of a layer."""
        return self.num_key_value_heads * self.head_dim

    @property
    def linear_layers(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the seven linear layers of a block."""
        d, i = self.hidden_size, self.intermediate_size
        return ((d, self.query), (d, self.key), (d, self.key), (self.query, d), (d, i), (d, i), (i, d))

    @property
    def num_linear(self) -> int:
        """Parameters of all blocks' linear layers: what LoRA covers and NF4 quantises."""
        return self.num_hidden_layers * sum(a * b for a, b in self.linear_layers)

    @property
    def num_embedding(self) -> int:
        """Parameters of the embedding, and of the head where it is not tied."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def num_params(self) -> int:
        """All parameters but the norms', which are a thousandth."""
        return self.num_linear + self.num_embedding

    def num_lora(self, rank: int) -> int:
        """Parameters of LoRA matrices of this rank on all linear layers."""
        return self.num_hidden_layers * sum(rank * (a + b) for a, b in self.linear_layers)


def _in_cache(model: str, name: str) -> Path | None:
    """A file of a local folder, or of a hub name's newest copy in the cache; None where it is not there."""
    where = pretrained.resolve(model)
    if Path(where).is_dir():
        path = Path(where) / name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(where, name)
    return Path(found) if isinstance(found, str) else None


def fetch(model: str, name: str, online: bool) -> str | None:
    """The text of a model's small file; None if the model has no such file.

    A hub name's comes from the cache, else, if `online`, from the Hub with the user's token (HF_TOKEN or `hf auth
    login`). Raises LiteError if it cannot be had.
    """
    path = _in_cache(model, name)
    if path is not None:
        return _read(path)
    if Path(pretrained.resolve(model)).is_dir() or (not online and _in_cache(model, "config.json")):
        return None  # the model is here, without this file
    reason = "it is not in the cache"
    if online and not hub.is_reachable():
        reason += ", and the Hub cannot be reached"
    elif online:
        from huggingface_hub import errors, hf_hub_download
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries
        try:
            return _read(Path(hf_hub_download(model, name)))
        except errors.LocalEntryNotFoundError:
            reason += ", and the Hub cannot be reached"
        except errors.EntryNotFoundError:
            if name != "config.json":
                return None
            reason = "the model has none"
        except errors.GatedRepoError:
            reason = f"gated; accept the terms on the page of {model}, and set HF_TOKEN or `hf auth login`"
        except errors.RepositoryNotFoundError:
            reason = "the Hub has no such model, or HF_TOKEN may not read it"
        except errors.HfHubHTTPError as fault:
            reason = f"the Hub answers {fault.response.status_code}"
    raise LiteError(
        f"model {model}: {name}: {reason}; put the model's config.json and tokenizer files into a folder and "
        "give that: --set model=FOLDER"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise LiteError(f"{path}: not UTF-8 text; get the model's file again") from None


def whole(config: dict[str, Any], name: str, model: str, default: int | None = None) -> int:
    """A size that a model's config.json holds, in 1 ... 10**9. Raises LiteError for what is none."""
    value = config.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 10**9:
        raise LiteError(
            f"model {model}: config.json has {name} = {repr(value)[:40]}; a size is a whole number from 1, below 10**9"
        )
    return value


def _object(model: str, name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise LiteError(f"model {model}: {name} is not a JSON object; get the model's file again")
    return value


def _header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file by name: dtype and shape."""
    try:
        with open(path, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header: Any = json.loads(handle.read(length)) if length < 100_000_000 else None
        return {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, AttributeError, RecursionError):
        raise LiteError(f"{path}: not a safetensors file; get the model's weights again") from None


def read_shape(model: str, online: bool = False) -> Shape:
    """The sizes of a model. Raises LiteError where config.json cannot be had or lacks a field."""
    config = None if Path(model).exists() or _in_cache(model, "config.json") else CONFIGS.get(model)
    if config is None:
        text = fetch(model, "config.json", online)
        if text is None:
            raise LiteError(f"model {model}: has no config.json; give a Hugging Face model")
        config = _object(model, "config.json", text)
    if isinstance(config.get("text_config"), dict):  # of a model that also sees
        config = config["text_config"]
    hidden, heads = (whole(config, name, model) for name in ("hidden_size", "num_attention_heads"))
    tied = config.get("tie_word_embeddings", True) is True
    vocab = whole(config, "vocab_size", model)
    here = _in_cache(model, "config.json")
    weights = sorted(here.parent.glob("*.safetensors")) if here else []
    tensors = {name: tensor for path in weights for name, tensor in _header(path).items()}
    if tensors:
        tied = tied and not any(name.endswith("lm_head.weight") for name in tensors)
    qk_norm = any(name.endswith("q_norm.weight") for name in tensors) or config.get("model_type") in (
        "qwen3",
        "qwen3_moe",
        "gemma3_text",
        "olmo2",
    )
    return Shape(
        hidden_size=hidden,
        intermediate_size=whole(config, "intermediate_size", model),
        num_hidden_layers=whole(config, "num_hidden_layers", model),
        num_attention_heads=heads,
        num_key_value_heads=whole(config, "num_key_value_heads", model, heads),
        head_dim=whole(config, "head_dim", model, max(1, hidden // heads)),
        vocab_size=vocab,
        tie_word_embeddings=tied,
        qk_norm=qk_norm,
        file_bytes=sum(path.stat().st_size for path in weights),
    )


def read_encoder(name: str) -> Shape | None:
    """The sizes of a compressor's encoder where its files are here; None where not."""
    try:
        return read_shape(name)
    except LiteError:
        return None


class PlainTokenizer:
    """A model's tokenizer with the control tokens, as `lite.tokens` and `lite.train.sft` use one, without transformers."""

    def __init__(self, model: str, online: bool = False):
        from tokenizers import AddedToken, Tokenizer

        text = fetch(model, "tokenizer.json", online)
        if text is None:
            raise LiteError(f"model {model}: has no tokenizer.json; rows cannot be shown")
        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as fault:  # tokenizers raises bare Exception
            raise LiteError(f"model {model}: tokenizer.json cannot be read ({fault})") from None
        # Like load_tokenizer's, so that ids are the same.
        self._tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS]
        )
        settings = fetch(model, "tokenizer_config.json", online)
        self.settings = _object(model, "tokenizer_config.json", settings) if settings else {}
        template = fetch(model, "chat_template.jinja", online)
        template = template or self.settings.get("chat_template") or ""
        self.template = without_opened_think(template) if isinstance(template, str) else template
        self.eos_token = self._text("eos_token")
        self.eos_token_id = self._tokenizer.token_to_id(self.eos_token)
        if self.eos_token_id is None:
            raise LiteError(
                f"model {model}: its tokenizer names no end of text (eos_token = {self.eos_token!r})"
            )

    def _text(self, name: str) -> str:
        """A special token of the settings, which spell it as text or as an object."""
        token = self.settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        return token if isinstance(token, str) else ""

    def encode(
        self, text: str, add_special_tokens: bool = False, split_special_tokens: bool = False
    ) -> list[int]:
        self._tokenizer.encode_special_tokens = split_special_tokens
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def apply_chat_template(
        self, messages, tokenize: bool = False, add_generation_prompt: bool = True
    ) -> str:
        """The messages as the model's template writes them. Raises LiteError for a template that fails."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str):
            raise TemplateError(message)

        if not isinstance(self.template, str) or not self.template:
            raise LiteError("the tokenizer has no chat template; give a chat model")
        room = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        room.globals["raise_exception"] = refuse
        try:
            return room.from_string(self.template).render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._text("bos_token"),
                eos_token=self.eos_token,
            )
        except Exception as fault:  # a template may raise what Python does
            raise LiteError(f"the model's chat template fails ({fault}); give a chat model") from None
