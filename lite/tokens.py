"""Control tokens, the prompt, and Prefix-Mirror replies: write and parse.

The only file that spells `<COMP_20>`. Works with any tokenizer; imports no torch.
Source: Extra-CoT (arXiv 2602.08324), section on mixed-ratio SFT. The control token is the last thing
in the user turn, so that a sweep over ratios shares its prefix. The reply begins with a ratio token
(Prefix-Mirror): a copy of the given one, or the model's own choice in POLICY mode.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from lite.errors import LiteError

RATIOS = (0.2, 0.4, 0.6, 0.8, 1.0)
POLICY = "policy"
BASE = "base"  # no control token at all: the model before it learnt the dial
SFT_POLICY = "sft-policy"  # in reports: POLICY of the model before CHRPO
RATIO_TOKENS = tuple(f"<COMP_{round(100 * ratio)}>" for ratio in RATIOS)
POLICY_TOKEN = "<COMP_POLICY>"
CONTROL_TOKENS = (*RATIO_TOKENS, POLICY_TOKEN)
# What the control tokens mean, for models that heed words: their embedding rows start near these.
CONTROL_WORDS = (" once", " less", " more", " slowly", " carefully", " think")
MODES = (*map(str, RATIOS), POLICY)
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
EFFORTS = {"low": MODES[0], "medium": MODES[2], "high": MODES[4]}  # what reasoning efforts mean
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

IGNORED = -100  # label of a token without a loss, as in torch
PAD_MULTIPLE = 16  # SFT pads rows to multiples of it: few shapes, so that memory that was freed fits again

_SENTINEL = "@@question@@"
_HEADER = r"(?:<\|(?:im_start|start_header_id)\|>\s*)?assistant(?:<\|end_header_id\|>)?[ \t]*:?\s*\n"
_REPLY_START = re.compile(rf"[\s\ufeff]*(?:{_HEADER})?\s*(?:<COMP_(20|40|60|80|100|POLICY|AUTO)>)?\s*")
QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’"}
_MARKER = re.compile(r"<(/?)think>", re.IGNORECASE)
_OPENED_THINK = re.compile(
    re.escape(THINK_OPEN) + r"(?:\\n|\n)*(?=['\"]\s*-?\}\}\s*\{%-?\s*end(?:if|for)\s*-?%\}\s*\Z)"
)
_CONTROL = re.compile(r"<COMP_(?:20|40|60|80|100|POLICY|AUTO)>")


def control_token(mode: str) -> str:
    """The control token of a mode: "0.2" gives `<COMP_20>`, "policy" gives `<COMP_POLICY>`."""
    if mode not in MODES:
        raise LiteError(f"mode {mode!r} is unknown; use one of {', '.join(MODES)}")
    return CONTROL_TOKENS[MODES.index(mode)]


def ratio_of(text: str) -> float:
    """A ratio as people write it: 0.2, .2, 20 and 20% are one. Raises LiteError outside (0, 1]."""
    number = text.strip().removesuffix("%").strip()
    try:
        ratio = float(number)
    except ValueError:
        raise LiteError(f"ratio {text!r}: not a number; give 0.2, or 20 for 20 %") from None
    if text.strip().endswith("%") or (number.isdecimal() and ratio > 1):
        ratio /= 100
    if not 0 < ratio <= 1:
        raise LiteError(f"ratio {text}: must lie in (0, 1], or in 1 to 100 %")
    return ratio


def mode_of(text: str) -> str:
    """The mode a user means: a ratio of the grid, `policy` or `auto` (the model chooses), or `base`. Raises LiteError."""
    if text in (BASE, POLICY, "auto"):
        return BASE if text == BASE else POLICY
    ratio, grid = ratio_of(text), ", ".join(map(str, RATIOS))
    if ratio not in RATIOS:
        raise LiteError(f"ratio {text}: the model knows {grid} and auto; use one of them")
    return MODES[RATIOS.index(ratio)]


def ratio_index(ratio: float) -> int:
    """Place of a ratio on the grid. Raises ValueError off the grid."""
    return RATIOS.index(ratio)


def neutralise(text: str) -> str:
    """Make think markers in user text plain text; they are not special tokens, so no flag stops them."""
    return re.sub("<(/?)(think>)", r"<\1 \2", text, flags=re.IGNORECASE)


def user_text(question: str) -> str:
    """The user turn without its control token."""
    return f"{INSTRUCTION}\n{neutralise(question.strip())}"


def write_reply(ratio: float | None, think: str, visible: str) -> str:
    """The assistant turn in Prefix-Mirror form; `ratio=None` writes a base reply without the mirror."""
    mirror = "" if ratio is None else RATIO_TOKENS[ratio_index(ratio)] + "\n"
    return f"{mirror}{THINK_OPEN}\n{think.strip()}\n{THINK_CLOSE}\n\n{visible.strip()}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A parsed reply. `ratio` is None where no ratio token leads it; `closed` is False where the last think span is cut,
    `opened` where one ends that never began. `think` is the text of all spans, `visible` what follows them."""

    ratio: float | None
    think: str
    visible: str
    has_think: bool
    closed: bool
    opened: bool = True


