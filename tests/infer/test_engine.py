"""The engine on a random tiny GGUF: prompts, and batches that give what one-by-one decoding gives."""

from __future__ import annotations

import json
import re
import threading
import time

import llama_cpp
import numpy as np
import pytest
import tiny_gguf
from tiny_gguf import CONTEXT, write_tiny_gguf
from tiny_tokenizer import SPECIAL, THINK_MARKS, byte_level, finish

from lite.errors import LiteError
from lite.infer import controller, reply_parser, scheduler
from lite.infer.engine import Engine
from lite.infer.grammar import of_schema
from lite.infer.request import Ask, Busy, Message, question
from lite.tokens import BASE, CONTROL_TOKENS, INSTRUCTION, MODES, POLICY, THINK_CLOSE, THINK_OPEN

QUESTIONS = [f"Q{i}: {'so ' * (i % 5)}what is {i} times {7 * i}?" for i in range(12)]
# A sweep over modes, so that prompts share long and short beginnings.
ASKS = [question(text, mode, max_tokens=40) for text in QUESTIONS for mode in MODES[:3]]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def engine(path):
    with Engine(path, batch_size=5, num_threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def one_by_one(path, engine):
    """Greedy texts from llama-cpp-python's own loop, one prompt after the other, at most 40 tokens."""
    model = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_threads=1, n_threads_batch=1, flash_attn=False, verbose=False
    )
    replies = []
    for ask in ASKS:
        ids: list[int] = []
        for token in model.generate(engine.prompt(ask).ids, temp=0.0):
            if token == model.token_eos() or len(ids) == 40:
                break
            ids.append(token)
        replies.append(text_of(engine, ids))
    model.close()
    return replies


def text_of(engine, ids):
    return engine.model.bytes_of(ids).decode("utf-8", errors="replace")


def texts(answers):
    """Replies as they are written, but for half a character that a cut may leave at their end."""
    return [answer.text.rstrip("�") for answer in answers]


def same_texts(answers, expected):
    """Whether replies are those of the bare model; where it writes a think marker that means nothing, up to there."""
    found = texts(answers)
    assert len(found) == len(expected)
    kept = [re.split("</?think>", text)[0].rstrip("�") for text in expected]
    whole = [head == text.rstrip("�") for head, text in zip(kept, expected, strict=True)]
    assert sum(whole) > len(whole) // 2
    return all(
        text == head if is_whole else text.startswith(head)
        for text, head, is_whole in zip(found, kept, whole, strict=True)
    )


def test_batched_greedy_equals_one_by_one(engine, one_by_one):
    order = []
    found = engine.generate(ASKS, on_done=lambda index, answer: order.append(index))
    assert same_texts(found, one_by_one)
    assert sorted(order) == list(range(len(ASKS))) and order != sorted(order)
    assert {answer.stop for answer in found} == {"eos", "length"}
    assert all((answer.total_tokens == 40) or answer.stop == "eos" for answer in found)
    assert len(set(texts(found))) > len(ASKS) // 2  # it is not one constant


@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_batch_size_changes_nothing(path, one_by_one, batch_size):
    with Engine(path, batch_size=batch_size, num_threads=1) as engine:
        assert same_texts(engine.generate(ASKS), one_by_one)


