"""The typer app, and what several verbs share."""

from __future__ import annotations

import os
import select
import stat
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lite import quickstart
from lite.errors import LiteError
from lite.tokens import EFFORTS, mode_of, ratio_of

USE, TRAIN, DATA = "Use", "Train", "Data"  # the headings of the verbs in `lite --help`


class Verbs(TyperGroup):
    """Lists its verbs under their headings. Plain text: rich help takes twice as long to draw."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        verbs = [
            (name, command) for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))
        ]
        width = formatter.width - 6 - max(len(name) for name, _ in verbs)
        for heading in (USE, TRAIN, DATA):
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (name, command.get_short_help_str(width))
                        for name, command in verbs
                        if getattr(command, "rich_help_panel", None) == heading
                    ]
                )


def examples(*lines: str) -> str:
    """The end of a verb's help: commands that can be copied."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    cls=Verbs,
    help="Teach a small reasoning model to think in 20 to 100 % of its tokens on demand, and run it from a GGUF.",
    epilog=examples(
        f'lite ask quickstart "{quickstart.EXAMPLES[0]}"', "lite chat quickstart", "lite serve quickstart"
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="List, show and copy the packaged recipes.", rich_markup_mode=None)
app.add_typer(recipes_app, name="recipes", rich_help_panel=TRAIN)

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
RatioOption = Annotated[
    str | None,
    typer.Option(
        "--ratio",
        help="How much of its thinking the model does: 0.2, 0.4, 0.6, 0.8 or 1.0 (20 is 0.2, too); auto or policy:"
        " the model chooses; base: for a GGUF without a dial. Default: auto, or what --budget picks.",
    ),
]
EffortOption = Annotated[
    str | None, typer.Option("--effort", help="In place of a ratio: low (0.2), medium (0.6), high (1.0).")
]
BudgetOption = Annotated[
    int | None,
    typer.Option(
        "--budget",
        min=0,
        metavar="N",
        help="Think in N tokens at most, then answer. Without a ratio it picks the largest whose thinking fits in nine"
        " of ten replies (`lite verify` shows the lengths). Thinking that is cut short costs accuracy.",
    ),
]
LeanOption = Annotated[
    float,
    typer.Option(
        "--lean",
        help="In policy mode: add X to the log-odds of each ratio per step up the ladder; above 0 it thinks more.",
    ),
]
InstructionOption = Annotated[
    str | None,
    typer.Option(
        "--instruction",
        metavar="TEXT",
        help="Put this line before the question. Default: the one that a dial was trained with, none without a dial.",
    ),
]
SystemOption = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="A system turn before all.")
]
TemperatureOption = Annotated[float, typer.Option("--temperature", min=0, max=100, help="0: greedy.")]
NoThinkOption = Annotated[bool, typer.Option("--no-think", help="Answer without thinking.")]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, max=10**9, help="Of the whole reply.")]


def ratios_of(text: str) -> list[float]:
    """Ratios separated by commas, each in (0, 1] and once."""
    ratios = [ratio_of(part) for part in text.split(",") if part.strip()]
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
    if sys.stdin.isatty():
        print("type the question; Ctrl-D on an empty line ends it", file=sys.stderr)
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise LiteError("stdin is not UTF-8 text; give the question as text") from None


def piped() -> str:
    """What a pipe or a file hands in beside a question that is an argument; empty where nothing comes within 2 s.

    A file that a shell loop has begun to read is the loop's, and stays unread.
    """
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
        if stat.S_ISREG(kind):
            return "" if os.lseek(sys.stdin.fileno(), 0, os.SEEK_CUR) else read_stdin().strip()
        if stat.S_ISFIFO(kind) and select.select([sys.stdin], [], [], 2.0)[0]:
            return read_stdin().strip()
    except (OSError, ValueError):  # no file, or closed
        pass
    return ""


def question_of(argument: str | None) -> str:
    """The question: the argument, after what is piped in; without one, and for "-", all of stdin."""
    if argument in (None, "-"):
        return read_stdin().strip()
    parts = (piped(), argument.strip()) if argument and argument.strip() else ()
    return "\n\n".join(filter(None, parts))


def show_report(path: Path) -> None:
    """Print a report, drawn as tables on a terminal, and say where it and its picture are."""
    text = path.read_text(encoding="utf-8")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        typer.echo(text)
    typer.echo(f"report: {path}", err=True)
    if (picture := path.with_suffix(".png")).is_file():
        typer.echo(f"picture: {picture}", err=True)
