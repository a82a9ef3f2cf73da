"""The controller on hand-made sequences: phases, counts, budgets, and characters that stay whole."""

from __future__ import annotations

import random
import re

import pytest

from lite.errors import LiteError
from lite.grading import final_answer
from lite.infer.controller import Controller
from lite.infer.limits import ANSWER_TOKENS, BOX_TOKENS, Lexicon, Limits, limits
from lite.infer.reply_parser import LEAD_TOKENS, Phase, Reader, unfinished, whole
from lite.tokens import parse_reply

WORDS = [
    "<end>",
    "<COMP_20>",
    "\n",
    "\n\n",
    "<think>",
    "</",
    "think",
    ">",
    "two",
    " two",
    " plus",
    " three",
    " is",
    " five",
]
WORDS += [".", " So", " 3", "The", " answer", " \\", "boxed", "{", "}", "5", "?", "a<b", " ", ".\n"]
BYTES = [bytes([value]) for value in range(256)]
PIECES = dict(enumerate([word.encode() for word in WORDS] + BYTES))
END = 0


def spell(text):
    """Ids of a text, the longest words first; bytes where there is no word."""
    data, ids = text.encode(), []
    while data:
        best = max(
            (token for token in PIECES if token and data.startswith(PIECES[token])),
            key=lambda t: len(PIECES[t]),
        )
        ids.append(best)
        data = data[len(PIECES[best]) :]
    return ids


LEXICON = Lexicon(PIECES, frozenset([END]), spell)
CLOSE = spell("\n</think>\n\n")
ASK = spell("The answer is \\boxed{")


def run(proposals, budget=None, max_tokens=1000, phase=Phase.LEAD, allowance=ANSWER_TOKENS, **more):
    """Let a model propose token after token, the last one for ever; give the controller and its pieces.

    For one that is not allowed it proposes the first that is.
    """
    pieces = []
    forced = len(spell("\n\nThe answer is \\boxed{")) + BOX_TOKENS
    bounds = Limits(max_tokens) if budget is None else Limits(max_tokens, budget, allowance, forced)
    controller = Controller(LEXICON, bounds, phase, pieces.append, **more)
    proposals = list(proposals)
    while True:
        token = proposals.pop(0) if len(proposals) > 1 else proposals[0]
        if not controller.allows(token):
            token = next(filter(controller.allows, reversed(PIECES)))
        if controller.step(token) is None:
            return controller, pieces


def shown(pieces, kind="answer"):
    return "".join(piece.text for piece in pieces if piece.kind == kind)


def text(controller):
    return b"".join(PIECES[token] for token in controller.ids).decode(errors="replace")


REPLY = "<COMP_20>\n<think>\ntwo plus three is five.\n</think>\n\nThe answer is \\boxed{5}."


def test_a_reply_without_a_budget_is_left_alone():
    controller, pieces = run([*spell(REPLY), END])
    assert text(controller) == REPLY and controller.stop == "eos"
    assert len(CLOSE) > 4  # the marker is several tokens here
    thought = [piece for piece in pieces if piece.kind == "think"]
    assert "".join(piece.text for piece in thought) == "two plus three is five."
    assert sum(piece.num_tokens for piece in thought) == controller.reader.think_tokens == 6
    assert "".join(piece.text for piece in pieces if piece.kind == "answer") == "The answer is \\boxed{5}."
    assert pieces[0].text == "two"  # nothing of the lead is shown


