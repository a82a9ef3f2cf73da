"""The compressor: label alignment and windows by hand, a training that must beat chance, and the stages in a row."""

from functools import partial

import numpy as np
import pytest

from lite import config as recipes
from lite.compress import annotate, compress, mixture
from lite.compress.annotate import Rules, to_labels
from lite.compress.classifier import CompressorModel, windows
from lite.compress.units import segment
from lite.config import Compressor
from lite.data import word_problems
from lite.errors import LiteError
from lite.run import Run
from lite.runtime.files import read_records, write_records
from lite.schema import Compressed, Labels, Row, Trace
from lite.train import checkpoints, classifier
from lite.train.classifier import focal_loss, macro_f1, token_labels, train
from lite.train.encoders import fresh, tiny_encoder

CONFIG = Compressor(encoder="tiny", epochs=6, batch_size=4, learning_rate=3e-3, max_tokens=512, held_out=0.2)


def test_a_token_is_kept_if_it_overlaps_a_kept_character():
    #        ab  cd ef gh       kept: d, and f to g
    offsets = [(0, 2), (2, 4), (4, 6), (6, 8), (8, 8)]
    assert token_labels([[3, 4], [5, 7]], offsets) == [0, 1, 1, 1, 0]
    assert token_labels([], offsets) == [0, 0, 0, 0, 0]
    assert token_labels([[2, 4]], offsets) == [0, 1, 0, 0, 0]  # touching is not overlapping


@pytest.mark.parametrize(
    "predicted, gold, expected",
    [
        ([1, 0, 1, 0], [1, 0, 1, 0], 1.0),
        ([1, 1, 1, 1], [1, 1, 0, 0], (0 + 2 * 2 / 6) / 2),
        ([1, 0, 0, 0], [1, 1, 0, 0], (2 * 2 / 5 + 2 * 1 / 3) / 2),
    ],
)
def test_macro_f1(predicted, gold, expected):
    assert macro_f1(np.array(predicted), np.array(gold)) == pytest.approx(expected)


def test_focal_loss_by_hand():
    import torch

    # p(gold) = 3/4 (class 1), 1/2 (class 0); the last token is ignored
    logits = torch.tensor([[[0.0, np.log(3)], [0.0, 0.0], [9.0, -9.0]]])
    labels = torch.tensor([[1, 0, -100]])
    weights = torch.tensor([1.0, 3.0])
    terms = 3 * 0.25**2 * -np.log(0.75), 1 * 0.5**2 * -np.log(0.5)
    assert focal_loss(logits, labels, weights, 2.0).item() == pytest.approx(sum(terms) / 4, rel=1e-5)
    plain = (3 * -np.log(0.75) - np.log(0.5)) / 4
    assert focal_loss(logits, labels, weights, 0.0).item() == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("copies", [1, 2])
def test_windows_cut_at_unit_borders(tokenizer, copies):
    cot = "So 12 + 5 = 17. Then we go on with 17 - 4 = 13. And that is all of it."
    cut = partial(windows, tokenizer, twice=copies == 2)
    [[whole]] = cut(["How many?"], [cot], 512)
    question = tokenizer.encode("How many?", add_special_tokens=False)
    chain = tokenizer.encode(cot, add_special_tokens=False)
    end = [tokenizer.eos_token_id]
    assert whole.ids == question + end + (chain + end) * copies
    assert whole.ids[whole.begin :] == chain + end and len(whole.offsets) == len(chain)
    [pieces] = cut(["How many?"], [cot], 40 * copies)
    assert len(pieces) > 1 and all(len(piece.ids) <= 40 * copies for piece in pieces)
    assert [span for piece in pieces for span in piece.offsets] == whole.offsets
    units = segment(cot)
    for piece in pieces[1:]:
        begin = piece.offsets[0][0]
        assert not any(unit.start < begin < unit.end for unit in units)
    assert cut(["How?"], [""], 40)[0][0].offsets == []


