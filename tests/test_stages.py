"""Which stages run, which are skipped, and what becomes of what a cut run left. The stages here only pretend."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from lite import stages
from lite.errors import LiteError
from lite.recipe import parse
from lite.stages import Run, Stage, train


@pytest.fixture
def ran(monkeypatch):
    """Three stages, b reads a and c reads b; each writes `<name>.txt`. Gives the list of those that ran."""
    ran: list[str] = []
    monkeypatch.setattr(stages, "NAMES", ("problems", "traces", "annotate"))
    monkeypatch.setattr(
        stages,
        "STAGES",
        (
            Stage("problems", "pretended_problems"),
            Stage("traces", "pretended_traces", ("problems",)),
            Stage("annotate", "pretended_annotate", ("traces",)),
        ),
    )
    for name in ("problems", "traces", "annotate"):
        module = ModuleType(f"pretended_{name}")

        def run(run: Run, name=name):
            ran.append(name)
            run.path(name, f"{name}.txt").write_text(name)
            return {"num": len(ran)}

        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return ran


def test_all_then_none(ran, tmp_path):
    train(parse("seed: 1"), tmp_path)
    assert ran == ["problems", "traces", "annotate"]
    train(parse("seed: 1"), tmp_path)
    assert ran == ["problems", "traces", "annotate"]


def test_manifest(ran, tmp_path):
    run = train(parse("seed: 5"), tmp_path)
    manifest = run.manifest("traces")
    assert manifest["stage"] == "traces" and manifest["seed"] == 5 and manifest["measured"] == {"num": 2}
    assert manifest["inputs"] == {"problems": run.fingerprint("problems")}
    assert list(manifest["sha256"]) == ["traces.txt"]
    assert manifest["sha256"]["traces.txt"] == stages.sha256(tmp_path / "traces" / "traces.txt")
    assert manifest["recipe"]["sft"]["rank"] == 32 and "python" in manifest["versions"]
    assert manifest["seconds"] >= 0 and manifest["peak_memory_gb"] > 0
    assert parse((tmp_path / "recipe.yaml").read_text()) == run.recipe


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert (
        stages.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize(
    "changed, again",
    [
        ("annotate: {num_traces: 7}", ["annotate"]),
        ("traces: {max_tokens: 7}", ["traces", "annotate"]),  # what reads it runs again, too
        ("problems: {num_rl: 7}", ["problems", "traces", "annotate"]),
        ("seed: 2", ["problems", "traces", "annotate"]),
        ("model: other/model", ["problems", "traces", "annotate"]),
        ("name: other", []),
        ("sft: {rank: 7}", []),  # no stage here reads it
    ],
)
def test_a_changed_recipe_runs_what_it_changes(ran, tmp_path, changed, again):
    train(parse(""), tmp_path)
    ran.clear()
    train(parse(changed), tmp_path)
    assert ran == again


def test_a_changed_source_file_runs_all_again(ran, tmp_path):
    source = tmp_path / "problems.jsonl"
    source.write_text("1")
    recipe = parse("", [f"problems.source={source}"])
    train(recipe, tmp_path / "run")
    source.write_text("2")
    ran.clear()
    train(recipe, tmp_path / "run")
    assert ran == ["problems", "traces", "annotate"]


def test_a_missing_output_runs_its_stage_again(ran, tmp_path):
    train(parse(""), tmp_path)
    (tmp_path / "traces" / "traces.txt").unlink()
    ran.clear()
    train(parse(""), tmp_path)
    assert ran == ["traces"]


@pytest.mark.parametrize("torn", ["", "{", '{"fingerprint": '])
def test_a_torn_manifest_is_none(ran, tmp_path, torn):
    train(parse(""), tmp_path)
    (tmp_path / "traces" / "manifest.json").write_text(torn)
    ran.clear()
    train(parse(""), tmp_path)
    assert ran == ["traces"]


def test_what_a_cut_run_left_stays_and_what_another_recipe_left_goes(ran, tmp_path):
    recipe = parse("traces: {max_tokens: 7}")
    train(recipe, tmp_path, until="problems")
    run = Run(recipe, tmp_path)
    left = run.path("traces", "journal.jsonl")
    left.parent.mkdir()
    left.write_text("of this recipe\n")
    run.path("traces", "fingerprint").write_text(run.fingerprint("traces"))
    train(recipe, tmp_path, only="traces")
    assert left.read_text() == "of this recipe\n"

    train(parse("traces: {max_tokens: 8}"), tmp_path, only="traces")
    assert not left.exists()


def test_a_folder_without_a_fingerprint_is_not_resumed(ran, tmp_path):
    left = tmp_path / "problems" / "journal.jsonl"
    left.parent.mkdir()
    left.write_text("of nobody knows what\n")
    train(parse(""), tmp_path)
    assert not left.exists()


def test_a_fault_leaves_the_stage_undone(ran, tmp_path, monkeypatch):
    def fail(run):
        run.path("traces", "half.txt").write_text("half")
        raise RuntimeError("cut")

    whole = sys.modules["pretended_traces"].run
    monkeypatch.setattr(sys.modules["pretended_traces"], "run", fail)
    with pytest.raises(RuntimeError, match="cut"):
        train(parse(""), tmp_path)
    assert ran == ["problems"] and not Run(parse(""), tmp_path).is_done("traces")
    monkeypatch.setattr(sys.modules["pretended_traces"], "run", whole)
    train(parse(""), tmp_path)
    assert ran == ["problems", "traces", "annotate"]


def test_only_and_until(ran, tmp_path):
    train(parse(""), tmp_path, until="traces")
    assert ran == ["problems", "traces"]
    train(parse(""), tmp_path, only="annotate")
    assert ran == ["problems", "traces", "annotate"]


def test_only_needs_its_inputs(ran, tmp_path):
    with pytest.raises(LiteError, match="stage traces reads problems, which is not done in .*; run it first"):
        train(parse(""), tmp_path, only="traces")
    assert ran == []


def test_unknown_stage(ran, tmp_path):
    with pytest.raises(
        LiteError, match="stage 'tracing' is unknown; the stages are problems, traces, annotate"
    ):
        train(parse(""), tmp_path, only="tracing")
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_share_a_folder(ran, tmp_path):
    hold = (
        "import sys; from pathlib import Path; from lite.stages import _alone_in\n"
        "with _alone_in(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            LiteError, match="another run is at work in it; wait for it, or give another --out"
        ):
            train(parse(""), tmp_path)
        assert ran == []
    finally:
        other.kill()
        other.communicate()
    train(parse(""), tmp_path)  # a killed run holds nothing
    assert ran == ["problems", "traces", "annotate"]


def test_the_stages_read_only_earlier_ones():
    seen: set[str] = set()
    for stage in stages.STAGES:
        assert set(stage.reads) <= seen
        seen.add(stage.name)


def test_gguf_names(tmp_path):
    run = Run(parse("name: mine"), tmp_path)
    assert run.gguf("policy") == tmp_path / "export" / "mine-q8_0.gguf"
    assert run.gguf("base") == tmp_path / "export" / "mine-base-q8_0.gguf"
