"""Is a GGUF the model it was made from? llama.cpp's own view of the file, without torch; against the
Hugging Face folder (`compare`) it needs the extra `train`.

Checked: the file loads, its control tokens are CONTROL and single, think marks are visible, there is an EOS,
the chat template turns the dial; the same token ids, the same logits, and the same greedy text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from export.quantize import captured_log
from lite import backend
from lite.errors import LiteError
from lite.tokens import (
    BASE,
    CONTROL_TOKENS,
    MODES,
    POLICY,
    POLICY_TOKEN,
    THINK_CLOSE,
    THINK_OPEN,
    encode_prompt,
)

ARCHITECTURES = ("llama", "qwen2", "qwen3")
# llama.cpp's file type: its name, and how far logits may lie from Hugging Face's float32 ones, in units
# of their standard deviation. f16 and bf16 round the activations, too. A wrong tensor is off by about 1.
FLOATS = {0: ("f32", 1e-3), 1: ("f16", 5e-2), 32: ("bf16", 3e-1)}
NUM_GREEDY = 16  # tokens of a reply
QUESTIONS = (
    "What is 17 + 25?",
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
    """A prompt and Hugging Face's greedy reply, with the logits that follow each id but the last."""

    prompt: list[int]
    reply: list[int]
    logits: np.ndarray  # (P + N - 1, V), float32


def _load(gguf: Path, **options: Any) -> llama_cpp.Llama:
    """Open a GGUF in llama.cpp. Raises LiteError where it is damaged, or not one of a known architecture."""
    try:
        with open(gguf, "rb") as handle:
            magic = handle.read(4)
    except (FileNotFoundError, IsADirectoryError):
        raise LiteError(f"{gguf}: no such file; give a GGUF") from None
    if magic != b"GGUF":
        raise LiteError(f"{gguf}: not a GGUF, it begins with {magic!r}; give a GGUF")
    with captured_log() as pieces:
        try:
            model = llama_cpp.Llama(str(gguf), verbose=False, **options)
        except jinja2.TemplateError as fault:
            raise LiteError(f"{gguf}: its chat template is broken ({fault}); export it again") from None
        except (ValueError, RuntimeError, AssertionError):
            reason = (
                "".join(pieces).rpartition("error loading model:")[2].split("\n")[0].strip()
                or "no reason given"
            )
            raise LiteError(
                f"{gguf}: llama.cpp cannot load it ({reason}); download or export it again"
            ) from None
    architecture = model.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise LiteError(f"{gguf}: architecture {architecture!r}; only {', '.join(ARCHITECTURES)} are known")
    return model


def _ids(model: llama_cpp.Llama, text: str, special: bool = True) -> list[int]:
    return model.tokenize(text.encode("utf-8"), add_bos=False, special=special)


def _render(model: llama_cpp.Llama, question: str, mode: str) -> str:
    """One user turn through the GGUF's own chat template."""
    words = {"eos_token": model.token_eos(), "bos_token": model.token_bos()}
    words = {
        name: model._model.token_get_text(number) if number >= 0 else "" for name, number in words.items()
    }
    formatter = Jinja2ChatFormatter(model.metadata["tokenizer.chat_template"], **words)
    dial = {} if mode in (POLICY, BASE) else {"comp_ratio": round(100 * float(mode))}
    return formatter(messages=[{"role": "user", "content": question}], **dial).prompt


def _check_file(gguf: Path, model: llama_cpp.Llama) -> bool:
    """Check what the file says of itself; return whether its template has the dial. Raises LiteError."""
    vocab = llama_cpp.llama_model_get_vocab(model._model.model)

    def attribute(token: str) -> int | None:
        ids = _ids(model, token)
        return llama_cpp.llama_vocab_get_attr(vocab, ids[0]) if len(ids) == 1 else None

    # llama.cpp takes its own default where the file's id is missing or out of range.
    if model.metadata.get("tokenizer.ggml.eos_token_id") != str(model.token_eos()):
        raise LiteError(f"{gguf}: no EOS token, so no reply would end; export it again")
    for token in (THINK_OPEN, THINK_CLOSE):
        if (attribute(token) or 0) & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL:
            raise LiteError(
                f"{gguf}: {token} is a control token, so no output would show it; make it a plain added token"
            )
    have = [token for token in CONTROL_TOKENS if attribute(token) is not None]
    for token in have:
        if not (attribute(token) or 0) & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL:
            raise LiteError(f"{gguf}: {token} is not of type CONTROL, so users could see it; export it again")
    if 0 < len(have) < len(CONTROL_TOKENS):
        missing = next(token for token in CONTROL_TOKENS if token not in have)
        raise LiteError(f"{gguf}: {missing} is not one token though {have[0]} is; export it again")
    if POLICY_TOKEN not in model.metadata.get("tokenizer.chat_template", ""):
        return False
    for mode, token in zip(MODES, CONTROL_TOKENS, strict=True):
        try:
            rendered = _render(model, QUESTIONS[0], mode)
        except (jinja2.TemplateError, ValueError, TypeError) as fault:
            raise LiteError(
                f"{gguf}: its chat template fails in mode {mode} ({fault}); export it again"
            ) from None
        if [rendered.count(other) for other in CONTROL_TOKENS] != [
            int(other == token) for other in CONTROL_TOKENS
        ]:
            raise LiteError(
                f"{gguf}: the chat template does not place {token} for mode {mode}; export it again"
            )
    return True


