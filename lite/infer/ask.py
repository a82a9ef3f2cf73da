"""One question to a GGUF under a mode, and what came back, counted."""

from __future__ import annotations

from dataclasses import dataclass

from lite.infer.engine import Engine, Generation
from lite.tokens import parse_reply


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply. `mode` is what was asked; `ratio` is what the reply leads with: in policy mode its own choice.

    `think_tokens` are those of the think span in the model's tokenizer, an unclosed span counted in full;
    `total_tokens` are all it wrote but the one that ended it. `stop` is "eos" or "length" (cut).
    """

    mode: str
    ratio: float | None
    think: str
    visible: str
    think_tokens: int
    total_tokens: int
    seconds: float
    stop: str
    has_think: bool
    closed: bool


def answer(engine: Engine, mode: str, generation: Generation) -> Answer:
    """Parse and count a generated reply."""
    reply = parse_reply(generation.text)
    return Answer(
        mode=mode,
        ratio=reply.ratio,
        think=reply.think,
        visible=reply.visible,
        think_tokens=engine.count_tokens(reply.think),
        total_tokens=len(generation.ids),
        seconds=generation.seconds,
        stop=generation.stop,
        has_think=reply.has_think,
        closed=reply.closed,
    )


def ask(
    engine: Engine,
    question: str,
    mode: str,
    max_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Answer:
    """Ask one question. `mode` is one of lite.tokens.MODES, or "base" for a GGUF without a dial."""
    prompt = engine.prompt_ids(question, mode)
    (generation,) = engine.generate(
        [prompt], max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    return answer(engine, mode, generation)
