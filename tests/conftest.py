"""What tests share: the console entry, called in this process; traces and tiny models of several rooms."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
from tiny_tokenizer import tiny_tokenizer

from lite import cli, config
from lite.data import word_problems
from lite.models import unsloth
from lite.run import Run
from lite.schema import Trace

ROOT = Path(__file__).parent
MARKS = {
    "slow": (
        "test_kill.py",
        "test_quickstart.py",
        "test_gpu_paths.py",
        "test_run.py",
        "test_stock_server.py",
    ),
    "train": ("train/", "models/", "export/", "test_classifier.py", "test_teacher.py", "test_fidelity.py"),
    "browser": ("test_page.py",),
}


def pytest_collection_modifyitems(items) -> None:
    """Mark tests by where they are."""
    for item in items:
        for mark, places in MARKS.items():
            if any(place in str(item.path.relative_to(ROOT)) for place in places):
                item.add_marker(mark)


@pytest.fixture
def lite(capsys, monkeypatch, tmp_path):
    """Call `lite ...` from an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(list(arguments))
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny random model on disk, made once."""
    return str(tiny_model.write(tmp_path_factory.mktemp("model")))


@pytest.fixture
def make_run(model_folder, tmp_path):
    """A Run on the tiny model; give the sections as YAML."""

    def make(sections: str = "") -> Run:
        small = "\nsft: {rank: 4, alpha: 8}" if "sft:" not in sections else ""
        return Run(config.parse(f"model: {model_folder}\n{sections}{small}"), tmp_path / "run")

    return make


@pytest.fixture(scope="session")
def traces() -> list[Trace]:
    """Twelve worked solutions of the quickstart's world."""
    return [
        Trace(f"{p.id}/0", p.question, p.answer, p.cot, f"The answer is \\boxed{{{p.answer}}}.")
        for p in word_problems.problems(12, seed=7)
    ]


@pytest.fixture(scope="session")
def tokenizer(traces):
    """400 tokens learnt from the traces."""
    unsloth.prepare()  # Unsloth comes before transformers
    return tiny_tokenizer((trace.think for trace in traces), 400, control=False)


@pytest.fixture(scope="session")
def reasoner(tokenizer):
    """A causal language model of two layers with random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=len(tokenizer) + 16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(shape).eval()
