"""From a conversation to token ids: the chat template's own parts with special tokens on, people's text with them off.

No text in any turn becomes a control token so, whatever it spells. With a dial, for one user turn, the ids equal those
of `lite.tokens.encode_prompt` for the same model. Without one nothing is added to what people wrote, unless asked.
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
)

DIAL = "comp_ratio"  # the template variable of our exports: a percent; POLICY where it is not defined
SWITCHES = ("enable_thinking", "thinking")  # the variables that templates of others turn thinking off by
ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 256
MAX_CHARS = 400_000  # of all messages together
MAX_SHAPES = 64  # conversations that look alike share a rendering; so many are kept


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids up to where the model writes; `lead` is what of its reply they hold already, and `phase` where it is.

    `asks`: whether it tells the model to give a final answer in a box.
    """

    ids: list[int]
    lead: str
    phase: Phase
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """A rendered conversation without its texts: what stands around each turn; `strips`, whose text is trimmed."""

    parts: list[str]
    strips: list[bool]
    lead: str


class Prompts:
    """Builds the prompts of one model."""

    def __init__(self, model: Model):
        self.model = model
        self.has_dial = DIAL in model.template
        # Whether the model can be told by think markers: each is one token, or its template writes them.
        self.knows_think = THINK_CLOSE in model.template or all(
            len(model.tokenise(mark, special=True)) == 1 for mark in (THINK_OPEN, THINK_CLOSE)
        )
        self._formatter: Jinja2ChatFormatter | None = None
        self._shapes: dict[tuple[str, ...], Shape] = {}

    def build(self, ask: Ask, mode: str) -> Prompt:
        """The prompt of a request in a mode: one of lite.tokens.MODES with a dial, else BASE.

        Raises LiteError for a conversation, or a mode, that this model cannot be given.
        """
        if ask.prompt is not None:
            return Prompt(self._continue(ask.prompt), "", Phase.ANSWER)
        _check_messages(ask.messages)
        roles = tuple(message.role for message in ask.messages)
        thinking = ask.thinking and ask.budget != 0
        shape = self._shape(mode, thinking, roles)
        instruction = ask.instruction if ask.instruction is not None else INSTRUCTION if self.has_dial else ""
        ids = list(self.model.tokenise(shape.parts[0], special=True))
        last = len(roles) - 1
        for place, message in enumerate(ask.messages):
            text = self._text(message, strips=shape.strips[place])
            if place == last:
                text = f"{instruction}\n{text}" if instruction else text
                text += " " if self.has_dial else ""
            ids += self.model.tokenise(text, special=False)
            ids += self.model.tokenise(shape.parts[place + 1], special=True)
        lead, phase = shape.lead, Phase.LEAD
        if lead.endswith(THINK_CLOSE + "\n\n"):
            phase = Phase.ANSWER
        elif not thinking and self.knows_think:
            closing = f"\n{THINK_CLOSE}\n\n" if lead else f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n"
            ids += self.model.tokenise(closing, special=True)
            lead, phase = lead + closing, Phase.ANSWER
        elif lead:
            phase = Phase.THINK
        elif not thinking or (ask.grammar and not self.knows_think):
            phase = Phase.ANSWER
        return Prompt(ids, lead, phase, asks="\\boxed" in instruction)

    def _continue(self, prompt: str | tuple[int, ...]) -> list[int]:
        """The ids of a text that is continued as it is: here special tokens mean what they say."""
        if isinstance(prompt, str):
            return self.model.tokenise(prompt, special=True)
        foreign = [id for id in prompt if not 0 <= id < self.model.num_vocab]
        if foreign:
            raise LiteError(f"token {foreign[0]}: {self.model.path.name} has {self.model.num_vocab} tokens")
        return [*prompt]

    def _text(self, message: Message, *, strips: bool) -> str:
        """A turn as the model reads it: earlier replies without their thinking, think markers as plain text."""
        text = parse_reply(message.content).visible if message.role == "assistant" else message.content
        text = text.strip() if strips else text
        return neutralise(text) if self.knows_think else text

    def _shape(self, mode: str, thinking: bool, roles: tuple[str, ...]) -> Shape:
        key = (mode, str(thinking), *roles)
        if key not in self._shapes:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.pop(next(iter(self._shapes)), None)
            self._shapes[key] = self._render(mode, thinking, roles)
        return self._shapes[key]

    def _render(self, mode: str, thinking: bool, roles: tuple[str, ...]) -> Shape:
        name = self.model.path.name
        if self.has_dial and mode not in MODES:
            raise LiteError(f"mode {mode!r}: {name} has a dial; use one of {', '.join(MODES)}")
        if not self.has_dial and mode != BASE:
            raise LiteError(f"mode {mode!r}: {name} has no dial; use {BASE}, or a GGUF that lite made")
        if not self.model.template:
            raise LiteError(f"{self.model.path}: no chat template inside; use the GGUF of a chat model")
        variables = dict.fromkeys(SWITCHES, thinking)
        if mode not in (BASE, POLICY):
            variables[DIAL] = round(100 * float(mode))
        marks = [f"@@turn {place}@@" for place in range(len(roles))]
        turns = [{"role": role, "content": f" {mark} "} for role, mark in zip(roles, marks, strict=True)]
        try:
            if self._formatter is None:
                bos, eos = self.model.special_text()
                self._formatter = Jinja2ChatFormatter(self.model.template, eos_token=eos, bos_token=bos)
            rest = self._formatter(messages=turns, **variables).prompt
        except Exception as fault:  # a template may raise what Python does
            raise LiteError(
                f"{name}: its chat template fails on the turns {', '.join(roles)} ({fault});"
                " use other turns, or another GGUF"
            ) from None
        parts, strips = [], []
        for mark, role in zip(marks, roles, strict=True):
            keeps_blanks = f" {mark} " in rest
            strips.append(self.has_dial or not keeps_blanks)
            part, found, rest = rest.partition(f" {mark} " if keeps_blanks else mark)
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
        return Shape([*parts, rest], strips, _lead_of(rest))


def _lead_of(rest: str) -> str:
    """What of a reply a template has written by itself: an open think span, or a closed one."""
    text = rest.rstrip()
    if text.endswith(THINK_OPEN):
        return f"{THINK_OPEN}\n"
    if text.endswith(THINK_CLOSE):
        return f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n"
    return ""


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
        ("lean", ask.lean, -100, 100),
    ):
        if not low <= value <= high:
            bounds = f"be {low} or more" if high == math.inf else f"lie in {low}..{high}"
            raise LiteError(f"{name} {value}: must {bounds}")
    if not 0 < ask.top_p <= 1:
        raise LiteError(f"top_p {ask.top_p}: must lie in (0, 1]")