@pytest.mark.parametrize(
    "reply, think_tokens",
    [
        ("<think>\n\n</think>\n\n5", 0),
        ("<think></think>5", 0),
        ("<think>two\n\n\n</think>5", 1),
        ("<COMP_20>\n<think>\n two", 1),
        ("<think>\ntwo \n\n", 1),
        ("<think>\ntwo a<b plus</ three</think> five", 6),
        ("<think>two </", 3),
        ("two plus three", 0),
        ("\n\n<COMP_20> five", 0),
        ("<thin five", 0),
        ("<think>two `</think>` plus</THINK> five", 8),
        ("<think>two<think> three</think>five", 2),
        ("<think>`</think>` two</think>five", 6),
        ("<think>'</think>", 1),
        ("<think>“</think>” two</think>five", 10),
    ],
)
def test_what_is_shown_is_what_is_parsed(reply, think_tokens):
    controller, pieces = run([*spell(reply), END])
    parsed = parse_reply(reply)
    said = {kind: shown(pieces, kind) for kind in ("think", "answer")}
    assert said["think"].strip() == parsed.think and said["answer"].strip() == parsed.visible
    assert controller.reader.think_tokens == think_tokens
    assert sum(piece.num_tokens for piece in pieces if piece.kind == "think") == think_tokens


@pytest.mark.parametrize("lead", ["", "<COMP_20>", "<think>", "a", "\ufeff<think>"])
def test_a_character_may_begin_within_the_lead(lead):
    pieces = []
    reader = Reader(emit=pieces.append)
    for piece in (lead.encode()[:1], lead.encode()[1:] + b"\xc3", b"\xa9"):
        reader.read(piece)
    reader.finish()
    assert "".join(piece.text for piece in pieces) == ("aé" if lead == "a" else "é")


def test_a_reply_that_never_opens_its_thinking_is_an_answer():
    reader = Reader()
    for _ in range(LEAD_TOKENS):
        reader.read(b" ")
        assert reader.phase is Phase.LEAD
    reader.read(b" ")
    assert reader.phase is Phase.ANSWER


def test_a_lead_has_one_ratio_token():
    reply = "<COMP_20><COMP_20><think>two"
    controller, _ = run([*spell(reply), END])
    assert controller.reader.phase is Phase.ANSWER and controller.reader.think_tokens == 0
    assert not parse_reply(text(controller)).has_think and "<think>" not in text(controller)


def test_it_closes_after_a_sentence_near_the_end_of_the_budget():
    loop = spell(" So two plus three is five.")  # 7 tokens
    for budget in (30, 33):  # four sentences are 28 tokens, five are 35
        controller, pieces = run([*spell("<think>\n"), *loop * 50], budget=budget)
        thought = shown(pieces, "think")
        assert text(controller).startswith(
            f"<think>\n {thought}\n</think>\n\n"
        )  # what was taken back is not shown
        assert thought == ("So two plus three is five. " * 4).strip() and controller.stop == "budget"
        assert controller.reader.think_tokens == sum(p.num_tokens for p in pieces if p.kind == "think") == 28


def test_a_sentence_that_ended_long_before_the_budget_is_not_gone_back_to():
    controller, _ = run([*spell("<think> two."), *spell(" two") * 99], budget=10)
    assert text(controller).startswith("<think> two." + " two" * 8 + "\n</think>")


def test_a_model_that_closes_in_the_last_part_of_its_budget_is_left_alone():
    reply = "<think> two. two. two</think>\n\nThe answer is \\boxed{5}."  # sentences end at 2 and 4 of 5
    controller, pieces = run([*spell(reply), END], budget=5)
    assert text(controller) == reply and controller.stop == "eos"
    assert [piece.text for piece in pieces][:5] == ["two", ".", " two", ".", " two"]
    controller, pieces = run([*spell("<think> two. two. two"), *spell(" two")], budget=5)
    assert text(controller).startswith("<think> two. two.\n</think>")  # here it is not closed, and taken back
    controller, pieces = run([*spell("<think> two. two. two"), END, *CLOSE[1:], END, *[END] * 99], budget=6)
    assert text(controller).startswith("<think> two. two. two\n</think>")  # and here the model has ended it


def test_it_closes_after_a_line():
    line = spell(" two plus three is five\n")  # 6 tokens
    for budget in (30, 33):
        controller, _ = run([*spell("<think>"), *line * 50], budget=budget)
        assert text(controller).startswith("<think>" + " two plus three is five\n" * 5 + "</think>\n\n")


