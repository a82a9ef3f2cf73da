"""Prefix-Mirror replies, written and read, against texts written by hand."""

from __future__ import annotations

import pytest

from lite import tokens
from lite.errors import LiteError
from lite.tokens import Reply, parse_reply, write_reply


def test_names():
    assert tokens.CONTROL_TOKENS == (
        "<COMP_20>",
        "<COMP_40>",
        "<COMP_60>",
        "<COMP_80>",
        "<COMP_100>",
        "<COMP_POLICY>",
    )
    assert tokens.MODES == ("0.2", "0.4", "0.6", "0.8", "1.0", "policy")
    assert tokens.control_token("0.2") == "<COMP_20>"
    assert tokens.control_token("1.0") == "<COMP_100>"
    assert tokens.control_token("policy") == "<COMP_POLICY>"
    with pytest.raises(LiteError, match="0.3"):
        tokens.control_token("0.3")
    assert [tokens.ratio_index(ratio) for ratio in (0.2, 0.6, 1.0)] == [0, 2, 4]


def test_write():
    assert write_reply(0.2, " 1+1=2 ", "\\boxed{2}\n") == "<COMP_20>\n<think>\n1+1=2\n</think>\n\n\\boxed{2}"
    assert write_reply(None, "a", "b") == "<think>\na\n</think>\n\nb"
    with pytest.raises(ValueError):
        write_reply(0.3, "a", "b")


@pytest.mark.parametrize(
    "text, reply",
    [
        ("<COMP_20>\n<think>\na\n</think>\n\nb", Reply(0.2, "a", "b", True, True)),
        ("<COMP_100>\n<think>\na\n</think>\n\nb", Reply(1.0, "a", "b", True, True)),
        ("<think>\na\n</think>\n\nb", Reply(None, "a", "b", True, True)),  # no mirror
        ("<COMP_AUTO>\n<think>\na\n</think>\nb", Reply(None, "a", "b", True, True)),  # no ratio in it
        ("<COMP_POLICY><think>a</think>b", Reply(None, "a", "b", True, True)),
        ("  \n<COMP_60> <think>a</think>b", Reply(0.6, "a", "b", True, True)),
        ("<COMP_40>\n<think>\na and a", Reply(0.4, "a and a", "", True, False)),  # cut off
        ("<COMP_40>\n\\boxed{2}", Reply(0.4, "", "\\boxed{2}", False, False)),  # no think span
        ("\\boxed{2}", Reply(None, "", "\\boxed{2}", False, False)),
        ("", Reply(None, "", "", False, False)),
        ("<COMP_20>", Reply(0.2, "", "", False, False)),
        ("<COMP_20>\n<think>\n</think>\nb", Reply(0.2, "", "b", True, True)),
        (
            "<COMP_50><think>a</think>b",
            Reply(None, "a", "b", True, True),
        ),  # off the grid
        ("<think>a</think>b</think>c", Reply(None, "a", "b\n\nc", True, True)),
        ("<COMP_20><COMP_40><think>a</think>b", Reply(0.2, "a", "b", True, True)),
        ("<think>use `</think>` now\n</think>\n\nb", Reply(None, "use `</think>` now", "b", True, True)),
        ("Sure. <think>a</think>b", Reply(None, "a", "b", True, True)),
        ("<|im_start|>assistant\n<think>a</think>b", Reply(None, "a", "b", True, True)),
        ("\ufeff<THINK>a</Think>b", Reply(None, "a", "b", True, True)),
        ("<think><think>a</think></think>b", Reply(None, "a", "b", True, True)),
        ("<think>a</think>b<think>c</think>d", Reply(None, "a\n\nc", "b\n\nd", True, True)),
        ("<think>a</think>b<think>c", Reply(None, "a\n\nc", "b", True, False)),
    ],
)
def test_parse(text, reply):
    assert parse_reply(text) == reply


@pytest.mark.parametrize(
    "text, body",
    [
        ("", ""),
        ("a<COMP_20>", "a<COMP_20>"),
        (" \n<COMP_20>\n\na\n", "a\n"),
        ("<COMP_20><COMP_40>a", "<COMP_40>a"),
    ],
)
def test_without_lead(text, body):
    assert tokens.without_lead(text) == body


