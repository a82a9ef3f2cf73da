"""The tiny GGUF's tokenizer in Hugging Face's form, built from the same vocabulary."""

from __future__ import annotations

import tiny_gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from lite.tokens import CONTROL_TOKENS, THINK_CLOSE, THINK_OPEN

SPLIT = (  # Qwen2's
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tiny_tokenizer():
    from transformers import PreTrainedTokenizerFast

    merges = [tuple(merge.split()) for merge in tiny_gguf.MERGES]
    vocabulary = tiny_gguf.byte_alphabet() + ["".join(pair) for pair in merges]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in (*tiny_gguf.SPECIAL, *CONTROL_TOKENS)]
    )
    tokenizer.add_tokens([AddedToken(text, special=False) for text in (THINK_OPEN, THINK_CLOSE)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = tiny_gguf.BASE_TEMPLATE
    return fast
