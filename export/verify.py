"""Is a GGUF the model it was made from? Alone: the container (`lite.gguf.check`), then llama.cpp's own view of it
(`export.selfcheck`), without torch. Against the Hugging Face folder it needs the extra `train`: ties, token ids,
logits and greedy text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from export import selfcheck, vocab
from export.selfcheck import QUESTION, render, token_ids
from export.template import has_dial
from lite.errors import LiteError
from lite.gguf import calibration, check
from lite.models import generate, pretrained, unsloth
from lite.runtime.progress import console
from lite.tokens import BASE, CONTROL_TOKENS, MODES, POLICY, THINK_CLOSE, THINK_OPEN, encode_prompt

# llama.cpp's file type: its name, and how far logits may lie from Hugging Face's float32 ones, in units
# of their standard deviation. f16 and bf16 round the activations, too. A wrong tensor is off by about 1.
FLOATS = {0: ("f32", 1e-3), 1: ("f16", 5e-2), 32: ("bf16", 3e-1)}
MIN_AGREEMENT = (
    0.5  # of a quantised file's best tokens with Hugging Face's; a wrong tensor leaves next to none
)
NUM_GREEDY = 16  # tokens of a reply, and more of a small model's, so that one comes to its end
MOST_GREEDY, GREEDY_WORK = 160, 2_000_000_000  # the most, and parameters times tokens
QUESTIONS = (
    QUESTION,
    "A train travels 120 km in 1.5 hours. What is its average speed in km/h?",
    "Simplify $\\frac{3}{4} \\times \\sqrt{16}$.",
)
# Composed text only: llama.cpp applies no NFC.
TEXTS = (
    "",
    " ",
    "Hello, world!",
    "1234567890 3.14159 1,000,000 -42 7/8 50%",
    "  leading,  double   and trailing spaces   ",
    "tabs\tand\nnew\r\nlines\n\n\n end",
    "\\boxed{\\frac{1}{2}} $x^2 + y_1 \\leq \\sqrt[3]{27}$ \\[a \\neq b\\]",
    "don't WE'LL they've I'm it's 'quoted'",
    "ÄÖÜ ß éèê ñ — “quotes” … € ½ ² π≈3",
    "日本語のテキスト 中文字符 한국어 العربية हिन्दी עברית",
    "😀 👩‍👩‍👧‍👦 🇩🇪 𝔸𝕏 \u200b\u00a0\ufeff",
    "def f(x):\n    return x**2  # x²\n",
    f"{THINK_OPEN}\n12 + 30 = 42\n{THINK_CLOSE}\n\n42",
    "".join(CONTROL_TOKENS) + " text " + CONTROL_TOKENS[0],
    "<COMP_30> <COMP_ <comp_20> < think> </ think>",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><|eot_id|>",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and Hugging Face's greedy reply, with the logits that follow each id but the last.

    The reply ends with one of `ends`, where transformers' generate stops, or it was cut.
    """

    prompt: list[int]
    reply: list[int]
    ends: list[int]
    logits: np.ndarray  # (P + N - 1, V), float32


