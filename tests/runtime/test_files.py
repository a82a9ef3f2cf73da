"""Records on disk: whole or not at all."""

from __future__ import annotations

import itertools
import os

import pytest
from kills import killed_before

from lite.errors import LiteError
from lite.runtime.files import Journal, atomic_folder, atomic_write, read_records, write_json, write_records
from lite.schema import Labels, Problem

PROBLEMS = [Problem("a", "1+1?", "2"), Problem("b", "π·2?", "6,28", "Zwei\nZeilen")]


def test_round_trip(tmp_path):
    path = tmp_path / "new folder" / "problems.jsonl"
    assert write_records(path, PROBLEMS) == 2
    assert path.read_text(encoding="utf-8").splitlines()[0] == (
        '{"id": "a", "question": "1+1?", "answer": "2", "cot": "", "data_set": "", "kind": "", "needed": 0.0}'
    )
    assert read_records(path, Problem) == PROBLEMS


def test_defaults_are_not_shared(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "a", "question": "q", "think": "t"}\n' * 2)
    first, second = read_records(path, Labels)
    first.keep.append([0, 1])
    assert second.keep == []


@pytest.mark.parametrize("wrong", ['"think": 5', '"keep": "all"', '"id": null'])
def test_a_field_of_another_type_is_one_line(tmp_path, wrong):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "a", "question": "q", "think": "t", ' + wrong + "}\n")
    with pytest.raises(LiteError, match=f"line 1: {wrong[1:3]}.* must be a (valid string|list)"):
        read_records(path, Labels)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "problems.jsonl"
    write_records(path, PROBLEMS)

    def cut():
        yield Problem("c", "?", "3")
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        write_records(path, cut())
    assert read_records(path, Problem) == PROBLEMS
    assert os.listdir(tmp_path) == ["problems.jsonl"]


def test_the_new_file_is_not_there_before_it_is_whole(tmp_path):
    path = tmp_path / "text"
    with atomic_write(path) as handle:
        handle.write("half")
        handle.flush()
        assert not path.exists()
    assert path.read_text() == "half"


def test_write_bytes_and_json(tmp_path):
    with atomic_write(tmp_path / "bytes", "wb") as handle:
        handle.write(b"\x00\xff")
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    write_json(tmp_path / "value.json", {"ä": 1})
    assert (tmp_path / "value.json").read_text(encoding="utf-8") == '{\n  "ä": 1\n}\n'


@pytest.mark.parametrize(
    "line, message",
    [
        ("5", "line 3: not an object: '5'"),
        ("[1]", "line 3: not an object: '[1]'"),
        ("{", "line 3: Invalid JSON"),
        ('{"id": "a", "question": "q"}', "line 3: answer: missing"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"id": "a", "question": "q", "answer": "2", "more": 1}\n\n' + line + "\n")
    with pytest.raises(LiteError) as fault:
        read_records(path, Problem)
    assert message in str(fault.value) and str(path) in str(fault.value)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(LiteError, match="no such file"):
        read_records(tmp_path / "nix.jsonl", Problem)
    with pytest.raises(LiteError, match="a folder"):
        read_records(tmp_path, Problem)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LiteError, match="not UTF-8"):
        read_records(tmp_path / "binary", Problem)


def test_journal_goes_on_where_it_was(tmp_path):
    path = tmp_path / "stage" / "journal.jsonl"
    with Journal(path, Problem) as journal:
        assert journal.records == []
        journal.append(PROBLEMS[:1])
    with Journal(path, Problem) as journal:
        assert journal.records == PROBLEMS[:1]
        journal.append(PROBLEMS[1:])
        assert journal.records == PROBLEMS
    assert read_records(path, Problem) == PROBLEMS


@pytest.mark.parametrize("torn", ['{"id": "c", "ques', '{"id": "c", "question": "π'.encode()[:-1], b"\n"[:0]])
def test_journal_cuts_a_torn_last_line(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    write_records(path, PROBLEMS)
    whole = path.read_bytes()
    path.write_bytes(whole + (torn.encode() if isinstance(torn, str) else torn))
    with Journal(path, Problem) as journal:
        assert journal.records == PROBLEMS
        assert path.read_bytes() == whole
        journal.append([Problem("c", "?", "3")])
    assert [problem.id for problem in read_records(path, Problem)] == ["a", "b", "c"]


def test_journal_keeps_line_separators_inside_a_record(tmp_path):
    odd = Problem("a", "one\u2028two\u0085three\x0bfour", "2")
    with Journal(tmp_path / "journal.jsonl", Problem) as journal:
        journal.append([odd])
    with Journal(tmp_path / "journal.jsonl", Problem) as journal:
        assert journal.records == [odd]


def put(folder, word):
    """Replace a folder by one of three files that hold `word`."""
    with atomic_folder(folder) as temporary:
        for name in "abc":
            (temporary / name).write_text(word)


def content(folder):
    return [(path.name, path.read_text()) for path in sorted(folder.iterdir())]


OLD, NEW = ([(name, word) for name in "abc"] for word in ("old", "new"))


def test_a_folder_is_replaced_and_nothing_else_stays(tmp_path):
    put(tmp_path / "folder", "old")
    put(tmp_path / "folder", "new")
    assert content(tmp_path / "folder") == NEW and os.listdir(tmp_path) == ["folder"]
    with pytest.raises(RuntimeError, match="cut"), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError("cut")
    assert content(tmp_path / "folder") == NEW and os.listdir(tmp_path) == ["folder"]


def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path):
    found = []
    for step in itertools.count(1):
        folder = tmp_path / f"{step}" / "folder"
        put(folder, "old")
        killed = killed_before(step, lambda folder=folder: put(folder, "new"))
        found.append("none" if not folder.exists() else content(folder)[0][1])
        assert not folder.exists() or content(folder) in (OLD, NEW)
        with pytest.raises(RuntimeError, match="cut"), atomic_folder(folder):  # the next call
            assert content(folder) in (OLD, NEW)  # has lost nothing
            raise RuntimeError("cut")
        put(folder, "new")
        assert content(folder) == NEW and os.listdir(folder.parent) == ["folder"]
        if not killed:
            break
    assert [word for word, _ in itertools.groupby(found)] == ["old", "none", "new"]


def test_a_journal_that_is_no_text_is_one_clear_line(tmp_path):
    (tmp_path / "journal.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(LiteError, match=r"journal.jsonl: not UTF-8 text; move it away"):
        Journal(tmp_path / "journal.jsonl", Problem)
    assert (tmp_path / "journal.jsonl").read_bytes() == b"\xff\xfe\n"