def test_a_point_within_a_number_is_no_sentence_end():
    number = [*spell(" 3"), *spell("."), *spell("5")]  # 3 tokens
    controller, _ = run([*spell("<think>"), *number * 50], budget=20)
    assert text(controller).partition("\n</think>")[0] == "<think>" + " 3.5" * 6 + " 3."  # 20, wherever it is


@pytest.mark.parametrize("quoted", ["`</think>`", " `</THINK>", "'</think>'</think>'", "<think>\n\n"])
@pytest.mark.parametrize("budget", range(12))
def test_markers_in_the_thinking_are_no_way_round_the_budget(quoted, budget):
    controller, pieces = run([*spell("<think>"), *spell(quoted) * 200], budget=budget)
    reader, bounds = controller.reader, LEAD_TOKENS + budget + len(CLOSE) + ANSWER_TOKENS
    assert reader.phase is Phase.ANSWER and reader.think_tokens <= budget and len(controller.ids) <= bounds
    assert shown(pieces, "think").strip() == parse_reply(text(controller)).think


@pytest.mark.parametrize("budget", [0, 1, 2, 5, 16, 61])
def test_without_a_sentence_end_it_closes_at_the_budget(budget):
    controller, _ = run([*spell("<think>"), *spell(" two") * 500], budget=budget)
    think = parse_reply(text(controller)).think
    assert len(think.split()) == controller.reader.think_tokens == budget


def test_a_model_that_closes_by_itself_is_left_alone():
    for budget in range(6, 12):  # it thinks six tokens, and a line break on either side
        controller, _ = run([*spell(REPLY), END], budget=budget)
        assert text(controller) == REPLY
        assert (controller.stop == "eos") or budget == 6  # where the budget writes what the model would have
    controller, _ = run([*spell(REPLY), END], budget=5)
    assert text(controller) != REPLY


def test_a_marker_that_has_begun_at_the_budget_is_completed():
    begun = spell("<think>two plus three</")  # three tokens of thinking, one of the marker
    controller, _ = run([*begun, *spell(" So") * 99], budget=4)
    assert text(controller).startswith("<think>two plus three</think>\n\n")
    assert controller.reader.think_tokens == 3


def test_a_model_that_ends_within_its_thinking_is_made_to_answer():
    controller, _ = run([*spell("<think>\ntwo"), END, *CLOSE[1:], END, *ASK[1:], *spell("5"), END], budget=50)
    assert text(controller) == "<think>\ntwo\n</think>\n\nThe answer is \\boxed{5}"
    assert controller.stop == "budget"


def test_an_answer_is_asked_for_only_where_there_is_none():
    said = "<think>\ntwo\n</think>\n\nThe answer is \\boxed{5}."
    controller, _ = run([*spell(said), END], budget=50)
    assert text(controller) == said and controller.stop == "eos"
    mute = "<think>\ntwo\n</think>\n\ntwo plus"
    controller, _ = run([*spell(mute), END, *[END] * len(ASK), *spell("5"), *spell("}.\n")], budget=50)
    assert text(controller) == mute + "\n\nThe answer is \\boxed{5}" and controller.stop == "budget"


def test_an_answer_that_goes_on_and_on():
    opening = spell("<think></think>")
    controller, _ = run([*opening, *spell(" two") * 2000], budget=5)
    reply = text(controller).partition("</think>")[2]
    assert reply.endswith("}") and "\n\nThe answer is \\boxed{ two two" in reply
    assert len(controller.ids) - len(opening) <= ANSWER_TOKENS
    rng = random.Random(0)  # it says something new for ever
    words = [rng.choice(spell(" two plus three is five So")) for _ in range(2000)]
    controller, _ = run([*opening, *spell("The answer is 5."), *words], budget=5)
    assert "boxed" not in text(controller) and controller.stop == "budget"
    assert len(controller.ids) - len(opening) == ANSWER_TOKENS


