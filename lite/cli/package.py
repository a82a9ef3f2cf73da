"""Verbs that write and check a GGUF: export, verify. Export and verify --against need torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite import quickstart
from lite.cli.options import TRAIN, USE, ModelArgument, app, examples

NAMES = {"tied": "input and output rows tied", "think_tokens_p90": "think tokens, 9 of 10 below"}  # as shown


@app.command(
    rich_help_panel=TRAIN, epilog=examples("lite export runs/quickstart --out export --quant q8_0,q4_k_m")
)
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FOLDER", help="A run folder, a Hugging Face folder, or a base for --adapter."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.")],
    quant: Annotated[
        str,
        typer.Option(
            "--quant",
            help="Parted by commas: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0. One conversion.",
        ),
    ] = "q8_0",
    adapter: Annotated[
        Path | None, typer.Option("--adapter", metavar="DIR", help="A PEFT adapter to merge into the base.")
    ] = None,
    llama_cpp: Annotated[
        Path | None,
        typer.Option(
            "--llama-cpp",
            metavar="DIR",
            help="A llama.cpp checkout, whose converter takes what is neither Llama, Qwen2 nor Qwen3.",
        ),
    ] = None,
) -> None:
    """Write GGUFs that carry their dial. With a model card, Ollama's Modelfiles and checksums."""
    from export.pack import pack, quants_of

    for path in pack(source, quants_of(quant), out, adapter=adapter, checkout=llama_cpp):
        typer.echo(str(path))


@app.command(
    rich_help_panel=USE, epilog=examples("lite verify quickstart", "lite verify MODEL.gguf --against FOLDER")
)
def verify(
    model: ModelArgument,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="FOLDER", help="The Hugging Face folder it was made from."),
    ] = None,
) -> None:
    """Check that a GGUF is whole and right. Against a folder: the same tokens, logits and greedy text."""
    from export.verify import printable
    from export.verify import verify as verify_gguf

    found = verify_gguf(model, against)
    template = found.pop("foreign_template", None)
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{number:.0f} at {name}" for name, number in value.items())
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        typer.echo(printable(f"{NAMES.get(key, key.replace('_', ' ')):<28} {value}"))
    if template is not None:
        typer.echo("Its chat template is not ours. It is shown here, and was not rendered:")
        typer.echo(printable("\n".join(f"  | {line}" for line in template.split("\n"))))
    if about := quickstart.about(model):
        typer.echo(about)
    typer.echo("sound" if against is None else "sound, and the same model")
