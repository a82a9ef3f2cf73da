"""A tiny random model on disk, made once, and a run folder on it."""

from __future__ import annotations

import pytest
import tiny_model

from lite import recipe
from lite.stages import Run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return str(tiny_model.write(tmp_path_factory.mktemp("model")))


@pytest.fixture
def make_run(model_folder, tmp_path):
    """A Run on the tiny model; give the sections as YAML."""

    def make(sections: str = "") -> Run:
        small = "\nsft: {rank: 4, alpha: 8}" if "sft:" not in sections else ""
        return Run(recipe.parse(f"model: {model_folder}\n{sections}{small}"), tmp_path / "run")

    return make
