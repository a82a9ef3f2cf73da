"""The verbs: help is checked documentation, and bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest
from tiny_gguf import write_tiny_gguf
from typer.main import get_command

from lite import cli, pipeline, quickstart
from lite.cli.options import app, question_of, ratios_of
from lite.cli.train import verdict
from lite.errors import printable
from lite.infer.chat import HELP
from lite.tokens import MODES, mode_of


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Tests may share their cores with others; llama.cpp's threads wait for each other at every step."""
    monkeypatch.setattr("lite.runtime.hardware.num_cores", lambda: 1)


def test_version(lite):
    assert lite("--version") == (0, "0.1.0\n", "")


KNOWN = "the model knows 0.2, 0.4, 0.6, 0.8, 1.0 and auto"


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("train", "nix.yaml"), "no packaged recipe 'nix.yaml'; there are quickstart.yaml, qwen3-0.6b"),
        (
            ("plan", "qwen3"),
            "did you mean qwen3-0.6b-8gb.yaml or qwen3-0.6b-t4.yaml or ",
        ),
        (("train", "some/nix.yaml"), "some/nix.yaml: no such recipe"),
        (("train", "folder"), "no packaged recipe 'folder'"),
        (
            ("train", "quickstart", "--set", "sft.epoch=3"),
            "unknown recipe key sft.epoch; did you mean sft.epochs?",
        ),
        (("train", "quickstart", "--set", "sft.rank=many"), "sft.rank = 'many': must be a valid integer"),
        (("train", "quickstart", "--set", "sft.rank"), "--set sft.rank: expected key=value"),
        (("train", "tiny_reasonr.py"), "no packaged recipe 'tiny_reasonr.py'; there are quickstart.yaml"),
        (
            ("train", "quickstart", "--set", "probe.min_success=1.5"),
            "probe.min_success = 1.5: must be at most 1",
        ),
        (
            ("train", "quickstart", "--stage", "sfx"),
            "stage 'sfx' is unknown; the stages are problems, traces",
        ),
        (
            ("train", "quickstart", "--stage", "sft", "--until", "sft"),
            "--stage and --until exclude each other",
        ),
        (
            ("train", "quickstart", "--stage", "sft"),
            "stage sft reads mixture, which is not done in runs/quickstart; run it first",
        ),
        (("train", "broken.yaml"), "broken.yaml: not plain YAML"),
        (("train", "list.yaml"), "list.yaml: expected key: value lines, got list"),
        (("train", "few.yaml"), "asks for 12 problems (num_eval 4 + num_rl 4 + num_train 4), 1 different"),
        (("train", "none.yaml"), "empty.jsonl: no problems in it"),
        (("problems", "nix.jsonl"), "no such file; give a JSONL, JSON, CSV or Parquet file"),
        (("problems", "empty.jsonl"), "empty.jsonl: no problems in it"),
        (("problems", "bad.jsonl"), "bad.jsonl, line 2: not an object: '5'"),
        (("problems", "quickstart"), "quickstart makes as many problems as asked; say how many with --num"),
        (("problems", "one.jsonl", "--num", "2"), "2 problems are asked, 1 different ones are in it"),
        (("ask", "no.gguf", "1+1?", "--ratio", "0.3"), f"ratio 0.3: {KNOWN}"),
        (("ask", "no.gguf", "1+1?", "--ratio", "0"), "ratio 0: must lie in (0, 1], or in 1 to 100 %"),
        (("ask", "no.gguf", "1+1?", "--ratio", "30"), f"ratio 30: {KNOWN}"),
        (("ask", "no.gguf", "1+1?", "--ratio", "200"), "ratio 200: must lie in (0, 1]"),
        (("ask", "no.gguf", "1+1?", "--ratio", "1.5"), "ratio 1.5: must lie in (0, 1]"),
        (("ask", "no.gguf", "1+1?", "--ratio", "nan"), "ratio nan: must lie in (0, 1]"),
        (("ask", "no.gguf", "1+1?", "--ratio", "half"), "ratio 'half': not a number"),
        (("ask", "no.gguf", "  "), "the question is empty"),
        (
            ("ask", "no.gguf", "1+1?", "--ratio", "0.2", "--effort", "low"),
            "--ratio 0.2 and --effort low both set the ratio; give one of them",
        ),
        (("ask", "no.gguf", "1+1?", "--effort", "max"), "effort 'max': use one of low, medium, high"),
        (("ask", "no.gguf", "1+1?", "--budget", "9", "--no-think"), "--budget 9 and --no-think contradict"),
        (("ask", "no.gguf", "1+1?", "--escalate", "--ratio", "1"), "--escalate chooses the ratio itself"),
        (("chat", "no.gguf", "--ratio", "2"), f"ratio 2: {KNOWN}"),
        (("chat", "no.gguf"), "no.gguf: not a GGUF"),
        (("bench", "nix.gguf"), "nix.gguf: no such file"),
        (("ask", "nix.gguf", "1+1?"), "nix.gguf"),
        (("ask", "no.gguf", "1+1?"), "no.gguf"),
        (("ask", ".", "1+1?"), "."),
        (("eval", "no.gguf", "--problems", "one.jsonl", "--out", "report"), "no.gguf"),
        (("eval", "no.gguf", "--problems", "nix.jsonl", "--out", "report"), "nix.jsonl"),
        (
            ("eval", "no.gguf", "--problems", "one.jsonl", "--out", "r", "--ratios", "0.2,2"),
            f"ratio 2: {KNOWN}",
        ),
        (("report", "folder"), "folder: no report in it"),
        (("eval", "no.gguf", "--problems", "one.jsonl", "--out", "r", "--ratios", ","), "--ratios is empty"),
        (("compress", "nix.jsonl", "--model", "folder"), "nix.jsonl: no such file"),
        (("compress", "one.jsonl", "--model", "folder", "--ratio", "half"), "ratio 'half': not a number"),
        (("compress", "one.jsonl", "--model", "folder", "--ratio", "0"), "ratio 0: must lie in (0, 1]"),
        (("compress", "one.jsonl", "--model", "folder", "--ratio", ","), "--ratio is empty"),
        (
            ("plan", "quickstart", "--set", "model=a b/c"),
            "model 'a b/c': no such folder; give a folder, a hub",
        ),
        (("problems", "quickstart", "--num", "9" * 20), "invalid value for '--num'"),
        (("serve", "no.gguf", "--port", "0"), "no.gguf"),
        (("serve", "nix.gguf", "--port", "0"), "nix.gguf"),
        (("export", "nix", "--out", "x"), "'nix': no such folder"),
        (("export", "folder", "--out", "x"), "model folder: the folder has no config.json"),
        (("export", "folder", "--out", "x.gguf"), "x.gguf: give a folder to --out"),
        (("export", "folder", "--out", "."), ".: is not empty and not an export of lite"),
        (("export", "folder", "--out", "x", "--quant", "q8_0,q9"), "quant 'q9' is unknown; use one of f32"),
        (
            ("export", "folder", "--out", "x", "--llama-cpp", "folder"),
            "folder: no convert_hf_to_gguf.py in it",
        ),
        (("verify", "no.gguf"), "no.gguf: not a GGUF (it begins with b'this')"),
        (("verify", "nix.gguf"), "nix.gguf: no such file"),
        (("recipes", "cp", "nix"), "no packaged recipe 'nix'"),
        (("recipes", "cp", "quickstart", "bad.jsonl"), "bad.jsonl is there already"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_code_2(lite, tmp_path, arguments, expected):
    (tmp_path / "folder").mkdir()
    for name, text in {
        "empty.jsonl": "\n",
        "one.jsonl": '{"question": "1+1?", "answer": "2"}\n',
        "bad.jsonl": '{"question": "1+1?", "answer": "2"}\n5\n',
        "broken.yaml": "a: [\n",
        "list.yaml": "- 1\n",
        "few.yaml": "problems: {source: one.jsonl, num_train: 4, num_rl: 4, num_eval: 4}\n",
        "none.yaml": "problems: {source: empty.jsonl, num_train: 4, num_rl: 4, num_eval: 4}\n",
        "no.gguf": "this is no GGUF",
    }.items():
        (tmp_path / name).write_text(text)
    code, _, err = lite(*arguments)
    last = err.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("error: ") and expected in last
    assert err.count("error: ") == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("trian",), "error: lite trian: no such command 'trian'; did you mean 'train'? see `lite --help`"),
        (("--bad",), "error: lite --bad: no such option: --bad; see `lite --help`"),
        (("recipes",), "error: lite recipes: missing command; see `lite recipes --help`"),
        (("ask",), "error: lite ask: missing argument 'MODEL.gguf'; see `lite ask --help`"),
        (("eval", "x.gguf"), "error: lite eval x.gguf: missing option '--problems'; see `lite eval --help`"),
        (
            ("ask", "x.gguf", "1+1?", "--ratoi", "1"),
            "error: lite ask x.gguf '1+1?' --ratoi 1: no such option",
        ),
        (("ask", "x.gguf", "a\nb", "--max-tokens"), "error: lite ask x.gguf 'a b' --max-tokens: option"),
        (("problems", "quickstart", "--num", "0"), "--num 0: invalid value for '--num'"),
        (("problems", "quickstart", "--num", "many"), "--num many: invalid value for '--num'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage_faults_are_one_line(lite, arguments, expected):
    code, out, err = lite(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err and " see `lite" in err


def test_lite_alone_shows_its_help(lite):
    code, out, err = shown = lite()
    assert shown == lite("--help") == lite("-h") == lite("help") and (code, err) == (0, "")
    headings = [out.index(f"\n{heading}:\n") for heading in ("Use", "Train", "Data")]
    assert headings == sorted(headings) and out.count('lite ask quickstart "') == 1
    for verb in get_command(app).commands:
        assert out.count(f"\n  {verb} ") == 1, verb


def test_shell_completion(monkeypatch, lite):
    monkeypatch.setenv("_LITE_COMPLETE", "source_bash")
    code, out, _ = lite()
    assert code == 0 and "complete" in out and "_LITE_COMPLETE" in out


@pytest.mark.parametrize("num", ["2", "500"], ids=["at the end", "amid"])
def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path, num):
    """`lite problems ... | head -1`: both where the pipe breaks amid the lines and where it does at the last flush."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lite", "problems", "quickstart", "--num", num]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_problems_prints_jsonl(lite):
    code, out, _ = lite("problems", "quickstart", "--num", "7", "--seed", "99")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == 7
    assert all([*row] == ["id", "question", "answer", "cot", "data_set", "kind", "needed"] for row in rows)
    assert rows[0]["id"] == "quickstart-99-0"


def test_recipes(lite, tmp_path):
    code, out, _ = lite("recipes", "ls")
    assert code == 0 and re.search(r"^quickstart\.yaml +\w+ \w+", out, re.MULTILINE)
    assert lite("recipes", "cp", "quickstart", "mine.yaml") == (0, "mine.yaml\n", "")
    assert (tmp_path / "mine.yaml").read_text().startswith("#")


@pytest.mark.parametrize(
    "text, mode",
    [
        ("0.2", "0.2"),
        (".4", "0.4"),
        ("0.60", "0.6"),
        ("1", "1.0"),
        ("1.0", "1.0"),
        ("20", "0.2"),
        ("40%", "0.4"),
        (" 100 % ", "1.0"),
        ("auto", "policy"),
        ("policy", "policy"),
        ("base", "base"),
    ],
)
def test_mode(text, mode):
    assert mode_of(text) == mode


@pytest.fixture
def trained(monkeypatch):
    """Catch what `lite train` would run."""
    calls = []

    def train(recipe, folder, only=None, until=None, endpoint=""):
        calls.append((recipe, str(folder), only, until))

    monkeypatch.setattr(pipeline, "train", train)
    return calls


@pytest.mark.parametrize(
    "arguments, folder, only, until",
    [
        (("train", "quickstart"), "runs/quickstart", None, None),
        (("train", "quickstart", "--set", "name=mine"), "runs/mine", None, None),
        (("train", "quickstart.yaml", "--out", "here", "--until", "sft"), "here", None, "sft"),
        (("train", "quickstart", "--stage", "sft"), "runs/quickstart", "sft", None),
        (("train", "quickstart", "--stage", "compress"), "runs/quickstart", "compress", None),
    ],
)
def test_train(lite, trained, arguments, folder, only, until):
    assert lite(*arguments)[0] == 0
    assert [call[1:] for call in trained] == [(folder, only, until)]


def test_set_is_repeatable(lite, trained):
    lite("train", "quickstart", "--set", "sft.rank=3", "--set", "seed=9")
    assert (trained[0][0].sft.rank, trained[0][0].seed) == (3, 9)


@pytest.mark.parametrize(
    "fault, code, expected",
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x"),
            2,
            "error: no space left for runs/x; free some",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            2,
            "error: no permission for /x; choose another",
        ),
        (
            ModuleNotFoundError("No module", name="trl.trainer"),
            2,
            "error: this needs trl, which is not installed",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here"),
    ],
    ids=["space", "permission", "package", "interrupt"],
)
def test_faults_of_the_machine(lite, monkeypatch, fault, code, expected):
    def train(*_):
        raise fault

    monkeypatch.setattr(pipeline, "train", train)
    got, _, err = lite("train", "quickstart")
    assert got == code
    assert err.strip().startswith(expected) and len(err.strip().splitlines()) == 1


def test_our_own_faults_keep_their_traceback(monkeypatch, tmp_path):
    def train(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "train", train)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", "quickstart", "--out", str(tmp_path)])


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return str(write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf"))


def test_ask(lite, gguf):
    code, out, _ = lite("ask", gguf, "1+1?", "--ratio", "0.2", "--max-tokens", "8", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["mode"] == "0.2" and 0 < answer["total_tokens"] <= 8
    assert answer["stop"] == "length" and answer["prompt_tokens"] > 20 and answer["tokens_per_second"] > 0
    code, out, err = lite("ask", gguf, "1+1?", "--ratio", "0.2", "--max-tokens", "8")
    assert code == 0 and out.strip("\n�") == printable(answer["visible"]).strip("�")
    assert f"{answer['total_tokens']} in all" in err and "ended by the token limit" in err


def test_ask_under_an_effort_or_a_budget(lite, gguf):
    _, out, _ = lite("ask", gguf, "1+1?", "--effort", "medium", "--max-tokens", "8", "--json")
    assert json.loads(out)["mode"] == "0.6"
    _, out, _ = lite("ask", gguf, "1+1?", "--budget", "9", "--max-tokens", "200", "--json")
    answer = json.loads(out)
    assert (answer["mode"], answer["budget"]) == ("policy", 9) and answer["think_tokens"] <= 9
    code, _, err = lite("ask", gguf, "1+1?", "--budget", "9", "--max-tokens", "20")
    assert code == 2 and "no room for a budget and an answer" in err
    _, out, _ = lite("ask", gguf, "1+1?", "--no-think", "--max-tokens", "8", "--json")
    assert json.loads(out)["closed"] and not json.loads(out)["think"]


def test_ask_with_a_system_turn_a_temperature_and_a_lean(lite, gguf):
    def asked(*arguments):
        code, out, err = lite("ask", gguf, "1+1?", "--max-tokens", "8", "--json", *arguments)
        assert code == 0, err
        return json.loads(out)

    plain, warm = asked(), ("--temperature", "1.5", "--seed")
    assert asked("--system", "Be brief.")["prompt_tokens"] > plain["prompt_tokens"]
    assert asked("--instruction", "")["prompt_tokens"] < plain["prompt_tokens"]
    assert asked(*warm, "1")["visible"] == asked(*warm, "1")["visible"] != asked(*warm, "2")["visible"]
    assert asked("--lean", "100")["ratio"] == 1.0
    assert asked("--budget", "0", "--max-tokens", "100")["think_tokens"] == 0


@pytest.mark.parametrize("name", ["owner/repo", "owner/repo:Q4_K_M"])
def test_a_gguf_by_its_name_on_the_hub(lite, gguf, monkeypatch, tmp_path, name):
    import huggingface_hub as hub

    def away(*_, **__):
        raise OSError("no network\nat all")

    with monkeypatch.context() as offline:
        for function in ("list_repo_files", "snapshot_download"):
            offline.setattr(hub, function, away)
        code, _, err = lite("ask", name, "1+1?")
        assert code == 2 and f"{name}: cannot be fetched from the Hub (no network); check" in err
    files = ["README.md", "x-Q8_0.gguf", "mmproj-Q4_K_M.gguf", "x-q4_k_m.gguf", "x-00001-of-00002.gguf"]
    monkeypatch.setattr(hub, "list_repo_files", lambda repo: files)
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo, file: {"x-q4_k_m.gguf": gguf}[file])
    code, out, err = lite("ask", name, "1+1?", "--max-tokens", "4", "--json")
    assert code == 0 and json.loads(out)["total_tokens"], err
    code, _, err = lite("ask", "owner/repo:Q2_K", "1+1?")
    assert code == 2 and "that repository has x-Q8_0.gguf, x-q4_k_m.gguf; name one of its quants" in err


def test_ask_escalating(lite, gguf):
    code, out, err = lite("ask", gguf, "1+1?", "--escalate", "--max-tokens", "8", "--json")
    tried = json.loads(out)["tried"]
    assert code == 0 and [each["mode"] for each in tried] == [*np.repeat(MODES[:4], 2), "1.0"]
    code, out, err = lite("ask", gguf, "1+1?", "--escalate", "--max-tokens", "8")
    *going_up, footer = err.splitlines()
    assert (
        code == 0 and len(going_up) == 4 and out.strip() and all("do not agree" in line for line in going_up)
    )
    assert footer.startswith("[1.0, the largest ratio, asked once: ") and "; 9 replies took " in footer


def test_a_reply_is_shown_before_what_it_took(gguf, tmp_path):
    """Both streams in one file, as on a terminal."""
    command = [sys.executable, "-m", "lite", "ask", gguf, "1+1?", "--escalate", "--max-tokens", "8"]
    with open(tmp_path / "both", "w+b") as both:
        subprocess.run(command, stdout=both, stderr=both, stdin=subprocess.DEVNULL, check=True)
        both.seek(0)
        assert both.read().splitlines()[-1].startswith(b"[1.0, the largest ratio")


def test_verify(lite, gguf):
    code, out, _ = lite("verify", gguf)
    lines = dict(re.split(r" {2,}", line) for line in out.splitlines()[:-1])
    assert code == 0 and out.endswith("\nsound\n")
    shown = (lines["architecture"], lines["dial"], lines["input and output rows tied"])
    assert shown == ("qwen3", "yes", "no")
    out = lite("verify", "quickstart")[1]
    assert "{" not in out and " at 0.2, " in out and quickstart.EXAMPLES[1] in out and quickstart.NEXT in out


def test_ask_reads_stdin(lite, gguf, monkeypatch):
    _, given, _ = lite("ask", gguf, "1+1?", "--max-tokens", "8")
    monkeypatch.setattr("sys.stdin", io.StringIO("1+1?\n"))
    assert lite("ask", gguf, "--max-tokens", "8")[:2] == (0, given)
    monkeypatch.setattr("sys.stdin", io.StringIO("1+1?\n"))
    assert lite("ask", gguf, "-", "--max-tokens", "8")[:2] == (0, given)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    code, _, err = lite("ask", gguf)
    assert code == 2 and "stdin is not UTF-8 text" in err


@pytest.mark.parametrize(
    "argument, given, asked",
    [
        ("How many?", "Mia has 3.\n", "Mia has 3.\n\nHow many?"),
        ("-", "1+1?", "1+1?"),
        ("How many?", "", "How many?"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_piped_text_goes_before_the_question(monkeypatch, tmp_path, argument, given, asked, kind):
    (tmp_path / "in").write_text(given)
    reader, writer = os.pipe()
    os.write(writer, given.encode())
    os.close(writer)
    with open(reader), open(tmp_path / "in") as file:
        monkeypatch.setattr("sys.stdin", file if kind == "file" else open(reader, closefd=False))
        assert question_of(argument) == asked


def test_a_file_that_a_loop_reads_stays_unread(monkeypatch, tmp_path):
    (tmp_path / "in").write_text("one\ntwo\n")
    with open(tmp_path / "in") as file:
        os.read(file.fileno(), 4)
        monkeypatch.setattr("sys.stdin", file)
        assert question_of("1+1?") == "1+1?" and file.read() == "two\n"


def test_a_question_typed_on_a_terminal_is_asked_for(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("1+1?"))
    assert question_of(None) == "1+1?" and "Ctrl-D" in capsys.readouterr().err


def test_a_ratio_said_twice_counts_once():
    assert ratios_of("0.2,.2, 0.40,20, 40%") == [0.2, 0.4]


def test_no_message_commands_a_terminal(lite):
    code, _, err = lite("ask", "\x1b]0;evil\x07nix.gguf", "1+1?")
    assert code == 2 and "]0;evilnix.gguf" in err and err.isprintable() is False and "\x1b" not in err


def test_chat_s_odd_input(lite, gguf, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/budget {'9' * 5000}\n/budget 30\n"))
    code, _, err = lite("chat", gguf)
    assert code == 0 and "give a number of tokens, or off" in err and "budget 30" in err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    code, _, err = lite("chat", gguf)
    assert code == 2 and "stdin is not UTF-8 text" in err


def test_chat(lite, gguf, monkeypatch, tmp_path):
    steps = [
        ("/ratio 0.4", "0.4"),
        ("/ratio 7", f"error: ratio 7: {KNOWN}; use one of them"),
        ("/budget 30", "0.4, budget 30"),
        ("/budget x", "error: /budget x: give a number of tokens, or off"),
        ("/budget off", "0.4"),
        ("/ratio auto", "policy"),
        ("/effort medium", "0.6"),
        ("/effort much", "error: /effort much: use one of low, medium, high"),
        ("/think off", "no thinking"),
        ("/think on", "0.6"),
        ("/think loud", "error: /think loud: use one of on, off, show, hide"),
        ("/system Be brief.", "0.6"),
        ("/rato 0.2", "error: /rato: no such command; did you mean /ratio?"),
        ("/xyz", "error: /xyz: no such command; /help shows them"),
        ("/ratio off", "policy"),
    ]
    lines = [command for command, _ in steps]
    lines = [
        "/help",
        "",
        *lines,
        '"""one',
        "two",
        'three"""',
        "/save talk.json",
        "/save talk.json",
        "/exit",
        "unread",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    code, out, err = lite("chat", gguf, "--max-tokens", "200")
    told = err.removeprefix(HELP + "\n").splitlines()
    assert code == 0 and "> " not in out
    assert told[: len(steps)] == [reply for _, reply in steps]
    counted, saved, again = told[len(steps) :]
    assert counted.startswith("[policy") and again.startswith("error: /save talk.json: give a new file")
    messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert (
        messages[0] == {"role": "system", "content": "Be brief."}
        and saved == f"{len(messages)} turns in talk.json"
    )
    if len(messages) > 1:
        assert messages[1] == {"role": "user", "content": "one\ntwo\nthree"}


def test_a_paste_of_several_lines_into_chat_is_one_question(gguf, tmp_path):
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "lite", "chat", gguf, "--max-tokens", "8"]
    env = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": terminal, "stdout": terminal, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=tmp_path, env=env) as chat:
        os.close(terminal)
        shown = b""
        while b"\x1b[?2004h" not in shown:  # the terminal is asked to mark what is pasted
            shown += os.read(master, 1000)
        os.write(master, b"\x1b[200~one\rtwo\rthree\x1b[201~\r/exit\r")
        with contextlib.suppress(OSError):  # the other side has closed
            while os.read(master, 1000):
                pass
        told = chat.stderr.read()
    os.close(master)
    assert chat.returncode == 0 and told.count("ended by the token limit") == 1


