"""The model card beside exported GGUFs: what they are, from what, how they measured, how to use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lite.gguf.calibration import Calibration
from lite.tokens import RATIOS

FENCE = "```"


def card(
    name: str,
    origin: str,
    files: Mapping[str, tuple[str, str]],
    measured: Mapping[str, Mapping[str, Any]],
    *,
    dial: bool,
    calibration: Calibration | None,
    report: str | None,
    presets: Sequence[str],
) -> str:
    """The card as Markdown.

    `files` maps quants to file name and sha256, `measured` to what `export.export` measured. `report` is the
    text of the run's report.md, `presets` the names of the Modelfiles.
    """
    first, _ = next(iter(files.values()))
    sections = [
        f"# {name}",
        "GGUF files for llama.cpp and all that is built on it. "
        + (
            "The model thinks in 20 to 100 % of its tokens on demand: its chat template carries the dial."
            if dial
            else "This model has not learnt the thinking dial of Extra-CoT Lite; it is exported as it is."
        ),
        f"Made by Extra-CoT Lite from {origin}. `manifest.json` lists every file with its sha256, and the versions.",
        "## Files",
        _files(files, measured),
    ]
    if report:
        sections += ["## Measured", _report(report)]
    if calibration:
        sections += ["## How long it thinks", _lengths(calibration)]
    sections += ["## How to use it", *(_dial_usage(first, presets) if dial else _usage(first))]
    return "\n\n".join(sections) + "\n"


def _files(files: Mapping[str, tuple[str, str]], measured: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ["| file | MB | same best token as Hugging Face | sha256 |", "|---|---|---|---|"]
    for quant, (file, digest) in files.items():
        found = measured[quant]
        rows.append(
            f"| {file} | {found['megabytes']:.1f} | {found['top1_agreement']:.1%} | `{digest[:16]}…` |"
        )
    return "\n".join(
        [
            *rows,
            "",
            "Every file was verified with `lite verify`'s checks against the Hugging Face folder: the same token ids"
            " and, in floating point, the same logits and greedy text. Embedding and output rows are Q8_0 or better.",
        ]
    )


def _report(report: str) -> str:
    """The run's report without its title, which names the file that was measured."""
    title, _, body = report.partition("\n")
    return (
        f"On the run's own `{title.removeprefix('# ')}`: the same weights; its checksum is another one, because the"
        f" files here carry the lengths that were measured on it.\n\n{body.strip()}"
    )


def _lengths(calibration: Calibration) -> str:
    rows = ["| ratio | think tokens, mean | 90th percentile |", "|---|---|---|"]
    for ratio, mean, p90 in zip(calibration.ratios, calibration.mean, calibration.p90, strict=True):
        rows.append(f"| {ratio} | {mean:.1f} | {p90:.0f} |")
    return "\n".join(
        [*rows, "", "The GGUFs carry these numbers (`extra_cot.*`): a token budget picks a ratio by them."]
    )


def _code(*lines: str) -> str:
    return "\n".join([f"{FENCE}bash", *lines, FENCE])


def _usage(file: str) -> list[str]:
    return [_code(f"llama-server -m {file} --jinja", f'lite ask {file} "What is 17 + 25?" --ratio base')]


def _dial_usage(file: str, presets: Sequence[str]) -> list[str]:
    percents = ", ".join(str(round(100 * ratio)) for ratio in RATIOS)
    return [
        "With `lite` (Extra-CoT Lite, no torch needed):",
        _code(f'lite ask {file} "What is 17 + 25?" --ratio 0.2', f"lite serve {file}"),
        "With a stock llama.cpp server, for all requests or per request"
        ' (`"chat_template_kwargs": {"comp_ratio": 20}` in the body):',
        _code(f"llama-server -m {file} --jinja --chat-template-kwargs '{{\"comp_ratio\": 20}}'"),
        f'`comp_ratio` is one of {percents}; without it the model chooses. `"enable_thinking": false` switches'
        " thinking off, which the model was not trained for.",
        "With Ollama, one model per preset (the ratio cannot be changed per request there):",
        _code(*(f"ollama create my-model-{preset} -f Modelfile.{preset}" for preset in presets)),
        "Text that a user types is not safe from control tokens in these servers: both turn the text of a special"
        " token into that token. `lite ask` and `lite serve` do not.",
    ]
