"""The verbs. Nothing heavy is imported here: every verb imports what it needs when it runs."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from typing import Annotated, Any

import typer

from lite.cli import infer, package, train  # noqa: F401, each adds its verbs to the app
from lite.cli.options import app
from lite.errors import LiteError, printable

TRAIN_PACKAGES = (
    "unsloth",
    "torch",
    "transformers",
    "huggingface_hub",
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


LONGEST = 2000  # characters of a message
UsageError: Any = typer.BadParameter.__base__  # every fault of the command line; typer does not export it


def _fail(message: str) -> None:
    text = printable(" ".join(message.split()))
    print("error:", text if len(text) <= LONGEST else f"{text[:LONGEST]} ...", file=sys.stderr)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """The console entry: a fault a user can mend is one line on stderr and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, for as long as the process lives
    try:
        if arguments[:1] in (["help"], ["version"]):
            arguments = [*arguments[1:], f"--{arguments[0]}"]
        code = app(arguments or ["--help"], prog_name="lite", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code)
    except UsageError as fault:
        message, verb = fault.format_message(), fault.ctx.command_path if fault.ctx else "lite"
        message = message[:1].lower() + message[1:].rstrip(".").replace(". Did", "; did")
        end = "" if message.endswith("?") else ";"
        _fail(f"{shlex.join(['lite', *arguments])}: {message}{end} see `{verb} --help`")
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
