"""`lite compress` and the Python API, on a compressor with random weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import lite as package
from lite.compress.classifier import CompressorModel
from lite.compress.compress import load, shorten, shorten_file
from lite.compress.units import segment
from lite.errors import LiteError
from lite.eval.equations import num_cut
from lite.train.encoders import tiny_encoder


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    CompressorModel(tiny_encoder(tokenizer, 256), tokenizer, 256).save(folder / "compressor" / "model")
    return folder


def test_every_chain_at_every_ratio(folder, traces):
    cots = [trace.think for trace in traces]
    model = load(folder)  # a run's folder
    found = list(shorten(model, cots, [trace.question for trace in traces], (0.2, 0.6)))
    assert [(one.id, one.asked) for one in found[:3]] == [("0", 0.2), ("0", 0.6), ("1", 0.2)]
    assert len(found) == 2 * len(cots)
    for one in found:
        cot = cots[int(one.id)]
        assert abs(one.realised - one.asked) < 0.1 and num_cut(cot, one.think) == 0
        assert one.num_tokens == len(model.tokenizer.encode(one.think, add_special_tokens=False))
    with pytest.raises(LiteError, match="ratio 1.2: must lie in"):
        list(shorten(model, cots, ratios=(1.2,)))


def test_a_chain_longer_than_the_window_is_never_cut_inside_a_unit(folder, traces):
    cot = " ".join(trace.think for trace in traces)  # many windows of 256 tokens
    model = load(folder / "compressor" / "model")
    [one] = shorten(model, [cot], ratios=(0.3,))
    assert num_cut(cot, one.think) == 0 and abs(one.realised - 0.3) < 0.01
    assert len(model.score([""], [cot])[0]) == len(segment(cot))


def test_the_verb(lite, folder, tmp_path):
    lines = [
        {"id": "a", "question": "How many?", "think": "So 12 + 5 = 17. Then we go on and on."},
        {"cot": "A second chain, 3 - 1 = 2."},
        {"id": 7, "text": "The third, of words only."},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ("compress", "in.jsonl", "--ratio", "0.2,1", "--model", str(folder))
    code, out, _ = lite(*arguments)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [(row["id"], row["asked"]) for row in rows[::2]] == [
        ("a", 0.2),
        ("1", 0.2),
        ("7", 0.2),
    ]
    assert [row["think"] for row in rows[1::2]] == [
        line.get("think") or line.get("cot") or line["text"] for line in lines
    ]
    assert lite(*arguments, "--out", "out.jsonl")[:2] == (0, "")
    assert (tmp_path / "out.jsonl").read_text() == out


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ("<think>\n", "\n</think>\n\nThe answer is \\boxed{17}."),
        ("Sure.\n<think>", "</think>17"),
        ("<think>", ""),  # cut
        ("", "</think>\n17"),  # its prompt opened the span
    ],
)
def test_a_whole_reply_keeps_its_tags_and_answer(lite, folder, tmp_path, traces, head, tail):
    think = traces[0].think
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in (head + think + tail, think))
    )
    code, out, told = lite("compress", "in.jsonl", "--ratio", "0.4,1", "--model", str(folder))
    half, full, plain, _ = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and "in.jsonl: 1 of 2 are whole replies" in told and "tags and answers stay" in told
    assert full["think"] == head + think + tail and full["realised"] == 1
    assert half["think"] == head + plain["think"] + tail and half["num_tokens"] == plain["num_tokens"]


@pytest.mark.parametrize(
    "line, message",
    [
        (
            '{"question": "q"}',
            "in.jsonl, line 1: no chain of thought; give it as text under think, cot or text",
        ),
        ('{"think": 5}', "line 1: think = 5: must be a valid string"),
        ('{"think": "so", "question": 5}', "line 1: question = 5: must be a valid string"),
        ('{"think": "so \\ud800"}', "line 1: Invalid JSON"),
        ("5", "line 1: not an object: '5'"),
        ("", "in.jsonl: no chains of thought in it"),
    ],
)
def test_faults(folder, tmp_path, line, message):
    (tmp_path / "in.jsonl").write_text(line + "\n")
    with pytest.raises(LiteError, match=message):
        list(shorten_file(tmp_path / "in.jsonl", folder, (0.2,)))
    (tmp_path / "in.jsonl").write_text('{"think": "so"}\n')
    with pytest.raises(LiteError, match="no compressor there"):
        list(shorten_file(tmp_path / "in.jsonl", tmp_path, (0.2,)))
    with pytest.raises(LiteError, match="model 'gpt9': no such folder"):  # told at once, without a network
        list(shorten_file(tmp_path / "in.jsonl", tmp_path, (0.2,), "gpt9"))


def test_the_documented_api(folder, tmp_path, monkeypatch, capsys):
    """The lines of `lite`'s docstring, as they stand there."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^    (.*)$", package.__doc__, re.MULTILINE)
    names: dict = {}
    exec("\n".join(lines), names)
    answer, *shorts = capsys.readouterr().out.splitlines()
    assert (
        names["answer"].mode == "0.4"
        and names["answer"].think_tokens > 0
        and answer.endswith(str(names["answer"].think_tokens))
    )
    assert len(shorts) == 2 and shorts[0].startswith("0.")
    assert set(names) >= set(package.__all__)


def test_the_api_loads_no_torch():
    code = (
        "import sys; from lite import Engine, ask, load_compressor, shorten; print('torch' in sys.modules);"
        "print('lite.infer.engine' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\nTrue\n"
    with pytest.raises(AttributeError, match="has no attribute 'nix'"):
        package.nix  # noqa: B018
