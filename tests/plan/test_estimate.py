"""Memory term by term, against numbers computed by hand; what the docs say of 24 GB is what the code says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lite.config import load, parse
from lite.plan import estimate as footprint
from lite.plan import terms
from lite.plan.estimate import Lengths, Planner
from lite.plan.lengths import at_most
from lite.plan.machine import CARDS
from lite.plan.model_shape import Shape
from lite.run import READS

QWEN3_1_7B = Shape(2048, 6144, 28, 16, 8, 128, 151_936, True, qk_norm=True)
SMALL = Shape(8, 16, 2, 2, 1, 4, 100, True)
RECIPE = "sft: {four_bit: true, rank: 32, batch_size: 4, max_tokens: 4096}\nchrpo: {prompts: 8, group: 4, batch_size: 4, max_tokens: 2048}"
LENGTHS = Lengths(prompt=300, row=4096, mean_prompt=150, mean_row=1000, mean_reply=1200, num_rows=10_000)


def test_terms_of_a_small_model():
    assert SMALL.num_linear == 2 * (8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 3 * 8 * 16)
    assert terms.weights(SMALL, four_bit=False, width=4) == 4 * (SMALL.num_linear + 800)
    # 4 bits, an 8-bit scale per 64 weights, a 32-bit one per 256 of these
    assert terms.weights(SMALL, four_bit=True, width=2) == pytest.approx(
        SMALL.num_linear * (0.5 + 1 / 64 + 4 / 16384) + 2 * 800
    )
    assert terms.lora(SMALL, rank=2) == 16 * 2 * 2 * (16 + 12 + 12 + 16 + 24 + 24 + 24)
    assert terms.kv_cache(SMALL, tokens=10, width=2) == 2 * 2 * 4 * 10 * 2
    # norms keep 4 + 2 bytes of 8 numbers, twice; q, out: 8, k, v: 4; four of 16 in the MLP; seven of rank 2
    assert terms.activations(SMALL, rank=2, width=2) == 2 * 6 * 8 + 2 * (8 + 8 + 4 + 4) + 2 * 64 + 2 * 14
    assert terms.activations(replace(SMALL, qk_norm=True), 2, 2) - terms.activations(SMALL, 2, 2) == 48
    assert [terms.padded(tokens) for tokens in (1, 16, 17)] == [16, 16, 32]


def test_sft_on_a_card_and_on_a_cpu():
    recipe = parse(RECIPE)
    gpu = Planner(recipe, QWEN3_1_7B, LENGTHS, CARDS["24gb"]).all()["sft"]
    num = 4 * 4096
    assert gpu.ram["activations in RAM"] == 2 * 28 * num * 2048
    assert gpu.gpu["activations"] == 2 * num * terms.activations(QWEN3_1_7B, 32, 2)
    assert gpu.gpu["token rows"] == 3 * 2 * 151_936 * 2048
    assert gpu.gpu["logits"] == 4 * 2**30  # Unsloth's cap
    cpu = Planner(recipe, QWEN3_1_7B, LENGTHS, replace(CARDS["cpu"], bf16=True)).all()["sft"]
    assert cpu.gpu == {} and cpu.ram["activations"] > 28 * num * terms.activations(QWEN3_1_7B, 32, 2)
    fp32 = Planner(parse("sft: {rank: 32}"), QWEN3_1_7B, LENGTHS, replace(CARDS["cpu"], bf16=False))
    assert fp32.all()["sft"].ram["weights"] == 4 * QWEN3_1_7B.num_params


def test_every_stage_and_what_grows_with_what():
    recipe = parse(RECIPE)
    base = Planner(recipe, QWEN3_1_7B, LENGTHS, CARDS["24gb"]).all()
    assert tuple(base) == tuple(READS)
    for estimate in base.values():
        assert estimate.seconds > 0 and sum(estimate.ram.values()) > 0
        assert min([*estimate.gpu.values(), *estimate.ram.values()]) >= 0
        assert set(estimate.shown()) == {"memory_gb", "gpu_memory_gb", "disk_gb", "seconds"}

    def grown(change: str) -> dict[str, set[str]]:
        other = Planner(parse(f"{RECIPE}\n{change}"), QWEN3_1_7B, LENGTHS, CARDS["24gb"]).all()
        return {name: {t for t in base[name].gpu if other[name].gpu[t] > base[name].gpu[t]} for name in READS}

    assert grown("traces: {batch_size: 64}")["traces"] == {"KV cache", "attention", "sampling"}
    assert grown("probe: {max_tokens: 8000}") == {
        **dict.fromkeys(READS, set()),
        "probe": {"KV cache", "attention"},
    }
    long = Planner(recipe, QWEN3_1_7B, replace(LENGTHS, row=8192), CARDS["24gb"]).all()["sft"]
    assert long.gpu["activations"] == 2 * base["sft"].gpu["activations"]


def test_the_largest_term_can_be_turned_down():
    for name, estimate in Planner(parse(RECIPE), QWEN3_1_7B, LENGTHS, CARDS["24gb"]).all().items():
        if estimate.gpu:
            assert footprint.remedy(name, estimate.largest(on_gpu=True)) != "a smaller model", name
    assert footprint.remedy("probe", "KV cache") == "probe.batch_size, then probe.max_tokens"
    assert footprint.remedy("chrpo", "KV cache") == "chrpo.prompts, then chrpo.max_tokens"


def test_at_most():
    known = at_most(parse("sft: {max_tokens: 800}\ntraces: {max_tokens: 500}\nproblems: {num_train: 17}"))
    assert (known.prompt, known.row, known.num_rows) == (50, 550, 100)  # 17 * 5 / 0.85


def test_what_scores_text_is_planned_as_it_is_loaded():
    recipe = parse("sft: {four_bit: true}\ncompressor: {max_tokens: 1024}\ncompress: {batch_size: 8}")
    stages = Planner(recipe, QWEN3_1_7B, LENGTHS, CARDS["24gb"]).all()
    assert stages["annotate"].gpu["weights"] == 2 * QWEN3_1_7B.num_params > 2 * stages["probe"].gpu["weights"]
    half = replace(recipe, compress=replace(recipe.compress, batch_size=4))
    other = Planner(half, QWEN3_1_7B, LENGTHS, CARDS["24gb"]).all()["compress"]
    assert stages["compress"].gpu["activations"] == 2 * other.gpu["activations"] > 0


@pytest.mark.parametrize(
    "compressor, weights, twice",
    [
        ("encoder: base, rank: 16", terms.weights(QWEN3_1_7B, True, 2), True),
        ("encoder: base, rank: 16, four_bit: false", terms.weights(QWEN3_1_7B, False, 2), True),
        ("encoder: unknown/encoder, rank: 16", terms.weights(footprint.MODERNBERT_BASE, True, 4), False),
        ("encoder: unknown/encoder", 16.0 * footprint.MODERNBERT_BASE.num_params, False),
    ],
)
def test_each_kind_of_compressor_is_planned(compressor, weights, twice):
    """The base reads a chain twice, so that its windows reach their bound with chains half as long."""

    def planned(row: int) -> dict[str, float]:
        recipe = parse(f"compressor: {{{compressor}, max_tokens: 4096}}")
        return Planner(recipe, QWEN3_1_7B, replace(LENGTHS, row=row), CARDS["24gb"]).all()["compressor"].gpu

    short, half, long = (planned(row)["activations"] for row in (1024, 2048, 4096))
    assert half == 2 * short and long == half * (1 if twice else 2)
    assert planned(1024)["weights"] == weights
    assert ("LoRA, gradients, AdamW" in planned(1024)) == ("rank" in compressor)


def test_vllm_stays_beside_the_update():
    with_vllm = (
        Planner(parse(RECIPE.replace("group: 4", "group: 4, vllm: 0.5")), QWEN3_1_7B, LENGTHS, CARDS["24gb"])
        .all()["chrpo"]
        .gpu
    )
    assert with_vllm["vLLM"] + with_vllm["weights"] == 12e9 and "KV cache" not in with_vllm
    assert with_vllm["activations"] > 0 and footprint.remedy("chrpo", "vLLM") == "chrpo.vllm"


def test_gold_traces_need_no_model():
    traces = Planner(parse("traces: {method: gold}"), QWEN3_1_7B, LENGTHS, CARDS["24gb"]).all()["traces"]
    assert traces.gpu == {} and sum(traces.ram.values()) < 1e8


def test_the_docs_on_24_gb():
    """docs/memory.md derives these for the packaged recipe; its tables are what the code says."""
    root = Path(__file__).parents[2]
    recipe = load(root / "recipes" / "qwen3-1.7b-24gb.yaml")
    lengths = replace(LENGTHS, row=LENGTHS.prompt + recipe.traces.max_tokens)
    estimates = Planner(recipe, QWEN3_1_7B, lengths, CARDS["24gb"]).all()
    text = (root / "docs" / "memory.md").read_text(encoding="utf-8")
    for name in ("sft", "chrpo"):
        section = text.partition(f"## {name} on 24 GB")[2].partition("\n## ")[0]
        shown = dict(re.findall(r"^\| ([\w ,-]+?) \|.*\| ([\d.]+) GB \|$", section, re.MULTILINE))
        expected = {term: f"{size / 1e9:.2f}" for term, size in estimates[name].gpu.items()}
        assert shown == expected | {"all": f"{sum(estimates[name].gpu.values()) / 1e9:.2f}"}
    for estimate in estimates.values():
        assert sum(estimate.gpu.values()) < 24e9
