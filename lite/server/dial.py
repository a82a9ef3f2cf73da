"""The dial under every engine's names: how long to think, and whether, from the fields of one request.

Each field that is given says something about the ratio, the budget, or whether there is thinking at all. Two that
disagree are refused. A budget of -1 is none, and 0 is no thinking, as in llama-server and vLLM.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lite.errors import LiteError
from lite.server.faults import Refused, show
from lite.tokens import BASE, EFFORTS, POLICY, RATIOS, mode_of

PERCENTS = tuple(round(100 * ratio) for ratio in RATIOS)
OFF = ("none", "off")
_EFFORT_PERCENTS = {word: round(100 * float(mode)) for word, mode in EFFORTS.items()}
WORDS = {"minimal": PERCENTS[0], **_EFFORT_PERCENTS, "xhigh": PERCENTS[-1], "max": PERCENTS[-1]}
EFFORT_NAMES = (*OFF, *WORDS)

Effort = Annotated[str, Field(description=f"one of {', '.join(EFFORT_NAMES)}")]
Budget = Annotated[int, Field(ge=-1)]
Ratio = int | float | str


class Strict(BaseModel):
    """A JSON object without unknown fields, whose values are of the very type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TemplateArguments(Strict):
    """`chat_template_kwargs`, as stock servers hand them to the template in the GGUF."""

    comp_ratio: Ratio | None = None
    enable_thinking: bool | None = None
    thinking: bool | None = None
    thinking_budget: Budget | None = None
    reasoning_effort: Effort | None = None


class Reasoning(Strict):
    """`reasoning`, as OpenAI's responses and OpenRouter have it."""

    effort: Effort | None = None
    max_tokens: Budget | None = None
    enabled: bool | None = None
    exclude: Literal[False] | None = None
    summary: str | None = None  # we give the thinking itself
    generate_summary: str | None = None


class Thinking(Strict):
    """`thinking`, as Anthropic has it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Budget | None = None


class DialFields(Strict):
    """What a request may say about thinking."""

    comp_ratio: Ratio | None = None
    thinking_budget: Budget | None = None
    thinking_budget_tokens: Budget | None = None
    thinking_token_budget: Budget | None = None
    reasoning_budget: Budget | None = None
    reasoning_budget_tokens: Budget | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | Literal["on", "off"] | None = None
    thinking: Thinking | None = None
    think: bool | Effort | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: TemplateArguments | None = None


class Dial:
    """What the fields of a request say together: `ratio` (percent or POLICY), `budget` in tokens, `thinking`."""

    def __init__(self, fields: DialFields):
        self._ratios: dict[str, Any] = {}
        self._budgets: dict[str, int] = {}
        self._switches: dict[str, bool] = {}
        self._shown: dict[str, Any] = {}
        self._read(fields, DialFields, "")
        self.ratio = self._one(self._ratios)
        budget = self._one(self._budgets)
        self.budget = budget if budget and budget > 0 else None
        self.thinking = self._one(self._switches) is not False
        self.ratio_field = next(iter(self._ratios), None)
        self.budget_field = next(iter(self._budgets), "thinking_budget")

    def _read(self, fields: BaseModel, kind: type[BaseModel], path: str) -> None:
        for name in kind.model_fields:
            value, where = getattr(fields, name), path + name
            if value is None:
                continue
            self._shown[where] = value
            if isinstance(value, BaseModel):
                self._read(value, type(value), f"{where}.")
            elif name == "comp_ratio":
                self._ratios[where] = _percent(where, value)
            elif isinstance(value, bool) and name in ("think", "enable_thinking", "thinking", "enabled"):
                self._switches[where] = value
            elif name in ("reasoning_effort", "effort", "think"):
                self._read_effort(where, value)
            elif name == "reasoning":
                self._switches[where] = value == "on"
            elif name == "type":
                if value != "adaptive":
                    self._switches[where] = value == "enabled"
            elif isinstance(value, int) and not isinstance(value, bool):
                self._budgets[where] = value
                if value >= 0:
                    self._switches[where] = value > 0

    def _read_effort(self, where: str, word: str) -> None:
        if word not in EFFORT_NAMES:
            raise Refused(f"{where} {show(word)}: use one of {', '.join(EFFORT_NAMES)}", param=where)
        self._switches[where] = word not in OFF
        if word in WORDS:
            self._ratios[where] = WORDS[word]

    def _one(self, found: dict[str, Any]) -> Any:
        """The value that all fields agree on; None where none is given."""
        first, *others = [*found.items()] or [("", None)]
        for where, value in others:
            if value != first[1]:
                pair = " and ".join(f"{name} {show(self._shown[name])}" for name in (first[0], where))
                raise Refused(f"{pair} disagree; give one of them", param=where)
        return first[1]


def _percent(where: str, value: Ratio) -> int | str:
    """A ratio on the grid, as a percent or POLICY; 20, 0.2, "20" and "auto" are taken as `lite ask` takes them."""
    try:
        mode = BASE if isinstance(value, bool) else mode_of(str(value).removesuffix(".0"))
    except LiteError:
        mode = BASE
    if mode == BASE:
        known = ", ".join(map(str, PERCENTS))
        raise Refused(f"{where} {show(value)}: use one of {known} or {POLICY!r}", param=where)
    return POLICY if mode == POLICY else round(100 * float(mode))
