"""The recipe: frozen dataclasses, the only home of defaults, units and checks.

A recipe is a YAML file whose sections are the stages; `--set section.key=value` overrides one value.
Everything wrong with it is a LiteError that names the value and the remedy, before any work starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import re
import reprlib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from lite.endpoint import base_url
from lite.errors import LiteError
from lite.tokens import BASE, MODES, POLICY, SFT_POLICY

_NOT_YAML = (
    yaml.YAMLError,
    ValueError,
    KeyError,
    RecursionError,
)  # a date that is none, `!!bool abc`, 3,000 brackets


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise LiteError(message)


# The bounds of numbers, as a message says them and as they are checked.
MOST = 10**9
Count = Annotated[int, (f"be 1 or more, {MOST} at most", lambda number: 1 <= number <= MOST)]
CountOrNone = Annotated[int, (f"be 0 or more, {MOST} at most", lambda number: 0 <= number <= MOST)]
Steps = Annotated[
    int, ("be 1 or more, or -1 for as many as the epochs take", lambda n: n == -1 or 0 < n <= MOST)
]
Positive = Annotated[float, ("be greater than 0", lambda number: number > 0)]
NotNegative = Annotated[float, ("be 0 or more", lambda number: number >= 0)]
Share = Annotated[float, ("lie in 0..1", lambda number: 0 <= number <= 1)]
SomeShare = Annotated[float, ("lie in (0, 1]", lambda number: 0 < number <= 1)]
NotAllShare = Annotated[float, ("lie in [0, 1)", lambda number: 0 <= number < 1)]
Part = Annotated[float, ("lie in (0, 1)", lambda number: 0 < number < 1)]
Tolerance = Annotated[float, ("lie in (0, 0.1]", lambda number: 0 < number <= 0.1)]  # half a step of the grid


class Section:
    """A section of a recipe: every number is finite and within the bounds of its type."""

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            shown = f"{type(self).__name__.lower()}.{name} = {value}"
            finite = not isinstance(value, float) or math.isfinite(value)
            _require(finite, f"{shown}: must be a finite number")
            for text, holds in getattr(kind, "__metadata__", ()):
                _require(holds(value), f"{shown}: must {text}")


@dataclass(frozen=True)
class Source(Section):
    """One source of problems. In a recipe its name alone may stand for it."""

    name: str  # "quickstart", "gym:<task>", a JSONL or Parquet file, or a Hub data set: owner/name[:config]:split
    num: CountOrNone = 0  # at most so many of it, drawn by the seed; 0: all
    question: str = ""  # the column of the question; empty: question, problem or query
    answer: str = ""  # of the answer; empty: answer, or what the worked solution says
    cot: str = ""  # of the worked solution; empty: cot, solution or response


@dataclass(frozen=True)
class Problems(Section):
    """Where problems come from. The sets never share a question."""

    source: tuple[Source, ...] = (Source("quickstart"),)  # one, or several joined
    num_train: Count = 2000  # for traces, labels and SFT
    num_rl: Count = 600  # for the probe and CHRPO
    num_eval: CountOrNone = 500  # held out of the source
    eval: tuple[Source, ...] = ()  # more to evaluate on, each data set reported by itself

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(bool(self.source), "problems.source is empty; name at least one source")
        _require(
            self.num_eval > 0 or bool(self.eval),
            "problems.num_eval = 0 and problems.eval is empty: nothing to evaluate on; set one of them",
        )


@dataclass(frozen=True)
class Traces(Section):
    """Correct chains of thought: the base model samples its own, or the data set's worked solutions serve."""

    method: Literal["sample", "gold"] = "sample"  # "gold" where the base is too weak to be right by itself
    num_samples: Count = 1  # per problem
    temperature: Positive = 0.7
    top_p: SomeShare = 0.95
    max_tokens: Count = 4096  # of a reply
    batch_size: Count = 32  # replies sampled together; with --endpoint: requests in flight


