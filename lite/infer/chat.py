"""A conversation with a GGUF, line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from lite.errors import LiteError, printable
from lite.infer.engine import Engine
from lite.infer.request import Ask, Message
from lite.infer.terminal import Screen, counts

HELP = """\
/ratio R    think at 0.2, 0.4, 0.6, 0.8 or 1.0 of the full length; policy lets the model choose
/budget N   think in N tokens at most; the ratio follows from it; off takes it away
/new        forget the conversation
/help       this
/quit       leave, as Ctrl-D does; Ctrl-C stops a reply"""


def chat(model: Path, settings: Ask, mode_of: Callable[[str], str], *, show_thinking: bool) -> None:
    """Talk until stdin ends. `mode_of` turns what follows /ratio into a mode, or raises LiteError."""
    with Engine(model, batch_size=1) as engine:
        engine.prompt(settings)  # what this model cannot honour is said now
        Chat(engine, settings, Screen(thinking=show_thinking), mode_of).run()


@dataclass
class Chat:
    """A conversation and how its next reply is generated. `settings` is an Ask; of its turns only a system turn counts."""

    engine: Engine
    settings: Ask
    screen: Screen
    mode_of: Callable[[str], str]
    turns: list[Message] = field(default_factory=list)

    def run(self) -> None:
        """Answer every line of stdin until it ends or says /quit."""
        terminal = sys.stdin.isatty()
        if terminal:
            import readline  # noqa: F401, gives input() editing and a history

            print(f"{self.engine.path.name}; /help shows the commands", file=sys.stderr)
        while True:
            try:
                line = input("> " if terminal else "").strip()
            except EOFError:
                return
            except UnicodeDecodeError:
                raise LiteError("stdin is not UTF-8 text; write the question as text") from None
            except KeyboardInterrupt:
                print("\n/quit or Ctrl-D leaves", file=sys.stderr)
                continue
            if line == "/quit":
                return
            if not line:
                continue
            try:
                self.command(line) if line.startswith("/") else self.answer(line)
            except LiteError as fault:
                print(f"error: {printable(' '.join(str(fault).split()))}", file=sys.stderr)

    def answer(self, line: str) -> None:
        """Show the reply to a line, and remember both. A reply without an answer is not remembered."""
        turns = (*self.settings.messages[:-1], *self.turns, Message("user", line))
        answer = self.screen.show(self.engine.submit(replace(self.settings, messages=turns)))
        print(counts(answer), file=sys.stderr)
        if answer.visible:
            self.turns += [turns[-1], Message("assistant", answer.visible)]

    def command(self, line: str) -> None:
        """Obey a line that begins with a slash. Raises LiteError for what it cannot."""
        name, _, value = line.partition(" ")
        value = value.strip()
        if name == "/help":
            print(HELP, file=sys.stderr)
        elif name == "/new":
            self.turns = []
        elif name == "/ratio":
            self._set(mode=self.mode_of(value), budget=None, thinking=True)
        elif name == "/budget" and value == "off":
            self._set(mode=None, budget=None)
        elif name == "/budget":
            if not value.isdecimal() or len(value) > 9:
                raise LiteError(f"/budget {value}: give a number of tokens, or off")
            self._set(mode=None, budget=int(value), thinking=True)
        else:
            raise LiteError(f"{name}: no such command; /help shows them")

    def _set(self, **changes: str | int | None) -> None:
        settings = replace(self.settings, **changes)
        self.engine.prompt(settings)
        self.settings = settings
        shown = f"ratio {self.engine.mode(settings)}"
        print(shown if settings.budget is None else f"{shown}, budget {settings.budget}", file=sys.stderr)
