"""The chat template inside a dial model's GGUF: the model's own behind a prelude that turns the dial.

The prelude rebuilds `messages` so that the last user turn carries the instruction and, last, a control token:
`comp_ratio` (20, 40, 60, 80 or 100, a number or text; "policy" or nothing lets the model choose). Thinking is
switched off as Qwen3 does it: `enable_thinking` false puts an empty, closed think span where the assistant
begins, whatever the ratio, and only closes it where the base template opens it; one that has the switch keeps its own. llama-server believes in a
switch, and leaves it on, only where it sees a template render `reasoning_content`; so an assistant turn behind
the last user turn shows its own, where the base template does not do that. All keeps to constructs that Jinja2
and llama.cpp's own engine render alike: namespaces, list concatenation, plain filters.
"""

from __future__ import annotations

import json

from lite.tokens import (
    INSTRUCTION,
    POLICY,
    POLICY_TOKEN,
    RATIO_TOKENS,
    RATIOS,
    THINK_CLOSE,
    THINK_OPEN,
    neutralise,
    opened_think,
)

NO_THINKING = f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n"  # Qwen3's empty think span
SWITCH = "enable_thinking"  # its variable, and llama.cpp's own
REASONING = "reasoning_content"  # the key of a message's thinking, in OpenAI's form


def _quote(text: str) -> str:
    """A text as a Jinja string literal; JSON's escapes are among Jinja's."""
    return json.dumps(text, ensure_ascii=False)


def _choose_token() -> str:
    """Jinja that sets `dial.token` from `comp_ratio`."""
    percents = [str(round(100 * ratio)) for ratio in RATIOS]
    lines = ["{%- if comp_ratio is defined and comp_ratio is not none -%}"]
    lines.append("{%- set dial.ratio = comp_ratio | string -%}")
    for index, (percent, token) in enumerate(zip(percents, RATIO_TOKENS, strict=True)):
        test = "elif" if index else "if"
        lines.append(
            f"{{%- {test} dial.ratio == {_quote(percent)} -%}}{{%- set dial.token = {_quote(token)} -%}}"
        )
    fault = f"comp_ratio: use one of {', '.join(percents)}, {POLICY}"
    lines.append(f"{{%- elif dial.ratio != {_quote(POLICY)} -%}}{{{{- raise_exception({_quote(fault)}) -}}}}")
    lines += ["{%- endif -%}", "{%- endif -%}"]
    return "\n".join(lines)


def _switch(template: str) -> str:
    """Jinja that goes behind a template without a switch for thinking. What the template has opened is closed."""
    if SWITCH in template:
        return ""
    opened = opened_think(template)
    closing = NO_THINKING if opened is None else "\n" * (2 - bool(opened)) + f"{THINK_CLOSE}\n\n"
    return (
        f"{{% if add_generation_prompt and {SWITCH} is defined and {SWITCH} is false %}}"
        f"{{{{ {_quote(closing)} }}}}{{% endif %}}"
    )


def has_dial(template: str) -> bool:
    """Whether a template is one of ours: its prelude is, to the letter."""
    return template.startswith((_PRELUDE, _PRELUDE_WITH_REASONING))


def dial_template(template: str) -> str:
    """The chat template with the dial in front, and the switch for thinking.

    Renders the prompt of `lite.tokens.encode_prompt(question, mode)` for one user message `question`,
    comp_ratio=20 for mode "0.2", none for "policy"; with enable_thinking=false, `NO_THINKING` behind it, or what closes
    the span that the template opens itself.
    """
    template = template.removesuffix(
        "\n"
    )  # as every renderer does, or what follows it would be a line further
    prelude = _PRELUDE if REASONING in template else _PRELUDE_WITH_REASONING
    return prelude + template + _switch(template)


def _show_reasoning() -> list[str]:
    """Jinja: a branch for an assistant turn behind the last user turn that brings its thinking along."""
    opening, closing = _quote(f"{THINK_OPEN}\n"), _quote(f"\n{THINK_CLOSE}\n\n")
    return [
        f"{{%- elif loop.index0 > dial.last and message.role == 'assistant' and message.{REASONING} is string"
        " and message.content is string -%}",
        "{%- set dial.messages = dial.messages + [{'role': 'assistant', 'content': "
        f"{opening} + message.{REASONING} + {closing} + message.content}}] -%}}",
    ]


def _prelude(*branches: str) -> str:
    """Jinja that puts the instruction and the control token into the last user turn; `branches` change others."""
    safe = "".join(
        f" | replace({_quote(mark)}, {_quote(neutralise(mark))})" for mark in (THINK_OPEN, THINK_CLOSE)
    )
    return "\n".join(
        [
            f"{{%- set dial = namespace(last=-1, messages=[], ratio='', token={_quote(POLICY_TOKEN)}) -%}}",
            _choose_token(),
            "{%- for message in messages -%}",
            "{%- if message.role == 'user' -%}{%- set dial.last = loop.index0 -%}{%- endif -%}",
            "{%- endfor -%}",
            "{%- for message in messages -%}",
            "{%- if loop.index0 == dial.last -%}",
            f"{{%- set dial.text = {_quote(INSTRUCTION)} + '\\n' + (message.content | trim{safe}) -%}}",
            "{%- set dial.messages = dial.messages"
            " + [{'role': 'user', 'content': dial.text + ' ' + dial.token}] -%}",
            *branches,
            "{%- else -%}",
            "{%- set dial.messages = dial.messages + [message] -%}",
            "{%- endif -%}",
            "{%- endfor -%}",
            "{%- set messages = dial.messages %}",
        ]
    )


_PRELUDE, _PRELUDE_WITH_REASONING = _prelude(), _prelude(*_show_reasoning())