@dataclass(frozen=True)
class Annotate(Section):
    """KEEP labels for training the compressor."""

    method: Literal["likelihood", "rules", "teacher"] = "likelihood"
    num_traces: Count = 1000  # how many traces are labelled
    max_drop: Positive = 0.1  # likelihood: units that cost less than this many nats may go
    num_rounds: Count = 3  # likelihood: rounds on words, each in smaller groups, before one on formulas
    batch_tokens: Count = 16384  # likelihood: tokens in one forward pass
    endpoint: str = "http://127.0.0.1:8080/v1"  # teacher: an OpenAI-compatible API
    teacher: str = ""  # teacher: its model's name there; "" takes the only one that is served
    key_env: str = ""  # teacher: the environment variable that holds the API key; "" sends none
    num_parallel: Count = 16  # teacher: requests in flight
    max_tokens: Count = 4096  # teacher: of a reply, its own thinking included
    price_in: NotNegative = 0.0  # teacher: per million prompt tokens, to show the cost
    price_out: NotNegative = 0.0  # teacher: per million reply tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        base_url(self.endpoint)
        _require(
            re.fullmatch(r"[A-Z_][A-Z0-9_]*|", self.key_env) is not None,  # what is no name may be a key
            "annotate.key_env: must be the name of an environment variable in capitals, such as OPENAI_API_KEY;"
            " the key itself never goes into a recipe",
        )


@dataclass(frozen=True)
class Compressor(Section):
    """The token classifier that learns KEEP / DROP from the labels."""

    encoder: str = "answerdotai/ModernBERT-base"  # a Hugging Face encoder, or "tiny": trained from scratch
    epochs: Count = 3
    batch_size: Count = 16
    learning_rate: Positive = 2e-5
    weight_decay: NotNegative = 0.01
    warmup: Share = 0.06  # fraction of steps
    focal_gamma: NotNegative = 2.0  # 0 is plain cross entropy
    max_tokens: Count = 8192  # of the encoder's window; longer chains are chunked
    patience: Count = 2  # epochs without a better macro-F1 before an early stop
    held_out: Share = 0.1  # fraction of labels for macro-F1


@dataclass(frozen=True)
class Compress(Section):
    """Cutting every trace to the ratios of the grid."""

    method: Literal["compressor", "token-wise", "random", "self-information", "rules"] = (
        "compressor"  # others: controls
    )
    cohesion: Share = 0.5  # 0: words compete one by one; 1: words of a clause stay or go together
    batch_size: Count = 64


@dataclass(frozen=True)
class Mixture(Section):
    """SFT rows: fixed ratios and POLICY warm-up."""

    tolerance: Tolerance = 0.05  # a compressed trace belongs to a ratio when its realised ratio is this near
    min_tokens: CountOrNone = 4  # shorter think spans are dropped
    policy_share: NotAllShare = 0.15  # of all rows


@dataclass(frozen=True)
class Sft(Section):
    """Mixed-ratio SFT: LoRA through Unsloth, the six token rows trained beside it."""

    epochs: Positive = 3.0
    max_steps: Steps = -1  # -1: as many as the epochs take
    batch_size: Count = 16
    accumulation: Count = 1
    learning_rate: Positive = 2e-4
    warmup: NotAllShare = 0.03  # fraction of steps
    rank: Count = 32
    alpha: Count = 64
    max_tokens: Count = 6144
    four_bit: bool = False
    save_steps: Count = 50
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"


@dataclass(frozen=True)
class Probe(Section):
    """Teacher ratios r* by success rate over several samples per ratio."""

    num_samples: Count = 4
    min_success: SomeShare = 0.75  # of samples, for a ratio to count as solved
    temperature: NotNegative = 0.7
    top_p: SomeShare = 0.9
    max_tokens: Count = 4096
    batch_size: Count = 64