def test_training_beats_chance_and_survives_saving(traces, tokenizer, tmp_path):
    labels = [to_labels(trace, kept) for trace, kept in zip(traces, Rules().keep(traces), strict=True)]
    import torch

    torch.manual_seed(0)
    model = CompressorModel(tiny_encoder(tokenizer, 512), tokenizer, 512)
    measured, curve = train(model, labels, CONFIG, 0, tmp_path / "work")
    assert measured["macro_f1"] > 0.9  # all DROP or all KEEP stays below 0.5
    assert 0.1 < measured["keep_share"] < 0.5
    [unseen] = word_problems.problems(1, seed=8)
    text = unseen.cot
    scores = model.score(["How many?"], [text])[0]
    assert len(scores) == len(segment(text)) and 0 <= scores.min() and scores.max() <= 1
    kinds = np.array([unit.kind for unit in segment(text)])
    assert scores[kinds != "word"].mean() > scores[kinds == "word"].mean() + 0.3
    model.save(tmp_path / "model")
    model.save(tmp_path / "model")  # a second time, over the first
    assert {path.suffix for path in (tmp_path / "model").iterdir()} <= {".json", ".safetensors", ".jinja"}
    again = CompressorModel.load(tmp_path / "model")
    assert again.max_tokens == model.max_tokens
    assert again.score(["How many?"], [text])[0] == pytest.approx(scores, abs=1e-5)
    alone = again.score(["How many?"], [text])
    batch = again.score(["How many?", "Q"], [text, "a much longer text than the other " * 9])
    assert batch[0] == pytest.approx(alone[0], abs=1e-4)
    assert [len(own) for own in again.score(["Q", "Q"], ["", "\u5171\u6709 1"])] == [0, 3]


def test_too_few_labels(tmp_path):
    with pytest.raises(LiteError, match="1 labelled traces"):
        train(None, [Labels("a/0", "q", "t 1", [[2, 3]])], CONFIG, 0, tmp_path)


KINDS = {
    "all weights": "encoder: tiny, rank: 0",
    "encoder, LoRA": "encoder: tiny, rank: 4, four_bit: false",
    "encoder, NF4": "encoder: tiny, rank: 4",
    "base, LoRA": "encoder: base, rank: 4, four_bit: false",
    "base, NF4": "encoder: base, rank: 4",
}


@pytest.fixture
def make_run(traces, tmp_path):
    """A run folder on the quickstart's reasoner with seven labelled traces: six make three steps an epoch."""

    def make(kind: str, name: str = "run") -> Run:
        settings = f"{KINDS[kind]}, epochs: 2, batch_size: 2, learning_rate: 0.01, max_tokens: 1024"
        run = Run(recipes.parse(f"compressor: {{{settings}}}"), tmp_path / name)
        labels = zip(traces[:7], Rules().keep(traces[:7]), strict=True)
        write_records(run.path("annotate", "labels.jsonl"), [to_labels(*pair) for pair in labels])
        return run

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_what_trains_moves_and_nothing_else(make_run, kind):
    import torch

    run = make_run(kind)
    model = fresh(run.recipe, run.path("work"))
    net = model.model
    before = {name: param.detach().clone() for name, param in net.named_parameters()}
    quantised = {type(module).__name__ for module in net.modules() if "Linear4bit" in type(module).__name__}
    assert bool(quantised) == ("NF4" in kind)
    labels = read_records(run.path("annotate", "labels.jsonl"), Labels)
    measured, curve = train(model, labels, run.recipe.compressor, 0, run.path("work"))
    assert [point["step"] for point in curve if "loss" in point] == [1, 2, 3, 4, 5, 6]
    assert max(point.get("macro_f1", 0) for point in curve) == pytest.approx(measured["macro_f1"], abs=1e-3)
    moved = {name for name, param in net.named_parameters() if not torch.equal(param, before[name])}
    if kind == "all weights":
        assert moved == set(before)
        return
    heads = {name for name in before if "modules_to_save" in name}
    assert moved == {name for name in before if "lora_" in name} | heads
    assert len(heads) == 2  # weight and bias, once
    assert len(moved) > len(heads)