def reference(folder: Path) -> tuple[Any, list[Sample]]:
    """The tokenizer of a Hugging Face folder and its greedy replies, in float32 on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    unsloth.unpatch(tuple(check.SHAPES))
    tokenizer = pretrained.load_tokenizer(folder, str(folder))
    model = pretrained.load_model(AutoModelForCausalLM, folder, str(folder), dtype=torch.float32).eval()
    ends = generate.stop_ids(model, tokenizer)
    most = max(NUM_GREEDY, min(MOST_GREEDY, GREEDY_WORK // model.num_parameters()))
    modes = [BASE] * 3 if CONTROL_TOKENS[0] not in tokenizer.get_vocab() else ["0.2", "0.8", POLICY]
    samples = []
    with torch.inference_mode():
        for question, mode in zip(QUESTIONS, modes, strict=True):
            if tokenizer.chat_template:
                prompt = encode_prompt(tokenizer, question, mode)
            else:
                prompt = tokenizer.encode(question, add_special_tokens=False)
            num = max(NUM_GREEDY, min(most, model.config.max_position_embeddings - len(prompt)))
            output = model(input_ids=torch.tensor([prompt]), use_cache=True)
            logits, reply = [output.logits[0]], []  # (P, V)
            while True:
                reply.append(int(logits[-1][-1].argmax()))
                if len(reply) == num or reply[-1] in ends:
                    break
                step = torch.tensor([[reply[-1]]])
                output = model(input_ids=step, past_key_values=output.past_key_values, use_cache=True)
                logits.append(output.logits[0])  # (1, V)
            samples.append(Sample(prompt, reply, ends, torch.cat(logits).numpy()))
    return tokenizer, samples


def _compare_vocabulary(gguf: Path, model: llama_cpp.Llama, tokenizer: Any, ends: list[int]) -> None:
    """Raise LiteError where llama.cpp lacks a token of Hugging Face's, or would not end a reply at one of `ends`."""
    words = llama_cpp.llama_model_get_vocab(model._model.model)
    num_rows = llama_cpp.llama_vocab_n_tokens(words)
    if model.metadata.get("tokenizer.ggml.model") == "gpt2":  # others may spell a token another way
        for text, number in tokenizer.get_vocab().items():
            theirs = llama_cpp.llama_vocab_get_text(words, number) if number < num_rows else b""
            if theirs != text.encode("utf-8"):
                raise LiteError(
                    f"{gguf}: token {number} is {theirs!r}, Hugging Face has {text!r}; not exportable"
                )
    for number in ends:
        if not llama_cpp.llama_vocab_is_eog(words, number):
            raise LiteError(
                f"{gguf}: {tokenizer.convert_ids_to_tokens(number)} (id {number}) ends a reply in Hugging Face and not"
                f" in llama.cpp: a GGUF holds {len(vocab.ENDS)} such tokens; shorten eos_token_id in"
                " generation_config.json"
            )


def _compare_tokens(gguf: Path, model: llama_cpp.Llama, tokenizer: Any, dial: bool) -> None:
    """Raise LiteError where llama.cpp's token ids differ from Hugging Face's."""

    def same(what: str, text: str, ours: list[int], theirs: list[int]) -> None:
        if ours != theirs:
            raise LiteError(
                f"{gguf}: {what} of {text!r} are {ours[:12]}, Hugging Face has {theirs[:12]}; not exportable"
            )

    added = (f"a {token.content} b" for token in tokenizer.added_tokens_decoder.values())
    for text in (*TEXTS, *added):
        same("token ids", text, token_ids(model, text), tokenizer.encode(text, add_special_tokens=False))
        plain = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        same("plain token ids", text, token_ids(model, text, special=False), plain)
    add_bos = model.metadata.get("tokenizer.ggml.add_bos_token") == "true"
    framed = model.tokenize(QUESTIONS[0].encode(), add_bos=add_bos, special=True)
    same("token ids with BOS", QUESTIONS[0], framed, tokenizer.encode(QUESTIONS[0]))
    for mode in MODES if dial else ():
        for question in QUESTIONS:
            ids = encode_prompt(tokenizer, question, mode)
            same(f"prompt ids in mode {mode}", question, token_ids(model, render(model, question, mode)), ids)


def _greedy(model: llama_cpp.Llama, prompt: list[int], num: int) -> list[int]:
    """llama.cpp's greedy reply, token by token through its cache, until it ends or has `num` tokens."""
    words = llama_cpp.llama_model_get_vocab(model._model.model)
    model.reset()
    model.eval(prompt)
    reply: list[int] = []
    while True:
        reply.append(int(model.scores[model.n_tokens - 1].argmax()))
        if len(reply) == num or llama_cpp.llama_vocab_is_eog(words, reply[-1]):
            return reply
        model.eval(reply[-1:])


