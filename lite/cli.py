"""The verbs. Nothing heavy is imported here: every verb imports what it needs when it runs."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lite.errors import LiteError
from lite.tokens import BASE, MODES, POLICY, RATIOS, strip_control

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
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL.gguf", help="A GGUF file.")]
NumOption = Annotated[
    int | None, typer.Option("--num", min=1, help="How many problems. Default: all of a file.")
]
SeedOption = Annotated[int, typer.Option("--seed", help="Decides which problems.")]


def _mode(text: str) -> str:
    """The mode a user means: "0.2", ".2" and "0.20" are one. Raises LiteError off the grid."""
    grid = ", ".join(map(str, RATIOS))
    if text in (BASE, POLICY):
        return text
    try:
        ratio = float(text)
    except ValueError:
        raise LiteError(f"ratio {text!r}: not a number; use one of {grid} or {POLICY}") from None
    if not 0 < ratio <= 1:
        raise LiteError(f"ratio {text}: must lie in (0, 1]; use one of {grid} or {POLICY}")
    if ratio not in RATIOS:
        raise LiteError(f"ratio {text}: the model knows {grid} and {POLICY}; use one of them")
    return MODES[RATIOS.index(ratio)]


def _train(recipe: str, overrides, out: Path | None, only: str | None = None, until: str | None = None):
    """Load a recipe and run its stages."""
    from lite import recipe as recipe_file
    from lite import recipes, stages

    resolved = recipe_file.load(recipes.find(recipe), overrides or ())
    try:
        return stages.train(resolved, out or Path("runs") / resolved.name, only, until)
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; the same command goes on from here", err=True)
        raise


@app.command()
def train(
    recipe: RecipeArgument,
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Run only this stage.")] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="NAME", help="Stop after this stage.")
    ] = None,
    overrides: SetOption = None,
    out: OutOption = None,
) -> None:
    """Run the stages of a recipe that are not done. Cut off, the same command goes on from there."""
    if stage and until:
        raise LiteError("--stage and --until exclude each other; give one of them")
    _train(recipe, overrides, out, stage, until)


@app.command()
def problems(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="quickstart, gym:<task>, or a JSONL file of problems.")
    ],
    num: NumOption = None,
    seed: SeedOption = 0,
) -> None:
    """Print problems as JSONL. The keys are id, question, answer and cot."""
    from lite.problems import load
    from lite.records import to_line

    sys.stdout.writelines(map(to_line, load(source, num, seed)))


@app.command()
def quickstart(overrides: SetOption = None, out: OutOption = None) -> None:
    """The whole method on a tiny model. Ends with a report and one question asked at 0.2, 1.0 and policy."""
    run = _train("quickstart", overrides, out)

    from lite.infer.ask import ask as ask_engine
    from lite.infer.engine import Engine
    from lite.records import Problem, read_records

    held_out = sorted(
        read_records(run.path("problems", "eval.jsonl"), Problem), key=lambda each: len(each.cot)
    )
    problem = held_out[len(held_out) // 2]
    typer.echo(f"\n{problem.question}\n(The answer is {problem.answer}.)")
    with Engine(run.gguf("policy")) as engine:
        for mode in (MODES[0], MODES[-2], POLICY):
            answer = ask_engine(engine, problem.question, mode, run.recipe.evaluate.max_tokens)
            chosen = f" chose {answer.ratio}" if mode == POLICY else ""
            typer.echo(
                f"\n[{mode}{chosen}: {answer.think_tokens} think tokens, {answer.total_tokens} in all]"
            )
            typer.echo(strip_control(f"{answer.think}\n-> {answer.visible}"))
    report = run.path("evaluate", "report.md")
    typer.echo(f"\n{report.read_text(encoding='utf-8')}\nreport: {report}\nmodel:  {run.gguf('policy')}")


@app.command()
def ask(
    model: ModelArgument,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="Default: read from stdin.")
    ] = None,
    ratio: Annotated[
        str,
        typer.Option(
            "--ratio",
            help="0.2, 0.4, 0.6, 0.8, 1.0; policy: the model chooses; base: for a GGUF without a dial.",
        ),
    ] = POLICY,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Of the whole reply.")] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    hide_thinking: Annotated[bool, typer.Option("--hide-thinking", help="Print the answer only.")] = False,
) -> None:
    """Ask a GGUF one question under a ratio. Needs no torch."""
    mode = _mode(ratio)
    question = (sys.stdin.read() if question is None else question).strip()
    if not question:
        raise LiteError("the question is empty; give it as an argument or on stdin")
    import dataclasses
    import json

    from lite.infer.ask import ask as ask_engine
    from lite.infer.engine import Engine

    with Engine(model) as engine:
        answer = ask_engine(engine, question, mode, max_tokens)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(answer), ensure_ascii=False))
        return
    if answer.think and not hide_thinking:
        typer.echo(strip_control(f"{answer.think}\n"))
    typer.echo(strip_control(answer.visible))
    typer.echo(
        f"[{answer.think_tokens} think tokens, {answer.total_tokens} in all, {answer.seconds:.1f} s]",
        err=True,
    )


@app.command("eval")
def evaluate_gguf(
    model: ModelArgument,
    problems: Annotated[
        str, typer.Option("--problems", metavar="FILE.jsonl", help="Problems with gold answers.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where report.json, .md and .png go.")],
    ratios: Annotated[
        str,
        typer.Option(
            "--ratios",
            help="Modes, parted by commas: 0.2 to 1.0, policy, base. With a dial 1.0 is always measured, too:"
            " realised ratios are over its think tokens.",
        ),
    ] = ",".join(MODES),
    num: NumOption = None,
    seed: SeedOption = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Of a whole reply.")] = 4096,
) -> None:
    """Measure a GGUF per ratio. Accuracy and think tokens on given problems; needs no torch."""
    modes = [_mode(text.strip()) for text in ratios.split(",") if text.strip()]
    if not modes:
        raise LiteError("--ratios is empty; give some of " + ", ".join(MODES))
    from lite.measure.evaluate import evaluate
    from lite.problems import load

    evaluate(model, load(problems, num, seed), modes, out, max_tokens=max_tokens, seed=seed)
    typer.echo((out / "report.md").read_text(encoding="utf-8"))


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|FOLDER", help="A run folder, or a Hugging Face folder.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.gguf", help="The file to write.")],
    quant: Annotated[
        str, typer.Option("--quant", help="f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m or q4_0.")
    ] = "q8_0",
) -> None:
    """Write a GGUF from a merged model. It carries its dial inside."""
    from export.export import export as export_folder

    merged = source / "merge" / "policy"
    export_folder(merged if merged.is_dir() else source, out, quant)
    typer.echo(str(out))


@recipes_app.command("ls")
def recipes_ls() -> None:
    """List the packaged recipes."""
    from lite import recipes

    names = recipes.names()
    for name in names:
        typer.echo(f"{name:{max(map(len, names))}}  {recipes.headline(name)}")


@recipes_app.command("cp")
def recipes_cp(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `lite recipes ls` lists it.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A folder or a new file.")] = Path("."),
) -> None:
    """Copy a packaged recipe, to change it."""
    from lite import recipes

    typer.echo(str(recipes.copy(name, destination)))


@app.command()
def doctor() -> None:
    """Show versions, hardware, and what will run."""
    from lite.measure.doctor import doctor as examine

    examine()


# The stages that are verbs of their own; `problems` and `export` are verbs for more than a recipe.
STAGE_VERBS = {
    "traces": "Stage: the base model samples chains of thought.",
    "annotate": "Stage: label what to keep in some of them.",
    "compressor": "Stage: train the encoder that learns the labels.",
    "compress": "Stage: cut every trace to each ratio.",
    "mixture": "Stage: the SFT rows, every ratio and POLICY.",
    "sft": "Stage: teach the dial, LoRA on the mixture.",
    "probe": "Stage: the teacher ratio r* of each RL problem.",
    "chrpo": "Stage: reinforce choosing the ratio.",
    "merge": "Stage: merge the adapters into the base model.",
    "evaluate": "Stage: measure the run's GGUFs in every mode.",
}


def _add_stage_verb(name: str) -> None:
    def verb(recipe: RecipeArgument, overrides: SetOption = None, out: OutOption = None) -> None:
        _train(recipe, overrides, out, only=name)

    app.command(name, help=STAGE_VERBS[name])(verb)


for _name in STAGE_VERBS:
    _add_stage_verb(_name)


TRAIN_PACKAGES = (
    "unsloth",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "gguf",
    "safetensors",
    "tokenizers",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("extra-cot-lite"))
        raise typer.Exit()


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


UsageError = typer.BadParameter.__base__  # every fault of the command line; typer does not export it


def _fail(message: str) -> None:
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """The console entry: a fault a user can mend is one line on stderr and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments or ["--help"], prog_name="lite", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except UsageError as fault:
        message, verb = fault.format_message(), fault.ctx.command_path if fault.ctx else "lite"
        message = message[:1].lower() + message[1:].rstrip(".?")
        _fail(f"{shlex.join(['lite', *arguments])}: {message}; see `{verb} --help`")
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        sys.exit(1)
    except LiteError as fault:
        _fail(str(fault))
    except ModuleNotFoundError as fault:
        package = (fault.name or "").partition(".")[0]
        if package not in TRAIN_PACKAGES:
            raise
        _fail(f"this needs {package}, which is not installed; install extra-cot-lite[train]")
    except OSError as fault:
        where = f" for {fault.filename}" if fault.filename else ""
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(f"no space left{where}; free some, or choose a place on another disk with --out")
        if isinstance(fault, PermissionError):
            _fail(f"no permission{where}; choose another place with --out")
        if fault.filename is None:
            raise
        reason = (fault.strerror or "cannot be used").lower()
        _fail(f"{fault.filename}: {reason}; check the path, or choose another place")


if __name__ == "__main__":
    main()
