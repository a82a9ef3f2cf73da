"""Recipes from YAML text, files and mappings, and back. Whatever is wrong is a LiteError of one line."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from lite.config.sections import Problems, Recipe, Source
from lite.errors import LiteError, first_fault

_NOT_YAML = (
    yaml.YAMLError,
    ValueError,
    KeyError,
    RecursionError,
)  # ValueError: 2020-99-99; KeyError: !!bool abc


def _nearest(sections: Sequence[str | int], key: str) -> str:
    """The known key that is most like an unknown one of a section."""
    known: Any = Recipe
    for name in sections:
        if isinstance(name, str):
            known = Source if known is Problems else typing.get_type_hints(known)[name]
    return difflib.get_close_matches(key, known.__dataclass_fields__, n=1, cutoff=0.0)[0]


def build(values: dict[str, Any]) -> Recipe:
    """A recipe from its sections. Raises LiteError that names the key, its value and the remedy."""
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as fault:
        kind, where, message = first_fault(fault)
        *sections, key = fault.errors()[0]["loc"]
        if kind == "unexpected_keyword_argument":
            nearest = ".".join([*where.split(".")[:-1], _nearest(sections, str(key))])
            raise LiteError(f"unknown recipe key {where}; did you mean {nearest}?") from None
        raise LiteError(f"{where}{message}") from None


def parse(text: str, overrides: Sequence[str] = (), where: str = "recipe") -> Recipe:
    """A recipe from YAML text and `key.sub=value` overrides (values are YAML, too)."""
    try:
        values = yaml.safe_load(text)
    except _NOT_YAML as fault:
        reason = " ".join(str(fault).split())[:300]
        raise LiteError(f"{where}: not plain YAML: {reason}; fix that line") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise LiteError(f"{where}: expected key: value lines, got {type(values).__name__}")
    for override in overrides:
        path, equals, raw = override.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise LiteError(f"--set {override}: expected key=value, such as sft.rank=16")
        *sections, key = path.strip().split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise LiteError(f"--set {override}: {section} is not a section")
        try:
            target[key] = yaml.safe_load(raw)
        except _NOT_YAML:
            raise LiteError(f"--set {override}: {raw!r} is not a YAML value") from None
    return build(values)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise LiteError(f"{path}: no such recipe; `lite recipes ls` lists the packaged ones") from None
    except UnicodeDecodeError:
        raise LiteError(f"{path}: not UTF-8 text; a recipe is a YAML file") from None
    return parse(text, overrides, str(path))


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False)
