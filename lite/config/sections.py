"""The sections of a recipe: frozen, validated dataclasses, the only home of defaults, units and bounds."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from lite.config.bounds import (
    Count,
    CountOrNone,
    Float,
    Int,
    NotAllShare,
    NotNegative,
    Part,
    Positive,
    Share,
    SomeShare,
    Steps,
    Tolerance,
)
from lite.errors import LiteError, shown
from lite.remote.client import base_url
from lite.tokens import BASE, MODES, POLICY, SFT_POLICY

_CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise LiteError(message)


@dataclass(frozen=True, config=_CHECKED)
class Source:
    """One source of problems. In a recipe its name alone may stand for it."""

    name: str  # "quickstart", "gym:<task>", a JSONL, JSON, CSV or Parquet file, or a Hub data set: owner/name[:config]:split
    num: CountOrNone = 0  # at most so many of it, drawn by the seed; 0: all
    # Columns, or paths in them: reward_model.ground_truth, messages[0].content, messages[user].content
    question: str = (
        ""  # of the question; empty: question, problem, query, prompt, or the first user turn of a chat
    )
    answer: str = (
        ""  # of the answer; empty: answer, reward_model.ground_truth, or what the worked solution says
    )
    cot: str = ""  # of the worked solution; empty: cot, solution, response, or the first reply of a chat


def _source(value: Any) -> Any:
    return Source(value) if isinstance(value, str) else value


def _sources(value: Any) -> Any:
    return [value] if isinstance(value, (str, dict)) else value


Sources = Annotated[
    tuple[Annotated[Source, BeforeValidator(_source)], ...], BeforeValidator(_sources)
]  # one, or several joined


@dataclass(frozen=True, config=_CHECKED)
class Problems:
    """Where problems come from. The sets never share a question."""

    source: Sources = (Source("quickstart"),)  # one, or several joined
    num_train: Count = 2000  # for traces, labels and SFT
    num_rl: Count = 600  # for the probe and CHRPO
    num_eval: CountOrNone = 500  # held out of the source
    eval: Sources = ()  # more to evaluate on, each data set reported by itself

    def __post_init__(self) -> None:
        _require(bool(self.source), "problems.source is empty; name at least one source")
        _require(
            self.num_eval > 0 or bool(self.eval),
            "problems.num_eval = 0 and problems.eval is empty: nothing to evaluate on; set one of them",
        )


@dataclass(frozen=True, config=_CHECKED)
class Traces:
    """Correct chains of thought: the base model samples its own, or the data set's worked solutions serve."""

    method: Literal["sample", "gold"] = "sample"  # "gold" where the base is too weak to be right by itself
    num_samples: Count = 1  # per problem
    temperature: Positive = 0.7
    top_p: SomeShare = 0.95
    max_tokens: Count = 4096  # of a reply
    batch_size: Count = 32  # replies sampled together; with --endpoint: requests in flight


@dataclass(frozen=True, config=_CHECKED)
class Annotate:
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
        base_url(self.endpoint)
        _require(
            re.fullmatch(r"[A-Z_][A-Z0-9_]*|", self.key_env) is not None,  # what is no name may be a key
            "annotate.key_env: must be the name of an environment variable in capitals, such as OPENAI_API_KEY;"
            " the key itself never goes into a recipe",
        )


@dataclass(frozen=True, config=_CHECKED)
class Compressor:
    """The token classifier that learns KEEP / DROP from the labels."""

    encoder: str = "answerdotai/ModernBERT-base"  # "base": the recipe's model; a Hugging Face encoder; "tiny"
    rank: CountOrNone = 0  # of LoRA, whose scale is 2; 0 trains all weights of an encoder
    four_bit: bool = True  # with LoRA: the frozen linear layers in NF4
    epochs: Count = 3
    batch_size: Count = 16
    learning_rate: Positive = 2e-5
    weight_decay: NotNegative = 0.01
    warmup: NotAllShare = 0.06  # fraction of steps
    focal_gamma: NotNegative = 2.0  # 0 is plain cross entropy
    max_tokens: Count = 8192  # of a window, in which "base" reads a chain twice; longer chains are chunked
    patience: Count = 2  # epochs without a better macro-F1 before an early stop
    held_out: Share = 0.1  # fraction of labels for macro-F1

    def __post_init__(self) -> None:
        _require(
            self.encoder != "base" or self.rank > 0,
            "compressor.rank = 0: the base is trained through LoRA; set 1 or more, such as 16",
        )


