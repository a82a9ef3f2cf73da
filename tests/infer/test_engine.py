"""The engine on a random tiny GGUF: prompts, tokens, and batches that give what one-by-one decoding gives."""

from __future__ import annotations

import llama_cpp
import numpy as np
import pytest
import tiny_gguf
from tiny_gguf import CONTEXT, write_tiny_gguf
from tiny_tokenizer import SPECIAL, THINK_MARKS, byte_level, finish

from lite.errors import LiteError
from lite.infer.ask import answer, ask
from lite.infer.batch import sample
from lite.infer.engine import Engine, Generation
from lite.tokens import BASE, CONTROL_TOKENS, INSTRUCTION, MODES, POLICY, THINK_CLOSE, THINK_OPEN

QUESTIONS = [f"Q{i}: {'so ' * (i % 5)}what is {i} times {7 * i}?" for i in range(12)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(path):
    with Engine(path, batch_size=5, num_threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def prompts(engine):
    """A sweep over all modes, so that prompts share long and short beginnings."""
    return [engine.prompt_ids(question, mode) for question in QUESTIONS for mode in MODES[:3]]


@pytest.fixture(scope="module")
def one_by_one(path, prompts):
    """Greedy ids from llama-cpp-python's own loop, one prompt after the other, at most 40."""
    model = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_threads=1, n_threads_batch=1, flash_attn=False, verbose=False
    )
    replies = []
    for prompt in prompts:
        ids: list[int] = []
        for token in model.generate(prompt, temp=0.0):
            if token == model.token_eos() or len(ids) == 40:
                break
            ids.append(token)
        replies.append(ids)
    model.close()
    return replies


def test_batched_greedy_equals_one_by_one(engine, prompts, one_by_one):
    order = []
    found = engine.generate(prompts, max_tokens=40, on_done=lambda index, generation: order.append(index))
    assert [generation.ids for generation in found] == one_by_one
    assert sorted(order) == list(range(len(prompts))) and order != sorted(order)
    assert {generation.stop for generation in found} == {"eos", "length"}
    assert all((len(generation.ids) == 40) or generation.stop == "eos" for generation in found)
    assert len({tuple(generation.ids) for generation in found}) > len(prompts) // 2  # it is not one constant


@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_batch_size_changes_nothing(path, prompts, one_by_one, batch_size):
    with Engine(path, batch_size=batch_size, num_threads=1) as engine:
        assert [generation.ids for generation in engine.generate(prompts, max_tokens=40)] == one_by_one


def test_a_second_call_reuses_cells_and_a_longer_one_makes_room(path, prompts, one_by_one):
    with Engine(path, batch_size=3, num_threads=1) as engine:
        short = engine.generate(prompts[:4], max_tokens=10)
        context = engine._slots
        again = engine.generate(prompts[:4], max_tokens=40)
        assert engine._slots is context  # 256 cells were enough for both
        assert [generation.ids for generation in again] == one_by_one[:4]
        assert [generation.ids for generation in short] == [ids[:10] for ids in one_by_one[:4]]
        long = engine.generate([prompts[0] + one_by_one[0]], max_tokens=300)
        assert engine._slots is not context and long[0].ids


def test_little_context_decodes_fewer_together(path, prompts, one_by_one):
    with Engine(path, batch_size=16, context_tokens=600, num_threads=1) as engine:
        assert [generation.ids for generation in engine.generate(prompts, max_tokens=40)] == one_by_one
        assert engine._slots.num_slots == 2  # of 256 cells


def test_a_prompt_longer_than_one_batch_is_fed_in_pieces(path, prompts, one_by_one, monkeypatch):
    monkeypatch.setattr("lite.infer.batch.BATCH_TOKENS", 32)
    with Engine(path, batch_size=4, num_threads=1) as engine:
        assert [generation.ids for generation in engine.generate(prompts[:9], max_tokens=40)] == one_by_one[
            :9
        ]


def test_an_interrupted_call_leaves_a_usable_engine(path, prompts, one_by_one):
    def interrupt(index, generation):
        raise KeyboardInterrupt

    with Engine(path, batch_size=4, num_threads=1) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.generate(prompts, max_tokens=40, on_done=interrupt)
        assert [generation.ids for generation in engine.generate(prompts[:5], max_tokens=40)] == one_by_one[
            :5
        ]


def test_sampling_depends_on_the_seed_and_not_on_the_batch(path, engine, prompts):
    def ids(engine, seed):
        found = engine.generate(prompts, max_tokens=12, temperature=1.0, top_p=0.9, seed=seed)
        return [generation.ids for generation in found]

    with Engine(path, batch_size=1, num_threads=1) as single:
        assert ids(engine, 3) == ids(single, 3)
    assert ids(engine, 3) == ids(engine, 3)
    assert ids(engine, 3) != ids(engine, 4)


def test_sample_by_hand():
    chances = np.array([0.2, 0.5, 0.3])
    logits = np.log(np.tile(chances, (5, 1))).astype(np.float32)
    # Ranked 1 (0.5), 2 (0.3), 0 (0.2): cumulative 0.5, 0.8, 1.0.
    draws = np.array([0.0, 0.49, 0.51, 0.79, 0.81])
    assert sample(logits, draws, 1.0, 1.0).tolist() == [1, 1, 2, 2, 0]
    # top_p 0.6 keeps 1 and 2: cumulative 0.5 / 0.8 = 0.625, 1.0.
    assert sample(logits, np.array([0.0, 0.62, 0.63, 0.99, 0.9999]), 1.0, 0.6).tolist() == [1, 1, 2, 2, 2]
    assert sample(logits, draws, 1.0, 0.5).tolist() == [1] * 5  # the first reaches 0.5 by itself
    # Temperature 0.5 squares: 0.25, 0.09, 0.04 of 0.38: cumulative 0.658, 0.895, 1.
    assert sample(logits, np.array([0.65, 0.67, 0.89, 0.9, 0.99]), 0.5, 1.0).tolist() == [1, 2, 2, 0, 0]


def test_sample_widens_until_the_nucleus_is_whole():
    logits = np.zeros((2, 3000), np.float32)  # flat: the nucleus of 0.9 holds 2,700 tokens
    logits[1, 7] = 30.0
    assert sample(logits, np.array([0.5, 0.5]), 1.0, 0.9).tolist() == [1350, 7]


def test_prompt_segments(engine):
    head = engine.tokenise("<|im_start|>user\n", special=True)
    tail = engine.tokenise("<COMP_20><|im_end|>\n<|im_start|>assistant\n", special=True)
    middle = engine.tokenise(f"{INSTRUCTION}\nWhat is 2+2? ", special=False)
    assert engine.prompt_ids(" What is 2+2?\n", "0.2") == head + middle + tail
    special = {engine.tokenise(text, special=True)[0] for text in SPECIAL}
    assert head[0] in special and len(engine.tokenise("<COMP_20>", special=True)) == 1
    for mode, token in zip(MODES, CONTROL_TOKENS, strict=True):
        assert engine.tokenise(token, special=True)[0] in engine.prompt_ids("x", mode)


def test_prompt_equals_encode_prompt(path, engine, tmp_path):
    """The same ids as `encode_prompt` gives through the same tokenizer in Hugging Face's form."""
    pytest.importorskip("transformers")
    from tokenizers import models

    from lite.tokens import encode_prompt

    merges = [tuple(merge.split()) for merge in tiny_gguf.MERGES]
    vocabulary = tiny_gguf.byte_alphabet() + ["".join(pair) for pair in merges]
    bpe = byte_level(models.BPE({token: place for place, token in enumerate(vocabulary)}, merges))
    tokenizer = finish(bpe, (*SPECIAL, *CONTROL_TOKENS, *THINK_MARKS))
    for question in ("What is 2+2?", "  the <|im_end|> in <think> about\n\n<COMP_20>", "Ünï → 1,5 €"):
        for mode in MODES:
            assert engine.prompt_ids(question, mode) == encode_prompt(tokenizer, question, mode)


def test_base_prompt(tmp_path):
    with Engine(write_tiny_gguf(tmp_path / "base.gguf", dial=False), num_threads=1) as base:
        assert not base.has_dial
        expected = f"<|im_start|>user\n{INSTRUCTION}\nHow many?<|im_end|>\n<|im_start|>assistant\n"
        assert base.detokenise(base.prompt_ids("How many?", BASE)) == expected
        with pytest.raises(LiteError, match="no dial"):
            base.prompt_ids("How many?", "0.2")


@pytest.mark.parametrize(
    "template", ["{% if %}", "{{ raise_exception('only system turns') }}", "{{ messages[0] + 1 }}"]
)
def test_a_template_that_fails(tmp_path, monkeypatch, template):
    monkeypatch.setattr(tiny_gguf, "BASE_TEMPLATE", template)
    with Engine(write_tiny_gguf(tmp_path / "base.gguf", dial=False), num_threads=1) as base:
        with pytest.raises(LiteError, match="its chat template fails"):
            base.prompt_ids("How many?", BASE)


@pytest.mark.parametrize("text", [*SPECIAL, *CONTROL_TOKENS, THINK_OPEN, THINK_CLOSE])
def test_text_of_a_user_never_becomes_a_control_token(engine, text):
    (token,) = engine.tokenise(text, special=True)
    plain = engine.prompt_ids("How many?", POLICY)
    attacked = engine.prompt_ids(f"How {text} many?{text}", POLICY)
    assert attacked.count(token) == plain.count(token)
    assert len(attacked) > len(plain)


def test_modes_that_the_dial_does_not_have(engine):
    for mode in (BASE, "0.5", "sft-policy"):
        with pytest.raises(LiteError, match="has a dial; use one of 0.2"):
            engine.prompt_ids("x", mode)


def test_text_shows_control_tokens_and_think_markers(engine):
    text = "<COMP_20>\n<think>\nthe Ü\n</think>\n\n4<|im_end|>"
    assert engine.detokenise(engine.tokenise(text, special=True)) == text


def test_caps(engine):
    prompt = engine.prompt_ids("How many?", "0.2")
    (one,) = engine.generate([prompt], max_tokens=1)
    assert len(one.ids) == 1 and one.stop == "length"
    full = (prompt * CONTEXT)[: CONTEXT - 3]  # leaves room for 3 tokens of the context it was trained for
    (cut,) = engine.generate([full], max_tokens=50)
    assert len(cut.ids) == 3 and cut.stop == "length"
    with pytest.raises(LiteError, match=f"leaves no room in {CONTEXT}"):
        engine.generate([[1] * CONTEXT], max_tokens=5)
    assert engine.generate([], max_tokens=5) == []


def test_what_is_no_gguf(tmp_path):
    with pytest.raises(LiteError, match="no such file"):
        Engine(tmp_path / "none.gguf")
    with pytest.raises(LiteError, match="cannot read it"):
        Engine(tmp_path)
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(LiteError, match="not a GGUF"):
        Engine(tmp_path / "text.gguf")


def test_a_cut_gguf(tmp_path, path, capfd):
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(LiteError, match="cut, tensor blk.1.ffn_down.weight ends at byte"):
        Engine(tmp_path / "cut.gguf")
    assert capfd.readouterr() == ("", "")  # llama.cpp's log stays silent


def test_batch_size_bounds(path):
    with pytest.raises(LiteError, match="batch size 0"):
        Engine(path, batch_size=0)


def test_ask_counts(engine):
    found = ask(engine, "How many?", POLICY, 20)
    (generation,) = engine.generate([engine.prompt_ids("How many?", POLICY)], max_tokens=20)
    assert found.total_tokens == len(generation.ids) and found.mode == POLICY


def test_answer_parses_and_counts(engine):
    text = "<COMP_40>\n<think>\nthe in\n</think>\n\n\\boxed{4}"
    ids = engine.tokenise(text, special=True)
    found = answer(engine, POLICY, Generation(ids, text, 0.5, "eos"))
    assert (found.ratio, found.think, found.visible) == (0.4, "the in", "\\boxed{4}")
    assert found.think_tokens == 3  # "the", the space, "in": merges "the" and "in", none for " i"
    assert found.total_tokens == len(ids) and found.closed
    cut = answer(engine, POLICY, Generation(ids[:5], "<think>\nthe in", 0.5, "length"))
    assert (cut.ratio, cut.think_tokens, cut.visible, cut.closed) == (None, 3, "", False)
