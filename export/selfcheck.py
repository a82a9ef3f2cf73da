"""What a GGUF is by itself, in llama.cpp's eyes and without torch: loads, tokens, EOS, chat template, one step.

A file from anywhere may still end llama.cpp, or never end a template; `apart` therefore looks at it in a process
of its own. A chat template is rendered only where its prelude is ours, and only in llama-cpp-python's sandboxed
Jinja environment.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from export.quantize import captured_log
from export.template import NO_THINKING, SWITCH, has_dial
from lite.errors import LiteError
from lite.gguf import check
from lite.gguf.llama_build import make_safe
from lite.tokens import BASE, CONTROL_TOKENS, MODES, POLICY, THINK_CLOSE, THINK_OPEN

QUESTION = "What is 17 + 25?"
TIMEOUT_S = (
    600  # of the process apart: a large file from a slow disk takes minutes, a template without end all
)


class _Llama(llama_cpp.Llama):
    """llama-cpp-python's model, which has no argument for what `lite.gguf.llama_build` switches off."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, make_safe(value) if name == "model_params" else value)


def load(gguf: Path, **options: Any) -> llama_cpp.Llama:
    """Open a GGUF in llama.cpp. Raises LiteError where it is damaged, or llama.cpp cannot load it."""
    check.check(gguf)
    with captured_log() as pieces:
        try:
            return _Llama(str(gguf), verbose=False, **options)
        except (jinja2.TemplateError, RecursionError) as fault:
            raise LiteError(f"{gguf}: its chat template is broken ({fault}); export it again") from None
        except (ValueError, RuntimeError, AssertionError):
            reason = "".join(pieces).rpartition("error loading model:")[2].split("\n")[0].strip()
            raise LiteError(
                f"{gguf}: llama.cpp cannot load it ({reason or 'no reason given'}); download or export it again"
            ) from None


def token_ids(model: llama_cpp.Llama, text: str, special: bool = True) -> list[int]:
    """llama.cpp's token ids of a text, without BOS."""
    return model.tokenize(text.encode("utf-8"), add_bos=False, special=special)


def render(model: llama_cpp.Llama, question: str, mode: str, **variables: Any) -> str:
    """One user turn through the GGUF's own chat template, in the sandbox."""
    words = {"eos_token": model.token_eos(), "bos_token": model.token_bos()}
    words = {
        name: model._model.token_get_text(number) if number >= 0 else "" for name, number in words.items()
    }
    formatter = Jinja2ChatFormatter(model.metadata["tokenizer.chat_template"], **words)
    dial = {} if mode in (POLICY, BASE) else {"comp_ratio": round(100 * float(mode))}
    return formatter(messages=[{"role": "user", "content": question}], **dial, **variables).prompt


def check_words(gguf: Path, model: llama_cpp.Llama) -> bool:
    """Check EOS, special tokens and the dial; return whether the template has one. Raises LiteError."""
    vocab = llama_cpp.llama_model_get_vocab(model._model.model)

    def attribute(token: str) -> int | None:
        ids = token_ids(model, token)
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
    if not has_dial(model.metadata.get("tokenizer.chat_template", "")):
        return False
    for mode, token in zip(MODES, CONTROL_TOKENS, strict=True):
        try:
            rendered = render(model, QUESTION, mode)
            without = render(model, QUESTION, mode, **{SWITCH: False})
        except Exception as fault:  # a template may fail in any way that Python can
            raise LiteError(
                f"{gguf}: its chat template fails in mode {mode} ({fault}); export it again"
            ) from None
        counts = [rendered.count(other) for other in CONTROL_TOKENS]
        if counts != [int(other == token) for other in CONTROL_TOKENS]:
            raise LiteError(
                f"{gguf}: the chat template does not place {token} for mode {mode}; export it again"
            )
        if not without.endswith(NO_THINKING):
            raise LiteError(
                f"{gguf}: the chat template does not close an empty think span where {SWITCH} is false;"
                " export it again"
            )
    return True


def check_step(gguf: Path) -> None:
    """Decode one short text. Raises LiteError for logits that are no numbers."""
    model = load(gguf, n_ctx=256, n_batch=256, logits_all=True)
    model.eval(token_ids(model, QUESTION)[:64])
    scores = model.scores[: model.n_tokens]
    model.close()
    if not np.isfinite(scores).all() or not np.ptp(scores, axis=1).all():
        raise LiteError(f"{gguf}: its logits are no numbers, or all the same; download or export it again")


def look(gguf: Path) -> dict[str, Any]:
    """All checks of the file alone, in this process; return what it is."""
    container = check.check(gguf)
    model = load(gguf, vocab_only=True)
    dial = check_words(gguf, model)
    model.close()
    check_step(gguf)
    layers = container.metadata.get(f"{container.architecture}.block_count")
    return {
        "architecture": container.architecture,
        "layers": layers if isinstance(layers, int) else None,
        "parameters": sum(math.prod(tensor.shape) for tensor in container.tensors.values()),
        "types": sorted({tensor.kind for tensor in container.tensors.values()}),
        "tied": "output.weight" not in container.tensors,
        "dial": dial,
    }


def apart(gguf: Path, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """`look` in a process of its own. Raises LiteError where the file ends that process, or keeps it busy."""
    check.check(gguf)  # first here: most faults need no process
    code = "from export import selfcheck; selfcheck.main()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(gguf.absolute()), str(gguf)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else a failed assertion looks for a debugger
            cwd=Path(__file__).parents[1],  # where `export` is; `python -c` puts it first on the path
        )
    except subprocess.TimeoutExpired:
        raise LiteError(
            f"{gguf}: not done after {timeout_s:.0f} s, its chat template may never end; do not use it"
        ) from None
    try:
        found = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    except ValueError:
        how = f"code {done.returncode}"
        if done.returncode < 0:
            how = signal.Signals(-done.returncode).name
        raise LiteError(
            f"{gguf}: llama.cpp breaks on it ({how}); do not use it, download or export it again"
        ) from None
    if "fault" in found:
        raise LiteError(found["fault"])
    return found


def main() -> None:
    """The process apart: look at the GGUF of the first argument, called by the name of the second."""
    path, name = sys.argv[1:]
    try:
        found = look(Path(path))
    except LiteError as fault:
        found = {"fault": str(fault).replace(path, name)}
    print("\n" + json.dumps(found))
