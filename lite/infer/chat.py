"""A conversation with a GGUF, turn by turn."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lite.errors import LiteError, printable
from lite.infer.engine import Engine
from lite.infer.request import Ask, Message
from lite.infer.terminal import Screen, counts
from lite.runtime.files import write_json
from lite.tokens import EFFORTS, mode_of

HELP = """\
/ratio R       think at 0.2 (or 20), 0.4, 0.6, 0.8 or 1.0 of the full length; auto: the model chooses; off: not set
/effort E      the same in words: low (0.2), medium (0.6), high (1.0)
/budget N      think in N tokens at most; without a ratio it picks one; off: no budget
/think W       on or off: think at all; show or hide: print the thinking
/system TEXT   a system turn before all; off: none
/save FILE     write the conversation as JSON
/new           forget the conversation
/exit          leave, as /quit and Ctrl-D do; Ctrl-C stops a reply
A pasted text of several lines is one question, and so are lines between two lines of three quotes (\"\"\")."""
COMMANDS = [line.split()[0] for line in HELP.splitlines() if line.startswith("/")] + ["/help", "/quit"]
QUOTES = '"""'


def chat(model: Path, settings: Ask, *, show_thinking: bool, about: str = "") -> None:
    """Talk until stdin ends. `about` is said first on a terminal: what this model can do."""
    with Engine(model, batch_size=1) as engine:
        engine.prompt(settings)  # what this model cannot honour is said now
        Chat(engine, settings, Screen(thinking=show_thinking), about).run()


@dataclass
class Chat:
    """A conversation and how its next reply is generated. `settings` is an Ask; of its turns only a system turn counts."""

    engine: Engine
    settings: Ask
    screen: Screen
    about: str = ""
    turns: list[Message] = field(default_factory=list)

    def run(self) -> None:
        """Answer every question of stdin until it ends or says /exit."""
        terminal = sys.stdin.isatty()
        if terminal:
            import readline  # gives input() editing and a history

            readline.parse_and_bind("set enable-bracketed-paste on")  # a paste of several lines is one input
            banner = f"{self.engine.path.name}; /help shows the commands"
            print("\n".join(filter(None, (self.about, banner))), file=sys.stderr)
        while True:
            try:
                text = self.read(f"{self.state()}> " if terminal else "")
            except EOFError:
                return
            except UnicodeDecodeError:
                raise LiteError("stdin is not UTF-8 text; write the question as text") from None
            except KeyboardInterrupt:
                print("\n/exit or Ctrl-D leaves", file=sys.stderr)
                continue
            if text in ("/exit", "/quit"):
                return
            if not text:
                continue
            try:
                self.command(text) if text.startswith("/") else self.answer(text)
            except LiteError as fault:
                print(f"error: {printable(' '.join(str(fault).split()))}", file=sys.stderr)

    def read(self, prompt: str) -> str:
        """The next question or command: a line, a paste, or what stands between two lines of three quotes."""
        text = input(prompt).strip()
        if not text.startswith(QUOTES):
            return text
        lines = [text.removeprefix(QUOTES)]
        while not lines[-1].rstrip().endswith(QUOTES):
            try:
                lines.append(input("... " if prompt else ""))
            except EOFError:
                break
        return "\n".join(lines).strip().removesuffix(QUOTES).strip()

    def answer(self, text: str) -> None:
        """Show the reply to a question, and remember both. A reply without an answer is not remembered."""
        turns = (*self.settings.messages[:-1], *self.turns, Message("user", text))
        answer = self.screen.show(self.engine.submit(replace(self.settings, messages=turns)))
        print(counts(answer), file=sys.stderr)
        if answer.visible:
            self.turns += [turns[-1], Message("assistant", answer.visible)]

    def state(self) -> str:
        """How the next reply will be generated, in a few words."""
        if not self.settings.thinking:
            return "no thinking"
        budget = self.settings.budget
        return self.engine.mode(self.settings) + ("" if budget is None else f", budget {budget}")

    def command(self, line: str) -> None:
        """Obey a line that begins with a slash. Raises LiteError for what it cannot."""
        name, _, value = line.partition(" ")
        value = value.strip()
        off = value == "off"
        match name:
            case "/help" | "/?":
                print(HELP, file=sys.stderr)
            case "/new":
                self.turns = []
            case "/ratio":
                self._set(mode=None if off else mode_of(value), thinking=True)
            case "/effort":
                if value not in EFFORTS:
                    raise LiteError(f"/effort {value}: use one of {', '.join(EFFORTS)}")
                self._set(mode=EFFORTS[value], thinking=True)
            case "/budget":
                if not off and (not value.isdecimal() or len(value) > 9):
                    raise LiteError(f"/budget {value}: give a number of tokens, or off")
                self._set(budget=None if off else int(value), **({} if off else {"thinking": True}))
            case "/think" if value in ("on", "off"):
                self._set(thinking=not off)
            case "/think" if value in ("show", "hide"):
                self.screen.thinking = value == "show"
            case "/think":
                raise LiteError(f"/think {value}: use one of on, off, show, hide")
            case "/system":
                if not value:
                    raise LiteError("/system: give a text, or off")
                system = () if off else (Message("system", value),)
                self._set(messages=(*system, self.settings.messages[-1]))
            case "/save":
                self._save(value)
            case _:
                near = difflib.get_close_matches(name, COMMANDS, n=1)
                hint = f"did you mean {near[0]}?" if near else "/help shows them"
                raise LiteError(f"{name}: no such command; {hint}")

    def _set(self, **changes: Any) -> None:
        settings = replace(self.settings, **changes)
        self.engine.prompt(settings)
        self.settings = settings
        print(self.state(), file=sys.stderr)

    def _save(self, name: str) -> None:
        path = Path(name).expanduser()
        if not name or path.exists() or not path.parent.is_dir():
            raise LiteError(f"/save {name}: give a new file in a folder that is there")
        turns = [*self.settings.messages[:-1], *self.turns]
        try:
            write_json(
                path,
                {
                    "model": self.engine.path.name,
                    "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
                },
            )
        except OSError as fault:
            raise LiteError(f"/save {name}: {fault.strerror}; choose another place") from None
        print(f"{len(turns)} turns in {path}", file=sys.stderr)
