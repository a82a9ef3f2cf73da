"""Recipes: what is wrong is said before any work starts; every packaged recipe loads and is commented."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from lite import config
from lite.cli import recipes
from lite.config import Recipe, parse
from lite.errors import LiteError


def test_the_empty_recipe_is_the_default():
    assert parse("") == Recipe()
    assert parse("sft:\n  rank: 8").sft.rank == 8


def test_resolved_recipe_round_trips():
    resolved = parse(
        "name: x\nseed: 3\nevaluate:\n  modes: [base, '0.2', 1.0]\nproblems: {eval: [a, {name: b, num: 3}]}",
        ["sft.learning_rate=2e-5"],
    )
    assert parse(config.dump(resolved)) == resolved
    assert resolved.evaluate.modes == ("base", "0.2", "1.0")


@pytest.mark.parametrize(
    "override, read, value",
    [
        ("seed=7", lambda r: r.seed, 7),
        ("name=other", lambda r: r.name, "other"),
        ("sft.rank=16", lambda r: r.sft.rank, 16),
        ("sft.learning_rate=2e-5", lambda r: r.sft.learning_rate, 2e-5),  # YAML alone reads this as text
        ("sft.learning_rate=1", lambda r: r.sft.learning_rate, 1.0),
        ("chrpo.use_ctrl=false", lambda r: r.chrpo.use_ctrl, False),
        ("evaluate.modes=[base, policy]", lambda r: r.evaluate.modes, ("base", "policy")),
        ("problems.source=data/a=b.jsonl", lambda r: r.problems.source, (config.Source("data/a=b.jsonl"),)),
        (
            "problems.eval=[a, {name: b, num: 2}]",
            lambda r: r.problems.eval,
            (config.Source("a"), config.Source("b", 2)),
        ),
        ("problems.source={name: a, cot: c}", lambda r: r.problems.source, (config.Source("a", cot="c"),)),
    ],
)
def test_set(override, read, value):
    assert read(parse("sft:\n  rank: 4", [override])) == value
    assert type(read(parse("", [override]))) is type(value)


def test_the_last_override_wins():
    assert parse("sft: {rank: 4}", ["sft.rank=5", "sft.rank=6"]).sft.rank == 6


@pytest.mark.parametrize(
    "text, message",
    [
        ("modle: x", "unknown recipe key modle; did you mean model?"),
        ("sft:\n  epoch: 3", "unknown recipe key sft.epoch; did you mean sft.epochs?"),
        ("sft:\n  rank: many", "sft.rank = 'many': must be a valid integer"),
        ("sft:\n  rank: 3.5", "sft.rank = 3.5: must be a valid integer"),
        ("sft:\n  rank: true", "sft.rank = True: must be a valid integer"),
        ("sft:\n  rank:", "sft.rank = None: must be a valid integer"),
        ("sft:\n  rank: 0", "sft.rank = 0: must be at least 1"),
        ("sft:\n  learning_rate: 0", "sft.learning_rate = 0: must be greater than 0"),
        (
            "sft:\n  max_steps: 0",
            "sft.max_steps = 0: must be 1 or more, or -1 for as many as the epochs take",
        ),
        ("sft:\n  warmup: -0.1", "sft.warmup = -0.1: must be at least 0"),
        ("sft:\n  warmup: 1", "sft.warmup = 1: must be less than 1"),
        ("compressor:\n  weight_decay: -1", "compressor.weight_decay = -1: must be at least 0"),
        ("mixture:\n  min_tokens: -1", "mixture.min_tokens = -1: must be at least 0"),
        ("chrpo:\n  w_acc: -1", "chrpo.w_acc = -1: must be at least 0"),
        ("chrpo:\n  eps: 1", "chrpo.eps = 1: must be less than 1"),
        ("evaluate:\n  batch_size: 300", "evaluate.batch_size = 300: must be at most 256"),
        ("traces:\n  temperature: .inf", "traces.temperature = inf: must be a finite number"),
        ("evaluate:\n  temperature: 1e999", "evaluate.temperature = '1e999': must be a finite number"),
        (f"sft:\n  epochs: {10**400}", "sft.epochs = 1000"),
        ("problems:\n  num_train: 99999999999999999999", "must be at most 1000000000"),
        ("evaluate:\n  temperature: 200", "evaluate.temperature = 200: must be at most 100"),
        ("sft:\n  learning_rate: fast", "sft.learning_rate = 'fast': must be a valid number"),
        ("sft:\n  learning_rate: .nan", "sft.learning_rate = nan: must be a finite number"),
        ("problems:\n  source: []", "problems.source is empty; name at least one source"),
        ("problems:\n  source: [5]", "problems.source = 5: must be a section of key: value lines"),
        ("problems:\n  source: {num: 5}", "problems.source.name: missing"),
        (
            "problems:\n  source: {name: a, columns: b}",
            "unknown recipe key problems.source.columns; did you mean",
        ),
        ("problems:\n  source: {name: a, num: -1}", "source.num = -1: must be at least 0"),
        ("problems:\n  num_eval: 0", "problems.num_eval = 0 and problems.eval is empty"),
        ("sft: 5", "sft = 5: must be a section of key: value lines"),
        (
            "annotate:\n  method: magic",
            "annotate.method = 'magic': must be 'likelihood', 'rules' or 'teacher'",
        ),
        (
            "annotate:\n  endpoint: 127.0.0.1:8080",
            "endpoint '127.0.0.1:8080': no http(s) URL; give one such as",
        ),
        ("annotate:\n  key_env: openai_key", "annotate.key_env: must be the name of an environment variable"),
        ("annotate:\n  price_in: -1", "annotate.price_in = -1: must be at least 0"),
        ("mixture:\n  tolerance: 0.5", "mixture.tolerance = 0.5: must be at most 0.1"),
        ("probe:\n  min_success: 1.5", "probe.min_success = 1.5: must be at most 1"),
        ("evaluate:\n  modes: ['0.3']", "evaluate.modes: '0.3' is unknown"),
        ("evaluate:\n  modes: base", "evaluate.modes = 'base': must be a list"),
        ("chrpo:\n  group: 1", "chrpo.group = 1: must be at least 2"),
        ("chrpo:\n  w_acc: 0.9", "chrpo: w_acc + w_cal + kappa * l_short = 1.3 is more than 1"),
        ("chrpo:\n  l_err_under: 0.05", "l_err_under = 0.05 must be greater than l_err_over = 0.05"),
        ("chrpo:\n  h_0: 0.1", "h_0 = 0.1 must be greater than h_err_over = 0.1"),
        ("name: a/b", "name = 'a/b'"),
        ("name: ..", "name = '..'"),
        ("name: a b", "name = 'a b': use letters"),
        (f"name: {'a' * 101}", "name = 'aaaaaaaaaaaa...aaaaaaaaaaaaa': use letters"),
        ("- 1", "recipe: expected key: value lines, got list"),
        ("a: [", "recipe: not plain YAML"),
        ("seed: 2020-99-99", "recipe: not plain YAML"),
        ("seed: !!bool abc", "recipe: not plain YAML"),
        ("a: " + "[" * 5000, "recipe: not plain YAML"),
        ("!!python/object/apply:os.getcwd []", "recipe: not plain YAML"),
    ],
)
def test_faults(text, message):
    with pytest.raises(LiteError) as fault:
        parse(text)
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_message_shows_the_beginning_of_an_endless_value():
    levels = "".join(f"&l{n} [{', '.join([f'*l{n - 1}'] * 9) if n else 'x'}], " for n in range(9))
    with pytest.raises(LiteError) as fault:
        parse(f"name: [{levels}]")
    assert len(str(fault.value)) < 1000


@pytest.mark.parametrize(
    "override, message",
    [
        ("sft.rank", "--set sft.rank: expected key=value"),
        ("=1", "--set =1: expected key=value, such as sft.rank=16"),
        ("sft.=1", "--set sft.=1: expected key=value"),
        ("seed.deep=1", "--set seed.deep=1: seed is not a section"),
        ("sft.rank=[", "--set sft.rank=[: '[' is not a YAML value"),
        ("sft.rnak=1", "unknown recipe key sft.rnak; did you mean sft.rank?"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(LiteError) as fault:
        parse("seed: 1", [override])
    assert message in str(fault.value)


@pytest.mark.parametrize("key", ["sk-proj-abcDEF123", "SK-ABC", "Bearer X"])
def test_a_key_in_a_recipe_is_refused_and_not_repeated(key):
    with pytest.raises(LiteError) as raised:
        parse(f"annotate: {{method: teacher, key_env: '{key}'}}")
    assert key not in str(raised.value)


def test_a_section_made_in_code_is_checked_too():
    with pytest.raises(ValidationError, match="finite number"):
        config.Sft(learning_rate=float("nan"))


def test_load_says_what_is_missing(tmp_path):
    for path in (tmp_path / "nix.yaml", tmp_path):
        with pytest.raises(LiteError, match="no such recipe; `lite recipes ls`"):
            config.load(path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LiteError, match="not UTF-8"):
        config.load(tmp_path / "binary.yaml")


PACKAGED = sorted(recipes.folder().glob("*.yaml"))


def test_recipes_are_packaged():
    assert "quickstart.yaml" in recipes.names()
    assert (
        recipes.find("quickstart") == recipes.find("quickstart.yaml") == recipes.folder() / "quickstart.yaml"
    )


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.name)
def test_every_packaged_recipe_loads(path: Path):
    assert config.load(path).name == path.stem


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.name)
def test_every_key_is_commented(path: Path):
    bare = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*\w+:\s*\S", line) and not re.search(r"\s# \w+ \w+", line)
    ]
    assert bare == []


@pytest.mark.parametrize(
    "name, message",
    [
        ("quikstart", "no packaged recipe 'quikstart'; did you mean quickstart?"),
        ("some/where.yaml", "some/where.yaml: no such recipe"),
        ("tiny_reasoner.py", "tiny_reasoner.py is a script; copy it"),
    ],
)
def test_find_faults(name, message):
    with pytest.raises(LiteError) as fault:
        recipes.find(name)
    assert message in str(fault.value)


def test_find_takes_a_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1")
    assert recipes.find(str(path)) == path


def test_copy_never_writes_over(tmp_path):
    copied = recipes.copy("quickstart", tmp_path)
    assert copied == tmp_path / "quickstart.yaml"
    assert config.load(copied) == config.load(recipes.find("quickstart"))
    with pytest.raises(LiteError, match="is there already"):
        recipes.copy("quickstart", tmp_path)
    assert recipes.copy("quickstart", tmp_path / "sub" / "mine.yaml").is_file()


def test_the_rows_of_the_methods_bench_are_keys_of_the_recipe():
    path = Path(__file__).parents[1] / "recipes" / "bench" / "methods.py"
    spec = importlib.util.spec_from_file_location("methods", path)
    methods = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(methods)
    made = {
        name: config.load(recipes.find("quickstart"), overrides) for name, overrides in methods.ROWS.items()
    }
    assert {*methods.SFT_ROWS} <= made.keys()
    assert (
        len({repr(one) for one in made.values()}) == len(made) - 1
    )  # "our compressor" is "ours" without CHRPO
