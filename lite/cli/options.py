"""The typer app, and what several verbs share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lite import quickstart
from lite.errors import LiteError
from lite.tokens import EFFORTS, mode_of

app = typer.Typer(
    help="Teach a small reasoning model to think in 20 to 100 % of its tokens on demand, and run it from a GGUF.",
    add_completion=False,
    rich_markup_mode=None,  # plain help is drawn in half the time
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="List and copy the packaged recipes.", rich_markup_mode=None)
app.add_typer(recipes_app, name="recipes")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file (YAML), or the name of a packaged one.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override one recipe value, such as sft.rank=16. Repeatable."
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The run folder. Default: runs/ and the recipe's name."),
]


def _gguf(name: str) -> Path:
    if name == "quickstart" and not Path(name).is_file():
        return quickstart.GGUF
    from lite.infer.hub import download, is_name

    return download(name) if is_name(name) else Path(name)


ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL.gguf",
        parser=_gguf,
        help="A GGUF file, or one on the Hub as owner/repo[:quant]; quickstart: the one in this package.",
    ),
]
NumOption = Annotated[
    int | None, typer.Option("--num", min=1, max=10**9, help="How many problems. Default: all of a file.")
]
EndpointOption = Annotated[
    str,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="A server (vLLM, llama-server) that serves the model and generates instead. LITE_API_KEY may hold its key.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Decides which problems.")]


def ratios_of(text: str) -> list[float]:
    """Ratios parted by commas, each in (0, 1] and once."""
    ratios = []
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            ratios.append(float(part))
        except ValueError:
            raise LiteError(f"ratio {part!r}: not a number; give some in (0, 1], such as 0.2,0.4") from None
        if not 0 < ratios[-1] <= 1:
            raise LiteError(f"ratio {part}: must lie in (0, 1]")
    if not ratios:
        raise LiteError("--ratio is empty; give some in (0, 1], such as 0.2,0.4")
    return list(dict.fromkeys(ratios))


def dial_of(ratio: str | None, effort: str | None, budget: int | None, *, thinking: bool) -> str | None:
    """The mode that a user's knobs mean; None: left to the engine. Raises LiteError where they contradict."""
    if ratio is not None and effort is not None:
        raise LiteError(f"--ratio {ratio} and --effort {effort} both set the ratio; give one of them")
    if not thinking and budget is not None:
        raise LiteError(f"--budget {budget} and --no-think contradict; give one of them")
    if effort is not None and effort not in EFFORTS:
        raise LiteError(f"effort {effort!r}: use one of {', '.join(EFFORTS)}")
    if effort is not None:
        return EFFORTS[effort]
    return None if ratio is None else mode_of(ratio)


def read_stdin() -> str:
    """All of stdin. Raises LiteError where it is no text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise LiteError("stdin is not UTF-8 text; give the question as text") from None