def test_submitted_in_any_order_from_many_threads(engine, one_by_one):
    answers = [None] * len(ASKS)

    def client(start):
        for index in range(start, len(ASKS), 6):
            answers[index] = engine.submit(ASKS[index]).answer()

    threads = [threading.Thread(target=client, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same_texts(answers, one_by_one)
    assert engine.num_running == engine.num_waiting == 0


def test_a_second_call_reuses_cells_and_a_longer_one_makes_room(path, one_by_one):
    with Engine(path, batch_size=3, num_threads=1) as engine:
        short = engine.generate(
            [question(ask.messages[0].content, ask.mode, max_tokens=10) for ask in ASKS[:4]]
        )
        slots = engine._loop._slots
        again = engine.generate(ASKS[:4])
        assert engine._loop._slots is slots  # 256 cells were enough for both
        assert same_texts(again, one_by_one[:4])
        assert all(long.startswith(cut) for cut, long in zip(texts(short), one_by_one, strict=False))
        engine.submit(question(QUESTIONS[0], "0.2", max_tokens=300)).answer()
        assert engine._loop._slots is not slots and engine._loop._slots.num_cells == 512


def test_prefixes_are_computed_once(path, monkeypatch):
    fed = []
    decode = scheduler.Slots._decode
    monkeypatch.setattr(
        scheduler.Slots, "_decode", lambda self, size: (fed.append(size), decode(self, size))[1]
    )
    with Engine(path, batch_size=5, num_threads=1) as engine:
        asks = [question(QUESTIONS[4], mode, max_tokens=1) for mode in MODES[:5]]
        lengths = {len(engine.prompt(ask).ids) for ask in asks}
        engine.generate(asks)
    assert len(lengths) == 1
    tail = ["<COMP_20>", "<|im_end|>", "\n", "<|im_start|>", *"assistant", "\n"]  # what differs, and follows
    assert sum(fed) == lengths.pop() + 4 * len(tail)


def test_little_context_decodes_fewer_together(path, one_by_one):
    with Engine(path, batch_size=16, context_tokens=600, num_threads=1) as engine:
        assert same_texts(engine.generate(ASKS), one_by_one)
        assert engine._loop._slots.num_slots == 2  # of 256 cells


@pytest.mark.parametrize("size", [3, 8, 32])
def test_a_long_prompt_is_fed_in_portions_and_never_by_single_tokens(path, one_by_one, monkeypatch, size):
    """One token of a sequence is rounded otherwise than several: its reply would depend on the portions."""
    portions = []
    feed = scheduler.Slots._feed
    monkeypatch.setattr("lite.infer.batch.BATCH_TOKENS", size)
    monkeypatch.setattr(
        scheduler.Slots, "_feed", lambda self, slot, size: (portions.append(size), feed(self, slot, size))[1]
    )
    with Engine(path, batch_size=3, num_threads=1) as engine:
        assert same_texts(engine.generate(ASKS[:9]), one_by_one[:9])
    assert 2 <= min(portions) < max(portions) <= size


def test_a_model_whose_state_is_all_or_nothing(path, one_by_one, monkeypatch):
    """Recurrent models: llama.cpp says that it cannot remove a part, and does not."""
    remove = llama_cpp.llama_memory_seq_rm

    def all_or_nothing(memory, slot, start, end):
        return start <= 0 and remove(memory, slot, start, end)

    monkeypatch.setattr(llama_cpp, "llama_memory_seq_rm", all_or_nothing)
    monkeypatch.setattr(llama_cpp, "llama_model_is_recurrent", lambda handle: True)
    with Engine(path, batch_size=3, num_threads=1) as engine:
        assert same_texts(engine.generate(ASKS), one_by_one)
        with pytest.raises(LiteError, match="budget 40: tiny.gguf is recurrent .*; leave the budget out"):
            engine.submit(question("How many?", None, budget=40))


def test_an_interrupted_call_leaves_a_usable_engine(path, one_by_one):
    def interrupt(index, answer):
        raise KeyboardInterrupt

    with Engine(path, batch_size=4, num_threads=1) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.generate(ASKS, on_done=interrupt)
        assert same_texts(engine.generate(ASKS[:5]), one_by_one[:5])


def test_a_fault_of_the_decoder_fails_who_runs_and_nobody_after(path, one_by_one, monkeypatch):
    with Engine(path, batch_size=2, num_threads=1) as engine:
        with monkeypatch.context() as broken:
            broken.setattr(llama_cpp, "llama_decode", lambda *_: 2)
            with pytest.raises(LiteError, match="stopped with code 2"):
                engine.submit(ASKS[0]).answer()
        assert same_texts([engine.submit(ASKS[0]).answer()], one_by_one[:1])


def test_no_memory_for_a_context(path, monkeypatch):
    with Engine(path, num_threads=1) as engine:
        with monkeypatch.context() as broken:
            broken.setattr(llama_cpp, "llama_init_from_model", lambda *_: None)
            with pytest.raises(LiteError, match="no memory for 4096 tokens"):
                engine.submit(ASKS[0]).answer()
        assert engine.submit(ASKS[0]).answer().total_tokens


def test_pieces_are_the_answer(engine):
    stream = engine.submit(ASKS[3])
    pieces, answer = list(stream), stream.answer()
    assert "".join(piece.text for piece in pieces).rstrip("�") == answer.visible.rstrip("�")
    assert {piece.kind for piece in pieces} == {"answer"} and list(stream) == []
    assert sum(piece.num_tokens for piece in pieces) <= answer.total_tokens == 40
    events = []
    engine.submit(ASKS[3], events.append).answer()
    while not events or events[-1] is not None:
        time.sleep(0.001)
    assert events[:-1] == pieces


@pytest.mark.parametrize("lead", ["", "<COMP_100>\n", "\n\n<COMP_100> "])
def test_thinking_that_was_never_opened(engine, monkeypatch, lead):
    """It is streamed as an answer; that it was thinking is known when it is closed."""
    thought, said = "12 + 5 <= 17, so 17.", "It is 17."
    ids = engine.model.tokenise(f"{lead}{thought}\n{THINK_CLOSE}\n\n{said}", special=True)
    writes = iter([*ids, *engine.model.lexicon.ends])
    monkeypatch.setattr(scheduler.Slots, "_choose", lambda *_: np.array([next(writes)]))
    stream = engine.submit(ASKS[0])
    written = stream.answer()
    read = engine.read(ASKS[0], ids, seconds=written.seconds, stop="eos")
    assert written == read and (read.think, read.visible) == (thought, said)
    assert read.has_think and read.closed and read.ratio == (1.0 if lead else None)
    assert read.think_tokens == len(engine.model.tokenise(thought, special=False))
    pieces = list(stream)
    assert {piece.kind for piece in pieces} == {"answer"}
    assert "".join(piece.text for piece in pieces) == f"{thought}\n\n{said}"  # no marker is shown


@pytest.fixture
def thinking(tmp_path, monkeypatch):
    """A GGUF whose template opens the think span, so that a random model thinks."""
    template = tiny_gguf.BASE_TEMPLATE + "{%- if add_generation_prompt -%}{{ '<think>\\n' }}{%- endif -%}"
    monkeypatch.setattr(tiny_gguf, "BASE_TEMPLATE", template)
    with Engine(write_tiny_gguf(tmp_path / "think.gguf", dial=False), batch_size=4, num_threads=1) as engine:
        yield engine


def test_what_is_taken_back_leaves_no_trace(thinking, monkeypatch):
    """Thinking of 40 tokens taken back to 30 goes on as thinking that was closed at 30."""

    def asks(budget):
        asked = {"budget": budget, "max_tokens": 300, "instruction": INSTRUCTION}
        return [question(f"How many? {i}", BASE, **asked) for i in range(8)]

    monkeypatch.setattr(controller, "unfinished", lambda text: (0, 0))
    closed_at_30 = thinking.generate(asks(30))
    monkeypatch.setattr(reply_parser.Reader, "at_end_of_sentence", lambda self, piece: self.num_tokens == 30)
    monkeypatch.setattr(controller, "WIND_DOWN", 1.0)
    taken_back = thinking.generate(asks(40))
    assert texts(taken_back) == texts(closed_at_30)
    assert {answer.stop for answer in taken_back} == {"budget"} and len(set(texts(taken_back))) == 8
    assert all(answer.closed and 20 < answer.think_tokens <= 30 for answer in taken_back)
    again = thinking.generate(asks(40)[::-1])  # cells that slots hold are what they are said to be
    assert texts(again) == texts(taken_back)[::-1]


def test_cancel(path):
    with Engine(path, batch_size=1, num_threads=1) as engine:
        first = engine.submit(question("one", "0.2", max_tokens=400))
        second, third = (engine.submit(question(text, "0.2", max_tokens=5)) for text in ("two", "three"))
        second.cancel()
        next(iter(first))
        first.cancel()
        cut, never = first.answer(), second.answer()
        assert cut.stop == "cancelled" and 0 < cut.total_tokens < 400
        assert never.stop == "cancelled" and never.total_tokens == 0
        assert third.answer().total_tokens == 5
        again = engine.submit(question("one", "0.2", max_tokens=cut.total_tokens)).answer()
        assert again.text == cut.text  # the cells that were left behind are what they are said to be
        last = engine.submit(question("four", "0.2", max_tokens=400))
    assert last.answer().stop == "cancelled"  # closing the engine ends what runs
    with pytest.raises(LiteError, match="the engine is closed"):
        engine._loop.submit([], limited=False)


@pytest.mark.parametrize("before", [0, 3])
def test_a_burst_of_slots_and_queue_loses_none(path, before):
    with Engine(path, batch_size=3, num_threads=1, max_waiting=4) as engine:
        for _ in range(before):  # whatever ran before
            engine.submit(question("long", "0.2", max_tokens=300)).answer()
        for _ in range(3):
            streams = [engine.submit(question(f"{i}", "0.2", max_tokens=9)) for i in range(7)]
            assert all(stream.answer().total_tokens for stream in streams)
            while engine.num_running:
                time.sleep(0.001)


def test_the_queue_has_an_end(path):
    with Engine(path, batch_size=1, num_threads=1, max_waiting=2) as engine:
        running = engine.submit(question("one", "0.2", max_tokens=400))
        next(iter(running))
        waiting = [engine.submit(question("two", "0.2", max_tokens=1)) for _ in range(2)]
        assert (engine.num_running, engine.num_waiting) == (1, 2)
        with pytest.raises(Busy, match="2 requests wait already"):
            engine.submit(question("three", "0.2"))
        waiting[0].cancel()
        waiting[0].answer()
        engine.submit(question("three", "0.2", max_tokens=1))
        running.cancel()


def test_sampling_depends_on_the_seed_and_not_on_the_batch(path, engine):
    def sampled(engine, seed):
        asks = [
            Ask(ask.messages, ask.mode, max_tokens=12, temperature=1.0, top_p=0.9, seed=seed + index)
            for index, ask in enumerate(ASKS)
        ]
        return texts(engine.generate(asks))

    with Engine(path, batch_size=1, num_threads=1) as single:
        assert sampled(engine, 3) == sampled(single, 3)
    assert sampled(engine, 3) == sampled(engine, 3)
    assert sampled(engine, 3) != sampled(engine, 4)


def test_greedy_and_sampled_requests_share_a_batch(engine, one_by_one):
    mixed = [
        Ask(ask.messages, ask.mode, max_tokens=40, temperature=float(i % 2)) for i, ask in enumerate(ASKS)
    ]
    found = texts(engine.generate(mixed))
    assert found[::2] == [text.rstrip("�") for text in one_by_one[::2]]
    assert found[1::2] != [text.rstrip("�") for text in one_by_one[1::2]]


def test_prompt_equals_encode_prompt(engine):
    """The same ids as `encode_prompt` gives through the same tokenizer in Hugging Face's form."""
    pytest.importorskip("transformers")
    from tokenizers import models

    from lite.tokens import encode_prompt

    merges = [tuple(merge.split()) for merge in tiny_gguf.MERGES]
    vocabulary = tiny_gguf.byte_alphabet() + ["".join(pair) for pair in merges]
    bpe = byte_level(models.BPE({token: place for place, token in enumerate(vocabulary)}, merges))
    tokenizer = finish(bpe, (*SPECIAL, *CONTROL_TOKENS, *THINK_MARKS))
    for text in ("What is 2+2?", "  the <|im_end|> in <think> about\n\n<COMP_20>", "Ünï → 1,5 €"):
        for mode in MODES:
            assert engine.prompt(question(text, mode)).ids == encode_prompt(tokenizer, text, mode)


def test_base_prompt(tmp_path):
    with Engine(write_tiny_gguf(tmp_path / "base.gguf", dial=False), num_threads=1) as base:
        assert not base.has_dial and base.mode(question("x", None)) == BASE
        for asked, before in (
            (None, ""),
            ("", ""),
            (INSTRUCTION, f"{INSTRUCTION}\n"),
            ("Be brief.", "Be brief.\n"),
        ):
            prompt = base.prompt(question(" How many? ", BASE, instruction=asked))  # a prompt is its user's
            expected = f"<|im_start|>user\n{before} How many? <|im_end|>\n<|im_start|>assistant\n"
            assert text_of(base, prompt.ids) == expected and prompt.asks == (asked == INSTRUCTION)
        with pytest.raises(LiteError, match="no dial"):
            base.prompt(question("How many?", "0.2"))


def test_a_template_that_opens_the_think_span(thinking):
    stream = thinking.submit(question("How many?", BASE, max_tokens=20))
    answer = stream.answer()
    assert {piece.kind for piece in stream} == {"think"}
    assert answer.has_think and not answer.closed and answer.think_tokens and not answer.visible
    off = thinking.submit(question("How many?", BASE, thinking=False, max_tokens=20)).answer()
    assert off.closed and not off.think and off.visible


R1 = "{% for m in messages %}<U>{{ m.content | trim }}{% endfor %}{% if add_generation_prompt %}<A>"


@pytest.mark.parametrize(
    "end, on, off",
    [
        ("<think>\n", "<A><think>\n", "<A><think>\n\n</think>\n\n"),  # opened always
        ("<think>", "<A><think>", "<A><think>\n</think>\n\n"),
        ("{% if thinking %}<think>{% else %}</think>{% endif %}", "<A><think>", "<A></think>"),
        (
            "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
            "<A>",
            "<A><think>\n\n</think>\n\n",
        ),
        ("", "<A>", "<A><think>\n\n</think>\n\n"),  # the vocabulary has the markers
    ],
)
def test_thinking_off_closes_what_a_template_has_opened(tmp_path, monkeypatch, end, on, off):
    monkeypatch.setattr(tiny_gguf, "BASE_TEMPLATE", R1 + end + "{% endif %}")
    with Engine(write_tiny_gguf(tmp_path / "x.gguf", dial=False), num_threads=1) as engine:
        for thinking, expected in ((True, on), (False, off)):
            prompt = engine.prompt(question(" one ", BASE, thinking=thinking))
            assert text_of(engine, prompt.ids) == "<U>one" + expected  # trimmed, as the template does
            assert (prompt.phase is reply_parser.Phase.ANSWER) == (not thinking)


def test_a_lean_shifts_what_policy_chooses(engine, monkeypatch):
    seen = []
    choose = scheduler.Slots._choose
    monkeypatch.setattr(
        scheduler.Slots, "_choose", lambda *given: (seen.append(found := choose(*given)), found)[1]
    )
    ratios = [engine.model.tokenise(token, special=True)[0] for token in CONTROL_TOKENS[:5]]
    for lean, expected in ((100, ratios[-1]), (-100, None), (0, None)):
        seen.clear()
        engine.submit(question("How many?", POLICY, lean=lean, max_tokens=3)).answer()
        assert (seen[0][0] == ratios[-1]) == (expected == ratios[-1])
    for asked in ({"mode": "0.2"}, {"mode": BASE}):
        with pytest.raises(LiteError, match="lean|has a dial"):
            engine.submit(question("How many?", lean=1, **asked))


SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}, "sure": {"type": "boolean"}},
          "required": ["answer", "sure"], "additionalProperties": False}  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("fields", [{}, {"thinking": False}, {"budget": 8}])