def _compare_logits(gguf: Path, samples: list[Sample]) -> dict[str, Any]:
    """Measure llama.cpp's logits against Hugging Face's; a f32, f16 or bf16 file must agree with them."""
    longest = max(len(sample.prompt) + len(sample.reply) for sample in samples)
    # The f16 KV cache alone is off by 0.01 to 0.05 and would hide a fault.
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    model = selfcheck.load(gguf, n_ctx=longest + 8, n_batch=longest + 8, logits_all=True, **exact)
    name, tolerance = FLOATS.get(int(model.metadata.get("general.file_type", -1)), ("quantised", None))
    worst, agree, total, near_ties = 0.0, 0, 0, 0
    for sample in samples:
        model.reset()
        model.eval(sample.prompt + sample.reply[:-1])
        ours = model.scores[: model.n_tokens].copy()  # (P + N - 1, V)
        gap = float(np.abs(ours - sample.logits).max())
        relative = gap / float(sample.logits.std())
        worst = max(worst, relative)
        agree += int((ours.argmax(-1) == sample.logits.argmax(-1)).sum())
        total += len(ours)
        if tolerance is None:
            continue
        if not relative <= tolerance:  # NaN fails, too
            raise LiteError(
                f"{gguf}: logits are off by {relative:.2g} standard deviations, {name} allows {tolerance}; not exportable"
            )
        reply = _greedy(model, sample.prompt, len(sample.reply))
        place = len(os.path.commonprefix([reply, sample.reply]))
        if (
            place == len(reply) < len(sample.reply)
        ):  # at a token that it knows by name, which no GGUF can forbid
            text = model.detokenize(reply[-1:], special=True).decode("utf-8", "replace")
            console.print(f"  {gguf.name}: llama.cpp ends a reply at {text}, where Hugging Face goes on")
        elif place < len(
            reply
        ):  # only a near tie, narrower than the noise of both logits, may go the other way
            row = sample.logits[len(sample.prompt) - 1 + place]  # (V,)
            lead = float(row[sample.reply[place]] - row[reply[place]])
            if lead > 2 * gap:
                raise LiteError(
                    f"{gguf}: greedy token {place} is {reply[place]}, Hugging Face has {sample.reply[place]}, "
                    f"{lead:.2g} ahead where noise is {gap:.2g}; not exportable"
                )
            near_ties += 1
    model.close()
    if agree / total < MIN_AGREEMENT:
        raise LiteError(
            f"{gguf}: its best token is Hugging Face's at {agree / total:.0%} of places; not the same model"
        )
    return {
        "logits_off": float(f"{worst:.2g}"),
        "top1_agreement": round(agree / total, 4),
        "near_ties": near_ties,
    }


def compare(gguf: Path, tokenizer: Any, samples: list[Sample]) -> dict[str, Any]:
    """Verify a GGUF against `reference(folder)`; return what was measured. Raises LiteError where they differ.

    `logits_off` is the largest difference in standard deviations of the logits, `top1_agreement` the share of
    positions with the same best token. Of a quantised file the tokens must be the same, the rest is measured.
    """
    model = selfcheck.load(gguf, vocab_only=True)
    dial = selfcheck.check_words(gguf, model)
    _compare_vocabulary(gguf, model, tokenizer, samples[0].ends)
    _compare_tokens(gguf, model, tokenizer, dial)
    model.close()
    return {"dial": dial, **_compare_logits(gguf, samples)}


def verify(gguf: Path, folder: Path | None = None) -> dict[str, Any]:
    """Verify a GGUF by itself (no torch), or against the Hugging Face folder it was made from.

    Returns what it is, and what was measured. `foreign_template` is the chat template where it is not ours;
    it was not rendered. Raises LiteError where something is wrong.
    """
    container = check.check(gguf)
    found = selfcheck.apart(gguf)
    lengths = calibration.of_gguf(container)
    if lengths is not None:
        found["think_tokens_p90"] = dict(zip(map(str, lengths.ratios), lengths.p90, strict=True))
    if container.template and not has_dial(container.template):
        found["foreign_template"] = container.template
    if folder is not None:
        tied = bool(vocab.read_json(folder / "config.json").get("tie_word_embeddings", False))
        if tied != found["tied"]:
            raise LiteError(
                f"{gguf}: its embedding and output rows are {'tied' if found['tied'] else 'two tensors'},"
                f" {folder} has them {'tied' if tied else 'apart'}; export it again"
            )
        found |= compare(gguf, *reference(folder))
    return found


def printable(text: str) -> str:
    """A text from a file that may be hostile, for a terminal: lines stay, other control characters are shown."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )
