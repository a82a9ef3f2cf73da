"""Rows of problems, as they lie in a file or on the Hugging Face Hub.

A Hub data set is named `owner/name:split` or `owner/name:config:split`. Before the Hub is asked, its split is
looked for under `data/` in the working folder, as `data/owner/name/config/split.jsonl` or `.parquet`: a machine
without a network needs one file there. Code of a data set is never run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lite.errors import LiteError
from lite.runtime.files import located_lines, parse_object
from lite.runtime.progress import console

SUFFIXES = (".jsonl", ".parquet")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")
KEPT = Path("data")  # where a Hub data set's file may lie beforehand

Row = tuple[str, Mapping[str, Any]]  # its place ("<path>, line 3") for messages, and its columns


class _HubRows(Sequence):
    """Rows of a loaded data set, read as they are asked for."""

    def __init__(self, name: str, dataset: Any):
        self.name, self.dataset = name, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        return f"{self.name}, row {index}", self.dataset[index]


def hub_parts(name: str) -> tuple[str, str, str] | None:
    """(owner/name, config or "", split) of a Hub data set's name; None where it is no such name."""
    repository, *rest = name.split(":")
    if not _REPOSITORY.fullmatch(repository) or len(rest) not in (1, 2) or not all(rest):
        return None
    return repository, rest[0] if len(rest) == 2 else "", rest[-1]


def local_file(name: str) -> Path | None:
    """The local file that a source reads: itself, or what lies under `data/` for the Hub. None where there is none."""
    if Path(name).is_file():
        return Path(name)
    parts = hub_parts(name)
    if parts is None:
        return None
    stem = KEPT.joinpath(*filter(None, parts))
    return next((path for suffix in SUFFIXES if (path := Path(f"{stem}{suffix}")).is_file()), None)


def rows(name: str) -> Sequence[Row]:
    """All rows of a file or a Hub data set, in their order. Raises LiteError where it cannot be read."""
    path = local_file(name)
    if path is not None:
        return _parquet(path) if path.suffix == ".parquet" else _jsonl(path)
    parts = hub_parts(name)
    if parts is None:
        raise LiteError(
            f"source {name!r}: no such file; give a JSONL or Parquet file, a Hub data set (owner/name:split), "
            "'quickstart' or 'gym:<task>'"
        )
    return _hub(name, *parts)


def _jsonl(path: Path) -> list[Row]:
    return [(where, parse_object(line, where)) for where, line in located_lines(path)]


def _parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise LiteError(f"{path}: Parquet needs pyarrow; install extra-cot-lite[train]") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except Exception as fault:  # whatever its values make pyarrow and the modules of dates raise
        raise LiteError(
            f"{path}: not a Parquet file that can be read ({(str(fault).splitlines() or [''])[0][:80]})"
        ) from None
    return [(f"{path}, row {number}", row) for number, row in enumerate(rows)]


def _hub(name: str, repository: str, config: str, split: str) -> _HubRows:
    try:
        import datasets
        from httpx import HTTPError, TransportError
    except ImportError:
        raise LiteError(f"source {name}: the Hub needs datasets; install extra-cot-lite[train]") from None
    for logger in ("huggingface_hub", "datasets"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # the retries of a machine without a network
    console.print(f"  {name}: asking the Hugging Face Hub")
    place = KEPT.joinpath(*filter(None, (repository, config, split)))
    try:
        return _HubRows(name, datasets.load_dataset(repository, config or None, split=split))
    except (ConnectionError, TransportError):
        raise LiteError(
            f"source {name}: the Hub cannot be reached; put the split's file at {place}.jsonl or {place}.parquet, "
            f"from https://huggingface.co/datasets/{repository}"
        ) from None
    except (OSError, ValueError, RuntimeError, HTTPError) as fault:
        reason = " ".join(str(fault).split())[:160]
        raise LiteError(
            f"source {name}: the Hub does not give it ({reason}); check owner/name, config and split"
        ) from None