def test_json_obeys_its_schema(engine, thinking, temperature, fields):
    """Whatever a random model would say, batched, after its thinking, and within a budget."""
    grammar = of_schema(SCHEMA)
    for each, mode in ((engine, "0.2"), (thinking, BASE)):
        if each is thinking and not fields:
            fields = {"budget": 20}  # it never ends its thinking by itself
        asks = [
            question(
                f"{i}?", mode, grammar=grammar, max_tokens=200, temperature=temperature, seed=i, **fields
            )
            for i in range(6)
        ]
        for answer in each.generate(asks):
            found = json.loads(answer.visible)
            assert answer.stop in ("eos", "budget") and {*found} == {"answer", "sure"}
            assert type(found["answer"]) is int and type(found["sure"]) is bool


def test_a_text_goes_on_as_it_is(engine):
    """Special tokens are special there, blanks and markers stay, and pieces are the answer."""
    text = "<|im_start|>user\nHow many? <COMP_20>"
    stream = engine.submit(Ask(prompt=text, max_tokens=30))
    answer, pieces = stream.answer(), list(stream)
    ids = engine.model.tokenise(text, special=True)
    assert answer.prompt_tokens == len(ids) and answer.visible == answer.text and not answer.think
    assert "".join(piece.text for piece in pieces).rstrip("\ufffd") == answer.text.rstrip("\ufffd")
    again = engine.submit(Ask(prompt=tuple(ids), max_tokens=30)).answer()
    assert again.text == answer.text
    stop = answer.text[3:5]
    cut = engine.submit(Ask(prompt=text, max_tokens=30, stop=(stop,))).answer()
    assert cut.text == answer.text[: answer.text.index(stop)] and cut.stop == "stop"
    with pytest.raises(LiteError, match="token 9999: tiny.gguf has"):
        engine.submit(Ask(prompt=(9999,)))


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ raise_exception('only system turns') }}",
        "{{ messages[0] + 1 }}",
        "{{ 1 // (messages|length - messages|length) }}",
        "{{ 'x'.encode('nope') }}",
    ],
)
def test_a_template_that_fails(tmp_path, monkeypatch, template):
    monkeypatch.setattr(tiny_gguf, "BASE_TEMPLATE", template)
    with Engine(write_tiny_gguf(tmp_path / "base.gguf", dial=False), num_threads=1) as base:
        with pytest.raises(LiteError, match="its chat template fails"):
            base.prompt(question("How many?", BASE))


def test_a_template_that_hides_a_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_gguf, "BASE_TEMPLATE", "{{ messages[-1].content }}")
    with Engine(write_tiny_gguf(tmp_path / "base.gguf", dial=False), num_threads=1) as base:
        assert base.prompt(question("How many?", BASE)).ids
        turns = (Message("system", "Be brief."), Message("user", "How many?"))
        with pytest.raises(LiteError, match="does not show a system turn exactly once"):
            base.prompt(Ask(turns, BASE))


def test_a_conversation(engine):
    turns = (
        Message("system", "Be brief."),
        Message("user", " One?\n"),
        Message("assistant", "<COMP_20>\n<think>\nsecret\n</think>\n\nOne."),
        Message("user", "Two?"),
    )
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        "<|im_start|>assistant\nOne.<|im_end|>\n"
        f"<|im_start|>user\n{INSTRUCTION}\nTwo? <COMP_40><|im_end|>\n<|im_start|>assistant\n"
    )
    assert text_of(engine, engine.prompt(Ask(turns, "0.4")).ids) == expected
    off = engine.prompt(Ask(turns, "0.4", thinking=False))
    assert text_of(engine, off.ids) == expected + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("text", [*SPECIAL, *CONTROL_TOKENS, THINK_OPEN, THINK_CLOSE])
@pytest.mark.parametrize("role", ["system", "user", "assistant", "last"])
def test_text_of_no_turn_becomes_a_control_token(engine, text, role):
    """Every token of the vocabulary that is not plain text, in every turn."""

    def ids(content):
        roles = ("system", "user", "assistant", "last")
        turns = [
            Message("user" if each == "last" else each, content if each == role else "plain")
            for each in roles
        ]
        return engine.prompt(Ask(tuple(turns), POLICY)).ids

    (token,) = engine.model.tokenise(text, special=True)
    attacked = ids(f"How {text} many?{text}")
    assert attacked.count(token) == ids("How many?").count(token)
    earlier_thinking = role == "assistant" and text in THINK_MARKS  # is left out
    assert earlier_thinking or text.strip("<>/|") in text_of(engine, attacked)


def test_the_test_tries_every_special_token(engine):
    special = {*SPECIAL, *CONTROL_TOKENS, *THINK_MARKS}
    vocab = engine.model._vocab
    found = {
        text_of(engine, [token])
        for token in range(engine.model.num_vocab)
        if llama_cpp.llama_vocab_get_attr(vocab, token)
        & (llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED)
    }
    assert found == special


def test_modes_that_the_dial_does_not_have(engine):
    for mode in (BASE, "0.5", "sft-policy"):
        with pytest.raises(LiteError, match="has a dial; use one of 0.2"):
            engine.prompt(question("x", mode))


