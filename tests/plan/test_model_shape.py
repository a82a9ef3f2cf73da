"""A model's sizes and tokenizer without its weights and without torch."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import Act, serve
from tiny_tokenizer import tiny_tokenizer

from lite import tokens
from lite.errors import LiteError
from lite.models import pretrained, unsloth
from lite.plan.model_shape import PlainTokenizer, read_shape

QWEN3_1_7B = {
    "model_type": "qwen3",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def folder_with(tmp_path, config: dict) -> str:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def safetensors(path, tensors: dict) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def test_qwen3(tmp_path):
    shape = read_shape(folder_with(tmp_path, QWEN3_1_7B))
    assert (shape.query, shape.key, shape.qk_norm) == (2048, 1024, True)
    # by hand: q and o 4,194,304 each, k and v 2,097,152 each, three of 12,582,912 in the MLP
    assert shape.num_linear == 28 * (2 * 4_194_304 + 2 * 2_097_152 + 3 * 12_582_912)
    assert shape.num_embedding == 151_936 * 2048
    assert shape.num_params == 1_720_451_072
    assert shape.num_lora(32) == 28 * 32 * (2 * 4096 + 2 * 3072 + 3 * 8192)


def test_what_config_leaves_out(tmp_path):
    config = {**QWEN3_1_7B, "model_type": "llama", "tie_word_embeddings": False}
    del config["head_dim"], config["num_key_value_heads"]
    shape = read_shape(folder_with(tmp_path, config))
    assert (shape.head_dim, shape.num_key_value_heads, shape.qk_norm) == (128, 16, False)
    assert shape.num_embedding == 2 * 151_936 * 2048


def test_headers_know_better_than_config(tmp_path):
    safetensors(
        tmp_path / "model-1.safetensors",
        {"model.layers.0.self_attn.q_norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
    )
    safetensors(
        tmp_path / "model-2.safetensors",
        {"lm_head.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
    )
    shape = read_shape(folder_with(tmp_path, {**QWEN3_1_7B, "model_type": "another"}))
    assert shape.qk_norm and not shape.tie_word_embeddings
    assert shape.file_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"hidden_size": None}, "config.json has hidden_size = None"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers = 'many'"),
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"intermediate_size": True}, "intermediate_size = True"),
    ],
)
def test_a_field_that_is_missing_or_no_number(tmp_path, config, message):
    with pytest.raises(LiteError, match=message):
        read_shape(folder_with(tmp_path, QWEN3_1_7B | config))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 5000])
def test_files_that_are_none(tmp_path, text):
    folder = folder_with(tmp_path, QWEN3_1_7B)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(LiteError, match="config.json is not a JSON object"):
        read_shape(folder)
    folder_with(tmp_path, QWEN3_1_7B)
    (tmp_path / "model.safetensors").write_text(text)
    with pytest.raises(LiteError, match="not a safetensors file"):
        read_shape(folder)
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(LiteError, match="tokenizer.json cannot be read"):
        PlainTokenizer(folder)


def plan_from_hub(tmp_path, endpoint: str, **env: str) -> subprocess.CompletedProcess:
    """`lite plan` of a hub model in a process of its own: huggingface_hub reads its settings when it is imported."""
    command = [sys.executable, "-m", "lite", "plan", "quickstart", "--set", "model=nobody/gated"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        **env,
    }
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean | env)


def test_a_gated_model_is_planned_with_the_users_token(tmp_path):
    files = Path(pretrained.QUICKSTART)

    def hub(path, body, number):
        headers = server.asked[-1][2]
        if headers.get("authorization", headers.get("Authorization")) != "Bearer hf_secret":
            return Act("", 401, {"X-Error-Code": "GatedRepo"})
        name = path.rpartition("/")[2]
        if "/nobody/gated/resolve/main/" not in path or not (files / name).is_file():
            return Act("", 404, {"X-Error-Code": "EntryNotFound"})
        data = (files / name).read_bytes()
        etag = hashlib.sha256(data).hexdigest()
        return Act(data, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": "0" * 40})

    with serve(hub) as server:
        endpoint = server.url.removesuffix("/v1")
        refused = plan_from_hub(tmp_path, endpoint)
        planned = plan_from_hub(tmp_path, endpoint, HF_TOKEN="hf_secret")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "config.json: gated; accept the terms" in refused.stderr and "HF_TOKEN" in refused.stderr
    assert planned.returncode == 0, planned.stderr
    assert (
        "nobody/gated: 1.0 M parameters; 4 layers of 128" in planned.stdout
        and "> <COMP_100>" in planned.stdout
    )
    assert not list((tmp_path / "home").rglob("*.safetensors"))


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_no_network_is_one_clear_line(tmp_path, env):
    done = plan_from_hub(tmp_path, "http://127.0.0.1:9", **env)  # nobody listens there
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "the Hub cannot be reached" in done.stderr and "--set model=FOLDER" in done.stderr


def same_tokens(folder: str, question: str) -> None:
    theirs, ours = unsloth.load_tokenizer(folder), PlainTokenizer(folder)
    for mode in (*tokens.MODES, tokens.BASE):
        assert tokens.encode_prompt(ours, question, mode) == tokens.encode_prompt(theirs, question, mode)
    reply = tokens.write_reply(0.4, "3 + 4 = 7.\nSo 7.", "\\boxed{7}")
    assert ours.encode(reply) == theirs.encode(reply, add_special_tokens=False)
    assert ours.decode(ours.encode(reply)) == reply
    assert ours.eos_token_id == theirs.eos_token_id


def test_tokens_are_those_of_transformers(tmp_path):
    question = "What is 3 + 4? <COMP_20> <|im_end|> <think>"
    same_tokens("quickstart", question)
    tiny_tokenizer(["What is what"], control=False).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    same_tokens(str(tmp_path), question)


def test_a_template_that_fails(tmp_path):
    shutil.copytree(pretrained.QUICKSTART, tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    for text, message in (
        ("{{ raise_exception('no roles') }}", "template fails .no roles"),
        ("{% if %}", "template fails"),
        ("", "no chat template"),
    ):
        template.write_text(text)
        with pytest.raises(LiteError, match=message):
            tokens.encode_prompt(PlainTokenizer(str(tmp_path / "model")), "q", "0.2")
