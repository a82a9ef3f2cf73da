"""r* from success rates, and the stage on replies given by hand."""

from __future__ import annotations

import pytest

from lite.errors import LiteError
from lite.runtime.files import read_records, write_records
from lite.schema import Problem, TeacherRatio
from lite.train import probe


@pytest.mark.parametrize(
    "success, ratio",
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0], 0.2),
        ([0.0, 0.5, 0.75, 1.0, 1.0], 0.6),  # 0.75 counts, 0.5 does not
        ([0.0, 0.0, 0.0, 0.0, 0.75], 1.0),
        ([0.0, 0.0, 0.0, 0.0, 0.0], None),  # unsolvable
        ([1.0, 1.0, 1.0, 1.0, 0.5], None),  # not solved with all its thoughts
        ([1.0, 0.0, 1.0, 1.0, 1.0], None),  # not monotone
    ],
)
def test_teacher_ratio(success, ratio):
    assert probe.teacher_ratio(success, 0.75) == ratio


def test_stage(make_run, monkeypatch):
    from lite.models import generate as generate_module
    from lite.models import unsloth

    run = make_run("probe: {num_samples: 2, batch_size: 7, max_tokens: 8, min_success: 1.0}")
    problems = [Problem("a", "2 + 3", "5"), Problem("b", "2 + 4", "6")]
    write_records(run.path("problems", "rl.jsonl"), problems)
    monkeypatch.setattr(unsloth, "load", lambda model, **_: (None, unsloth.load_tokenizer(model)))
    calls = []

    def generate(model, tokenizer, prompts, *, temperature, **_):
        """Answers 5, thinking two tokens, three if greedy; right from 0.4 on for "a", never for "b"."""
        calls.append(len(prompts))
        think = "ab" if temperature else "abc"
        texts = []
        for prompt in prompts:
            hard = tokenizer.convert_tokens_to_ids("<COMP_20>") in prompt
            texts.append(f"<COMP_40>\n<think>\n{think}\n</think>\n\n\\boxed{{{4 if hard else 5}}}")
        return [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    monkeypatch.setattr(generate_module, "generate", generate)
    measured = probe.run(run)
    assert calls == [7, 7, 6, 2]
    assert read_records(run.path("probe", "ratios.jsonl"), TeacherRatio) == [
        TeacherRatio("a", "2 + 3", "5", 0.4, [0.0, 1.0, 1.0, 1.0, 1.0], 3)
    ]
    assert measured["kept"] == 1 and measured["success_0.2"] == 0.0 and measured["success_1.0"] == 0.5
    probe.run(run)
    assert calls == [7, 7, 6, 2]  # all was in the journal

    monkeypatch.setattr(probe, "teacher_ratio", lambda *_: None)
    with pytest.raises(LiteError, match="none of 2 problems"):
        probe.run(run)
