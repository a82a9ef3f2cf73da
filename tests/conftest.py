"""What all tests share: the console entry, called in this process."""

from __future__ import annotations

import pytest

from lite import cli


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
