"""What each stage of a recipe takes: memory term by term, disk, and time. Arithmetic alone; loads no torch.

Memory is in bytes here and in GB (1e9 bytes) where it is shown. On a CPU
the terms were checked against measured peaks of SFT (within 25 %); on a GPU nothing was measured. Times come from
assumed speeds and are good for an order of magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lite.config import Recipe
from lite.plan.machine import CARDS, Machine
from lite.plan.model_shape import Shape
from lite.plan.terms import (
    CUDA_CONTEXT,
    FRAGMENTS,
    activations,
    generating,
    kv_cache,
    lora,
    seconds_to_generate,
    seconds_to_read,
    seconds_to_train,
    training,
    weights,
)
from lite.tokens import MODES, RATIOS

# What to turn down where a term is too large; a stage's own word first.
REMEDIES = {
    "weights": "sft.four_bit: true, or a smaller model",
    "LoRA, gradients, AdamW": "sft.rank",
    "token rows": "a model with tied embeddings",
    "activations": "{stage}.batch_size, then {stage}.max_tokens",
    "logits": "{stage}.batch_size, then {stage}.max_tokens",
    "KV cache": "{stage}.batch_size, then {stage}.max_tokens",
    "sampling": "{stage}.batch_size",
    "attention": "{stage}.batch_size, then {stage}.max_tokens",
}
OWN_REMEDIES = {
    ("annotate", "weights"): "annotate.method: rules or teacher, or a smaller model",
    ("annotate", "activations"): "annotate.batch_tokens",
    ("annotate", "logits"): "annotate.batch_tokens",
    ("compressor", "weights"): "compressor.encoder: a smaller one, or compressor.rank above 0",
    ("compress", "weights"): "compressor.encoder: a smaller one",
    ("compress", "activations"): "compress.batch_size, then compressor.max_tokens",
    ("sft", "activations"): "sft.batch_size (and raise sft.accumulation by as much), then sft.max_tokens",
    ("chrpo", "KV cache"): "chrpo.prompts, then chrpo.max_tokens",
    ("chrpo", "attention"): "chrpo.prompts, then chrpo.max_tokens",
    ("chrpo", "sampling"): "chrpo.prompts",
    ("chrpo", "vLLM"): "chrpo.vllm",
}


def remedy(stage: str, term: str) -> str:
    """What to turn down where a term of a stage is too large."""
    return OWN_REMEDIES.get((stage, term)) or REMEDIES.get(term, "a smaller model").format(stage=stage)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a run's texts, as far as they are known."""

    prompt: int  # longest prompt
    row: int  # longest SFT row
    mean_prompt: float
    mean_row: float  # over all ratios
    mean_reply: float  # at ratio 1.0
    num_rows: int


@dataclass(frozen=True)
class Estimate:
    """One stage: bytes by term on the GPU and in RAM, bytes on disk, seconds."""

    gpu: dict[str, float] = field(default_factory=dict)
    ram: dict[str, float] = field(default_factory=dict)
    disk: float = 0.0
    seconds: float = 0.0

    def largest(self, on_gpu: bool) -> str:
        """The largest term that a recipe can turn down."""
        terms = {name: size for name, size in (self.gpu if on_gpu else self.ram).items() if name in REMEDIES}
        return max(terms, key=lambda name: terms[name], default="")

    def shown(self) -> dict[str, float]:
        """Totals, in GB and seconds, for a manifest."""
        ram, gpu = sum(self.ram.values()), sum(self.gpu.values())
        total = {"memory_gb": ram, "gpu_memory_gb": gpu, "disk_gb": self.disk}
        seconds = round(self.seconds, 1)
        return {name: round(size / 1e9, 3) for name, size in total.items()} | {"seconds": seconds}