def test_caps(engine):
    one = engine.submit(question("How many?", "0.2", max_tokens=1)).answer()
    assert one.total_tokens == 1 and one.stop == "length"
    empty = len(engine.prompt(question("", "0.2")).ids)
    cut = engine.submit(question("y" * (CONTEXT - 3 - empty), "0.2", max_tokens=50)).answer()
    assert cut.total_tokens == 3 and cut.stop == "length"  # the context it was trained for ends there
    with pytest.raises(LiteError, match=f"leaves no room in {CONTEXT}"):
        engine.submit(question("y" * CONTEXT, "0.2"))
    assert engine.generate([]) == []


USER = Message("user", "x")


@pytest.mark.parametrize(
    "ask, expected",
    [
        (Ask(()), "the last turn is not the user's"),
        (Ask((USER, Message("assistant", "y"))), "the last turn is not the user's"),
        (Ask((Message("tool", "y"), USER)), "role 'tool' is unknown; use one of system, user, assistant"),
        (Ask((USER,) * 257), "257 turns; give 256 at most"),
        (Ask((Message("user", "y" * 400_001),)), "400001 characters in the conversation"),
        (Ask((USER,), max_tokens=0), "max_tokens 0: must be 1 or more"),
        (Ask((USER,), budget=-1), "budget -1: must be 0 or more"),
        (Ask((USER,), temperature=float("nan")), "temperature nan: must lie in 0..100"),
        (Ask((USER,), top_p=0.0), "top_p 0.0: must lie in (0, 1]"),
        (Ask((USER,), seed=-1), "seed -1: must be 0 or more"),
        (
            Ask((USER,), budget=5, max_tokens=20),
            "a reply of 20 tokens has no room for a budget and an answer",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_cannot_be_honoured(engine, ask, expected):
    with pytest.raises(LiteError) as fault:
        engine.submit(ask)
    assert expected in str(fault.value)


def test_what_is_no_gguf(tmp_path):
    with pytest.raises(LiteError, match="no such file"):
        Engine(tmp_path / "none.gguf")
    with pytest.raises(LiteError, match="cannot read it|not a regular file|is a folder"):
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
