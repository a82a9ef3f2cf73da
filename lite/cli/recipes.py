"""The packaged recipes: list, find, copy.

In a checkout they lie in `recipes/` beside the package; a wheel carries them inside it.
"""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

from lite.errors import LiteError

SUFFIXES = (".yaml", ".py")


def folder() -> Path:
    """Where the packaged recipes are."""
    here = Path(__file__).parents[1]
    for place in (here / "_recipes", here.parent / "recipes"):
        if place.is_dir():
            return place
    raise LiteError(f"no recipes beside {here}; install extra-cot-lite again, or run from its checkout")


def names() -> list[str]:
    """File names of the packaged recipes and scripts."""
    return sorted(path.name for path in folder().iterdir() if path.suffix in SUFFIXES)


def headline(name: str) -> str:
    """What a recipe is for: the first line of its opening comment or docstring."""
    first = (folder() / name).read_text(encoding="utf-8").partition("\n")[0]
    return first.strip('#" ')


def packaged(name: str) -> Path:
    """The packaged recipe of this name; ".yaml" may be left out. Raises LiteError naming those that it may mean."""
    for known in names():
        if name in (known, known.removesuffix(".yaml")):
            return folder() / known
    recipes = [known for known in names() if known.endswith(".yaml")]
    near = [known for known in recipes if name.lower() in known] if name else []
    near = near or difflib.get_close_matches(name, [known.removesuffix(".yaml") for known in recipes])
    there = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(recipes)};"
    raise LiteError(f"no packaged recipe {name!r}; {there} `lite recipes ls` says what each is for")


def find(recipe: str) -> Path:
    """The file behind a RECIPE argument: a path, or the name of a packaged recipe."""
    path = Path(recipe)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") and path.name != recipe:  # a path, so do not guess a name
        raise LiteError(f"{recipe}: no such recipe; `lite recipes ls` lists the packaged ones")
    found = packaged(recipe)
    if found.suffix != ".yaml":
        raise LiteError(
            f"{found.name} is a script; copy it with `lite recipes cp {found.name}` and run it with python"
        )
    return found


def copy(name: str, destination: Path) -> Path:
    """Copy a packaged recipe to a folder or a new file. Never writes over a file."""
    source = packaged(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise LiteError(f"{target} is there already; give another DEST or move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target
