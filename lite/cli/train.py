"""Verbs that make a model: the pipeline, recipes, problems, doctor."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lite.cli.options import (
    DATA,
    TRAIN,
    USE,
    EndpointOption,
    NumOption,
    OutOption,
    RecipeArgument,
    SeedOption,
    SetOption,
    app,
    examples,
    ratios_of,
    recipes_app,
    show_report,
)
from lite.errors import LiteError
from lite.tokens import MODES, POLICY, strip_control


def _train(
    recipe: str,
    overrides,
    out: Path | None,
    only: str | None = None,
    until: str | None = None,
    endpoint: str = "",
):
    """Load a recipe and run its stages."""
    from lite import config, pipeline
    from lite.cli import recipes

    resolved = config.load(recipes.find(recipe), overrides or ())
    try:
        return pipeline.train(resolved, out or Path("runs") / resolved.name, only, until, endpoint)
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; the same command goes on from here", err=True)
        raise


@app.command(
    rich_help_panel=TRAIN,
    epilog=examples("lite train qwen3-1.7b-24gb", "lite train my-recipe.yaml --until sft --set sft.rank=16"),
)
def train(
    recipe: RecipeArgument,
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Run only this stage.")] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="NAME", help="Stop after this stage.")
    ] = None,
    overrides: SetOption = None,
    out: OutOption = None,
    endpoint: EndpointOption = "",
) -> None:
    """Run the stages of a recipe that are not done. Cut off, the same command goes on from there."""
    if stage and until:
        raise LiteError("--stage and --until exclude each other; give one of them")
    _train(recipe, overrides, out, stage, until, endpoint)


@app.command(
    rich_help_panel=TRAIN,
    epilog=examples("lite plan qwen3-1.7b-24gb --card 24gb", "lite plan quickstart --card cpu"),
)
def plan(
    recipe: RecipeArgument,
    card: Annotated[
        str | None,
        typer.Option("--card", metavar="CARD", help="24gb, 16gb, 12gb, 8gb or cpu. Default: what is here."),
    ] = None,
    overrides: SetOption = None,
    out: OutOption = None,
) -> None:
    """Show what a recipe will do and take. Rows with their loss mask; memory, disk and time of each stage.

    Exits with 1 where it does not fit. `lite recipes show` prints every key of a recipe.
    """
    from lite import config
    from lite.cli import recipes
    from lite.plan.plan import plan as show

    resolved = config.load(recipes.find(recipe), overrides or ())
    if not show(resolved, out or Path("runs") / resolved.name, card):
        raise typer.Exit(1)


@app.command(
    rich_help_panel=DATA,
    epilog=examples(
        "lite problems quickstart --num 100 --seed 99 > problems.jsonl",
        "lite problems openai/gsm8k:main:test --num 200 > gsm8k.jsonl",
    ),
)
def problems(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="quickstart, gym:<task>, a JSONL, JSON, CSV or Parquet file, or a Hub data set, owner/name[:config]:split.",
        ),
    ],
    num: NumOption = None,
    seed: SeedOption = 0,
) -> None:
    """Print problems as JSONL. The keys are id, question, answer and cot."""
    from lite.data.problems import load
    from lite.runtime.files import to_line

    sys.stdout.writelines(map(to_line, load(source, num, seed)))


@app.command(
    rich_help_panel=DATA,
    epilog=examples("lite compress chains.jsonl --ratio 20,40 --model runs/quickstart > short.jsonl"),
)
def compress(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="Chains of thought, under think, cot or text.")
    ],
    model: Annotated[Path, typer.Option("--model", metavar="DIR", help="A compressor's folder, or a run's.")],
    ratio: Annotated[
        str, typer.Option("--ratio", help="One or several in (0, 1], separated by commas.")
    ] = "0.2,0.4,0.6,0.8",
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="MODEL", help="Whose tokens count. Default: the compressor's."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.jsonl", help="Where to. Default: standard output.")
    ] = None,
) -> None:
    """Shorten any chains of thought, or the think spans of whole replies.

    The stage of a run is `lite train RECIPE --stage compress`.
    """
    ratios = ratios_of(ratio)
    from lite.compress.compress import shorten_file
    from lite.runtime.files import to_line, write_records

    if out is not None and (not out.name or out.is_dir()):
        raise LiteError(f"--out {str(out)!r}: name a file to write")
    found = shorten_file(file, model, ratios, tokenizer)
    if out is None:
        sys.stdout.writelines(map(to_line, found))
    else:
        write_records(out, found)


@app.command(
    rich_help_panel=DATA,
    epilog=examples(
        "lite fidelity --model MODEL --compressor runs/NAME --problems gsm8k.jsonl --num 300 --out fidelity"
    ),
)
def fidelity(
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The reasoner: a Hugging Face model or folder.")
    ],
    compressor: Annotated[
        Path, typer.Option("--compressor", metavar="DIR", help="A compressor's folder, or a run's.")
    ],
    problems: Annotated[
        str,
        typer.Option(
            "--problems", metavar="SOURCE", help="Problems with worked solutions; see `lite problems`."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where fidelity.json and .md go.")],
    ratio: Annotated[
        str, typer.Option("--ratio", help="One or several in (0, 1), separated by commas.")
    ] = "0.2,0.4,0.6",
    num: NumOption = None,
    seed: SeedOption = 0,
) -> None:
    """Compare a compressor with its controls. Random, self-information, rules; all at the same ratios."""
    ratios = ratios_of(ratio)
    from lite.data.problems import load
    from lite.eval.fidelity import report

    report(model, compressor, load(problems, num, seed), ratios, out, seed)
    show_report(out / "fidelity.md")


@app.command(
    rich_help_panel=TRAIN,
    epilog=examples("lite quickstart", "lite quickstart --set sft.epochs=1 --out runs/short"),
)
def quickstart(overrides: SetOption = None, out: OutOption = None) -> None:
    """The whole method on a tiny model. Ends with a report and one question asked at 0.2, 1.0 and policy."""
    run = _train("quickstart", overrides, out)

    from lite.infer.engine import Engine
    from lite.infer.request import question
    from lite.runtime.files import read_records
    from lite.schema import Problem

    held_out = sorted(
        read_records(run.path("problems", "eval.jsonl"), Problem), key=lambda each: len(each.cot)
    )
    problem = held_out[len(held_out) // 2]
    typer.echo(f"\n{problem.question}\n(The answer is {problem.answer}.)")
    with Engine(run.gguf("policy")) as engine:
        for mode in (MODES[0], MODES[-2], POLICY):
            ask = question(problem.question, mode, max_tokens=run.recipe.evaluate.max_tokens)
            answer = engine.submit(ask).answer()
            chosen = f" chose {answer.ratio}" if mode == POLICY else ""
            typer.echo(
                f"\n[{mode}{chosen}: {answer.think_tokens} think tokens, {answer.total_tokens} in all]"
            )
            typer.echo(strip_control(f"{answer.think}\n-> {answer.visible}"))
    show_report(run.path("evaluate", "report.md"))
    rows = json.loads(run.path("evaluate", "report.json").read_text(encoding="utf-8"))["rows"]
    typer.echo(verdict({row["mode"]: row for row in rows}))
    model = run.gguf("policy")
    typer.echo(
        f"model: {model}\n\nTry next:\n"
        f"  lite chat {model}\n  lite serve {model}\n  lite plan qwen3-0.6b-8gb   # a real model: what it takes"
    )


def verdict(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One line on what the dial saves: the smallest ratio and policy against 1.0. `rows`: a report's, by mode."""
    full = rows[MODES[-2]]
    parts = [
        f"at {mode} {row['think_tokens']:.0f} think tokens and {row['accuracy']:.1%} right"
        for mode, row in rows.items()
        if mode in (MODES[0], POLICY)
    ]
    return f"The dial: {', '.join(parts)}; at 1.0 {full['think_tokens']:.0f} and {full['accuracy']:.1%}."


