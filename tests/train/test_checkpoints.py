"""Which checkpoint a cut run resumes from."""

from __future__ import annotations

from lite.train.checkpoints import last_whole, step_of


def test_half_written_checkpoints_are_ignored(tmp_path):
    assert last_whole(tmp_path / "nothing") is None
    for step in (5, 90, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_whole(tmp_path) is None
    for step in (5, 90):
        (tmp_path / f"checkpoint-{step}" / "whole").touch()
    assert last_whole(tmp_path) == tmp_path / "checkpoint-90"  # by number, not by name
    assert step_of(last_whole(tmp_path)) == 90
    assert step_of(None) == 0