@dataclass(frozen=True)
class Chrpo(Section):
    """CHRPO's coefficients (names as in the paper; NF there means published nowhere) and GRPO's settings."""

    steps: Count = 100
    prompts: Count = 8  # problems in one step
    group: int = 4  # rollouts of one problem
    fixed_share: NotAllShare = 0.25  # of prompts: fixed ratios, so that the dial stays; the rest is POLICY's
    batch_size: Count = 32  # rollouts in one forward pass of the update
    explore: NotAllShare = 0.0  # of a POLICY group's rollouts, to begin with a ratio drawn at random
    learning_rate: Positive = 2e-5
    warmup: NotAllShare = 0.1  # fraction of steps
    clip_low: NotNegative = 0.2
    clip_high: NotNegative = 0.28
    temperature: Positive = 0.7
    top_p: SomeShare = 0.9
    max_tokens: Count = 4096
    vllm: NotAllShare = 0.0  # of the card's free memory, for vLLM to sample rollouts; 0: Hugging Face does
    save_steps: Count = 20
    use_mode: bool = True  # R_mode: how the chosen ratio relates to r*
    use_ctrl: bool = True  # R_ctrl: the same, credited to the first output token only
    use_cal: bool = True  # R_cal: the realised ratio lands on the chosen one
    use_empty: bool = True  # R_empty: no reply without a think block
    correct_only: bool = False  # R_mode and R_cal for correct rollouts alone, one R_ctrl for all wrong ones
    length_penalty: NotNegative = (
        0.0  # cost of a correct reply at full length; a rival's reward, not the method's
    )
    w_acc: NotNegative = 0.6  # weight of R_acc (+1 / -1); NF
    w_cal: NotNegative = 0.2  # weight of R_cal; NF
    w_ctrl: NotNegative = 1.0  # weight of the control loss; NF
    eps: Part = 0.1  # half width of R_cal's tent
    kappa: Count = 2  # cap of the bonus, in grid steps
    l_short: NotNegative = 0.1  # bonus per step below r* when correct; NF
    l_over: NotNegative = 0.05  # cost per step above r* when correct; NF
    l_err_under: NotNegative = 0.1  # cost per step below r* when wrong; NF
    l_err_over: NotNegative = 0.05  # cost per step above r* when wrong; NF
    l_0: NotNegative = 1.0  # cost of a reply without a think block; NF
    r0: NotNegative = 1.0  # R_ctrl: correct; NF
    h_short: NotNegative = 0.25  # R_ctrl: bonus per step below r* when correct; NF
    h_over: NotNegative = 0.25  # R_ctrl: cost per step above r* when correct; NF
    h_err_under: NotNegative = 0.5  # R_ctrl: cost per step below r* when wrong; NF
    h_0: NotNegative = 0.5  # R_ctrl: cost of a failure at r*; NF
    h_err_over: NotNegative = 0.1  # R_ctrl: cost per step above r* when wrong; NF
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.group >= 2, f"chrpo.group = {self.group}: a group needs at least 2 rollouts to compare")
        rollouts = self.prompts * self.group
        _require(
            rollouts % min(self.batch_size, rollouts) == 0,
            f"chrpo.batch_size = {self.batch_size}: must divide prompts * group = {rollouts}",
        )
        best = self.w_acc + self.w_cal * self.use_cal + self.kappa * self.l_short * self.use_mode
        _require(
            best <= 1 + 1e-9,
            f"chrpo: w_acc + w_cal + kappa * l_short = {best:g} is more than 1, so the clip hides the bonus; lower one",
        )
        _require(
            self.l_err_under > self.l_err_over,
            f"chrpo: l_err_under = {self.l_err_under} must be greater than l_err_over = {self.l_err_over}",
        )
        _require(
            self.h_0 > self.h_err_over,
            f"chrpo: h_0 = {self.h_0} must be greater than h_err_over = {self.h_err_over}, or no failure shifts up",
        )


@dataclass(frozen=True)
class Merge(Section):
    """Adapters into the 16 or 32-bit base."""

    dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"


@dataclass(frozen=True)
class Export(Section):
    """Hugging Face folder to GGUF."""

    quant: Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"] = "q8_0"


@dataclass(frozen=True)
class Evaluate(Section):
    """The report, on the GGUF through llama.cpp."""

    modes: tuple[str, ...] = (BASE, *MODES[:-1], SFT_POLICY, POLICY)
    temperature: Annotated[float, ("lie in 0..100", lambda number: 0 <= number <= 100)] = 0.0  # 0 is greedy
    top_p: SomeShare = 0.9  # where temperature is not 0
    max_tokens: Count = 4096
    batch_size: Count = 16  # sequences decoded together
    num_threads: CountOrNone = 0  # 0: one per core that it may use

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (BASE, *MODES, SFT_POLICY)
        _require(bool(self.modes), f"evaluate.modes is empty; use some of {', '.join(known)}")
        _require(self.batch_size <= 256, f"evaluate.batch_size = {self.batch_size}: at most 256")
        for mode in self.modes:
            _require(mode in known, f"evaluate.modes: {mode!r} is unknown; use some of {', '.join(known)}")


