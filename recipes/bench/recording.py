"""One question at two ratios, as a terminal picture (SVG) of what `lite ask` really printed.

python recipes/bench/recording.py MODEL.gguf "QUESTION" --out docs/images/recording.svg
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

RATIOS = ("0.2", "1.0")


def ask(model: str, question: str, ratio: str) -> dict:
    """The reply of `lite ask --json`. Raises SystemExit with lite's own message where it fails."""
    command = [sys.executable, "-m", "lite", "ask", model, question, "--ratio", ratio, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return json.loads(done.stdout)


def draw(console: Console, model: str, question: str, replies: dict[str, dict]) -> None:
    """Print the commands and their replies, thinking dimmed; `replies` maps ratios to JSON replies."""
    for ratio, reply in replies.items():
        console.print(
            Text(f"$ {shlex.join(['lite', 'ask', model, question, '--ratio', ratio])}", "bold cyan")
        )
        console.print(Text(reply["think"].strip(), "dim"))
        console.print(Text(reply["visible"].strip(), "bold"))
        console.print(Text(f"[{ratio}: {reply['think_tokens']} think tokens]\n", "green"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("question")
    parser.add_argument("--out", type=Path, required=True, help="the SVG to write")
    options = parser.parse_args()
    console = Console(record=True, width=92, file=StringIO(), force_terminal=True)
    replies = {ratio: ask(options.model, options.question, ratio) for ratio in RATIOS}
    draw(console, options.model, options.question, replies)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        console.export_svg(title="the same question, two settings of the dial"), encoding="utf-8"
    )
    print({ratio: (reply["think_tokens"], reply["visible"].strip()) for ratio, reply in replies.items()})


if __name__ == "__main__":
    main()
