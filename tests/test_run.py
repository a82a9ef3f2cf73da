"""Which stages run, which are skipped, and what becomes of what a cut run left. The stages here only pretend."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys

import pytest
from kills import killed_before

from lite import pipeline
from lite.config import parse
from lite.errors import LiteError, Unreachable
from lite.pipeline import train
from lite.run import READS, Run
from lite.runtime import provenance
from lite.runtime.provenance import sha256


@pytest.fixture
def ran(monkeypatch):
    """Three stages; each writes `<name>.txt`. Gives the list of those that ran."""
    ran: list[str] = []
    few = {name: READS[name] for name in ("problems", "traces", "annotate")}
    for module in ("run", "pipeline"):
        monkeypatch.setattr(f"lite.{module}.READS", few)

    def work_of(name: str):
        def run(run: Run):
            ran.append(name)
            run.path(name, f"{name}.txt").write_text(name)
            return {"num": len(ran)}

        return run

    monkeypatch.setattr(pipeline, "work_of", work_of)
    return ran


@pytest.fixture
def replace(monkeypatch):
    """Give the stage traces another function for its work."""

    def replace(work, monkeypatch=monkeypatch):
        others = pipeline.work_of
        monkeypatch.setattr(pipeline, "work_of", lambda name: work if name == "traces" else others(name))

    return replace


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
    assert manifest["sha256"]["traces.txt"] == sha256(tmp_path / "traces" / "traces.txt")
    assert manifest["recipe"]["sft"]["rank"] == 32 and "python" in manifest["versions"]
    assert manifest["seconds"] >= 0 and manifest["peak_memory_gb"] > 0
    assert parse((tmp_path / "recipe.yaml").read_text()) == run.recipe


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    "changed, again",
    [
        ("annotate: {num_traces: 7}", ["annotate"]),
        ("traces: {max_tokens: 7}", ["traces", "annotate"]),  # what reads it runs again, too
        ("problems: {num_rl: 7}", ["problems", "traces", "annotate"]),
        ("seed: 2", ["problems", "traces", "annotate"]),
        ("model: other/model", ["traces", "annotate"]),  # problems need none
        ("name: other", []),
        ("sft: {rank: 7}", []),  # no stage here reads it
    ],
)
def test_a_changed_recipe_runs_what_it_changes(ran, tmp_path, changed, again):
    train(parse(""), tmp_path)
    ran.clear()
    train(parse(changed), tmp_path)
    assert ran == again


def test_a_model_that_was_trained_again_runs_what_uses_it(ran, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text("{}")
    recipe, again = parse(f"model: {model}"), ["traces", "annotate"]
    train(recipe, tmp_path / "run")
    ran.clear()
    (model / "model.safetensors").write_text("[]")  # as long as before
    train(recipe, tmp_path / "run")
    assert ran == again
    (model / "tokenizer.json").write_text('{"more": 1}')
    train(recipe, tmp_path / "run")
    assert ran == again * 2
    (model / "README.md").write_text("a word more")
    shutil.copytree(model, tmp_path / "copy")
    train(recipe, tmp_path / "run")
    train(parse(f"model: {tmp_path / 'copy'}"), tmp_path / "run")  # the same model elsewhere
    assert ran == again * 2


def test_a_model_file_is_read_once_in_a_process(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    read = []
    monkeypatch.setattr(provenance, "sha256", lambda path: read.append(path.name) or "0")
    for _ in range(3):
        Run(parse(f"model: {tmp_path}"), tmp_path / "run").fingerprint("evaluate")
    assert read == ["config.json"]


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


@pytest.mark.parametrize("key", ["fingerprint", "bytes"])
def test_a_manifest_without_a_key_is_none(ran, tmp_path, key):
    train(parse(""), tmp_path)
    path = tmp_path / "traces" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[key]
    path.write_text(json.dumps(manifest))
    ran.clear()
    train(parse(""), tmp_path)
    assert ran == ["traces"]


@pytest.mark.parametrize("torn", ["", "{", '{"fingerprint": ', "[1]"])
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


def test_a_fault_leaves_the_stage_undone(ran, replace, tmp_path):
    def fail(run):
        run.path("traces", "half.txt").write_text("half")
        raise RuntimeError("cut")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="cut"):
        replace(fail, patch)
        train(parse(""), tmp_path)
    assert ran == ["problems"] and not Run(parse(""), tmp_path).is_done("traces")
    train(parse(""), tmp_path)
    assert ran == ["problems", "traces", "annotate"]


OLD, NEW = parse(""), parse("traces: {max_tokens: 7}")


@pytest.fixture
def told(ran, replace):
    """`ran`, where the stage traces writes its recipe's max_tokens into three files, or a LiteError where that is 13."""

    def run(run: Run):
        ran.append("traces")
        for name in "abc":
            run.path("traces", name).write_text(str(run.recipe.traces.max_tokens))
        if run.recipe.traces.max_tokens == 13:
            raise LiteError("13 is no number")
        return {}

    replace(run)
    return ran


