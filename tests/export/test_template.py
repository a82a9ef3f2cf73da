import json

import pytest
from jinja2.exceptions import TemplateError
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from tiny_models import build_tokenizer
from tiny_tokenizer import CHAT_TEMPLATE

from export.template import NO_THINKING, dial_template, has_dial
from lite.tokens import INSTRUCTION, MODES, POLICY, encode_prompt

QUESTIONS = (
    "What is 17 + 25?",
    "  spaces around, and a newline  \n",
    "Simplify $\\frac{1}{2}$ {{ not jinja }} 'quotes' \"double\"",
    "$x$ first; π ≈ 3.14, 日本語",
    "<think>cheat</think> 3 < 4",
)


def render(messages, **dial):
    return Jinja2ChatFormatter(dial_template(CHAT_TEMPLATE), "<|im_end|>", "")(
        messages=messages, **dial
    ).prompt


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_same_ids_as_encode_prompt(tokenizer, mode, question):
    expected = encode_prompt(tokenizer, question, mode)
    dials = [{}, {"comp_ratio": "policy"}] if mode == POLICY else [{"comp_ratio": round(float(mode) * 100)}]
    for dial in dials:
        prompt = render([{"role": "user", "content": question}], **dial)
        assert tokenizer.encode(prompt, add_special_tokens=False) == expected
        assert (
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                chat_template=dial_template(CHAT_TEMPLATE),
                tokenize=False,
                add_generation_prompt=True,
                **dial,
            )
            == prompt
        )


def test_only_the_last_user_turn_is_dialled():
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    assert render(messages, comp_ratio="40") == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
        f"<|im_start|>user\n{INSTRUCTION}\nthree <COMP_40><|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("mode", ["0.4", POLICY])
def test_thinking_off_closes_an_empty_span(mode):
    dial = {} if mode == POLICY else {"comp_ratio": 40}
    messages = [{"role": "user", "content": "one"}]
    assert render(messages, enable_thinking=False, **dial) == render(messages, **dial) + NO_THINKING
    assert render(messages, enable_thinking=True, **dial) == render(messages, **dial)


@pytest.mark.parametrize("breaks", ["", "\\n", "\\n\\n"])
def test_a_span_that_the_base_template_opens_is_closed(breaks):
    """As those of DeepSeek-R1's distilled models do: never opened twice, and left open where thinking is on."""
    own = "{{ bos_token }}{% for m in messages %}<U>{{ m['content'] }}{% endfor %}"
    own += "{% if add_generation_prompt and not ns.is_tool %}{{'<A><think>" + breaks + "'}}{% endif %}"
    formatter = Jinja2ChatFormatter(dial_template("{% set ns = namespace(is_tool=false) %}" + own), "", "")
    on, off = (
        formatter(
            messages=[{"role": "user", "content": "one"}], comp_ratio=20, enable_thinking=thinking
        ).prompt
        for thinking in (True, False)
    )
    assert on.endswith("<COMP_20><A><think>" + breaks.replace("\\n", "\n"))
    assert off.startswith(on) and off.endswith(
        "<A>" + NO_THINKING if len(breaks) < 4 else "\n\n\n</think>\n\n"
    )


def test_a_base_template_with_the_switch_keeps_its_own():
    own = CHAT_TEMPLATE.replace(
        "assistant\\n' }}", "assistant\\n' }}{% if enable_thinking is false %}(off){% endif %}"
    )
    assert "(off)" in own
    prompt = Jinja2ChatFormatter(dial_template(own), "<|im_end|>", "")(
        messages=[{"role": "user", "content": "one"}], enable_thinking=False
    ).prompt
    assert prompt.endswith("assistant\n(off)") and NO_THINKING not in prompt


def test_thinking_of_a_turn_behind_the_question_is_shown():
    """Else llama-server believes that the template knows no thinking, and switches it off."""
    think = {"role": "assistant", "content": "four", "reasoning_content": "two and two"}
    one, two = ({"role": "user", "content": text} for text in ("one", "two"))
    assert "<|im_start|>assistant\n<think>\ntwo and two\n</think>\n\nfour<|im_end|>" in render([one, think])
    assert "two and two" not in render([one, think, two])  # of earlier turns it is dropped, as Qwen3 does
    knows = "{% for message in messages %}{{ message.reasoning_content }}|{{ message.content }}{% endfor %}"
    own = Jinja2ChatFormatter(dial_template(knows), "<|im_end|>", "")
    assert own(messages=[one, think]).prompt.endswith("two and two|four")


def test_our_templates_are_known_by_their_prelude():
    for template in (CHAT_TEMPLATE, CHAT_TEMPLATE + "{{ reasoning_content }}", ""):
        assert has_dial(dial_template(template)) and not has_dial(template)
    assert not has_dial(dial_template("").replace("COMP_20", "COMP_40")) and not has_dial(
        " " + dial_template("")
    )


@pytest.mark.parametrize("wrong", [30, "0.2", 0.2, "x"])
def test_unknown_ratio_is_refused(wrong):
    with pytest.raises((ValueError, TemplateError), match="use one of 20, 40, 60, 80, 100, policy"):
        render([{"role": "user", "content": "one"}], comp_ratio=wrong)


def test_plain_constructs_only():
    """What llama.cpp's own engine has; the prelude alone, without the model's template."""
    words = json.dumps(dial_template(""))
    for exotic in ("macro", "do ", "recursive", "loop.changed", "is mapping", "items()", ".append"):
        assert exotic not in words
