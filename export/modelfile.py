"""Ollama's Modelfiles, one per preset of the dial: Ollama reads no Jinja and has no variable for a ratio.

The Go template follows from the chat template by rendering a short chat around sentinels and keeping what
stands between them. The control token is last in the last user turn. A preset's reply always begins with a copy
of its ratio token, which Ollama would show; so that line is given to the model, and its reply begins with the
think span, which Ollama knows to fold. Under POLICY the choice is the model's, and seen.
Sources: docs.ollama.com, "Template" and "Modelfile"; Go's text/template. Not covered: think markers in a user's
text stay markers there, since a Go template cannot replace text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jinja2
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from export.template import NO_THINKING
from lite.errors import LiteError
from lite.tokens import INSTRUCTION, POLICY, THINK_CLOSE, THINK_OPEN, control_token

PRESETS = {POLICY: POLICY, "20": "0.2", "60": "0.6", "100": "1.0"}  # the name of a preset: its mode
MAX_CONTEXT = 8192  # tokens that Ollama shall make room for; its own default cuts long replies
Render = Callable[[Sequence[dict[str, str]], bool], str]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a chat template writes between the texts of a chat."""

    before_system: str
    first_user: str  # before a user turn that is the first message, a default system turn included
    system_to_user: str
    user_to_assistant: str
    assistant_to_user: str
    generation: str  # after the last user turn, up to where the assistant begins


def renderer(template: str, bos: str, eos: str) -> Render:
    """A chat template in llama-cpp-python's sandbox: (messages, with generation prompt) to text without BOS."""

    def render(messages: Sequence[dict[str, str]], generation: bool) -> str:
        formatter = Jinja2ChatFormatter(template, eos, bos, add_generation_prompt=generation)
        return formatter(messages=[*messages]).prompt.removeprefix(bos)  # Ollama puts BOS there itself

    return render


def frame(render: Render) -> Frame:
    """Take a chat template apart. Raises LiteError where the texts of a chat cannot be found in what it writes."""

    def between(*roles: str) -> list[str]:
        marks = [f"@@{role}{place}@@" for place, role in enumerate(roles)]
        try:
            text = render(
                [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)], True
            )
        except (jinja2.TemplateError, TypeError, ValueError) as fault:
            raise LiteError(f"the chat template fails on a chat of {', '.join(roles)} ({fault})") from None
        parts = []
        for mark in marks:
            part, found, text = text.partition(mark)
            if not found:
                raise LiteError(f"the chat template does not show a chat of {', '.join(roles)} in its order")
            parts.append(part)
        return [*parts, text]

    first_user, user_to_assistant, assistant_to_user, generation = between("user", "assistant", "user")
    try:
        before_system, system_to_user, _ = between("system", "user")
    except LiteError:  # no system role: its text leads the first user turn, as Gemma wants it
        before_system, system_to_user = first_user, "\n\n"
    return Frame(before_system, first_user, system_to_user, user_to_assistant, assistant_to_user, generation)


def _text(text: str) -> str:
    """A Go action that writes a text as it is; JSON's escapes are among Go's."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def go_template(parts: Frame, mode: str) -> str:
    """The Go template of a mode: literals are in actions, so that trimming spaces cannot touch them."""
    mirror = "" if mode == POLICY else f"{control_token(mode)}\n"
    return "".join(
        [
            "{{- $user := -1 }}",
            '{{- range $i, $_ := .Messages }}{{- if eq .Role "user" }}{{- $user = $i }}{{- end }}{{- end }}',
            '{{- $before := "" }}',
            "{{- if .System }}",
            _text(parts.before_system),
            '{{ .System }}{{- $before = "system" }}{{- end }}',
            "{{- range $i, $_ := .Messages }}",
            '{{- if eq .Role "user" }}',
            '{{- if eq $before "system" }}',
            _text(parts.system_to_user),
            '{{- else if eq $before "" }}',
            _text(parts.first_user),
            "{{- else }}",
            _text(parts.assistant_to_user),
            "{{- end }}",
            "{{- if eq $i $user }}",
            _text(f"{INSTRUCTION}\n"),
            "{{ .Content }}",
            _text(f" {control_token(mode)}"),
            "{{- else }}{{ .Content }}{{- end }}",
            '{{- $before = "user" }}',
            '{{- else if eq .Role "assistant" }}',
            _text(parts.user_to_assistant),
            # as text, not in actions: Ollama finds the think markers by looking around .Thinking
            f"{{{{- if and .Thinking (gt $i $user) }}}}{THINK_OPEN}{{{{ .Thinking }}}}{THINK_CLOSE}{{{{- end }}}}",
            "{{ .Content }}",
            '{{- $before = "assistant" }}',
            "{{- end }}{{- end }}",
            '{{- if eq $before "user" }}',
            _text(parts.generation),
            "{{- if and .IsThinkSet (not .Think) }}",
            _text(NO_THINKING),
            "{{- else }}",
            _text(mirror),
            "{{- end }}{{- end }}",
        ]
    )


def modelfile(gguf: str, parts: Frame, mode: str, ends: Sequence[str], context_tokens: int) -> str:
    """Ollama's Modelfile for a mode of a GGUF that lies beside it; `ends` are the tokens that end its replies."""
    return "\n".join(
        [
            f"# ollama create NAME -f this file; the thinking budget is fixed: {mode}",
            f"FROM ./{gguf}",
            f'TEMPLATE """{go_template(parts, mode)}"""',
            *(f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends),
            f"PARAMETER num_ctx {min(context_tokens, MAX_CONTEXT)}",
            "PARAMETER temperature 0.7",
            "PARAMETER top_p 0.9",
            "PARAMETER repeat_penalty 1.0",  # Ollama's default punishes a chain of thought for its numbers
            "",
        ]
    )
