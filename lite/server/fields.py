"""The fields of each route's requests, as OpenAI has them, with the other engines' names for the dial."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from lite.errors import LiteError
from lite.infer.grammar import ANY_OBJECT, of_schema
from lite.infer.request import Message
from lite.server.dial import DialFields, Strict
from lite.server.faults import Refused

MAX_MESSAGES = 256
MAX_STOPS = 16
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# What says nothing about the reply's text.
HARMLESS = {
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction", "parallel_tool_calls"),
    *("prompt_cache_key", "prompt_cache_retention", "include", "truncation"),
}
# What we do not have, with the values that ask for nothing; null always does.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "tool_calls": ([],),
    "modalities": (["text"],),
    "audio": (),
    "refusal": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "background": (False,),
    "previous_response_id": (),
    "conversation": (),
    "prompt_template": (),
}


class Schema(Strict):
    """`json_schema`; its name and description say nothing about the text."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class Format(Strict):
    """`response_format`; in responses the schema lies in it flat."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    def grammar(self, where: str) -> str | None:
        """The grammar that an answer has to obey; None: any text will do."""
        if self.type == "text":
            return None
        schema = (self.json_schema.schema_ if self.json_schema else self.schema_) or ANY_OBJECT
        try:
            return of_schema(schema if self.type == "json_schema" else ANY_OBJECT)
        except LiteError as fault:
            raise Refused(f"{where}: {fault}", param=where) from None


class Part(Strict):
    """A part of a turn's text; what a client sends back of ours carries annotations."""

    type: Literal["text", "input_text", "output_text", "summary_text", "reasoning_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


Text = str | Annotated[list[Part], Field(fail_fast=True)]


class Turn(Strict):
    """A message. Thinking that a client sends back is not shown to the model again."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[Any] | None = None
    annotations: list[Any] | None = None
    type: Literal["message"] | None = None
    id: str | None = None
    status: str | None = None

    def message(self) -> Message:
        return Message(ROLES[self.role], text_of(self.content))


class Thought(Strict):
    """A reasoning item of an earlier response."""

    type: Literal["reasoning"]
    id: str | None = None
    status: str | None = None
    summary: list[Part] | None = None
    content: list[Part] | None = None


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(Strict):
    """What every route takes."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    max_tokens: Annotated[int, Field(ge=-1)] | None = None


class ThinkingRequest(DialFields, Sampling):
    """What routes with messages take beside it: the dial."""

    lean: Annotated[float, Field(ge=-100, le=100)] | None = None
    instruction: str | None = None


class ChatRequest(ThinkingRequest):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=-1)] | None = None
    response_format: Format | None = None


class TextOptions(Strict):
    format: Format | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesRequest(ThinkingRequest):
    """`/v1/responses`."""

    input: str | Annotated[list[Turn | Thought], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=-1)] | None = None
    text: TextOptions | None = None


Item = TypeVar("Item")
Many = Annotated[list[Item], Field(fail_fast=True)]  # its first fault is enough


class CompletionRequest(Sampling):
    """`/v1/completions`: a text, or its tokens, that goes on as it is."""

    prompt: str | Many[str] | Many[int] | Annotated[list[Many[int]], Field(fail_fast=True)]


def text_of(content: Text) -> str:
    """A text, or a list of text parts, one under the other."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)
