"""Annotators: rules and clauses by hand, the likelihood search on models whose answers are known."""

import numpy as np
import pytest

from lite.compress.annotate import Likelihood, Rules, merge, to_labels
from lite.compress.units import clauses, segment
from lite.config import Annotate
from lite.schema import Trace

CONFIG = Annotate(max_drop=0.1, num_rounds=4, batch_tokens=600)


def trace(think, answer="8", visible="The answer is \\boxed{8}."):
    return Trace("p/0", "How many?", answer, think, visible)


def kept_text(trace, kept):
    units = segment(trace.think)
    return [trace.think[units[i].start : units[i].end] for i in kept]


def test_rules():
    example = trace("He has 12 apples. So 12+5=17. Good.")
    [kept] = Rules().keep([example])
    assert kept_text(example, kept) == ["12", "12+5=17."]


def test_clauses_by_hand():
    text = "First, he buys 5 more. So\nnow 12+5=17. Yes"
    groups = [
        [text[u.start : u.end] for u in (segment(text)[i] for i in group)]
        for group in clauses(text, segment(text))
    ]
    assert groups == [["First,"], ["he", "buys", "5", "more."], ["So"], ["now"], ["12+5=17."], ["Yes"]]


def test_merge_puts_neighbours_together():
    assert merge([[0], [1, 2], [3]], 3) == [[0], [1, 2], [3]]
    assert merge([[0], [1, 2], [3], [4], [5]], 2) == [[0, 1, 2], [3, 4, 5]]


def test_labels_span_neighbours_and_cut_no_unit():
    labels = to_labels(trace("He has 12 apples. So 12+5=17. Good."), [1, 2, 5])
    assert labels.keep == [[3, 9], [21, 29]]
    assert [labels.think[a:b] for a, b in labels.keep] == ["has 12", "12+5=17."]
    assert to_labels(trace("He has"), []).keep == []


class Copier:
    """A causal "model" that finds a token likely (4 nats more than another) once it has stood in the text."""

    def __init__(self, num_tokens):
        import torch

        self.num_tokens, self.device, self.dtype = num_tokens, torch.device("cpu"), torch.float32

    def get_decoder(self):
        import torch

        def decoder(input_ids, attention_mask, **_):
            attended = (attention_mask[:, 0] == 0).float()  # (B, T, T)
            tokens = torch.nn.functional.one_hot(input_ids, self.num_tokens).float()
            seen = (attended @ tokens).clamp(max=1)  # (B, T, V)
            return type("Output", (), {"last_hidden_state": 4.0 * seen})

        return decoder

    def get_output_embeddings(self):
        return lambda hidden: hidden


def test_likelihood_keeps_what_later_numbers_copy(tokenizer):
    example = trace("Well, 12+5=17. Nice weather today, I think. Then 3+3=6. Now 17-9=8. Yes, that is right.")
    [kept] = Likelihood(Copier(len(tokenizer)), tokenizer, Annotate(max_drop=1.0)).keep([example])
    # The answer copies 8; 17-9=8 copies 17; nothing copies 3+3=6, and no digit copies a word.
    assert kept_text(example, kept) == ["12+5=17.", "17-9=8."]


def test_likelihood_drops_one_of_two_that_say_the_same(tokenizer):
    example = trace("First 12+5=17. So now it is 17 in all. Then 17-9=8.")
    [kept] = Likelihood(Copier(len(tokenizer)), tokenizer, Annotate(max_drop=1.0)).keep([example])
    assert kept_text(example, kept) == ["12+5=17.", "17-9=8."]  # the restated 17 went first


def plain_log_p(model, tokenizer, example, think, owner_text):
    """Log p of the digits of `owner_text` (its last occurrence in the reply), one sequence, straight."""
    import torch

    prompt = tokenizer.encode(f"{example.question}\n", add_special_tokens=False)
    reply = f"{think}\n{example.visible}"
    coded = tokenizer(reply, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor([prompt + coded["input_ids"]])
    with torch.inference_mode():
        log_p = model(input_ids=ids).logits[0].log_softmax(-1)
    begin = reply.rindex(owner_text)
    digits = [begin + at for at, character in enumerate(owner_text) if character.isdigit()]
    return sum(
        log_p[len(prompt) + at - 1, ids[0, len(prompt) + at]].item()
        for at, (a, b) in enumerate(coded["offset_mapping"])
        if any(a <= digit < b for digit in digits)
    )


def test_log_p_is_the_model_s_own_whatever_the_batch(reasoner, tokenizer):
    example = trace("Well, 12+5=17. Then it is 17-9=8. Yes.")
    search = Likelihood(reasoner, tokenizer, CONFIG)
    state = search._start(example)
    variants = [[0, 1, 2, 3, 4, 5, 6], [1, 5], [0, 5, 6], []]  # of Well, 12+5=17. Then it is 17-9=8. Yes.
    found = search._log_p([(state, kept) for kept in variants])
    texts = ["Well, 12+5=17. Then it is 17-9=8. Yes.", "12+5=17. 17-9=8.", "Well, 17-9=8. Yes.", ""]
    for kept, text, values in zip(variants, texts, found, strict=True):
        expected = np.zeros(8)
        if 1 in kept:
            expected[1] = plain_log_p(reasoner, tokenizer, example, text, "12+5=17.")
        if 5 in kept:
            expected[5] = plain_log_p(reasoner, tokenizer, example, text, "17-9=8.")
        expected[7] = plain_log_p(reasoner, tokenizer, example, text, "8}")
        assert values == pytest.approx(expected, abs=1e-3)


def test_what_stands_before_a_removed_unit_costs_nothing(reasoner, tokenizer):
    example = trace("Well, 12+5=17. Then it is 17-9=8. Yes.")
    search = Likelihood(reasoner, tokenizer, CONFIG)
    state = search._start(example)
    [state.base] = search._log_p([(state, state.alive)])
    [(cost, left)] = search._costs([(state, {6})])
    assert left[[1, 5]] == pytest.approx(state.base[[1, 5]], abs=1e-4)
    assert cost == pytest.approx(state.base[7] - left[7], abs=1e-3)


def test_kept_units_are_ascending_and_the_cost_is_bounded(reasoner, tokenizer, traces):
    search = Likelihood(reasoner, tokenizer, Annotate(max_drop=0.5, num_rounds=2, batch_tokens=4000))
    for example, kept in zip(traces[:3], search.keep(traces[:3]), strict=True):
        assert kept == sorted(set(kept)) and len(kept) < len(segment(example.think))
