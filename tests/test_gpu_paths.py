"""What we call on CUDA is there: keywords against Unsloth's GPU sources, and the reach of the control term in them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lite
from lite import tokens

ROOT = Path(lite.__file__).parent


def keywords(file: str, callee: str) -> set[str]:
    """Keywords of the one call of `callee` (its last name) in a file of the package; of `**{...}` none."""
    calls = [
        node
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] == callee.rpartition(".")[2]
        and ast.unparse(node.func).endswith(callee)
    ]
    assert len(calls) == 1, f"{len(calls)} calls of {callee} in {file}"
    return {keyword.arg for keyword in calls[0].keywords if keyword.arg}


@pytest.fixture(scope="module")
def found():
    script = Path(__file__).with_name("gpu_paths.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=script.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_sources_are_those_for_cuda(found):
    assert found["device"] == "cuda"
    assert "FastLlamaModel" in found["qwen3"]
    assert found["generated"] == ["UnslothSFTTrainer", "UnslothGRPOTrainer"]


@pytest.mark.parametrize(
    "file, callee, where",
    [
        ("models/unsloth.py", "FastLanguageModel.from_pretrained", "from_pretrained"),
        ("models/unsloth.py", "FastLanguageModel.get_peft_model", "get_peft_model"),
        ("models/unsloth.py", "patched.restore_transformers_family", "restore_transformers_family"),
        ("train/sft.py", "SFTConfig", "SFTConfig"),
        ("train/chrpo.py", "GRPOConfig", "GRPOConfig"),
    ],
)
def test_every_keyword_exists(found, file, callee, where):
    passed = keywords(file, callee)
    assert passed or callee.endswith("family")
    # What Unsloth does not name itself it hands to peft.LoraConfig, or to transformers' from_pretrained.
    handed = {"get_peft_model": {"trainable_token_indices"}, "from_pretrained": {"use_safetensors"}}
    assert passed - set(found[where]) == handed.get(where, set())
    if where == "get_peft_model":
        assert handed[where] <= set(found["LoraConfig"])
        assert "**kwargs" in found["peft_source"] and "LoraConfig(" in found["peft_source"]
    if where == "from_pretrained":
        assert re.search(r"AutoModelForCausalLM\.from_pretrained\([^()]*\*\*kwargs", found["load_source"])


def test_trainers_take_what_ours_override(found):
    trainers = {"SFTTrainer": "train/sft.py", "GRPOTrainer": "train/chrpo.py"}
    given = {"SFTTrainer": {"model", "processing_class", "train_dataset", "args"}}
    given["GRPOTrainer"] = given["SFTTrainer"] | {"reward_funcs", "rollout_func"}
    for name in trainers:
        assert given[name] <= set(found[name])
    for parameters in found["compute_loss"]:
        assert parameters[:5] == ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]
    assert found["scored"] == ["prompt_ids", "prompt_mask", "completion_ids"]


def test_the_control_term_reaches_the_last_prompt_position_only(found):
    """Through Unsloth's forward for CUDA, as through transformers' (tests/train/test_chrpo.py)."""
    *before, last = found["head_gradient"]
    assert before == [0.0, 0.0, 0.0, 0.0] and last > 0


def test_unsloths_model_has_what_rollouts_through_vllm_call(found):
    """The engine that is asked for in unsloth.py, and the names by which a PEFT model then has it."""
    asked = {"fast_inference", "gpu_memory_utilization", "max_lora_rank"}
    source = "".join((ROOT / "models" / name).read_text("utf-8") for name in ("unsloth.py", "generate.py"))
    assert all(f'"{name}"' in source for name in asked) and asked <= set(found["from_pretrained"])
    for name in ("vllm_engine", "fast_generate", "load_lora"):
        assert f"model.{name} = " in found["patch_peft_source"] and name in source
    assert found["load_lora"][:3] == ["model", "save_directory", "load_tensors"]
    assert "shared_weights = True" in found["load_source"]  # else the trained rows would not reach it
    assert (
        "trainable_token" not in found["patch_peft_source"]
    )  # if it hands these over one day, unsloth.py need not


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """What tests/generated_trainers.py finds, by way, stage, tie and pad."""
    import torch

    script, folder = Path(__file__).with_name("generated_trainers.py"), tmp_path_factory.mktemp("gradients")
    found = {}
    for way in ("plain", "unsloth"):
        out = folder / f"{way}.pt"
        done = subprocess.run(
            [sys.executable, str(script), way, str(out)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(folder)},
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[way] = torch.load(out)
    return found


@pytest.mark.parametrize("stage", ["of_chrpo", "of_sft"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pad_is_eos", [True, False])
def test_the_trainers_for_cuda_give_the_gradients_of_plain_trl(gradients, stage, tied, pad_is_eos):
    plain, ours = (gradients[way][f"{stage} tied={tied} pad_is_eos={pad_is_eos}"] for way in gradients)
    assert any(name.startswith("Unsloth") for name in ours["classes"])
    assert not any(name.startswith("Unsloth") for name in plain["classes"])
    assert ours["loss"] == pytest.approx(plain["loss"], rel=0.01)
    assert set(ours["gradients"]) == set(plain["gradients"])
    for name, expected in plain["gradients"].items():
        assert expected.norm() > 0
        assert (ours["gradients"][name] - expected).norm() < 0.01 * expected.norm(), name
    if stage == "of_sft":
        assert ours["width"] % tokens.PAD_MULTIPLE == 0 and ours["width"] <= int(ours["asked"]["max_length"])
        assert ours["asked"]["optim"] == "OptimizerNames.ADAMW_TORCH_FUSED"
        assert ours["asked"]["padding_free"] != "True" and ours["asked"]["packing"] == "False"
