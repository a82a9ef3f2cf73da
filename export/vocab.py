"""The vocabulary of a Hugging Face folder as GGUF wants it, read from the tokenizer that AutoTokenizer makes of it.

That tokenizer holds the tokens of every place that a folder may keep some in: tokenizer.json, tokenizer_config.json,
added_tokens.json. llama.cpp splits text by a rule that a GGUF only names. The official converter finds the name by a
hash of token ids and so refuses a retrained tokenizer; here it follows from the structure of the tokenizer, and a
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
from lite.models import pretrained

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Split pattern, and whether merges are ignored for whole words of the vocabulary: llama.cpp's name.
SPLITS = {
    (_CONTRACTIONS + r"\p{N}" + _REST, False): "qwen2",
    (_CONTRACTIONS + r"\p{N}{1,3}" + _REST, True): "llama-bpe",
}

ENDS = ("eos", "eot", "eom")  # llama.cpp ends a reply at each of them


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
    special_ids: dict[str, int]  # of "eos"; of "eot", "eom", "bos" and "pad" where there are any
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


def _adds_bos(tokenizer: Any) -> bool:
    """Whether encoding a text puts BOS before it. Raises LiteError for any other frame of special tokens."""
    plain, framed = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    if framed not in (plain, [tokenizer.bos_token_id, *plain]):
        raise LiteError(
            f"the tokenizer frames 'a' as {tokenizer.convert_ids_to_tokens(framed)}; llama.cpp is given at most BOS in"
            " front"
        )
    return framed != plain


def chat_template(tokenizer: Any) -> str | None:
    """A tokenizer's default chat template."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def end_ids(folder: Path, tokenizer: Any) -> list[int]:
    """The ids that end a reply: the tokenizer's EOS first, then those at which transformers' generate stops.

    Those are generation_config.json's where there is one, else config.json's. Raises LiteError for what is no id of
    a token, and where there is no end at all.
    """
    path = folder / "generation_config.json"
    path = path if path.is_file() else folder / "config.json"
    named = read_json(path).get("eos_token_id")
    ids = named if isinstance(named, list) else [] if named is None else [named]
    for number in ids:
        if type(number) is not int or number < 0 or tokenizer.backend_tokenizer.id_to_token(number) is None:
            raise LiteError(f"{path}: eos_token_id holds {number!r}, which is no token's id; correct it")
    ends = list(dict.fromkeys(([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]) + ids))
    if not ends:
        raise LiteError(f"{folder}: neither eos_token nor eos_token_id, so no reply would end; set one")
    return ends


def read(folder: Path, num_rows: int) -> Vocabulary:
    """Read the vocabulary of a model with `num_rows` embedding rows; rows without a token become UNUSED.

    Special added tokens become CONTROL (never shown), other added tokens such as `<think>` USER_DEFINED
    (shown, so that a parser sees them). Raises LiteError for what llama.cpp would tokenise differently.
    """
    tokenizer = pretrained.load_tokenizer(folder, str(folder))
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = pre_tokenizer(rules)
    found = {number: (text, TokenType.NORMAL) for text, number in rules["model"]["vocab"].items()}
    for added in rules["added_tokens"]:
        text = added["content"]
        if added["lstrip"] or added["rstrip"] or added["single_word"]:
            raise LiteError(
                f"{folder}: added token {text!r} eats spaces or wants whole words; llama.cpp does not"
            )
        found[added["id"]] = (text, TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    if max(found) >= num_rows:
        raise LiteError(
            f"{folder}: token id {max(found)} ({found[max(found)][0]}) has no embedding row, there are {num_rows};"
            " resize the model"
        )
    rows = [found.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(num_rows)]

    special_ids = dict(zip(ENDS, end_ids(folder, tokenizer), strict=False))  # verify sees to the others
    special_ids |= {
        name: number
        for name, number in (("bos", tokenizer.bos_token_id), ("pad", tokenizer.pad_token_id))
        if number is not None
    }
    return Vocabulary(
        pre=pre,
        tokens=[text for text, _ in rows],
        types=[kind for _, kind in rows],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in rules["model"]["merges"]],
        special_ids=special_ids,
        add_bos=_adds_bos(tokenizer),
        chat_template=chat_template(tokenizer),
    )
