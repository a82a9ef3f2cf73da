"""The tests' tokenizers: a small byte-level BPE with Qwen2's split, a chat template and our tokens."""

from __future__ import annotations

from collections.abc import Iterable

from lite.tokens import CONTROL_TOKENS, THINK_CLOSE, THINK_OPEN

SPECIAL = PAD, START, END = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK_MARKS = (THINK_OPEN, THINK_CLOSE)
SPLIT = (  # as Qwen2's tokenizer.json spells it
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def byte_level(model):
    """A `tokenizers.Tokenizer` around a BPE model."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers

    bpe = Tokenizer(model)
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    return bpe


def finish(bpe, added: Iterable[str]):
    """The Hugging Face tokenizer, `added` tokens last, in their order; all but the think marks are special."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    for text in added:
        add, special = (bpe.add_tokens, False) if text in THINK_MARKS else (bpe.add_special_tokens, True)
        add([AddedToken(text, special=special)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE
    )


def tiny_tokenizer(texts: Iterable[str] = (), size: int = 256, control: bool = True):
    """`size` tokens, the 256 bytes and merges learnt from `texts`; then three special ones, two think marks and, for
    a model that has learnt the dial, six control tokens."""
    from tokenizers import models, pre_tokenizers, trainers

    bpe = byte_level(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return finish(bpe, (*SPECIAL, *THINK_MARKS, *(CONTROL_TOKENS if control else ())))
