"""Models and tokenizers of Hugging Face, from a folder or the Hub: the one place that loads them, except what Unsloth loads.

No code that lies beside weights runs, weights are safetensors, and all of a model's weights are there: transformers
would ask whether to run the code, read pickles, and fill what is missing with random numbers. Whatever a damaged folder
makes transformers raise becomes a LiteError of one line.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lite.errors import LiteError
from lite.runtime.provenance import sha256_unchanged

_HUB_NAME = re.compile(r"[\w-][\w.-]*/\w(?:[\w.-]{0,94}\w)?", re.ASCII)
QUICKSTART = Path(__file__).parents[1] / "quickstart" / "reasoner"
MODEL_FILES = (".json", ".jinja", ".model", ".safetensors", ".txt")  # weights, config, tokenizer


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


def model_content(model: str) -> str | dict[str, str]:
    """What a recipe's model is: the digests of a local folder's files, so that another training is another model.

    A hub name stands for itself.
    """
    folder = Path(resolve(model))
    if not folder.is_dir():
        return model
    return {
        path.name: sha256_unchanged(path) for path in sorted(folder.iterdir()) if path.suffix in MODEL_FILES
    }


@contextlib.contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn any fault inside into a LiteError that begins with `what`."""
    try:
        yield
    except LiteError:
        raise
    except Exception as fault:  # transformers raises what its parts raise, from KeyError to SafetensorError
        reason = " ".join(str(fault).split())
        if not isinstance(fault, (OSError, ValueError)):
            reason = f"{type(fault).__name__}: {reason}"
        raise LiteError(f"{what}: could not be loaded ({reason[:300]})") from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's model: model.safetensors, or those that its index names.

    Raises LiteError where there are none, one is missing, or it is not clear which of both is meant.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not index.is_file():
        if not single.is_file():
            raise LiteError(
                f"{folder}: no model.safetensors in it, and no {index.name}; save the model with save_pretrained"
                " (adapters: merge first, other forms of weights: convert them)"
            )
        return [single]
    try:
        names = sorted(
            {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LiteError(f"{index}: not an index of weights; save or download the model again") from None
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise LiteError(
                f"{index}: names {name}, which is not beside it; save or download the model again"
            )
    if single.is_file() and single.name not in names:
        raise LiteError(
            f"{folder}: {single.name} lies beside {index.name}, which does not name it, and transformers would read"
            " the first; remove the one that is stale"
        )
    return [folder / name for name in names]


def check_weights(name: str | Path, what: str) -> None:
    """Raise LiteError where a folder has no weights, or not all of them, in safetensors files."""
    if Path(name).is_dir():
        with reported(what):
            weight_files(Path(name))


def load_tokenizer(name: str | Path, what: str) -> Any:
    """A tokenizer. Raises LiteError, which begins with `what`, where it is missing or not a fast one."""
    from transformers import AutoTokenizer

    with reported(what):
        found = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
    if not found.is_fast:
        raise LiteError(f"{what}: its tokenizer gives no offsets; name a model with a fast one")
    return found


def load_config(name: str | Path, what: str) -> Any:
    """A model's configuration. Raises LiteError."""
    from transformers import AutoConfig

    with reported(what):
        return AutoConfig.from_pretrained(str(name), trust_remote_code=False)


def load_model(auto: Any, name: str | Path, what: str, *, new_head: bool = False, **more: Any) -> Any:
    """A model of the class `auto` of transformers; `more` goes to its from_pretrained.

    `new_head`: weights that the folder lacks may start at random. Raises LiteError.
    """
    check_weights(name, what)
    with reported(what):
        model, info = auto.from_pretrained(
            str(name), trust_remote_code=False, use_safetensors=True, output_loading_info=True, **more
        )
    wrong = sorted(map(str, info["mismatched_keys"])) + ([] if new_head else sorted(info["missing_keys"]))
    if wrong:
        raise LiteError(f"{what}: {len(wrong)} weights are missing or of another shape, such as {wrong[0]}")
    return model
