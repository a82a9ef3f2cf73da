"""The compressor: label alignment and windows by hand, a training that must beat chance, and the stages in a row."""

import numpy as np
import pytest

from lite import recipe as recipes
from lite.compress import annotate, compress, compressor, mixture
from lite.compress.annotate import Rules, to_labels
from lite.compress.compressor import CompressorModel, windows
from lite.compress.train_compressor import fresh, focal_loss, macro_f1, tiny_encoder, token_labels, train
from lite.compress.units import segment
from lite.errors import LiteError
from lite.quickstart import world
from lite.recipe import Compressor
from lite.records import Compressed, Labels, Row, Trace, read_records, write_records
from lite.stages import Run

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


def test_windows_cut_at_unit_borders(tokenizer):
    cot = "So 12 + 5 = 17. Then we go on with 17 - 4 = 13. And that is all of it."
    [[whole]] = windows(tokenizer, ["How many?"], [cot], 512)
    question = tokenizer.encode("How many?", add_special_tokens=False)
    assert whole.begin == len(question) + 1 and len(whole.ids) == whole.begin + len(whole.offsets) + 1
    [pieces] = windows(tokenizer, ["How many?"], [cot], 40)
    assert len(pieces) > 1 and all(len(piece.ids) <= 40 for piece in pieces)
    assert [span for piece in pieces for span in piece.offsets] == whole.offsets
    units = segment(cot)
    for piece in pieces[1:]:
        begin = piece.offsets[0][0]
        assert not any(unit.start < begin < unit.end for unit in units)
    assert windows(tokenizer, ["How?"], [""], 40)[0][0].offsets == []


def test_training_beats_chance_and_survives_saving(traces, tokenizer, tmp_path):
    labels = [to_labels(trace, kept) for trace, kept in zip(traces, Rules().keep(traces), strict=True)]
    import torch

    torch.manual_seed(0)
    model = CompressorModel.tiny(tokenizer, 512)
    measured = model.train(labels, CONFIG, seed=0)
    assert measured["macro_f1"] > 0.9  # all DROP or all KEEP stays below 0.5
    assert 0.1 < measured["keep_share"] < 0.5
    [unseen] = world.problems(1, seed=8)
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


def test_too_few_labels(tokenizer):
    with pytest.raises(LiteError, match="1 labelled traces"):
        CompressorModel.tiny(tokenizer, 64).train([Labels("a/0", "q", "t 1", [[2, 3]])], CONFIG, seed=0)


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

    assert compressor.run(run)["macro_f1"] > 0
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
    monkeypatch.setattr(annotate.backend, "load", lambda *_, **__: pytest.fail("labels were made again"))
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
