"""Verbs on a GGUF: ask, eval, export. No torch but for export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lite.cli.app import EndpointOption, ModelArgument, NumOption, SeedOption, app, mode_of
from lite.errors import LiteError
from lite.tokens import MODES, POLICY, strip_control


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
    mode = mode_of(ratio)
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
    endpoint: EndpointOption = "",
) -> None:
    """Measure a GGUF per ratio. Accuracy and think tokens on given problems; needs no torch."""
    modes = [mode_of(text.strip()) for text in ratios.split(",") if text.strip()]
    if not modes:
        raise LiteError("--ratios is empty; give some of " + ", ".join(MODES))
    from lite.measure.evaluate import evaluate
    from lite.problems import load

    evaluate(
        model, load(problems, num, seed), modes, out, max_tokens=max_tokens, seed=seed, endpoint=endpoint
    )
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