def test_braces_within_a_forced_box_are_balanced():
    proposals = [*spell("<think></think>"), END, *[END] * (len(ASK) - 1), *spell("\\{5{{5")]
    controller, _ = run([*proposals, END], budget=5)
    assert text(controller).endswith("\\boxed{\\{5{{5}}}")
    assert final_answer(text(controller)) is not None


@pytest.mark.parametrize("character", ["é", "€", "😀"])
@pytest.mark.parametrize("budget", range(1, 9))
def test_a_character_is_written_whole_or_not_at_all(character, budget):
    encoded = [PIECES_AT[byte] for byte in character.encode()]
    controller, pieces = run([*spell("<think>"), *encoded * 20], budget=budget)
    think = parse_reply(text(controller)).think
    assert set(think) <= {character} and len(think) == budget // len(encoded)
    assert "�" not in "".join(piece.text for piece in pieces if piece.kind == "think")


PIECES_AT = {byte: len(WORDS) + byte for byte in range(256)}


def test_a_reply_that_is_cut_ends_with_a_whole_character():
    controller, pieces = run(
        [*spell("<think>two"), *[PIECES_AT[byte] for byte in "😀".encode()]], max_tokens=5
    )
    assert controller.stop == "length" and [piece.text for piece in pieces] == ["two"]


def test_cancelled():
    controller = Controller(LEXICON, Limits(100))
    controller.step(spell("two")[0])
    controller.end("cancelled")
    assert controller.stop == "cancelled"


@pytest.mark.parametrize("seed", range(40))
def test_never_too_long_and_always_an_answer(seed):
    """Random models, random budgets: the bounds hold whatever is proposed."""
    rng = random.Random(seed)
    for _ in range(25):
        budget, room = rng.choice([0, 1, 3, 16, 40, 100]), rng.randint(110, 500)
        bounds = limits(LEXICON, room, budget)
        words = rng.sample(range(1, len(WORDS)), 12) + [PIECES_AT[rng.randrange(256)]]
        end_chance = rng.choice([0, 0.02, 0.3])
        controller = Controller(LEXICON, bounds, rng.choice(list(Phase)))
        for _ in range(2000):
            proposed = END if rng.random() < end_chance else rng.choice(words)
            if controller.step(proposed) is None:
                break
        assert controller.stop in ("eos", "budget")  # "length" would have cut the answer
        assert controller.reader.think_tokens <= budget
        assert len(controller.ids) <= LEAD_TOKENS + bounds.budget + len(CLOSE) + bounds.allowance
        if controller.reader.answer.decode(errors="replace").rpartition("\\boxed{")[2].strip("}").split():
            assert final_answer(controller.reader.answer.decode(errors="replace")) is not None


OPEN, SHUT = spell("<think>"), spell("</think>")


@pytest.mark.parametrize(
    "opening, phase, budget",
    [
        ("<COMP_20>\n<think>\ntwo plus three.\n</think>\n\n", Phase.LEAD, None),
        ("<think></think>", Phase.LEAD, 8),
        ("<think>" + " two" * 9, Phase.LEAD, 5),  # closed by force
        ("five\n</think>\n\n", Phase.THINK, None),
        ("", Phase.ANSWER, None),  # closed by the prompt
        ("", Phase.ANSWER, 8),
        ("The answer is 5. </think>", Phase.LEAD, None),  # never opened
    ],
)
@pytest.mark.parametrize(
    "marker", ["<think>", "</think>", " a</think>", "two<think>", "</THINK>", "`<Think>`"]
)
def test_a_span_that_is_closed_stays_closed(opening, phase, budget, marker):
    """Whatever is proposed, by one token or by several: no marker stands in the answer."""
    rng = random.Random(marker)
    words = spell(" two plus three is five So The 3")
    noise = [token for _ in range(40) for token in (*rng.sample(words, 3), *spell(marker))]
    controller, pieces = run([*spell(opening), *noise, *spell("\\boxed{5}"), END], budget, phase=phase)
    answer = text(controller)
    if phase is not Phase.ANSWER:
        answer = answer.partition("</think>")[2]
    assert len(answer) > 40 and not re.search("</?think>", answer, re.IGNORECASE)
    assert controller.reader.think_tokens <= (budget or 1000)


