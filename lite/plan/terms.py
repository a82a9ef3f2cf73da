"""What memory and time a pass of a model takes, term by term: its weights, LoRA, activations, logits and caches.

Bytes and seconds. Every term is derived in docs/memory.md. Sums of them for each stage: lite/plan/estimate.py.
"""

from __future__ import annotations

from lite.config import Recipe
from lite.plan.machine import Machine
from lite.plan.model_shape import Shape
from lite.tokens import PAD_MULTIPLE

CUDA_CONTEXT = 0.6e9  # of a process on a GPU, kernels included
FRAGMENTS = 0.2  # of activations on a CPU: freed memory that no tensor fits into; fitted
LOSS_ELEMENTS = 8 * 1024 * 1024  # logits at once in lite.train.cpu, 10 bytes each with what becomes of them
LOGIT_BYTES = 16  # per logit of a chunk in Unsloth's loss on CUDA
MOST_LOGITS = 4 * 2**30  # of such a chunk; it takes half of what is free at most
SAMPLING_BYTES = 36  # per logit: in float32, sorted, summed up, with its 64-bit index
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a quantised weight, with its share of both scales


def weights(shape: Shape, four_bit: bool, width: int) -> float:
    """Bytes of the base model in memory: embeddings are never quantised."""
    return shape.num_linear * (NF4 if four_bit else width) + shape.num_embedding * width


def lora(shape: Shape, rank: int) -> float:
    """LoRA matrices in float32, their gradients and AdamW's two moments: 16 bytes each."""
    return 16.0 * shape.num_lora(rank)


def activations(shape: Shape, rank: int, width: int) -> float:
    """Bytes that one layer keeps of one token for its backward pass, with LoRA fused into its linear layers.

    The norms keep float32; the linear layers keep what they read and LoRA's short products.
    """
    norms = 2 * (4 + width) * shape.hidden_size + (4 * (shape.query + shape.key) if shape.qk_norm else 0)
    attention = width * (2 * shape.query + 2 * shape.key)  # queries, keys, values, output
    mlp = width * 4 * shape.intermediate_size  # gate, its activation, up, their product
    return norms + attention + mlp + width * 7 * rank


def kv_cache(shape: Shape, tokens: float, width: int) -> float:
    """Keys and values of all layers for so many tokens."""
    return 2.0 * shape.num_hidden_layers * shape.key * tokens * width


def padded(tokens: int) -> int:
    return -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE


def training(recipe: Recipe, shape: Shape, machine: Machine, rows: int, tokens: int, linear_bytes: float):
    """Terms of one forward and backward pass over `rows` of `tokens`, and what of it a GPU puts into RAM."""
    num, width = rows * padded(tokens), machine.width
    terms = {"weights": linear_bytes, "LoRA, gradients, AdamW": lora(shape, recipe.sft.rank)}
    a_layer = num * activations(shape, recipe.sft.rank, width)
    layers = shape.num_hidden_layers
    if not machine.on_gpu:
        backward = num * width * (3 * shape.intermediate_size + 4 * shape.hidden_size)
        terms["activations"] = (1 + FRAGMENTS) * layers * a_layer + backward
        terms["logits"] = 10.0 * min(num * shape.vocab_size, LOSS_ELEMENTS)
        return terms, {}
    # PEFT's copies of embedding and head with the rows in them, and the head's gradient.
    terms["token rows"] = 3.0 * width * shape.vocab_size * shape.hidden_size
    terms["activations"] = 2 * a_layer  # recomputed layer by layer, and their gradients
    left = machine.gpu_gb * 1e9 - CUDA_CONTEXT - sum(terms.values())
    one = LOGIT_BYTES * shape.vocab_size * rows
    terms["logits"] = max(min(LOGIT_BYTES * num * shape.vocab_size, MOST_LOGITS, left / 2), one)
    offloaded = {"activations in RAM": width * layers * num * shape.hidden_size}
    return terms, offloaded


def generating(shape: Shape, machine: Machine, sequences: int, tokens: float, linear_bytes: float):
    """Terms of sampling so many sequences up to so many tokens; a GPU allocates their whole cache at the start."""
    terms = {
        "weights": linear_bytes,
        "KV cache": kv_cache(shape, sequences * tokens, machine.width),
        "sampling": float(SAMPLING_BYTES * sequences * shape.vocab_size),
    }
    if (
        machine.on_gpu
    ):  # keys and values of one layer, repeated for every head; PEFT's copy of the table at loading
        terms["attention"] = 2.0 * machine.width * sequences * tokens * shape.query
        terms["token rows"] = float(machine.width * shape.vocab_size * shape.hidden_size)
    return terms


def seconds_to_generate(
    shape: Shape, machine: Machine, num: float, tokens: float, sequences: int, size: float
):
    """`num` replies of `tokens`, so many at a time: a step reads the weights once, and computes.

    On a GPU a batch goes on to its longest reply; on a CPU rows that are done leave it.
    """
    steps = -(-num // sequences) * tokens * (1.5 if machine.on_gpu else 1)
    compute = 2 * shape.num_params * sequences / (machine.flops / 2)
    overhead = machine.layer_seconds * shape.num_hidden_layers * (1 if machine.on_gpu else sequences)
    return steps * max(size / machine.bandwidth, compute, overhead)


def seconds_to_train(shape: Shape, machine: Machine, tokens: float) -> float:
    """Frozen weights get no gradient: a pass is 2 + 2 operations a parameter, one more forward where recomputed."""
    passing = shape.num_hidden_layers * activations(shape, 16, machine.width) * machine.byte_seconds
    return tokens * ((6 if machine.on_gpu else 4) * shape.num_params / machine.flops + passing)


def seconds_to_read(shape: Shape, machine: Machine, tokens: float) -> float:
    """A forward pass alone."""
    return seconds_to_train(shape, machine, tokens) / 3