def test_bench(lite, gguf):
    code, out, _ = lite("bench", gguf, "--num", "2", "--max-tokens", "8")
    machine, header, *rows = out.splitlines()
    assert (
        code == 0
        and "1 cores, llama-cpp-python" in machine
        and "tokens/s" in header
        and "seconds/answer" in header
    )
    assert [row.split()[0] for row in rows] == [*MODES]
    assert all(float(number) >= 0 for row in rows for number in row.split()[1:])


def test_eval(lite, gguf, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"question": "1+1?", "answer": "2"}\n{"question": "2+2?", "answer": "4"}\n'
    )
    arguments = ("--problems", "p.jsonl", "--ratios", "0.2,policy", "--out", "report", "--max-tokens", "8")
    code, out, err = lite("eval", gguf, *arguments)
    rows = {row["mode"]: row for row in json.loads((tmp_path / "report" / "report.json").read_text())["rows"]}
    assert code == 0 and {"0.2", "policy"} <= set(rows) and rows["0.2"]["num_problems"] == 2
    text = (tmp_path / "report" / "report.md").read_text()
    assert out == text + "\n" and lite("report", "report")[1] == out
    assert f"report: {os.path.join('report', 'report.md')}\npicture: " in err
    assert lite("eval", gguf, *arguments)[0] == 0
    code, _, err = lite("eval", gguf, *arguments, "--num", "1")
    assert (
        code == 2
        and "report: holds a finished report of other problems; give another --out, or --over" in err
    )
    assert (tmp_path / "report" / "report.md").read_text() == text
    assert lite("eval", gguf, *arguments, "--num", "1", "--overwrite")[0] == 0


def test_quickstart_is_the_packaged_model_unless_there_is_such_a_file(lite, tmp_path):
    (tmp_path / "quickstart").mkdir()
    code, out, _ = lite("verify", "quickstart")
    assert code == 0 and "sound" in out and quickstart.GGUF.is_file()
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").write_text("mine")
    code, _, err = lite("verify", "quickstart")
    assert code == 2 and "quickstart" in err


def test_the_verdict_of_the_quickstart():
    rows = {
        mode: {"think_tokens": tokens, "accuracy": right}
        for mode, tokens, right in (
            ("base", 200, 0.9),
            ("0.2", 34.9, 0.995),
            ("1.0", 178.4, 1.0),
            ("policy", 36.8, 0.99),
        )
    }
    assert verdict(rows) == (
        "The dial: at 0.2 35 think tokens and 99.5% right, at policy 37 think tokens and 99.0% right;"
        " at 1.0 178 and 100.0%."
    )
