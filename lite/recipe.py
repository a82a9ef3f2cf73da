"""The recipe: frozen dataclasses, the only home of defaults, units and checks.

A recipe is a YAML file whose sections are the stages; `--set section.key=value` overrides one value.
Everything wrong with it is a LiteError that names the value and the remedy, before any work starts.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from lite.errors import LiteError
from lite.tokens import BASE, MODES, POLICY, SFT_POLICY


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise LiteError(message)


def _positive(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{section}.{name} = {value}: must be greater than 0")


def _fraction(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0 <= value <= 1, f"{section}.{name} = {value}: must lie in 0..1")


@dataclass(frozen=True)
class Problems:
    """Where problems come from. The three sets never share a problem."""

    source: str = "quickstart"  # "quickstart", a JSONL file with question and answer, or "gym:<task>"
    num_train: int = 2000  # for traces, labels and SFT
    num_rl: int = 600  # for the probe and CHRPO
    num_eval: int = 500  # held out

    def __post_init__(self) -> None:
        _positive("problems", self, "num_train", "num_rl", "num_eval")


@dataclass(frozen=True)
class Traces:
    """The base model samples its own chains of thought; only correct, closed ones go on."""

    num_samples: int = 1  # per problem
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 4096  # of a reply
    batch_size: int = 32

    def __post_init__(self) -> None:
        _positive("traces", self, "num_samples", "max_tokens", "batch_size", "temperature", "top_p")
        _fraction("traces", self, "top_p")


@dataclass(frozen=True)
class Annotate:
    """KEEP labels for training the compressor."""

    method: Literal["likelihood", "rules"] = "likelihood"
    num_traces: int = 1000  # how many traces are labelled
    max_drop: float = 0.1  # likelihood: units that cost less than this many nats may go
    num_rounds: int = 3  # likelihood: rounds on words, each in smaller groups, before one on formulas
    batch_tokens: int = 16384  # likelihood: tokens in one forward pass

    def __post_init__(self) -> None:
        _positive("annotate", self, "num_traces", "max_drop", "num_rounds", "batch_tokens")


@dataclass(frozen=True)
class Compressor:
    """The token classifier that learns KEEP / DROP from the labels."""

    encoder: str = "answerdotai/ModernBERT-base"  # a Hugging Face encoder, or "tiny": trained from scratch
    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    warmup: float = 0.06  # fraction of steps
    focal_gamma: float = 2.0  # 0 is plain cross entropy
    max_tokens: int = 8192  # of the encoder's window; longer chains are chunked
    patience: int = 2  # epochs without a better macro-F1 before an early stop
    held_out: float = 0.1  # fraction of labels for macro-F1

    def __post_init__(self) -> None:
        _positive("compressor", self, "epochs", "batch_size", "learning_rate", "max_tokens", "patience")
        _fraction("compressor", self, "warmup", "held_out")
        _require(self.focal_gamma >= 0, f"compressor.focal_gamma = {self.focal_gamma}: must be 0 or more")


@dataclass(frozen=True)
class Compress:
    """Cutting every trace to the ratios of the grid."""

    method: Literal["compressor", "random"] = "compressor"  # "random" drops units at random: the control
    batch_size: int = 64

    def __post_init__(self) -> None:
        _positive("compress", self, "batch_size")


@dataclass(frozen=True)
class Mixture:
    """SFT rows: fixed ratios and POLICY warm-up."""

    tolerance: float = 0.05  # a compressed trace belongs to a ratio when its realised ratio is this near
    min_tokens: int = 4  # shorter think spans are dropped
    policy_share: float = 0.15  # of all rows

    def __post_init__(self) -> None:
        _require(0 < self.tolerance <= 0.1, f"mixture.tolerance = {self.tolerance}: must lie in (0, 0.1]")
        _require(
            0 <= self.policy_share < 1, f"mixture.policy_share = {self.policy_share}: must lie in [0, 1)"
        )


@dataclass(frozen=True)
class Sft:
    """Mixed-ratio SFT: LoRA through Unsloth, the six token rows trained beside it."""

    epochs: float = 3.0
    max_steps: int = -1  # -1: as many as the epochs take
    batch_size: int = 16
    accumulation: int = 1
    learning_rate: float = 2e-4
    warmup: float = 0.03
    rank: int = 32
    alpha: int = 64
    max_tokens: int = 6144
    four_bit: bool = False
    save_steps: int = 50
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"

    def __post_init__(self) -> None:
        _positive(
            "sft",
            self,
            "epochs",
            "batch_size",
            "accumulation",
            "learning_rate",
            "rank",
            "alpha",
            "max_tokens",
        )
        _positive("sft", self, "save_steps")


@dataclass(frozen=True)
class Probe:
    """Teacher ratios r* by success rate over several samples per ratio."""

    num_samples: int = 4
    min_success: float = 0.75  # of samples, for a ratio to count as solved
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 4096
    batch_size: int = 64

    def __post_init__(self) -> None:
        _positive("probe", self, "num_samples", "min_success", "temperature", "max_tokens", "batch_size")
        _positive("probe", self, "top_p")
        _fraction("probe", self, "min_success", "top_p")


@dataclass(frozen=True)
class Chrpo:
    """CHRPO's coefficients (names as in the paper; NF there means published nowhere) and GRPO's settings."""

    steps: int = 100
    prompts: int = 8  # problems in one step
    group: int = 4  # rollouts of one problem
    batch_size: int = 32  # rollouts in one forward pass of the update
    learning_rate: float = 2e-5
    clip_low: float = 0.2
    clip_high: float = 0.28
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 4096
    save_steps: int = 20
    use_mode: bool = True  # R_mode: how the chosen ratio relates to r*
    use_ctrl: bool = True  # R_ctrl: the same, credited to the first output token only
    use_cal: bool = True  # R_cal: the realised ratio lands on the chosen one
    use_empty: bool = True  # R_empty: no reply without a think block
    w_acc: float = 0.6  # weight of R_acc (+1 / -1); NF
    w_cal: float = 0.2  # weight of R_cal; NF
    w_ctrl: float = 1.0  # weight of the control loss; NF
    eps: float = 0.1  # half width of R_cal's tent
    kappa: int = 2  # cap of the bonus, in grid steps
    l_short: float = 0.1  # bonus per step below r* when correct; NF
    l_over: float = 0.05  # cost per step above r* when correct; NF
    l_err_under: float = 0.1  # cost per step below r* when wrong; NF
    l_err_over: float = 0.05  # cost per step above r* when wrong; NF
    l_0: float = 1.0  # cost of a reply without a think block; NF
    r0: float = 1.0  # R_ctrl: correct; NF
    h_short: float = 0.25  # R_ctrl: bonus per step below r* when correct; NF
    h_over: float = 0.25  # R_ctrl: cost per step above r* when correct; NF
    h_err_under: float = 0.5  # R_ctrl: cost per step below r* when wrong; NF
    h_0: float = 0.5  # R_ctrl: cost of a failure at r*; NF
    h_err_over: float = 0.1  # R_ctrl: cost per step above r* when wrong; NF
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"

    def __post_init__(self) -> None:
        _positive(
            "chrpo",
            self,
            "steps",
            "prompts",
            "learning_rate",
            "temperature",
            "max_tokens",
            "eps",
            "save_steps",
        )
        _positive("chrpo", self, "batch_size", "top_p", "kappa")
        _fraction("chrpo", self, "top_p")
        signed = [
            f.name for f in dataclasses.fields(self) if f.name[:2] in ("l_", "h_", "w_") or f.name == "r0"
        ]
        for name in (*signed, "clip_low", "clip_high"):
            value = getattr(self, name)
            _require(
                value >= 0, f"chrpo.{name} = {value}: must be 0 or more; the sign is in the reward's table"
            )
        _require(self.group >= 2, f"chrpo.group = {self.group}: a group needs at least 2 rollouts to compare")
        rollouts = self.prompts * self.group
        _require(
            rollouts % min(self.batch_size, rollouts) == 0,
            f"chrpo.batch_size = {self.batch_size}: must divide prompts * group = {rollouts}",
        )
        _require(0 < self.eps < 1, f"chrpo.eps = {self.eps}: must lie in (0, 1)")
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
class Merge:
    """Adapters into the 16 or 32-bit base."""

    dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"


@dataclass(frozen=True)
class Export:
    """Hugging Face folder to GGUF."""

    quant: Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"] = "q8_0"


@dataclass(frozen=True)
class Evaluate:
    """The report, on the GGUF through llama.cpp."""

    modes: tuple[str, ...] = (BASE, *MODES[:-1], SFT_POLICY, POLICY)
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 0.9  # where temperature is not 0
    max_tokens: int = 4096
    batch_size: int = 16  # sequences decoded together
    num_threads: int = 0  # 0: as many as there are cores

    def __post_init__(self) -> None:
        _positive("evaluate", self, "max_tokens", "batch_size", "top_p")
        _fraction("evaluate", self, "top_p")
        for name in ("temperature", "num_threads"):
            value = getattr(self, name)
            _require(value >= 0, f"evaluate.{name} = {value}: must be 0 or more")
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
            bool(self.name) and not set(self.name) & set("/\\\0") and not self.name.startswith("."),
            f"name = {self.name!r}: use letters, digits, '-' and '_'; it names the run folder",
        )


def _convert(value: Any, kind: Any, where: str) -> Any:
    """Fit one YAML value to a field's type, or say what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise LiteError(f"{where} = {value!r}: expected a section of key: value lines")
        return build(kind, value, where)
    if origin is Literal:
        if value not in arguments:
            raise LiteError(f"{where} = {value!r}: must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise LiteError(f"{where} = {value!r}: expected a list, such as [a, b]")
        return tuple(_convert(item, arguments[0], where) for item in value)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(value, arguments[0], where)
    if kind is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML reads 2e-5 as text
        try:
            value = float(value)
        except ValueError:
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise LiteError(f"{where} = {value!r}: expected {kind.__name__}, got {type(value).__name__}")
    if kind is float and not math.isfinite(value):
        raise LiteError(f"{where} = {value!r}: must be a finite number")
    return value


def build(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """Make a dataclass from a mapping. Raises LiteError for unknown keys (naming the nearest) and wrong types."""
    hints = typing.get_type_hints(cls)
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
    except yaml.YAMLError as fault:
        raise LiteError(f"{where}: not YAML: {' '.join(str(fault).split())}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise LiteError(f"{where}: expected key: value lines, got {type(values).__name__}")
    for override in overrides:
        path, equals, raw = override.partition("=")
        if not equals:
            raise LiteError(f"--set {override}: expected key=value, such as sft.rank=16")
        *sections, key = path.strip().split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise LiteError(f"--set {override}: {section} is not a section")
        try:
            target[key] = yaml.safe_load(raw)
        except yaml.YAMLError:
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
    plain = dataclasses.asdict(recipe)
    plain["evaluate"]["modes"] = list(recipe.evaluate.modes)
    return yaml.safe_dump(plain, sort_keys=False)
