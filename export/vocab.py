"""The vocabulary of a Hugging Face folder as GGUF wants it, read from tokenizer.json itself.

llama.cpp splits text by a rule that a GGUF only names. The official converter finds the name by a hash of
token ids and so refuses a retrained tokenizer; here it follows from the structure of tokenizer.json, and a
structure that llama.cpp does not have is refused. NFC normalisers pass: llama.cpp applies none, so text
that is not composed gets other ids there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from lite.errors import LiteError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Split pattern, and whether merges are ignored for whole words of the vocabulary: llama.cpp's name.
SPLITS = {
    (_CONTRACTIONS + r"\p{N}" + _REST, False): "qwen2",
    (_CONTRACTIONS + r"\p{N}{1,3}" + _REST, True): "llama-bpe",
}


class TokenType(IntEnum):
    """llama.cpp's token types (ggml's `llama_token_type`)."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens and types, one per embedding row, and what else llama.cpp's tokenizer needs."""

    pre: str
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    special_ids: dict[str, int]  # of "eos", and of "bos" and "pad" where there are any
    add_bos: bool
    chat_template: str | None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder. Raises LiteError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise LiteError(
            f"{path}: no such file; give a folder with a saved model and its fast tokenizer"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise LiteError(f"{path}: not JSON; save the model again") from None
    if not isinstance(value, dict):
        raise LiteError(f"{path}: not a JSON object; save the model again")
    return value


def pre_tokenizer(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for the way tokenizer.json splits text. Raises LiteError where it has none."""
    model, normalizer = tokenizer["model"], tokenizer.get("normalizer")
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise LiteError(
            f"tokenizer.json: model {model.get('type')!r} with byte fallback or not a BPE; byte-level BPE only"
        )
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise LiteError(
            f"tokenizer.json: normalizer {normalizer.get('type')!r}; llama.cpp has none but NFC's absence"
        )
    steps = tokenizer.get("pre_tokenizer") or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    kinds = [step.get("type") for step in steps]
    if kinds[-1:] != ["ByteLevel"] or steps[-1].get("add_prefix_space"):
        raise LiteError(f"tokenizer.json: pre-tokenizer {kinds}; byte-level BPE without a prefix space only")
    by_regex = steps[-1].get("use_regex", True)
    name = None
    if kinds == ["Split", "ByteLevel"] and not by_regex:
        split = steps[0]
        if split.get("behavior") == "Isolated" and not split.get("invert"):
            pattern = split.get("pattern", {}).get("Regex")
            name = SPLITS.get((pattern, bool(model.get("ignore_merges"))))
    elif kinds == ["Digits", "ByteLevel"] and by_regex and steps[0].get("individual_digits"):
        name = "smollm"
    elif kinds == ["ByteLevel"] and by_regex:
        name = "gpt-2"
    if name is None:
        raise LiteError(f"tokenizer.json: llama.cpp has no pre-tokenizer for {json.dumps(steps)[:200]}")
    return name


def _adds_bos(tokenizer: dict[str, Any], config: dict[str, Any], bos: str | None) -> bool:
    """Whether encoding a text puts BOS before it. Raises LiteError for any other frame of special tokens."""
    processor = tokenizer.get("post_processor") or {}
    steps = processor["processors"] if processor.get("type") == "Sequence" else [processor]
    frame = [
        piece["SpecialToken"]["id"] if "SpecialToken" in piece else None
        for step in steps
        if step.get("type") == "TemplateProcessing"
        for piece in step["single"]
    ]
    if frame not in ([], [None], [bos, None]):
        raise LiteError(f"tokenizer.json: frames a text as {frame}; llama.cpp is given at most BOS in front")
    return bos is not None and (frame[:1] == [bos] or bool(config.get("add_bos_token")))


def chat_template(folder: Path) -> str | None:
    """A folder's default chat template."""
    config = read_json(folder / "tokenizer_config.json")
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {item["name"]: item["template"] for item in template}.get("default")
    return template


def read(folder: Path, num_rows: int) -> Vocabulary:
    """Read the vocabulary of a model with `num_rows` embedding rows; rows without a token become UNUSED.

    Special added tokens become CONTROL (never shown), other added tokens such as `<think>` USER_DEFINED
    (shown, so that a parser sees them). Raises LiteError for what llama.cpp would tokenise differently.
    """
    tokenizer, config = read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    pre = pre_tokenizer(tokenizer)
    found = {number: (text, TokenType.NORMAL) for text, number in tokenizer["model"]["vocab"].items()}
    for added in tokenizer.get("added_tokens", ()):
        text = added["content"]
        if added.get("lstrip") or added.get("rstrip") or added.get("single_word"):
            raise LiteError(
                f"tokenizer.json: added token {text!r} eats spaces or wants whole words; llama.cpp does not"
            )
        found[added["id"]] = (text, TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    if max(found) >= num_rows:
        raise LiteError(
            f"{folder}: token id {max(found)} has no embedding row, there are {num_rows}; resize the model"
        )
    rows = [found.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(num_rows)]

    ids = {text: number for number, (text, _) in found.items()}
    special_ids = {}
    for name in ("eos", "bos", "pad"):
        token = config.get(f"{name}_token")
        token = token["content"] if isinstance(token, dict) else token
        if token is None:
            continue
        if token not in ids:
            raise LiteError(
                f"{folder}: {name}_token {token!r} is not in tokenizer.json; save the tokenizer again"
            )
        special_ids[name] = ids[token]
    if "eos" not in special_ids:
        raise LiteError(f"{folder}/tokenizer_config.json: no eos_token, so no reply would end; set one")
    bos = rows[special_ids["bos"]][0] if "bos" in special_ids else None
    return Vocabulary(
        pre=pre,
        tokens=[text for text, _ in rows],
        types=[kind for _, kind in rows],
        merges=[
            merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]
        ],
        special_ids=special_ids,
        add_bos=_adds_bos(tokenizer, config, bos),
        chat_template=chat_template(folder),
    )