@app.command(rich_help_panel=USE, epilog=examples("lite report runs/quickstart"))
def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A run folder, or the --out of `lite eval` or `lite fidelity`."),
    ],
) -> None:
    """Print a report, and where its picture is."""
    names = ("report.md", "evaluate/report.md", "fidelity.md")
    found = next((path for name in names if (path := folder / name).is_file()), None)
    if found is None:
        raise LiteError(f"{folder}: no report in it; `lite train` and `lite eval` write one")
    show_report(found)


@recipes_app.command("ls")
def recipes_ls() -> None:
    """List the packaged recipes."""
    from lite.cli import recipes

    names = recipes.names()
    for name in names:
        typer.echo(f"{name:{max(map(len, names))}}  {recipes.headline(name)}")


@recipes_app.command("show")
def recipes_show(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Print every key of a recipe, those that it leaves to their defaults included."""
    from lite import config
    from lite.cli import recipes

    typer.echo(config.dump(config.load(recipes.find(recipe), overrides or ())), nl=False)


@recipes_app.command("cp")
def recipes_cp(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `lite recipes ls` lists it.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A folder or a new file.")] = Path("."),
) -> None:
    """Copy a packaged recipe, to change it."""
    from lite.cli import recipes

    typer.echo(str(recipes.copy(name, destination)))


@app.command(rich_help_panel=TRAIN, epilog=examples("lite doctor"))
def doctor() -> None:
    """Show versions, hardware, and what will run."""
    from lite.plan.doctor import doctor as examine

    examine()
