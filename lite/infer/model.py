"""A GGUF loaded in llama.cpp: its text and tokens, and what its metadata says."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp

from lite.errors import LiteError
from lite.gguf import check
from lite.gguf.calibration import of_gguf
from lite.gguf.llama_build import model_params
from lite.infer.grammar import Grammar
from lite.infer.limits import Lexicon


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp's log goes nowhere; what matters of it reaches the user as a LiteError."""


class Pieces(dict[int, bytes]):
    """The text of every token, special tokens shown; asked of llama.cpp once."""

    def __init__(self, vocab: int):
        super().__init__()
        self._vocab = vocab

    def __missing__(self, token: int) -> bytes:
        size = -llama_cpp.llama_token_to_piece(self._vocab, token, None, 0, 0, True)
        buffer = ctypes.create_string_buffer(max(size, 1))
        llama_cpp.llama_token_to_piece(self._vocab, token, buffer, max(size, 0), 0, True)
        piece = self[token] = buffer.raw[: max(size, 0)]
        return piece


class Model:
    """Weights and vocabulary. `calibration` is None where the GGUF carries none.

    Raises LiteError for a file that is not there, is no sound GGUF, or that llama.cpp cannot load.
    """

    def __init__(self, path: Path):
        self.handle = None
        self.path = path
        container = check.check(path)
        self.template, self.calibration = container.template, of_gguf(container)
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), model_params())
        if not self.handle:
            raise LiteError(
                f"{path}: llama.cpp cannot load it; the file is damaged or too new, export it again"
            )
        self._vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self.num_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        # Its state holds all tokens or none: none can be taken back.
        self.is_recurrent = llama_cpp.llama_model_is_recurrent(
            self.handle
        ) or llama_cpp.llama_model_is_hybrid(self.handle)
        self.trained_context = llama_cpp.llama_model_n_ctx_train(self.handle)
        ends = (token for token in range(self.num_vocab) if llama_cpp.llama_vocab_is_eog(self._vocab, token))
        self.lexicon = Lexicon(
            Pieces(self._vocab), frozenset(ends), lambda text: self.tokenise(text, special=True)
        )

    def close(self) -> None:
        """Free the weights."""
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = None

    def tokenise(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text; `special` turns the text of control tokens into these tokens."""
        data = text.encode("utf-8", errors="replace")
        ids = (llama_cpp.llama_token * (len(data) + 1))()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, special)
        if count < 0:
            raise LiteError(f"{self.path}: its tokenizer failed on {text[:40]!r}; export it again")
        return ids[:count]

    def grammar(self, text: str) -> Grammar:
        """A grammar (GBNF) over this vocabulary, at its beginning."""
        return Grammar(self._vocab, text)

    def bytes_of(self, ids: list[int]) -> bytes:
        """The text of token ids, special tokens shown."""
        return b"".join(map(self.lexicon.pieces.__getitem__, ids))

    def special_text(self) -> tuple[str, str]:
        """The texts of BOS and EOS; empty where the vocabulary has none."""
        tokens = llama_cpp.llama_vocab_bos(self._vocab), llama_cpp.llama_vocab_eos(self._vocab)
        bos, eos = (self.bytes_of([token]).decode(errors="replace") if token >= 0 else "" for token in tokens)
        return bos, eos
