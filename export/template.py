"""The chat template inside a dial model's GGUF: the model's own behind a prelude that turns the dial.

The prelude rebuilds `messages` so that the last user turn carries the instruction and, last, a control token:
`comp_ratio` (20, 40, 60, 80 or 100, a number or text; "policy" or nothing lets the model choose). It keeps to
constructs that Jinja2 and llama.cpp's own engine render alike: namespaces, list concatenation, plain filters.
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
)


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


def dial_template(template: str) -> str:
    """The chat template with the dial in front.

    Renders the prompt of `lite.tokens.encode_prompt(question, mode)` for one user message `question`,
    comp_ratio=20 for mode "0.2", none for "policy".
    """
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
            "{%- else -%}",
            "{%- set dial.messages = dial.messages + [message] -%}",
            "{%- endif -%}",
            "{%- endfor -%}",
            "{%- set messages = dial.messages %}" + template,
        ]
    )