ON_GPU_RAM = 4.0e9  # RAM of a process that uses CUDA: its libraries, Python, torch, Unsloth
PYTHON = 0.05e9  # a stage without torch
IMPORTS = 1.05e9  # Python, torch, transformers, TRL, Unsloth on a CPU, imported
ONEDNN = 0.2e9  # its kernels for the shapes of bf16 products; fitted
BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 5.7, "q4_k_m": 4.8, "q4_0": 4.5}
MERGED_WIDTH = {"float32": 4, "float16": 2, "bfloat16": 2}
# A compressor that is not here is taken for it.
MODERNBERT_BASE = Shape(768, 1152, 22, 12, 12, 64, 50_368, True)
BASE_ENCODER = "base"
TINY_ENCODER = Shape(96, 192, 3, 4, 4, 24, 700, True)
EVAL_PROBLEMS = 500  # in a set to evaluate on whose size is not said
LIKELIHOOD_PASSES = 40  # over a trace, for its labels


class Planner:
    """The estimates of a recipe's stages on a machine; `encoder` is the compressor's shape, where it is known."""

    def __init__(
        self, recipe: Recipe, shape: Shape, lengths: Lengths, machine: Machine, encoder: Shape | None = None
    ):
        self.recipe, self.shape, self.lengths, self.machine = recipe, shape, lengths, machine
        known = {"tiny": TINY_ENCODER, BASE_ENCODER: shape}
        self.encoder = known.get(recipe.compressor.encoder) or encoder or MODERNBERT_BASE
        self.size = weights(shape, recipe.sft.four_bit, machine.width)

    def all(self) -> dict[str, Estimate]:
        """By the names of lite.run.READS, in their order."""
        return {
            "problems": Estimate(ram={"Python": PYTHON}, disk=1e3 * self._num_problems(), seconds=5),
            "traces": self._traces(),
            "annotate": self._annotate(),
            "compressor": self._compressor(),
            "compress": self._compress(),
            "mixture": Estimate(ram={"Python": PYTHON + 10 * self._text()}, disk=5 * self._text(), seconds=5),
            "sft": self._sft(),
            "probe": self._probe(),
            "chrpo": self._chrpo(),
            "merge": self._merge(),
            "export": self._export(),
            "evaluate": self._evaluate(),
        }

    def _num_problems(self) -> int:
        sizes = self.recipe.problems
        return sizes.num_train + sizes.num_rl + sizes.num_eval

    def _text(self) -> float:
        """Bytes of all traces: four characters a token."""
        return 4.0 * self.recipe.problems.num_train * self.recipe.traces.num_samples * self.lengths.mean_reply

    def _model(
        self, terms: dict[str, float], disk: float, seconds: float, ram: dict[str, float] | None = None
    ):
        """A stage that runs the model: the terms on the GPU, or in RAM where there is none."""
        if self.machine.on_gpu:
            return Estimate(
                {"CUDA context": CUDA_CONTEXT} | terms, {"process": ON_GPU_RAM} | (ram or {}), disk, seconds
            )
        process = IMPORTS + (ONEDNN if self.machine.bf16 else 0)
        return Estimate({}, {"Python, torch, Unsloth": process} | terms | (ram or {}), disk, seconds)

    def _sampled(self, num: float, tokens: float, longest: int, sequences: int) -> Estimate:
        """A stage that samples `num` replies of `tokens`, the longest prompt and reply `longest`."""
        sequences = min(sequences, int(num))
        terms = generating(self.shape, self.machine, sequences, longest, self.size)
        seconds = seconds_to_generate(self.shape, self.machine, num, tokens, sequences, self.size)
        return self._model(terms, 4 * 2 * num * tokens, seconds)

    def _traces(self) -> Estimate:
        config, num = self.recipe.traces, self.recipe.problems.num_train * self.recipe.traces.num_samples
        if config.method == "gold":
            return Estimate(ram={"Python": PYTHON}, disk=self._text(), seconds=5)
        longest, reply = self.lengths.prompt + config.max_tokens, self.lengths.mean_reply
        return self._sampled(num, min(reply, config.max_tokens), longest, config.batch_size)

    def _annotate(self) -> Estimate:
        config = self.recipe.annotate
        num = min(config.num_traces, self.recipe.problems.num_train)
        if config.method != "likelihood":
            return Estimate(ram={"Python": PYTHON}, disk=self._text(), seconds=60)
        layer = self.machine.width * (4 * self.shape.hidden_size + 3 * self.shape.intermediate_size)
        logits = 4.0 * min(config.batch_tokens, 4096) * self.shape.vocab_size
        size = weights(self.shape, False, self.machine.width)  # NF4 would add noise to what is compared
        terms = {"weights": size, "activations": config.batch_tokens * layer, "logits": logits}
        tokens = num * LIKELIHOOD_PASSES * (self.lengths.mean_reply + self.lengths.mean_prompt)
        seconds = 2 * self.shape.num_params * tokens / self.machine.flops
        return self._model(terms, 4 * num * self.lengths.mean_reply, seconds)

    def _encoder_layer(self) -> int:
        """Bytes of one token in one layer of the encoder."""
        width = 2 if self.machine.on_gpu else 4  # autocast on a GPU alone
        layer = 2 * (4 + width) * self.encoder.hidden_size
        return layer + width * (5 * self.encoder.hidden_size + 4 * self.encoder.intermediate_size)

    def _compressor(self) -> Estimate:
        config, encoder = self.recipe.compressor, self.encoder
        tokens = config.batch_size * self._window()
        ram: dict[str, float] = {}
        if config.rank == 0:  # all of them trained, in float32
            terms = {"weights": 16.0 * encoder.num_params}
            disk = 40.0 * encoder.num_params  # three checkpoints with AdamW's moments, and the result
        else:
            terms = {
                "weights": self._encoder_weights(4 if config.encoder != BASE_ENCODER else self.machine.width),
                "LoRA, gradients, AdamW": lora(encoder, config.rank),
            }
            disk = 40.0 * encoder.num_lora(config.rank)
        if config.encoder != BASE_ENCODER:
            disk += 8.0 * encoder.num_params if config.rank else 0.0  # before and after, in float32
            terms["activations"] = float(encoder.num_hidden_layers * self._encoder_layer() * tokens)
        elif self.machine.on_gpu:  # recomputed layer by layer, and their gradients
            terms["activations"] = 2 * tokens * activations(encoder, config.rank, self.machine.width)
            layers = encoder.num_hidden_layers * encoder.hidden_size
            ram["activations in RAM"] = float(self.machine.width * layers * tokens)
        else:
            layer = activations(encoder, config.rank, self.machine.width)
            terms["activations"] = (1 + FRAGMENTS) * encoder.num_hidden_layers * tokens * layer
        read = config.epochs * self.recipe.annotate.num_traces * self._read()
        seconds = 5 + seconds_to_train(encoder, self.machine, read)
        return self._model(terms, disk, seconds, ram)

    def _compress(self) -> Estimate:
        """Scoring every trace once with the compressor."""
        encoder, base = self.encoder, self.recipe.compressor.encoder == BASE_ENCODER
        tokens = self.recipe.compress.batch_size * self._window()
        size = self._encoder_weights(self.machine.width) if base else 4.0 * encoder.num_params
        terms = {"weights": size, "activations": float(tokens * self._encoder_layer())}
        read = self._text() / 4 * self._read() / self.lengths.mean_reply
        return self._model(terms, 9 * self._text(), 5 + seconds_to_read(encoder, self.machine, read))

    def _window(self) -> int:
        """Tokens of the longest window: the base reads a chain twice."""
        copies = 2 if self.recipe.compressor.encoder == BASE_ENCODER else 1
        return min(self.recipe.compressor.max_tokens, copies * self.lengths.row)

    def _read(self) -> float:
        """Tokens that the compressor reads of a mean trace."""
        return self.lengths.mean_reply * (2 if self.recipe.compressor.encoder == BASE_ENCODER else 1)

    def _encoder_weights(self, width: int) -> float:
        """Bytes of the compressor's frozen weights."""
        return weights(self.encoder, self.recipe.compressor.four_bit, width)

    def _sft(self) -> Estimate:
        config = self.recipe.sft
        terms, ram = training(
            self.recipe, self.shape, self.machine, config.batch_size, self.lengths.row, self.size
        )
        rows = config.epochs * self.lengths.num_rows
        if config.max_steps > 0:
            rows = config.max_steps * config.batch_size * config.accumulation
        seconds = seconds_to_train(self.shape, self.machine, rows * self.lengths.mean_row)
        ram["rows"] = 60.0 * self.lengths.num_rows * self.lengths.mean_row  # Python's numbers, and Arrow's
        checkpoints = 2 * 12.0 * self.shape.num_lora(config.rank)
        return self._model(terms, checkpoints + 4.0 * self.shape.num_lora(config.rank), seconds, ram)

    def _probe(self) -> Estimate:
        config = self.recipe.probe
        num = self.recipe.problems.num_rl * config.num_samples * len(RATIOS)
        longest = self.lengths.prompt + config.max_tokens
        return self._sampled(num, 0.6 * self.lengths.mean_reply, longest, config.batch_size)

    def _chrpo(self) -> Estimate:
        config, shape, machine = self.recipe.chrpo, self.shape, self.machine
        sequences, longest = config.prompts * config.group, self.lengths.prompt + config.max_tokens
        reply = min(0.5 * self.lengths.mean_reply, config.max_tokens)
        rows = min(config.batch_size, sequences)
        update, ram = training(self.recipe, shape, machine, rows, longest, self.size)
        rollout = generating(shape, machine, sequences, longest, self.size)
        rollout["LoRA, gradients, AdamW"] = update["LoRA, gradients, AdamW"]
        if not machine.on_gpu:
            rollout["folded weights"] = self.size  # the adapter is folded in, and the weights are kept beside
        terms = max(update, rollout, key=lambda phase: sum(phase.values()))
        if machine.on_gpu and config.vllm:  # stays beside the update; its weights are the model's
            terms = update | {"vLLM": max(0.0, config.vllm * machine.gpu_gb * 1e9 - self.size)}
        sampling = seconds_to_generate(shape, machine, sequences, reply, sequences, self.size)
        training_seconds = seconds_to_train(shape, machine, sequences * (self.lengths.mean_prompt + reply))
        seconds = config.steps * (sampling + training_seconds)
        return self._model(terms, 3 * 12.0 * shape.num_lora(self.recipe.sft.rank), seconds, ram)

    def _merge(self) -> Estimate:
        size = MERGED_WIDTH[self.recipe.merge.dtype] * self.shape.num_params
        ram = {"Python, torch": IMPORTS, "weights": 1.2 * size}
        return Estimate(ram=ram, disk=2.0 * size, seconds=20 + 4 * size / 1e9)

    def _export(self) -> Estimate:
        size = BITS[self.recipe.export.quant] / 8 * self.shape.num_params
        whole = MERGED_WIDTH[self.recipe.merge.dtype] * self.shape.num_params
        ram = {"Python, torch": IMPORTS, "weights": whole + size}
        return Estimate(ram=ram, disk=3.0 * size, seconds=10 + 30 * self.shape.num_params / 1e9)

    def _evaluate(self) -> Estimate:
        """Through llama.cpp, on the processor, whatever the card is."""
        config, shape, cpu = self.recipe.evaluate, self.shape, CARDS["cpu"]
        size = BITS[self.recipe.export.quant] / 8 * shape.num_params
        more = sum(each.num or EVAL_PROBLEMS for each in self.recipe.problems.eval)
        num = (self.recipe.problems.num_eval + more) * min(len(config.modes), len(MODES) + 2)
        tokens = config.batch_size * (self.lengths.prompt + config.max_tokens)
        ram = {"Python, llama.cpp": 0.3e9, "weights": size, "KV cache": kv_cache(shape, tokens, 2)}
        seconds = seconds_to_generate(shape, cpu, num, 0.6 * self.lengths.mean_reply, config.batch_size, size)
        return Estimate(ram=ram, disk=4 * num * self.lengths.mean_reply, seconds=seconds)
