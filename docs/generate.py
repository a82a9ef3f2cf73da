"""Write docs/cli.md from the commands and docs/recipe-reference.md from the recipe's dataclasses.

python docs/generate.py            # a test compares the pages with what this writes
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from typer.main import get_command

from lite.cli import app
from lite.config import Recipe, sections

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py. Change the source, then run it again. -->\n"
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def cell(text: Any) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def row(*cells: Any) -> str:
    return "| " + " | ".join(cell(text) for text in cells) + " |\n"


def command_page(name: str, command: Any) -> str:
    """A command and its subcommands: usage, help, tables of arguments and options."""
    if hasattr(command, "commands"):
        parts = [command_page(f"{name} {verb}", sub) for verb, sub in command.commands.items()]
        return "\n".join(parts)
    params = [param for param in command.params if not getattr(param, "hidden", False)]
    arguments = [param for param in params if param.param_type_name == "argument"]
    options = [param for param in params if param.param_type_name == "option" and param.name != "help"]
    usage = [name, *(param.metavar or param.name.upper() for param in arguments)]
    usage += ["[OPTIONS]"] if options else []
    text = f"## `{name}`\n\n{(command.help or '').strip()}\n\n```\n{' '.join(usage)}\n```\n"
    if arguments or options:
        text += "\n| name | meaning | default |\n|---|---|---|\n"
    for param in arguments:
        text += row(
            f"`{param.metavar or param.name.upper()}`", param.help, "required" if param.required else ""
        )
    for param in options:
        label = (
            f"{', '.join(param.opts)} {'' if param.is_flag else param.metavar or param.name.upper()}".strip()
        )
        plain = not isinstance(param.default, (bool, type(None), list, tuple)) and not callable(param.default)
        default = "required" if param.required else f"`{param.default}`" if plain else ""
        text += row(f"`{label}`", param.help, default)
    return text


def cli_page() -> str:
    group = get_command(app)
    return f"# Commands\n\n{NOTE}\n{group.help}\n\n{command_page('lite', group)}"


def comments(cls: str) -> dict[str, str]:
    """The comments beside the fields of a dataclass in the source of lite.config.sections."""
    source = Path(sections.__file__).read_text(encoding="utf-8")
    body = next(
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == cls
    ).body
    marks = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    return {
        field.target.id: " ".join(
            mark.string.strip("# ") for mark in marks if field.lineno <= mark.start[0] <= field.end_lineno
        )
        for field in body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def values(schema: dict[str, Any], hint: Any) -> str:
    """What a key may hold, from its JSON schema and the bounds in its type."""
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kinds = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    kind = kinds.get(schema.get("type", ""), "list")
    marks = [mark for info in getattr(hint, "__metadata__", ()) for mark in getattr(info, "metadata", [])]
    bounds = [
        f"{sign} {bound:,}"
        for name, sign in BOUNDS.items()
        for bound in (getattr(mark, name, None) for mark in marks)
        if bound is not None and bound != 10**9
    ]
    return f"{kind} {', '.join(bounds)}".strip()


def shown(default: Any) -> str:
    if default is None or default == "":
        return "empty" if default == "" else ""
    if isinstance(default, list):
        default = ", ".join(one["name"] if isinstance(one, dict) else one for one in default) or "[]"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def section_page(title: str, cls: str, schema: dict[str, Any]) -> str:
    notes, hints = comments(cls), get_type_hints(getattr(sections, cls), include_extras=True)
    text = f"## {title}\n\n{schema.get('description', '').strip()}\n\n"
    text += "| key | values | default | meaning |\n|---|---|---|---|\n"
    for key, field in schema["properties"].items():
        if "$ref" not in field:
            text += row(
                f"`{key}`", values(field, hints[key]), shown(field.get("default")), notes.get(key, "")
            )
    return text


def recipe_page() -> str:
    schema = TypeAdapter(Recipe).json_schema()
    parts = [section_page("The recipe itself", "Recipe", schema)]
    for key, field in schema["properties"].items():
        if "$ref" in field:
            cls = field["$ref"].rpartition("/")[2]
            parts.append(section_page(f"`{key}`", cls, schema["$defs"][cls]))
    parts.append(section_page("A source of problems", "Source", schema["$defs"]["Source"]))
    start = (
        "A recipe is a YAML file with one section per stage. A key that is not in the file keeps the default below;"
        ' `--set section.key=value` overrides any of them. "NF" marks coefficients that the paper does not publish.'
    )
    return f"# Recipe reference\n\n{NOTE}\n{start}\n\n" + "\n".join(parts)


PAGES = {"cli.md": cli_page, "recipe-reference.md": recipe_page}

if __name__ == "__main__":
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), encoding="utf-8")
