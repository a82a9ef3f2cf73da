"""A GGUF on llama.cpp: tokenise, build prompts with the dial, generate many replies at once.

Prompts are built from token lists: the chat template's own parts with special tokens on, the user's text
with them off, so that no text a user types becomes a control token. The lists equal those of
`lite.tokens.encode_prompt` for the same model.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from lite import gguf_file
from lite.errors import LiteError
from lite.infer.batch import Request, Slots, greedy, sample
from lite.tokens import BASE, INSTRUCTION, MODES, POLICY, control_token, split_template, user_text

DIAL = "comp_ratio"  # the template variable of our exports: a percent; POLICY where it is not defined
MAX_BATCH = 256  # llama.cpp's sequences in one context


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp's log goes nowhere; what matters of it reaches the user as a LiteError."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A reply: its tokens without the one that ended it, and its text with special tokens shown.

    `seconds` is from when its prompt entered the batch; `stop` is "eos" (the model ended it) or "length".
    """

    ids: list[int]
    text: str
    seconds: float
    stop: str


class Engine:
    """A loaded GGUF. Close it, or use it in a `with` block.

    `context_tokens`: most tokens, prompts included, that the replies decoded together may take; where they
    are long, fewer are decoded together. `batch_size`: replies decoded together, at most. `num_threads` 0:
    as many as there are cores.
    Raises LiteError for a file that is not there or is not a GGUF that llama.cpp can load.
    """

    def __init__(
        self, path: Path | str, *, context_tokens: int = 32768, batch_size: int = 16, num_threads: int = 0
    ):
        self.path = Path(path)
        if not 1 <= batch_size <= MAX_BATCH:
            raise LiteError(f"batch size {batch_size}: must lie in 1..{MAX_BATCH}")
        gguf_file.check(self.path)  # llama.cpp trusts what a file says of itself
        self.batch_size = batch_size
        self.num_threads = num_threads or os.cpu_count() or 1
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._slots: Slots | None = None
        self._model = llama_cpp.llama_model_load_from_file(
            os.fsencode(self.path), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise LiteError(
                f"{self.path}: llama.cpp cannot load it; the file is damaged or too new, export it again"
            )
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.num_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.trained_context = llama_cpp.llama_model_n_ctx_train(self._model)
        self.context_tokens = context_tokens
        self._pieces: dict[int, bytes] = {}
        self._parts: dict[str, tuple[list[int], list[int]]] = {}
        self._is_end = np.fromiter(
            (llama_cpp.llama_vocab_is_eog(self._vocab, token) for token in range(self.num_vocab)),
            bool,
            self.num_vocab,
        )
        self.template = self._meta("tokenizer.chat_template")
        self.has_dial = DIAL in self.template

    def close(self) -> None:
        """Free the model and its context."""
        if self._slots:
            self._slots.close()
            self._slots = None
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _meta(self, key: str) -> str:
        """A text value of the GGUF's metadata; empty where there is none."""
        size = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), None, 0) + 1
        if size <= 1:
            return ""
        buffer = ctypes.create_string_buffer(size)
        llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, size)
        return buffer.value.decode("utf-8")

    def tokenise(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text; `special` turns the text of control tokens into these tokens."""
        data = text.encode("utf-8", errors="replace")
        ids = (llama_cpp.llama_token * (len(data) + 1))()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, special)
        if count < 0:
            raise LiteError(f"{self.path}: its tokenizer failed on {text[:40]!r}; export it again")
        return ids[:count]

    def detokenise(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        return b"".join(map(self._piece, ids)).decode("utf-8", errors="replace")

    def _piece(self, token: int) -> bytes:
        if token not in self._pieces:
            buffer = ctypes.create_string_buffer(512)
            size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            self._pieces[token] = buffer.raw[: max(size, 0)]
        return self._pieces[token]

    def count_tokens(self, text: str) -> int:
        """How many tokens a think span is in this model's tokenizer."""
        return len(self.tokenise(text, special=True))

    def prompt_ids(self, question: str, mode: str) -> list[int]:
        """Token ids of the prompt, up to where the assistant begins.

        `mode` is one of lite.tokens.MODES for a model with a dial, else "base". Raises LiteError where the
        two do not go together.
        """
        if mode not in self._parts:
            self._parts[mode] = self._template_parts(mode)
        head, tail = self._parts[mode]
        text = user_text(question) + (" " if self.has_dial else "")
        return head + self.tokenise(text, special=False) + tail

    def _template_parts(self, mode: str) -> tuple[list[int], list[int]]:
        """The tokens before and after the user's text; our template's instruction belongs to that text."""
        if self.has_dial and mode not in MODES:
            raise LiteError(f"mode {mode!r}: {self.path.name} has a dial; use one of {', '.join(MODES)}")
        if not self.has_dial and mode != BASE:
            raise LiteError(
                f"mode {mode!r}: {self.path.name} has no dial; use {BASE}, or a GGUF that lite made"
            )
        if not self.template:
            raise LiteError(f"{self.path}: no chat template inside; use the GGUF of a chat model")
        bos, eos = llama_cpp.llama_vocab_bos(self._vocab), llama_cpp.llama_vocab_eos(self._vocab)
        dial = {DIAL: round(100 * float(mode))} if mode not in (BASE, POLICY) else {}

        def render(content: str) -> str:
            render_chat = Jinja2ChatFormatter(
                self.template,
                eos_token=self.detokenise([eos]) if eos >= 0 else "",
                bos_token=self.detokenise([bos]) if bos >= 0 else "",
            )
            return render_chat(messages=[{"role": "user", "content": content}], **dial).prompt

        try:
            head, tail = split_template(render)
        except (jinja2.TemplateError, TypeError, ValueError) as fault:  # ValueError: its own raise_exception
            raise LiteError(
                f"{self.path.name}: its chat template fails ({fault}); use another GGUF"
            ) from None
        if self.has_dial:
            lead, control = INSTRUCTION + "\n", " " + control_token(mode)
            if not head.endswith(lead) or not tail.startswith(control):
                raise LiteError(
                    f"{self.path.name}: its template does not put {control.strip()} last; export it again"
                )
            head, tail = head.removesuffix(lead), tail[1:]
        return self.tokenise(head, special=True), self.tokenise(tail, special=True)

    def room(self, prompt: Sequence[int]) -> int:
        """Tokens that a reply to a prompt may have in the model's context. Raises LiteError where there is none."""
        context = min(self.trained_context, self.context_tokens)
        if not 0 < len(prompt) < context:
            raise LiteError(
                f"a prompt of {len(prompt)} tokens leaves no room in {context}; shorten the question"
            )
        return context - len(prompt)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        on_done: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """A reply to each prompt, in their order; `on_done(index, generation)` is called as each ends.

        Temperature 0 is greedy. What a prompt draws depends on `seed` and its place in the list, not on
        the batch. A reply is at most `max_tokens` long, less where the model's context ends before.
        """
        requests = []
        for index, prompt in enumerate(prompts):
            cap = min(max_tokens, self.room(prompt))
            draws = np.random.default_rng([seed, index]).random(cap) if temperature > 0 else None
            requests.append(Request(np.array(prompt, np.int32), cap, draws))
        done: list[Generation | None] = [None] * len(requests)
        if not requests:
            return []

        def finish(index: int, ids: list[int], seconds: float) -> None:
            ended = bool(self._is_end[ids[-1]])
            ids = ids[:-1] if ended else ids
            done[index] = Generation(ids, self.detokenise(ids), seconds, "eos" if ended else "length")
            if on_done:
                on_done(index, done[index])

        slots = self._slots_for(max(len(request.prompt) + request.max_tokens for request in requests))

        def pick(logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
            if temperature <= 0:
                return greedy(logits)
            return sample(logits, slots.uniform[rows, slots.count[rows]], temperature, top_p)

        try:
            slots.run(requests, pick, finish)
        except BaseException:  # what the cells hold is not known any more
            slots.close()
            self._slots = None
            raise
        return done

    def _slots_for(self, longest: int) -> Slots:
        """A context for replies of up to `longest` tokens with their prompt: the one there, or a larger one."""
        if self._slots and self._slots.num_cells < longest:
            self._slots.close()
            self._slots = None
        if not self._slots:
            cells = min(-(-longest // 256) * 256, self.context_tokens)  # llama.cpp counts cells in 256s
            self._slots = Slots(
                self._model,
                self._is_end,
                num_slots=min(self.batch_size, self.context_tokens // cells),
                num_cells=cells,
                num_threads=self.num_threads,
            )
        return self._slots
