"""Cutting texts to ratios, in a real tokenizer."""

import random

import pytest

from lite.compress.compress import ASKED, cohere, compress, encoder, token_splitter
from lite.compress.select import random_scores
from lite.compress.units import segment


def by_words(texts):
    """A tokenizer of one token per white-space word."""
    offsets = []
    for text in texts:
        found, at = [], 0
        for word in text.split():
            at = text.index(word, at)
            found.append((at, at + len(word)))
            at += len(word)
        offsets.append(found)
    return offsets


def test_by_hand():
    # units: So, | 12 + 5 = 17. (5 words) | which | is | right.   9 tokens
    text = "So, 12 + 5 = 17. which is right."
    scores = [0.1, 0.9, 0.4, 0.3, 0.2]
    [found] = compress([text], [scores], (0.25, 0.6, 0.7, 1.0), by_words)
    assert found == [
        ("which is", 2, 9),  # floor(2.25) = 2: the equation does not fit
        ("12 + 5 = 17.", 5, 9),
        ("12 + 5 = 17. which", 6, 9),
        (text, 9, 9),
    ]


def test_token_wise_cuts_formulas():
    text = "So, 12 + 5 = 17. right"
    split = token_splitter(by_words)
    assert [text[unit.start : unit.end] for unit in split(text)] == text.split()
    [[(short, *counts)]] = compress([text], [[0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.0]], (0.45,), by_words, split)
    assert (short, counts) == ("12 5 17.", [3, 7])


def test_scores_by_clause():
    # clauses: "So, " | "it is" | "3 + 4 = 7." | "Yes it is."
    text = "So, it is 3 + 4 = 7. Yes it is."
    scores = [0.2, 0.1, 0.3, 0.9, 0.6, 0.3, 0.0]
    assert cohere(text, scores, 0.0).tolist() == scores
    assert cohere(text, scores, 1.0) == pytest.approx([0.2, 0.2, 0.2, 0.9, 0.3, 0.3, 0.3])
    assert cohere(text, scores, 0.5) == pytest.approx([0.2, 0.15, 0.25, 0.9, 0.45, 0.3, 0.15])
    assert cohere("", [], 1.0).tolist() == []


def test_no_trace_and_wrong_scores():
    assert compress([], [], ASKED, by_words) == []
    with pytest.raises(ValueError, match="2 scores for 1 units"):
        compress(["one"], [[1, 2]], ASKED, by_words)


def test_exact_counts_land_on_the_asked_ratio(traces, tokenizer):
    texts = [trace.think for trace in traces]
    scores = [random_scores(len(segment(text)), index) for index, text in enumerate(texts)]
    encode = encoder(tokenizer)
    for text, row in zip(texts, compress(texts, scores, ASKED, encode), strict=True):
        whole = len(tokenizer.encode(text, add_special_tokens=False))
        for asked, (short, num_tokens, of) in zip(ASKED, row, strict=True):
            assert of == whole and num_tokens == len(tokenizer.encode(short, add_special_tokens=False))
            assert abs(num_tokens / whole - asked) <= 0.05


def test_kept_numbers_and_formulas_are_whole_at_every_ratio(random_text, tokenizer):
    rng = random.Random(3)
    texts = [text for text in (random_text(rng) for _ in range(60)) if text.strip()]
    scores = [random_scores(len(segment(text)), index) for index, text in enumerate(texts)]
    for text, row in zip(texts, compress(texts, scores, ASKED, encoder(tokenizer)), strict=True):
        known = {text[u.start : u.end] for u in segment(text)}
        for short, _, _ in row:
            rest = short
            for piece in sorted((k for k in known if not k.isalpha()), key=len, reverse=True):
                rest = rest.replace(piece, " ")
            assert not any(character.isdigit() for character in rest), (text, short)
