"""A GGUF by its name on the Hugging Face Hub: `owner/repo[:quant]`, as llama-server -hf and ollama take it."""

from __future__ import annotations

import re
from pathlib import Path

from lite.errors import LiteError

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?::(?P<quant>[\w.-]+))?")
USUAL = ("q4_k_m", "q8_0")  # where no quant is named, in this order


def is_name(text: str) -> bool:
    """Whether a text may name a repository of the Hub, and is no path of a GGUF."""
    return bool(_NAME.fullmatch(text)) and not text.lower().endswith(".gguf") and not Path(text).exists()


def download(name: str) -> Path:
    """The GGUF on this machine; it is fetched once, and kept in the Hub's cache. Raises LiteError."""
    try:
        import huggingface_hub as hub
    except ImportError:
        raise LiteError(f"{name}: huggingface_hub is not installed; install it, or give a file") from None
    found = _NAME.fullmatch(name)
    repo, quant = found["repo"], found["quant"]
    try:
        return Path(hub.hf_hub_download(repo, _choose(name, hub.list_repo_files(repo), quant)))
    except LiteError:
        raise
    except Exception as fault:  # no network, no such repository, gated: each has a type of its own
        try:
            folder = Path(hub.snapshot_download(repo, allow_patterns="*.gguf", local_files_only=True))
        except Exception:
            reason = str(fault).strip().partition("\n")[0][:160]
            raise LiteError(
                f"{name}: cannot be fetched from the Hub ({reason}); check the name and the network,"
                " or give the path of a GGUF"
            ) from None
        return folder / _choose(name, [str(file.relative_to(folder)) for file in folder.rglob("*")], quant)


def _choose(name: str, files: list[str], quant: str | None) -> str:
    """The file of a repository that is meant."""
    ggufs = [
        file for file in sorted(files) if file.lower().endswith(".gguf") and "mmproj" not in file.lower()
    ]
    whole = [file for file in ggufs if not re.search(r"-\d{5}-of-\d{5}\.gguf$", file)]
    for wanted in [quant] if quant else USUAL:
        pattern = re.compile(rf"(?:^|[-._/]){re.escape(wanted)}\.gguf$", re.IGNORECASE)
        if fitting := [file for file in whole if pattern.search(file)]:
            return fitting[0]
    if whole and not quant:
        return whole[0]
    there = ", ".join(whole[:8]) or ("split files only" if ggufs else "no GGUF")
    raise LiteError(
        f"{name}: that repository has {there}; name one of its quants, such as {name.partition(':')[0]}:Q8_0"
    )
