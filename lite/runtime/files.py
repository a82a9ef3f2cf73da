"""Files that are whole or not there: atomic writes, JSONL records, and the journal of a long stage.

A file is written to a temporary name beside it and renamed, so a reader never sees half of one.
`Journal` is the exception: stages that take long append finished records to it and resume from it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from lite.errors import LiteError, first_fault

R = TypeVar("R")
_OBJECT = TypeAdapter(dict[str, Any])


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success flush it to disk and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; on success rename it into place, so a folder there is whole.

    The one it replaces is set aside first; where a kill came between the two renames, the next call puts it back.
    """
    temporary, before = (path.with_name(f".{path.name}.{what}") for what in ("tmp", "before"))
    shutil.rmtree(temporary, ignore_errors=True)
    if before.exists() and not path.exists():
        os.replace(before, path)
    shutil.rmtree(before, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            os.replace(path, before)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


def to_line(record: Any) -> str:
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False) + "\n"


def write_records(path: Path, records: Iterable[Any]) -> int:
    """Write records as JSONL, atomically; return how many."""
    count = 0
    with atomic_write(path) as handle:
        for record in records:
            handle.write(to_line(record))
            count += 1
    return count


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Parse one JSONL line that must be an object. Raises LiteError."""
    return _parse(_OBJECT, line, where)


@functools.cache
def _reader(cls: type) -> TypeAdapter:
    return TypeAdapter(cls)


def parse_line(cls: type[R], line: str, where: str) -> R:
    """Parse one JSONL line into `cls`. Unknown keys are ignored; missing ones and wrong types are a LiteError."""
    return _parse(_reader(cast(Any, cls)), line, where)


def _parse(reader: TypeAdapter, line: str, where: str) -> Any:
    try:
        return reader.validate_json(line, strict=True)
    except ValidationError as fault:
        kind, key, message = first_fault(fault)
        if key:
            raise LiteError(f"{where}: {key}{message}") from None
        reason = fault.errors()[0]["msg"] if kind == "json_invalid" else "not an object"
        raise LiteError(f"{where}: {reason}: {line.strip()[:60]!r}; write one JSON object per line") from None


def located_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, each with its place ("<path>, line 3") for messages."""
    try:
        with open(path, encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield f"{path}, line {number}", line
    except FileNotFoundError:
        raise LiteError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise LiteError(f"{path}: a folder; a JSONL file is needed") from None
    except UnicodeDecodeError:
        raise LiteError(f"{path}: not UTF-8 text; a JSONL file is needed") from None


def read_records(path: Path, cls: type[R]) -> list[R]:
    """Read a JSONL file of `cls`. Raises LiteError with the line number for a bad line."""
    return [parse_line(cls, line, where) for where, line in located_lines(path)]


class Journal:
    """Append-only JSONL for long stages: what is in it need not be done again after a cut.

    A line that a kill left half written is cut off when the journal is opened.
    """

    def __init__(self, path: Path, cls: type[Any]):
        self.path, self.cls = path, cls
        self.records: list[Any] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = b""
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                os.truncate(path, len(whole))
        try:
            lines = whole.decode("utf-8").split("\n")[:-1]
        except UnicodeDecodeError:
            raise LiteError(f"{path}: not UTF-8 text; move it away, and it is made again") from None
        for number, line in enumerate(lines, start=1):
            self.records.append(parse_line(cls, line, f"{path}, line {number}"))
        self._handle = open(path, "a", encoding="utf-8")

    def append(self, records: Iterable[Any]) -> None:
        """Add records in one write, so that a kill loses whole records or none."""
        records = list(records)
        self._handle.write("".join(map(to_line, records)))
        self._handle.flush()
        self.records.extend(records)

    def close(self) -> None:
        self._handle.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