@dataclass(frozen=True, config=_CHECKED)
class Compress:
    """Cutting every trace to the ratios of the grid."""

    method: Literal["compressor", "token-wise", "random", "self-information", "rules"] = (
        "compressor"  # others: controls
    )
    cohesion: Share = 0.5  # 0: words compete one by one; 1: words of a clause stay or go together
    batch_size: Count = 64


@dataclass(frozen=True, config=_CHECKED)
class Mixture:
    """SFT rows: fixed ratios and POLICY warm-up."""

    tolerance: Tolerance = 0.05  # a compressed trace belongs to a ratio when its realised ratio is this near
    min_tokens: CountOrNone = 4  # shorter think spans are dropped
    policy_share: NotAllShare = 0.15  # of all rows


@dataclass(frozen=True, config=_CHECKED)
class Sft:
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


@dataclass(frozen=True, config=_CHECKED)
class Probe:
    """Teacher ratios r* by success rate over several samples per ratio."""

    num_samples: Count = 4
    min_success: SomeShare = 0.75  # of samples, for a ratio to count as solved
    temperature: NotNegative = 0.7
    top_p: SomeShare = 0.9
    max_tokens: Count = 4096
    batch_size: Count = 64


@dataclass(frozen=True, config=_CHECKED)
class Chrpo:
    """CHRPO's coefficients (names as in the paper; NF there means published nowhere) and GRPO's settings."""

    steps: Count = 100
    prompts: Count = 8  # problems in one step
    group: Annotated[Int, Field(ge=2)] = 4  # rollouts of one problem, to compare
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


@dataclass(frozen=True, config=_CHECKED)
class Merge:
    """Adapters into the 16 or 32-bit base."""

    dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"


@dataclass(frozen=True, config=_CHECKED)
class Export:
    """Hugging Face folder to GGUF."""

    quant: Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"] = "q8_0"


@dataclass(frozen=True, config=_CHECKED)
class Evaluate:
    """The report, on the GGUF through llama.cpp."""

    modes: tuple[str, ...] = (BASE, *MODES[:-1], SFT_POLICY, POLICY)
    temperature: Annotated[Float, Field(ge=0, le=100)] = 0.0  # 0 is greedy
    top_p: SomeShare = 0.9  # where temperature is not 0
    max_tokens: Count = 4096
    batch_size: Annotated[Int, Field(ge=1, le=256)] = 16  # sequences decoded together
    num_threads: CountOrNone = 0  # 0: one per core that it may use

    def __post_init__(self) -> None:
        known = (BASE, *MODES, SFT_POLICY)
        _require(bool(self.modes), f"evaluate.modes is empty; use some of {', '.join(known)}")
        for mode in self.modes:
            _require(mode in known, f"evaluate.modes: {mode!r} is unknown; use some of {', '.join(known)}")


@dataclass(frozen=True, config=_CHECKED)
class Recipe:
    """A whole run: the model, a seed, and one section per stage."""

    name: str = "quickstart"  # of the run folder
    model: str = "quickstart"  # a Hugging Face model or folder, or "quickstart": the embedded tiny reasoner
    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0
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
        _require(
            re.fullmatch(r"\w[\w.-]{0,99}", self.name) is not None,
            f"name = {shown(self.name)}: use letters, digits, '.', '-' and '_', at most 100; it names the run folder",
        )