def reference(folder: Path) -> tuple[Any, list[Sample]]:
    """The tokenizer of a Hugging Face folder and its greedy replies, in float32 on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backend.unpatch(ARCHITECTURES)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    modes = [BASE] * 3 if CONTROL_TOKENS[0] not in tokenizer.get_vocab() else ["0.2", "0.8", POLICY]
    samples = []
    with torch.inference_mode():
        for question, mode in zip(QUESTIONS, modes, strict=True):
            if tokenizer.chat_template:
                prompt = encode_prompt(tokenizer, question, mode)
            else:
                prompt = tokenizer.encode(question, add_special_tokens=False)
            output = model(input_ids=torch.tensor([prompt]), use_cache=True)
            logits, reply = [output.logits[0]], []  # (P, V)
            while True:
                reply.append(int(logits[-1][-1].argmax()))
                if len(reply) == NUM_GREEDY or reply[-1] == tokenizer.eos_token_id:
                    break
                step = torch.tensor([[reply[-1]]])
                output = model(input_ids=step, past_key_values=output.past_key_values, use_cache=True)
                logits.append(output.logits[0])  # (1, V)
            samples.append(Sample(prompt, reply, torch.cat(logits).numpy()))
    return tokenizer, samples


def _compare_tokens(gguf: Path, model: llama_cpp.Llama, tokenizer: Any, dial: bool) -> None:
    """Raise LiteError where llama.cpp's token ids differ from Hugging Face's."""

    def same(what: str, text: str, ours: list[int], theirs: list[int]) -> None:
        if ours != theirs:
            raise LiteError(
                f"{gguf}: {what} of {text!r} are {ours[:12]}, Hugging Face has {theirs[:12]}; not exportable"
            )

    for text in TEXTS:
        same("token ids", text, _ids(model, text), tokenizer.encode(text, add_special_tokens=False))
        plain = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        same("plain token ids", text, _ids(model, text, special=False), plain)
    add_bos = model.metadata.get("tokenizer.ggml.add_bos_token") == "true"
    framed = model.tokenize(QUESTIONS[0].encode(), add_bos=add_bos, special=True)
    same("token ids with BOS", QUESTIONS[0], framed, tokenizer.encode(QUESTIONS[0]))
    for mode in MODES if dial else ():
        for question in QUESTIONS:
            ids = encode_prompt(tokenizer, question, mode)
            same(f"prompt ids in mode {mode}", question, _ids(model, _render(model, question, mode)), ids)


def _greedy(model: llama_cpp.Llama, prompt: list[int], num: int) -> list[int]:
    """llama.cpp's greedy reply, token by token through its cache."""
    model.reset()
    model.eval(prompt)
    reply: list[int] = []
    while True:
        reply.append(int(model.scores[model.n_tokens - 1].argmax()))
        if len(reply) == num:
            return reply
        model.eval(reply[-1:])


def _compare_logits(gguf: Path, samples: list[Sample]) -> dict[str, Any]:
    """Measure llama.cpp's logits against Hugging Face's; a f32, f16 or bf16 file must agree with them."""
    longest = max(len(sample.prompt) + len(sample.reply) for sample in samples)
    # The f16 KV cache alone is off by 0.01 to 0.05 and would hide a fault.
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    model = _load(gguf, n_ctx=longest + 8, n_batch=longest + 8, logits_all=True, **exact)
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
        if (
            reply != sample.reply
        ):  # only a near tie, narrower than the noise of both logits, may go the other way
            place = next(i for i, (a, b) in enumerate(zip(reply, sample.reply, strict=True)) if a != b)
            row = sample.logits[len(sample.prompt) - 1 + place]  # (V,)
            lead = float(row[sample.reply[place]] - row[reply[place]])
            if lead > 2 * gap:
                raise LiteError(
                    f"{gguf}: greedy token {place} is {reply[place]}, Hugging Face has {sample.reply[place]}, "
                    f"{lead:.2g} ahead where noise is {gap:.2g}; not exportable"
                )
            near_ties += 1
    model.close()
    return {
        "logits_off": float(f"{worst:.2g}"),
        "top1_agreement": round(agree / total, 4),
        "near_ties": near_ties,
    }


def compare(gguf: Path, tokenizer: Any, samples: list[Sample]) -> dict[str, Any]:
    """Verify a GGUF against `reference(folder)`; return what was measured. Raises LiteError where they differ.

    `logits_off` is the largest difference in standard deviations of the logits, `top1_agreement` the share of
    positions with the same best token. A quantised file is measured; only its tokens must be the same.
    """
    model = _load(gguf, vocab_only=True)
    dial = _check_file(gguf, model)
    _compare_tokens(gguf, model, tokenizer, dial)
    model.close()
    return {"dial": dial, **_compare_logits(gguf, samples)}


def verify(gguf: Path, folder: Path | None = None) -> dict[str, Any]:
    """Verify a GGUF by itself (no torch), or against the Hugging Face folder it was made from."""
    if folder is not None:
        return compare(gguf, *reference(folder))
    model = _load(gguf, vocab_only=True)
    dial = _check_file(gguf, model)
    model.close()
    return {"dial": dial}