@pytest.mark.parametrize("kind", ["all weights", "encoder, NF4", "base, NF4"])
def test_a_training_that_was_cut_ends_with_the_same_weights(make_run, monkeypatch, kind):
    """Cut in the second step, in the fifth, and before its result is saved; each time it goes on from there."""
    from transformers import Trainer

    alone, cut = make_run(kind, "alone"), make_run(kind, "cut")
    whole = classifier.run(alone)
    step = Trainer.training_step
    for last, checkpoint in ((1, 1), (4, 3), (6, 6)):

        def stop(self, *given, last=last, **named):
            if self.state.global_step == last:
                raise KeyboardInterrupt
            return step(self, *given, **named)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Trainer, "training_step", stop)
            patch.setattr(CompressorModel, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            classifier.run(cut)
        newest = checkpoints.last_whole(cut.path("compressor", "checkpoints"))
        assert checkpoints.step_of(newest) == checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", lambda *_, **__: pytest.fail("trained once more"))
        assert classifier.run(cut) == whole
    names = sorted(path.name for path in alone.path("compressor", "model").iterdir())
    assert names == sorted(path.name for path in cut.path("compressor", "model").iterdir())
    for name in [*(f"model/{name}" for name in names), "loss.jsonl"]:
        assert cut.path("compressor", name).read_bytes() == alone.path("compressor", name).read_bytes(), name
    assert sorted(path.name for path in cut.path("compressor").iterdir()) == ["loss.jsonl", "model"]


@pytest.mark.parametrize("kind", ["encoder, NF4", "base, LoRA", "base, NF4"])
def test_a_trained_adapter_scores_the_same_after_loading(make_run, tmp_path, kind):
    run = make_run(kind)
    model = fresh(run.recipe, run.path("work"))
    labels = read_records(run.path("annotate", "labels.jsonl"), Labels)
    train(model, labels, run.recipe.compressor, 0, run.path("work"))
    model.save(tmp_path / "model")
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert ("adapter_model.safetensors" in files) == ("base" in kind) != ("model.safetensors" in files)
    again = CompressorModel.load(tmp_path / "model")
    [problem] = word_problems.problems(1, seed=8)
    other = "a much longer text than the other " * 9
    [expected], [alone] = (each.score([problem.question], [problem.cot]) for each in (model, again))
    assert alone == pytest.approx(expected, abs=1e-4) and len(alone) == len(segment(problem.cot))
    batch = again.score([problem.question, "Q"], [problem.cot, other])
    assert batch[0] == pytest.approx(alone, abs=1e-4)
    if "base" in kind:  # the first words are judged by what comes after them
        ending = problem.cot.rindex(" ")
        changed = again.score([problem.question], [problem.cot[:ending] + " 999."])[0]
        assert abs(changed[:5] - alone[:5]).max() > 1e-5


def test_the_base_needs_lora():
    with pytest.raises(LiteError, match="compressor.rank = 0: the base is trained through LoRA"):
        recipes.parse("compressor: {encoder: base}")


def test_no_compressor_there(tmp_path):
    with pytest.raises(LiteError, match="no compressor there"):
        CompressorModel.load(tmp_path)


@pytest.fixture(scope="module")
def run(traces, tokenizer, reasoner, tmp_path_factory):
    """A run folder with twelve traces and a random reasoner."""
    folder = tmp_path_factory.mktemp("run")
    reasoner.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_records(folder / "run/traces/traces.jsonl", traces)
    settings = (
        "annotate: {num_traces: 6, num_rounds: 2, max_drop: 0.5, batch_tokens: 4096}\n"
        "compressor: {encoder: tiny, epochs: 2, learning_rate: 0.003, max_tokens: 512}\n"
    )
    return Run(recipes.parse(f"model: {folder / 'model'}\n{settings}"), folder / "run")


def test_the_stages_in_a_row(run, traces):
    measured = annotate.run(run)
    labels = read_records(run.path("annotate", "labels.jsonl"), Labels)
    assert measured["labels"] == 6 and [record.id for record in labels] == [trace.id for trace in traces[:6]]
    assert 0 < measured["kept_characters"] < 1

    assert classifier.run(run)["macro_f1"] > 0
    assert not list(run.path("compressor").glob(".*"))

    assert compress.run(run)["mean_miss"] < 0.03
    versions = read_records(run.path("compress", "compressed.jsonl"), Compressed)
    assert len(versions) == 12 * 9

    measured = mixture.run(run)
    rows = read_records(run.path("mixture", "rows.jsonl"), Row)
    assert len(rows) == measured["rows"] > 0 and measured["traces"] + measured["dropped"] == 12


def test_annotate_resumes_after_its_last_whole_batch(run, traces, monkeypatch):
    path = run.path("annotate", "labels.jsonl")
    before = path.read_text()
    path.unlink()
    with open(run.path("annotate", "journal.jsonl"), "a") as journal:
        journal.write('{"id": "half')  # what a kill leaves
    monkeypatch.setattr(annotate.unsloth, "load", lambda *_, **__: pytest.fail("labels were made again"))
    annotate.run(run)
    assert path.read_text() == before


def test_no_traces(run, tmp_path):
    empty = Run(run.recipe, tmp_path)
    write_records(tmp_path / "traces/traces.jsonl", [])
    for stage in (annotate, compress):
        with pytest.raises(LiteError, match="no traces"):
            stage.run(empty)
    write_records(tmp_path / "traces/traces.jsonl", [Trace("a/0", "q", "1", "1", "v")])
    write_records(tmp_path / "compress/compressed.jsonl", [])
    with pytest.raises(LiteError, match="none of 1 traces has a clean version"):
        mixture.run(empty)