def whose(folder):
    """The max_tokens in the stage's files: one number where all of them are one recipe's."""
    (number,) = {(folder / "traces" / name).read_text() for name in "abc"}
    return int(number)


@pytest.mark.parametrize("next_recipe", [OLD, NEW], ids=["old", "new"])
def test_killed_at_any_moment_the_next_run_restores_or_finishes(told, tmp_path, next_recipe):
    for step in itertools.count(1):
        folder = tmp_path / f"{step}"
        train(OLD, folder, until="traces")
        killed = killed_before(step, lambda folder=folder: train(NEW, folder, only="traces"))
        finished = Run(NEW, folder).is_done("traces")
        told.clear()
        for again in itertools.count(
            1 + step % 7, 7
        ):  # and that run is killed, too; every moment in some step
            if not killed_before(again, lambda folder=folder: train(next_recipe, folder, only="traces")):
                break
            assert (
                not Run(next_recipe, folder).is_done("traces")
                or whose(folder) == next_recipe.traces.max_tokens
            )
        train(next_recipe, folder, only="traces")
        assert whose(folder) == next_recipe.traces.max_tokens and Run(next_recipe, folder).is_done("traces")
        assert [*folder.glob("*.old")] == []
        if not killed:
            assert finished
            break
    assert step > 10


def test_a_killed_run_loses_no_finished_stage_of_another_recipe(told, tmp_path):
    """Up to the moment that the new one is done, the old one need not run again."""
    steps = []
    for step in itertools.count(1):
        folder = tmp_path / f"{step}"
        train(OLD, folder, until="traces")
        killed = killed_before(step, lambda folder=folder: train(NEW, folder, only="traces"))
        steps.append(Run(NEW, folder).is_done("traces"))
        told.clear()
        train(OLD, folder, only="traces")
        assert told == (["traces"] if steps[-1] else [])
        if not killed:
            break
    assert steps == sorted(steps) and not steps[0]


def test_a_stage_that_cannot_be_done_leaves_the_old_one(told, tmp_path):
    train(OLD, tmp_path, until="traces")
    with pytest.raises(LiteError, match="13 is no number"):
        train(parse("traces: {max_tokens: 13}"), tmp_path, only="traces")
    assert whose(tmp_path) == OLD.traces.max_tokens and Run(OLD, tmp_path).is_done("traces")


def test_a_server_that_is_away_costs_nothing_that_it_gave(told, replace, tmp_path):
    train(OLD, tmp_path, until="traces")
    work = pipeline.work_of("traces")

    def cut(run: Run):
        run.path("traces", "journal").write_text("half")
        raise Unreachable("away")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unreachable):
        replace(cut, patch)
        train(NEW, tmp_path, only="traces")

    def go_on(run: Run):
        assert run.path("traces", "journal").read_text() == "half"
        return work(run)

    with pytest.MonkeyPatch.context() as patch:
        replace(go_on, patch)
        train(NEW, tmp_path, only="traces")
    assert Run(NEW, tmp_path).is_done("traces") and not [*tmp_path.glob("*.old")]


def test_traces_depend_on_how_the_model_was_loaded(tmp_path):
    four_bit = Run(parse("sft: {four_bit: true}"), tmp_path), Run(parse("sft: {four_bit: false}"), tmp_path)
    assert len({run.fingerprint("traces") for run in four_bit}) == 2
    assert len({run.fingerprint("problems") for run in four_bit}) == 1


def test_a_stage_that_runs_again_is_not_done_before_its_end(told, replace, tmp_path):
    """A damaged file is made anew, and cut: the earlier manifest says nothing any more."""
    train(OLD, tmp_path, until="traces")
    (tmp_path / "traces" / "a").write_text("")
    original = pipeline.work_of("traces")

    def cut(run):
        original(run)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        replace(cut, patch)
        train(OLD, tmp_path, only="traces")
    assert not Run(OLD, tmp_path).is_done("traces")


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
        "import sys; from pathlib import Path; from lite.pipeline import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
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
    for stage, reads in READS.items():
        assert set(reads) <= seen and callable(pipeline.work_of(stage))
        seen.add(stage)


def test_gguf_names(tmp_path):
    run = Run(parse("name: mine"), tmp_path)
    assert run.gguf("policy") == tmp_path / "export" / "mine-q8_0.gguf"
    assert run.gguf("base") == tmp_path / "export" / "mine-base-q8_0.gguf"


@pytest.mark.parametrize(
    "section, key, value",
    [("sft", "report_to", "wandb"), ("chrpo", "report_to", "trackio"), ("chrpo", "vllm", "0.5")],
)
def test_a_package_that_is_not_installed_is_told_before_any_work(
    ran, tmp_path, monkeypatch, section, key, value
):
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LiteError, match=f"{section}.{key} = {value}: .* is not installed"):
        train(parse(f"{section}: {{{key}: {value}}}"), tmp_path / "run")
    assert ran == [] and not (tmp_path / "run").exists()
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda name: name)
    train(parse(f"{section}: {{{key}: {value}}}"), tmp_path / "run", only="problems")
    assert ran == ["problems"]
