"""Verbs that run a GGUF: ask, chat, eval, bench, serve. None needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lite import quickstart
from lite.cli.options import (
    USE,
    BudgetOption,
    EffortOption,
    EndpointOption,
    InstructionOption,
    LeanOption,
    MaxTokensOption,
    ModelArgument,
    NoThinkOption,
    NumOption,
    RatioOption,
    SeedOption,
    SystemOption,
    TemperatureOption,
    app,
    dial_of,
    examples,
    question_of,
    show_report,
)
from lite.errors import LiteError
from lite.tokens import MODES, mode_of


@app.command(
    rich_help_panel=USE,
    epilog=examples(
        'lite ask quickstart "Tom has 30 pens. Tom loses 4 on the way. How many pens does Tom have at the end?"',
        "lite ask quickstart --ratio 20 < question.txt",
        'lite ask MODEL.gguf --budget 200 --json "What is 17*23?"',
    ),
)
def ask(
    model: ModelArgument,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION", help="Default, and -: read from stdin. Text that is piped in goes before it."
        ),
    ] = None,
    ratio: RatioOption = None,
    effort: EffortOption = None,
    budget: BudgetOption = None,
    escalate: Annotated[
        bool,
        typer.Option(
            "--escalate",
            help="Ask at 0.2 first, and go up the ratios while two replies disagree or an answer is missing.",
        ),
    ] = False,
    no_think: NoThinkOption = False,
    max_tokens: MaxTokensOption = 4096,
    system: SystemOption = None,
    instruction: InstructionOption = None,
    temperature: TemperatureOption = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of a temperature above 0.")] = 0,
    lean: LeanOption = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    hide_thinking: Annotated[bool, typer.Option("--hide-thinking", help="Print the answer only.")] = False,
) -> None:
    """Ask a GGUF one question. Under a ratio or a token budget; needs no torch."""
    mode = dial_of(ratio, effort, budget, thinking=not no_think)
    if escalate and (mode is not None or no_think or lean):
        raise LiteError(
            "--escalate chooses the ratio itself; leave --ratio, --effort, --lean and --no-think out"
        )
    question = question_of(question)
    if not question:
        raise LiteError("the question is empty; give it as an argument or on stdin")
    from lite.infer.ask import ask as ask_model
    from lite.infer.request import Ask, Message

    turns = [Message("system", system)] if system else []
    settings = Ask(
        (*turns, Message("user", question)),
        mode,
        budget=budget,
        thinking=not no_think,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        instruction=instruction,
        lean=lean,
    )
    ask_model(model, settings, escalating=escalate, as_json=as_json, hide_thinking=hide_thinking)


@app.command(
    rich_help_panel=USE,
    epilog=examples("lite chat quickstart", 'lite chat MODEL.gguf --ratio 40 --system "Answer in French."'),
)
def chat(
    model: ModelArgument,
    ratio: RatioOption = None,
    effort: EffortOption = None,
    budget: BudgetOption = None,
    no_think: NoThinkOption = False,
    max_tokens: MaxTokensOption = 4096,
    system: SystemOption = None,
    instruction: InstructionOption = None,
    temperature: TemperatureOption = 0.0,
    lean: LeanOption = 0.0,
    hide_thinking: Annotated[bool, typer.Option("--hide-thinking", help="Count its tokens only.")] = False,
) -> None:
    """Talk with a GGUF. /ratio 0.4 and /budget N turn its dial between questions; needs no torch."""
    mode = dial_of(ratio, effort, budget, thinking=not no_think)
    from lite.infer.chat import chat as chat_with
    from lite.infer.request import Ask, Message

    turns = [Message("system", system)] if system else []
    settings = Ask(
        (*turns, Message("user", "")),
        mode,
        budget=budget,
        thinking=not no_think,
        max_tokens=max_tokens,
        temperature=temperature,
        instruction=instruction,
        lean=lean,
    )
    chat_with(model, settings, show_thinking=not hide_thinking, about=quickstart.about(model))


@app.command(
    "eval",
    rich_help_panel=USE,
    epilog=examples(
        "lite problems quickstart --num 100 --seed 99 > problems.jsonl",
        "lite eval quickstart --problems problems.jsonl --ratios 20,auto --out report",
    ),
)
def evaluate_gguf(
    model: ModelArgument,
    problems: Annotated[
        str, typer.Option("--problems", metavar="FILE.jsonl", help="Problems with gold answers.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where report.json, .md and .png go.")],
    ratios: Annotated[
        str | None,
        typer.Option(
            "--ratios",
            help="Modes, separated by commas: 0.2 to 1.0, auto, base; none: thinking off; cap:N: 1.0 (base without a"
            " dial) held to N think tokens. With a dial 1.0 is always measured, too: realised ratios are over its"
            " think tokens. Default: all of the dial; with --budget what it picks.",
        ),
    ] = None,
    budget: BudgetOption = None,
    lean: Annotated[
        str | None,
        typer.Option(
            "--lean", metavar="X,...", help="Measure policy with each of these leans, too (see ask)."
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=1, max=1000, help="Replies per problem; above 1 there is a majority vote, too."
        ),
    ] = 1,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0, max=100, help="Default: 0 (greedy); with --samples 0.6."),
    ] = None,
    top_p: Annotated[
        float, typer.Option("--top-p", min=0.0, max=1.0, help="Of a temperature above 0.")
    ] = 1.0,
    num: NumOption = None,
    seed: SeedOption = 0,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, max=10**9, help="Of a whole reply.")
    ] = 4096,
    endpoint: EndpointOption = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a finished report of other settings in --out.")
    ] = False,
) -> None:
    """Measure a GGUF per ratio. Accuracy, think and visible tokens on given problems; needs no torch."""
    from lite.data.problems import load
    from lite.eval.evaluate import Settings, evaluate
    from lite.eval.modes import LEAN, modes_of

    leans = [f"{LEAN}{part.strip()}" for part in lean.split(",") if part.strip()] if lean is not None else []
    modes: list[str | None] = [None] if budget is not None else [*MODES]
    if ratios is not None or leans:
        modes = [*modes_of([*(ratios.split(",") if ratios else []), *leans], mode_of)]
    if not modes:
        raise LiteError("--ratios is empty; give some of " + ", ".join(MODES))
    if temperature is None:
        temperature = 0.6 if samples > 1 else 0.0
    settings = Settings(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        budget=budget,
        endpoint=endpoint,
        samples=samples,
    )
    evaluate(model, load(problems, num, seed), modes, out, settings, overwrite=overwrite)
    show_report(out / "report.md")


@app.command(rich_help_panel=USE, epilog=examples("lite bench quickstart"))
def bench(
    model: ModelArgument,
    num: Annotated[int, typer.Option("--num", min=1, max=1000, help="Questions per ratio and way.")] = 8,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, max=10**9, help="Of a whole reply.")
    ] = 1024,
) -> None:
    """How fast a GGUF is here. Tokens a second and seconds per answer at every ratio; needs no torch."""
    from lite.eval.bench import bench as measure
    from lite.eval.bench import machine_line, table

    typer.echo(machine_line())
    for line in table(measure(model, num=num, max_tokens=max_tokens)):
        typer.echo(line)


@app.command(
    rich_help_panel=USE,
    epilog=examples("lite serve quickstart", "LITE_API_KEY=secret lite serve MODEL.gguf --host 0.0.0.0"),
)
def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option("--host", help="Off this machine (0.0.0.0, say) an API key is required.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 8080,
    api_key_env: Annotated[
        str,
        typer.Option(
            "--api-key-env", metavar="NAME", help="The environment variable that holds the API key."
        ),
    ] = "LITE_API_KEY",
    max_tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens", min=1, max=10**9, help="Of a whole reply: what a request gets, at most."
        ),
    ] = 4096,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Replies decoded together, at most.")] = 16,
    queue: Annotated[
        int, typer.Option("--queue", min=1, help="Requests that may wait, 45 s at most; others get 429.")
    ] = 32,
    threads: Annotated[int, typer.Option("--threads", min=0, help="0: one per core that it may use.")] = 0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Serve this name in Host, too. Repeatable."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            metavar="ORIGIN",
            help="Let web pages of https://this.example use it. Repeatable.",
        ),
    ] = None,
    instruction: InstructionOption = None,
    lean: LeanOption = 0.0,
) -> None:
    """Serve a GGUF over HTTP. OpenAI's API and a page to try the dial; needs no torch."""
    from lite.server.main import serve as run

    run(
        model,
        host=host,
        port=port,
        key_name=api_key_env,
        engine={"batch_size": batch, "max_waiting": queue, "num_threads": threads},
        max_tokens=max_tokens,
        allow_hosts=allow_host or [],
        cors_origins=cors_origin or [],
        instruction=instruction,
        lean=lean,
    )