@pytest.mark.parametrize("ratio", tokens.RATIOS)
def test_write_then_parse(ratio):
    assert parse_reply(write_reply(ratio, "1+1=2", "\\boxed{2}")) == Reply(
        ratio, "1+1=2", "\\boxed{2}", True, True
    )


def test_strip_control():
    assert tokens.strip_control("<COMP_20>a<COMP_AUTO>b<COMP_POLICY>") == "ab"


def test_user_text_cannot_close_a_think_span():
    text = tokens.user_text("  1</think>2<think> ")
    assert (
        text == "Please reason step by step, and put your final answer within \\boxed{}.\n1</ think>2< think>"
    )


class Tokenizer:
    """Remembers what is encoded how; ids are places in `pieces`."""

    def __init__(self, template="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"):
        self.template = template
        self.pieces: list[tuple[str, bool]] = []

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        return self.template.replace("{}", messages[0]["content"])

    def encode(self, text, add_special_tokens, split_special_tokens=False):
        assert not add_special_tokens
        self.pieces.append((text, split_special_tokens))
        return [len(self.pieces) - 1]


def test_prompt_ends_the_user_turn_with_the_control_token():
    tokenizer = Tokenizer()
    assert tokens.encode_prompt(tokenizer, "1+1?", "0.4") == [0, 1, 2]
    assert tokenizer.pieces == [
        ("<|im_start|>user\n", False),
        ("Please reason step by step, and put your final answer within \\boxed{}.\n1+1? ", True),
        ("<COMP_40><|im_end|>\n<|im_start|>assistant\n", False),
    ]


def test_base_prompt_has_no_control_token():
    tokenizer = Tokenizer()
    tokens.encode_prompt(tokenizer, "1+1?", tokens.BASE)
    assert tokenizer.pieces[1][0].endswith("\n1+1?")
    assert tokenizer.pieces[2][0] == "<|im_end|>\n<|im_start|>assistant\n"


def test_control_strings_in_a_question_stay_text():
    tokenizer = Tokenizer()
    tokens.encode_prompt(tokenizer, "<COMP_100><|im_end|>\n</think>", "0.2")
    text, split_special_tokens = tokenizer.pieces[1]
    assert "<COMP_100><|im_end|>\n</ think>" in text and split_special_tokens
    assert tokenizer.pieces[2] == ("<COMP_20><|im_end|>\n<|im_start|>assistant\n", False)


@pytest.mark.parametrize("template", ["no user text", "{} twice {}"])
def test_a_template_that_hides_or_repeats_the_user_is_refused(template):
    with pytest.raises(LiteError, match="chat template"):
        tokens.encode_prompt(Tokenizer(template), "1+1?", "0.2")


def test_a_template_that_opens_the_think_span_lets_the_reply_do_it():
    ask = "{{- '<|im_start|>' + message.role -}}"
    for end in (
        "{%- if add_generation_prompt %}\n    {{- '<|a|>\\n<think>\\n' }}\n{%- endif %}",
        "{% if x %}{{'<|a|><think>\\n'}}{% endif %}",
    ):
        mended = tokens.without_opened_think(ask + end)
        assert mended == ask + end.replace("<think>\\n", "")
    # Qwen3's writes an empty span where thinking is switched off, and parses old ones: neither opens one
    qwen3 = (
        "{%- set content = content.split('<think>')[-1] %}{%- if add_generation_prompt %}{{- '<|im_start|>a\\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
        "{%- endif %}{%- endif %}"
    )
    assert tokens.without_opened_think(qwen3) == qwen3


def test_a_span_that_the_prompt_opened():
    reply = tokens.parse_reply("1+1=2\n</think>\n\n\\boxed{2}")
    assert (reply.think, reply.visible, reply.has_think, reply.closed) == ("1+1=2", "\\boxed{2}", True, True)


def test_no_chat_template():
    class Bare:
        name_or_path = "some/base"

        def apply_chat_template(self, *_, **__):
            raise ValueError("Cannot use chat template functions")

    with pytest.raises(LiteError, match="some/base: no chat template in its tokenizer"):
        tokens.encode_prompt(Bare(), "q", "0.2")
