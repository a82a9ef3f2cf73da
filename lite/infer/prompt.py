"""From a conversation to token ids: the chat template's own parts with special tokens on, people's text with them off.

No text in any turn becomes a control token so, whatever it spells. For one user turn the ids equal those of
`lite.tokens.encode_prompt` for the same model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from lite.errors import LiteError
from lite.infer.model import Model
from lite.infer.reply_parser import Phase
from lite.infer.request import Ask, Message
from lite.tokens import (
    BASE,
    INSTRUCTION,
    MODES,
    POLICY,
    THINK_CLOSE,
    THINK_OPEN,
    control_token,
    neutralise,
    parse_reply,
    user_text,
)

DIAL = "comp_ratio"  # the template variable of our exports: a percent; POLICY where it is not defined
ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 256
MAX_CHARS = 400_000  # of all messages together
MAX_SHAPES = 64  # conversations that look alike share a rendering; so many are kept

Part = tuple[list[int], ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids up to where the model writes; `lead` is what of its reply they hold already, and `phase` where it is."""

    ids: list[int]
    lead: str
    phase: Phase


class Prompts:
    """Builds the prompts of one model."""

    def __init__(self, model: Model):
        self.model = model
        self.has_dial = DIAL in model.template
        self._formatter: Jinja2ChatFormatter | None = None
        self._shapes: dict[tuple[str, ...], tuple[list[str], str]] = {}

    def build(self, ask: Ask, mode: str) -> Prompt:
        """The prompt of a request in a mode: one of lite.tokens.MODES with a dial, else BASE.

        Raises LiteError for a conversation, or a mode, that this model cannot be given.
        """
        _check_messages(ask.messages)
        roles = tuple(message.role for message in ask.messages)
        parts, lead = self._shape(mode, roles)
        ids = list(self.model.tokenise(parts[0], special=True))
        last = len(roles) - 1
        for place, message in enumerate(ask.messages):
            text = _text(message, last=place == last)
            if place == last and self.has_dial:
                text += " "
            ids += self.model.tokenise(text, special=False)
            ids += self.model.tokenise(parts[place + 1], special=True)
        if ask.thinking:
            return Prompt(ids, lead, Phase.THINK if lead else Phase.LEAD)
        closing = f"\n{THINK_CLOSE}\n\n" if lead else f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n"
        return Prompt(ids + self.model.tokenise(closing, special=True), lead + closing, Phase.ANSWER)

    def _shape(self, mode: str, roles: tuple[str, ...]) -> tuple[list[str], str]:
        """The template's parts around each turn of such a conversation, and what opens the reply in the last."""
        key = (mode, *roles)
        if key not in self._shapes:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.pop(next(iter(self._shapes)), None)
            self._shapes[key] = self._render(mode, roles)
        return self._shapes[key]

    def _render(self, mode: str, roles: tuple[str, ...]) -> tuple[list[str], str]:
        name = self.model.path.name
        if self.has_dial and mode not in MODES:
            raise LiteError(f"mode {mode!r}: {name} has a dial; use one of {', '.join(MODES)}")
        if not self.has_dial and mode != BASE:
            raise LiteError(f"mode {mode!r}: {name} has no dial; use {BASE}, or a GGUF that lite made")
        if not self.model.template:
            raise LiteError(f"{self.model.path}: no chat template inside; use the GGUF of a chat model")
        dial = {DIAL: round(100 * float(mode))} if mode not in (BASE, POLICY) else {}
        marks = [f"@@turn {place}@@" for place in range(len(roles))]
        turns = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        try:
            if self._formatter is None:
                bos, eos = self.model.special_text()
                self._formatter = Jinja2ChatFormatter(self.model.template, eos_token=eos, bos_token=bos)
            rest = self._formatter(messages=turns, **dial).prompt
        except Exception as fault:  # a template may raise what Python does
            raise LiteError(
                f"{name}: its chat template fails on the turns {', '.join(roles)} ({fault});"
                " use other turns, or another GGUF"
            ) from None
        parts = []
        for mark, role in zip(marks, roles, strict=True):
            part, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise LiteError(
                    f"{name}: its chat template does not show a {role} turn exactly once; leave it out"
                )
            parts.append(part)
        if self.has_dial:
            before, control = f"{INSTRUCTION}\n", f" {control_token(mode)}"
            if not parts[-1].endswith(before) or not rest.startswith(control):
                raise LiteError(f"{name}: its template does not put {control.strip()} last; export it again")
            parts[-1], rest = parts[-1].removesuffix(before), rest[1:]
        opened = rest.rstrip().endswith(THINK_OPEN)  # some templates open the think span themselves
        return [*parts, rest], f"{THINK_OPEN}\n" if opened else ""


def _text(message: Message, *, last: bool) -> str:
    """A turn as the model reads it: the question with its instruction, earlier replies without their thinking."""
    if last:
        return user_text(message.content)
    content = parse_reply(message.content).visible if message.role == "assistant" else message.content
    return neutralise(content.strip())


def _check_messages(messages: Sequence[Message]) -> None:
    if not messages or messages[-1].role != "user":
        raise LiteError("the last turn is not the user's; end the conversation with a question")
    if len(messages) > MAX_MESSAGES:
        raise LiteError(f"{len(messages)} turns; give {MAX_MESSAGES} at most")
    for message in messages:
        if message.role not in ROLES:
            raise LiteError(f"role {message.role!r} is unknown; use one of {', '.join(ROLES)}")
    size = sum(len(message.content) for message in messages)
    if size > MAX_CHARS:
        raise LiteError(f"{size} characters in the conversation; give {MAX_CHARS} at most")


def check_settings(ask: Ask) -> None:
    """Raise LiteError for a setting out of its bounds."""
    for name, value, low, high in (
        ("max_tokens", ask.max_tokens, 1, math.inf),
        ("budget", 0 if ask.budget is None else ask.budget, 0, math.inf),
        ("temperature", ask.temperature, 0, 100),
        ("seed", ask.seed, 0, math.inf),
    ):
        if not low <= value <= high:
            bounds = f"be {low} or more" if high == math.inf else f"lie in {low}..{high}"
            raise LiteError(f"{name} {value}: must {bounds}")
    if not 0 < ask.top_p <= 1:
        raise LiteError(f"top_p {ask.top_p}: must lie in (0, 1]")
