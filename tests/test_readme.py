"""README and docs: commands parse, Python imports, links and pictures exist, figures are in the benchmarks."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from lite.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))
}
PAGES |= {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md")}
README = PAGES["README.md"]
HISTORY = ("docs/log.md", "CHANGELOG.md")  # what they tell of may be gone
GENERATED = ("docs/cli.md", "docs/recipe-reference.md")
BLOCKS = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def blocks(language: str, pages: dict[str, str] = PAGES) -> list[tuple[str, str]]:
    return [
        (name, body)
        for name, text in pages.items()
        for kind, body in BLOCKS.findall(text)
        if kind == language
    ]


def commands() -> list[str]:
    """Every `lite` line of the shell blocks, and every `lite ...` with arguments in running text and tables."""
    lines = [line for _, body in blocks("bash") for line in body.splitlines()]
    lines += [
        span
        for name, text in PAGES.items()
        if name not in HISTORY + GENERATED
        for span in re.findall(
            r"`((?:[A-Z_]+=\S+ )?(?:uv run )?lite [a-z]+ [^`]+)`", BLOCKS.sub("", text), re.DOTALL
        )
    ]
    plain = [line.split(" #")[0].split(" >")[0].split(" |")[0].strip().replace("\n", " ") for line in lines]
    found = [
        match[1] for line in plain if (match := re.match(r"(?:[A-Z_]+=\S+ )?(?:uv run )?(lite .*)", line))
    ]
    return sorted({line for line in found if "..." not in line})


def headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.*)$", BLOCKS.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", BLOCKS.sub("", text))


@pytest.mark.parametrize("command", commands())
def test_command_parses(command):
    words = shlex.split(command)[1:]
    group = get_command(app)
    while hasattr(group, "commands"):
        group = group.commands[words.pop(0)]
    group.make_context("lite", words)  # raises on an unknown option or a missing argument


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_imports(page, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), f"{page}: {ast.unparse(node)}"


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_yaml_reads(page, text):
    from lite.config import build

    build(yaml.safe_load(text))  # raises on an unknown key or a bad value


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    for link in links(PAGES[page]):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), f"{page}: {link}"
        if page.startswith("docs/"):
            assert path.is_relative_to(DOCS), f"{page}: {link} is not on the site"
        if anchor:
            assert anchor in headings(path.read_text(encoding="utf-8")), f"{page}: {link}"


@pytest.mark.parametrize("page", [name for name in PAGES if name not in HISTORY])
def test_named_files_exist(page):
    """Files of the repository in code marks: lite/..., export/..., recipes/..., docs/..., tests/..."""
    for path in re.findall(r"`((?:lite|export|recipes|docs|tests)/[\w./-]+)`", PAGES[page]):
        assert (ROOT / path).exists(), f"{page}: {path}"
    for script in re.findall(r"\bpython ((?:recipes|docs)/[\w./-]+\.py)", PAGES[page]):
        assert (ROOT / script).is_file(), f"{page}: {script}"


def test_the_site_has_every_page():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    nav = [page for part in config["nav"] for value in part.values() for page in _pages(value)]
    assert sorted(nav) == sorted(path.name for path in DOCS.glob("*.md")) and len(nav) == len(set(nav))


def _pages(value) -> list[str]:
    return [value] if isinstance(value, str) else [page for part in value for page in part.values()]


@pytest.mark.parametrize("name", ["cli.md", "recipe-reference.md"])
def test_generated_pages_are_current(name):
    write = runpy.run_path(str(DOCS / "generate.py"))["PAGES"][name]
    assert (DOCS / name).read_text(encoding="utf-8") == write(), "run python docs/generate.py"


def test_the_readme_is_short_and_shows_pictures():
    pictures = [link for link in links(README) if link.endswith((".png", ".svg"))]
    assert len(README.split()) <= 1000 and len(pictures) >= 2
    assert all((ROOT / picture).stat().st_size > 1000 for picture in pictures)


def test_figures_of_the_readme_are_in_the_benchmarks():
    shown = BLOCKS.sub(
        "", README.replace("20 to 100 %", "").replace("Python 3.10", "").replace("2602.08324", "")
    )
    figures = re.findall(r"\d[\d.,]*\d? ?(?:%|GB RAM|GB|minutes|seconds|tokens/s)|\d+\.\d{2,}", shown)
    cards = re.findall(r"\d+ GB(?= card| cap| \|)", shown)
    for figure in set(figures) - set(cards) - {"2602.08324"}:  # the paper
        assert figure.removesuffix(" RAM") in PAGES["docs/benchmarks.md"], figure


def test_first_screen():
    _, first = blocks("bash", {"README.md": README})[0]
    assert "pip install uv && uv run lite quickstart" in first
    assert "pip install uv && uv run pytest" in first


def test_test_command_is_what_ci_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install uv" in script and "uv run pytest" in script
