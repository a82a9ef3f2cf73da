"""Rows of problems, as they lie in a file or on the Hugging Face Hub.

A file is JSONL, a JSON array, CSV or TSV, any of them also gzipped, or Parquet. A Hub data set is named
`owner/name:split` or `owner/name:config:split`. Before the Hub is asked, its split is looked for under `data/` in the
working folder, as `data/owner/name/config/split.jsonl` or another of `SUFFIXES`: a machine without a network needs one
file there. Code of a data set is never run.

CSV and JSON are read by the standard library. `datasets` reads them by way of pandas and Arrow, which turn the answer
007 into 7 and NA into nothing, and refuse a column that holds both numbers and text.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lite.errors import LiteError
from lite.remote import hub
from lite.runtime.files import parse_object
from lite.runtime.progress import console

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz", ".parquet")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")
KEPT = Path("data")  # where a Hub data set's file may lie beforehand

_PATH = re.compile(r"[^.\[\]]+(?:\.[^.\[\]]+|\[-?\w+\])*")
_STEP = re.compile(r"([^.\[\]]+)|\[(-?\w+)\]")
_ROLES = ("role", "from")  # what a message's role is called
MOST_SHOWN = 24  # columns in a message

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
    """The local file that a source reads: itself, or what lies under `data/` for the Hub; else None."""
    if Path(name).is_file():
        return Path(name)
    parts = hub_parts(name)
    if parts is None:
        return None
    stem = KEPT.joinpath(*filter(None, parts))
    return next((path for suffix in SUFFIXES if (path := Path(f"{stem}{suffix}")).is_file()), None)


def at(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path of a row: `answer`, `reward_model.ground_truth`, `messages[0].content`.

    In brackets stands an index, or the role of a message: `messages[user].content` is the first user's. A column whose
    name is the whole path comes first. Raises KeyError where nothing is there.
    """
    if path in row:
        return row[path]
    if not _PATH.fullmatch(path):
        raise KeyError(path)
    value: Any = row
    for name, place in _STEP.findall(path):
        try:
            if name:
                value = value[name] if isinstance(value, Mapping) else {}[name]
            elif not isinstance(value, list):
                raise KeyError(path)
            elif place.lstrip("-").isdecimal():
                value = value[int(place)]
            else:
                value = next(m for m in value if isinstance(m, Mapping) and place in map(m.get, _ROLES))
        except (KeyError, IndexError, StopIteration):
            raise KeyError(path) from None
    return value


def paths(row: Mapping[str, Any]) -> list[str]:
    """The paths of a row's values, as `at` takes them; of a list its first item's."""

    def below(path: str, value: Any) -> list[str]:
        if isinstance(value, list) and value:
            return below(f"{path}[0]", value[0])
        if isinstance(value, Mapping) and value:
            return [one for name, item in value.items() for one in below(f"{path}.{name}", item)]
        return [path]

    return [path for name, value in row.items() for path in below(str(name), value)]


def columns_of(row: Mapping[str, Any]) -> str:
    """The paths of a row in one line, for a message."""
    found = paths(row)
    return ", ".join(found[:MOST_SHOWN]) + (", ..." if len(found) > MOST_SHOWN else "") or "no columns"


def rows(name: str) -> Sequence[Row]:
    """All rows of a file or a Hub data set, in their order. Raises LiteError where it cannot be read."""
    path = local_file(name)
    if path is not None:
        return _parquet(path) if path.suffix == ".parquet" else _plain(path)
    parts = hub_parts(name)
    if parts is None:
        raise LiteError(
            f"source {name!r}: no such file; give a JSONL, JSON, CSV or Parquet file, a Hub data set"
            " (owner/name:split), 'quickstart' or 'gym:<task>'"
        )
    return _hub(name, *parts)


def _plain(path: Path) -> list[Row]:
    """Rows of a text file, gzipped or not: CSV and TSV by their names, a JSON array by its bracket, else JSONL."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LiteError(f"{path}: not UTF-8 text; a JSONL, JSON or CSV file is needed") from None
    except (OSError, EOFError, zlib.error) as fault:
        raise LiteError(f"{path}: cannot be read ({fault}); get the file again") from None
    if {".csv", ".tsv"} & {suffix.lower() for suffix in path.suffixes[-2:]}:
        return _csv(path, text)
    if text.lstrip()[:1] == "[":
        return _array(path, text)
    lines = ((f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), start=1))
    return [(where, parse_object(line, where)) for where, line in lines if line.strip()]


def _array(path: Path, text: str) -> list[Row]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise LiteError(f"{path}: not a JSON array ({str(fault)[:80]}); correct that place") from None
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise LiteError(
                f"{path}, item {number}: {str(value)[:60]!r} is not an object; give a list of objects"
            )
    return [(f"{path}, item {number}", value) for number, value in enumerate(values)]


def _csv(path: Path, text: str) -> list[Row]:
    """Rows of a CSV file, all values as text; its first line names the columns, and tells what parts them."""
    csv.field_size_limit(2**31 - 1)
    lines = text.splitlines(keepends=True) if text.strip() else []
    reader = csv.DictReader(lines, delimiter=max(",;\t", key=(lines or [""])[0].count), strict=True)
    found: list[Row] = []
    try:
        names = reader.fieldnames or []
        if len({*names}) < len(names):
            raise LiteError(
                f"{path}, line 1: two columns have the same name; name each of {', '.join(names)} once"
            )
        for row in reader:
            if None in row or None in row.values():
                raise LiteError(
                    f"{path}, line {reader.line_num}: not as many values as the {len(names)} columns of line 1; put"
                    " quotes around a value with commas"
                )
            found.append((f"{path}, line {reader.line_num}", row))
    except csv.Error as fault:
        raise LiteError(f"{path}, line {reader.line_num}: not CSV ({fault}); correct that line") from None
    return found


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


@contextlib.contextmanager
def _without_waiting() -> Iterator[None]:
    """Let `datasets` look into its cache only, where the Hub cannot be reached: it would try for half a minute."""
    import datasets
    from huggingface_hub import constants

    modules: list[Any] = [datasets.config, constants]
    before = [(module, module.HF_HUB_OFFLINE) for module in modules]
    offline = not hub.is_reachable()
    try:
        for module, _ in before:
            module.HF_HUB_OFFLINE = offline
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value


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
        with _without_waiting():
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
