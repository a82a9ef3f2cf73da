"""The notebook's cells, run on a CPU with the quickstart in place of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "recipes" / "dial_on_a_free_gpu.ipynb"
SMALL = (
    "problems.num_train=40 problems.num_rl=12 problems.num_eval=4 annotate.num_traces=12 annotate.num_rounds=1"
    " compressor.epochs=1 sft.max_steps=4 probe.num_samples=1 probe.min_success=0.3 chrpo.steps=1 chrpo.prompts=4"
    " traces.max_tokens=300 probe.max_tokens=150 chrpo.max_tokens=150 evaluate.max_tokens=150"
)


@pytest.mark.slow
@pytest.mark.train
def test_the_notebook_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert "".join(cells[0]["source"]).startswith("%pip install")
    names: dict = {}
    for cell in cells[1:]:
        exec("".join(cell["source"]), names)
        if names["RECIPE"] != "quickstart":  # after the first cell, in which they are set
            names.update(RECIPE="quickstart", CARD="cpu")
            names["settings"] = [part for setting in SMALL.split() for part in ("--set", setting)]
    out = capfd.readouterr().out
    assert "fits" in out and out.count("think tokens") >= 3
    assert {path.suffix for path in Path("runs/dial-gguf").iterdir()} >= {".gguf", ".md"}