@pytest.mark.parametrize(
    "loop", [" two", " two plus three is five.", "So two\n", "a<b ", " 3 plus 3 is 3 .\n\n"]
)
@pytest.mark.parametrize("budget", [None, 2000])
def test_a_loop_is_left(loop, budget):
    ids = spell(loop)
    controller, pieces = run([*spell("<think>"), *ids * 999], budget, max_tokens=3000)
    thought = shown(pieces, "think")
    assert controller.stop == "loop" and controller.reader.phase is Phase.ANSWER
    assert len(controller.ids) < 1700 and "</think>" in text(controller)
    assert 192 <= len(spell(thought)) < 900  # the answer begins to loop, too
    assert (final_answer(shown(pieces)) is not None) == (
        budget is not None
    )  # asked for where one is promised


@pytest.mark.parametrize(
    "stop, reply, visible",
    [
        (["five"], "two plus five So", "two plus"),
        (["is five"], "two is five", "two"),
        (["s f", "ive"], " two is five.", "two i"),  # across the borders of tokens; the first in the text
        ([".\n"], "two.\n three", "two"),
        (["\n"], "\n\n two.\n three", "two."),  # not the blanks before it
        (["plus plus"], "two plus three", "two plus three"),  # it begins, and goes on otherwise
        (["plus x"], "two plus", "two plus"),
        (["two"], "two", ""),
        (["é"], "two é three", "two"),
    ],
)
@pytest.mark.parametrize("opening", ["<think> two is five. plus plus</think>", "<COMP_20>"])
def test_stop_texts(stop, reply, visible, opening):
    """They end the answer, are no part of it, and are never shown; thinking may hold them."""
    controller, pieces = run([*spell(opening), *spell(reply), END], stops=stop)
    whole = text(controller).encode()
    left = whole[: len(whole) - controller.num_hidden].decode()
    assert parse_reply(left).visible == visible == shown(pieces).strip()
    assert controller.stop == ("stop" if visible != reply.strip() else "eos")


def test_limits():
    forced = len(spell("\n\nThe answer is \\boxed{")) + BOX_TOKENS
    around = LEAD_TOKENS + len(CLOSE)
    assert limits(LEXICON, 7, None) == Limits(7)
    assert limits(LEXICON, 1000, 400) == Limits(1000, 400, ANSWER_TOKENS, forced)
    # 300 tokens: half of what is left for the answer, the other half for thinking.
    assert limits(LEXICON, 300, 400) == Limits(
        300, 300 - around - (300 - around) // 2, (300 - around) // 2, forced
    )
    assert limits(LEXICON, around + forced, 400) == Limits(around + forced, 0, forced, forced)
    with pytest.raises(LiteError, match=f"allow {around + forced} at least"):
        limits(LEXICON, around + forced - 1, 400)


@pytest.mark.parametrize(
    "data, there, lacks",
    [(b"", 0, 0), (b"a", 0, 0), (b"\xc3", 1, 1), ("é".encode(), 0, 0), (b"a\xe2\x82", 2, 1), (b"\xe2", 1, 2)]
    + [
        (b"\xf0\x9f\x98", 3, 1),
        (b"\xf0", 1, 3),
        ("😀".encode(), 0, 0),
        (b"\x82\x82", 0, 0),
        (b"\xc3a", 0, 0),
    ],
)
def test_unfinished(data, there, lacks):
    assert unfinished(data) == (there, lacks)
    assert whole(data) == data[: len(data) - there]