@dataclass(frozen=True)
class Recipe:
    """A whole run: the model, a seed, and one section per stage."""

    name: str = "quickstart"  # of the run folder
    model: str = "quickstart"  # a Hugging Face model or folder, or "quickstart": the embedded tiny reasoner
    seed: int = 0
    problems: Problems = field(default_factory=Problems)
    traces: Traces = field(default_factory=Traces)
    annotate: Annotate = field(default_factory=Annotate)
    compressor: Compressor = field(default_factory=Compressor)
    compress: Compress = field(default_factory=Compress)
    mixture: Mixture = field(default_factory=Mixture)
    sft: Sft = field(default_factory=Sft)
    probe: Probe = field(default_factory=Probe)
    chrpo: Chrpo = field(default_factory=Chrpo)
    merge: Merge = field(default_factory=Merge)
    export: Export = field(default_factory=Export)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, f"seed = {self.seed}: must lie in 0..{2**32 - 1}")
        _require(
            re.fullmatch(r"\w[\w.-]{0,99}", self.name) is not None,
            f"name = {_shown(self.name)}: use letters, digits, '.', '-' and '_', at most 100; it names the run folder",
        )


def _shown(value: Any) -> str:
    """A value for a message; of an endless one the beginning."""
    return reprlib.repr(value)[:200]


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Fit one YAML value to a field's type, or say what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Source and isinstance(value, str):
        return Source(value)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise LiteError(f"{where} = {_shown(value)}: expected a section of key: value lines")
        return build(kind, value, where)
    if origin is Literal:
        if value not in arguments:
            raise LiteError(f"{where} = {_shown(value)}: must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if arguments[0] is Source and isinstance(value, (str, Mapping)):
            value = [value]
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise LiteError(f"{where} = {_shown(value)}: expected a list, such as [a, b]")
        return tuple(_convert(item, arguments[0], where) for item in value)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # YAML reads 2e-5 as text
            value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise LiteError(f"{where} = {_shown(value)}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def build(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """Make a dataclass from a mapping. Raises LiteError for unknown keys (naming the nearest) and wrong types."""
    hints = typing.get_type_hints(cls)
    missing = [
        f.name for f in dataclasses.fields(cls) if f.default is f.default_factory and f.name not in values
    ]
    if missing:
        raise LiteError(f"{where}: no {missing[0]}; a {cls.__name__.lower()} needs it")
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in hints:
            nearest = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)[0]
            raise LiteError(f"unknown recipe key {prefix}{key}; did you mean {prefix}{nearest}?")
    return cls(**{key: _convert(value, hints[key], f"{prefix}{key}") for key, value in values.items()})


def parse(text: str, overrides: Sequence[str] = (), where: str = "recipe") -> Recipe:
    """A recipe from YAML text and `key.sub=value` overrides (values are YAML, too)."""
    try:
        values = yaml.safe_load(text)
    except _NOT_YAML as fault:
        reason = " ".join(str(fault).split())[:300]
        raise LiteError(f"{where}: not plain YAML: {reason}; mend that line") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise LiteError(f"{where}: expected key: value lines, got {type(values).__name__}")
    for override in overrides:
        path, equals, raw = override.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise LiteError(f"--set {override}: expected key=value, such as sft.rank=16")
        *sections, key = path.strip().split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise LiteError(f"--set {override}: {section} is not a section")
        try:
            target[key] = yaml.safe_load(raw)
        except _NOT_YAML:
            raise LiteError(f"--set {override}: {raw!r} is not a YAML value") from None
    return build(Recipe, values)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise LiteError(f"{path}: no such recipe; `lite recipes ls` lists the packaged ones") from None
    except UnicodeDecodeError:
        raise LiteError(f"{path}: not UTF-8 text; a recipe is a YAML file") from None
    return parse(text, overrides, str(path))


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False)