def parse_reply(text: str) -> Reply:
    """Split a reply (decoded with special tokens shown) into ratio token, think span and visible answer.

    An unclosed think span is all think, no answer. A reply without a think span is all answer; one that closes
    a span without opening it came from a model whose habit is that its prompt opens it. Every further span is
    thinking, too. Markers may be in capitals; one in quotes or backticks is text, and one too many is dropped. Words
    before the first span are the answer only where none follows.
    """
    start = _REPLY_START.match(text)
    assert start is not None
    name = start.group(1)
    ratio = int(name) / 100 if name and name.isdigit() else None
    body = text[start.end() :]
    markers = [
        match
        for match in _MARKER.finditer(body)
        if not is_quoted(body[max(match.start() - 1, 0) : match.start()], body[match.end() : match.end() + 1])
    ]
    if not markers:
        return Reply(ratio, "", body.strip(), has_think=False, closed=False)
    opened = not markers[0][1]
    parts: dict[bool, list[str]] = {True: [], False: []}  # of thinking, of the answer
    place, thinking = 0, not opened
    for marker in markers:
        parts[thinking].append(body[place : marker.start()])
        place, thinking = marker.end(), not marker[1]
    parts[thinking].append(body[place:])
    before, *after = parts[False] if opened else ["", *parts[False]]
    think, visible = ("\n\n".join(filter(None, map(str.strip, some))) for some in (parts[True], after))
    return Reply(ratio, think, visible or before.strip(), has_think=True, closed=not thinking, opened=opened)


def is_quoted(before: str, behind: str) -> bool:
    """Whether a marker between these two characters is spoken of, not set."""
    return bool(behind) and QUOTES.get(before) == behind


def without_lead(text: str) -> str:
    """A reply without the ratio token that leads it and the white space around it."""
    return _REPLY_START.sub("", text, count=1)


def split_template(render: Callable[[str], str]) -> tuple[str, str]:
    """Render a chat template around a sentinel; return what stands before and after the user's text.

    Only these parts are tokenised with special tokens on; user text never is.
    """
    rendered = render(_SENTINEL)
    if rendered.count(_SENTINEL) != 1:
        raise LiteError("the chat template does not show the user's text exactly once; give a chat model")
    head, tail = rendered.split(_SENTINEL)
    return head, tail


def without_opened_think(template: str) -> str:
    """A chat template whose generation prompt does not open the think span: the reply does, after its ratio token.

    Templates of models that always think (DeepSeek-R1's, Qwen3-Thinking's) write `<think>` there.
    """
    return _OPENED_THINK.sub("", template)


def opened_think(template: str) -> str | None:
    """The line breaks behind the `<think>` that a template's generation prompt opens; None where it opens none."""
    found = _OPENED_THINK.search(template)
    return found[0].removeprefix(THINK_OPEN).replace("\\n", "\n") if found else None


def strip_control(text: str) -> str:
    """Remove control tokens from a text, for display."""
    return _CONTROL.sub("", text)


def encode_prompt(tokenizer, question: str, mode: str) -> list[int]:
    """Token ids of the prompt for a Hugging Face tokenizer, up to where the assistant begins.

    Built from parts: the template's own with special tokens on, the user's text with them off. Raises LiteError
    for a tokenizer without a chat template.
    """

    def render(content: str) -> str:
        try:
            return tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        except ValueError as fault:  # there is none
            raise LiteError(
                f"{tokenizer.name_or_path}: no chat template in its tokenizer ({str(fault)[:60]}); give a chat model"
            ) from None

    head, tail = split_template(render)
    text = user_text(question)
    if mode != BASE:
        text, tail = text + " ", control_token(mode) + tail
    return (
        tokenizer.encode(head, add_special_tokens=False)
        + tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        + tokenizer.encode(tail, add_special_tokens=False)
    )
