import json

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_models import save

from export import convert, export, verify, vocab
from lite.errors import LiteError
from lite.tokens import CONTROL_TOKENS


def fields(path):
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {
        t.name: t for t in reader.tensors
    }


def edit(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_header_token_types_and_ties(qwen3, tmp_path):
    out = tmp_path / "q.gguf"
    convert.convert(qwen3, out, "f16", dial=True, name="tiny")
    values, tensors = fields(out)
    assert values["general.architecture"] == "qwen3"
    assert values["general.name"] == "tiny"
    assert values["general.file_type"] == 1
    for key, expected in {
        "vocab_size": 320,
        "context_length": 256,
        "embedding_length": 64,
        "block_count": 2,
        "feed_forward_length": 96,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "rope.dimension_count": 32,
        "rope.freq_base": 10000.0,
    }.items():
        assert values[f"qwen3.{key}"] == expected, key
    assert values["tokenizer.ggml.model"] == "gpt2"
    assert values["tokenizer.ggml.pre"] == "qwen2"
    assert values["tokenizer.ggml.add_bos_token"] is False
    assert "tokenizer.ggml.bos_token_id" not in values
    # 300 BPE tokens; <|endoftext|> <|im_start|> <|im_end|>; <think> </think>; 6 control tokens; 9 spare rows
    assert values["tokenizer.ggml.token_type"] == [1] * 300 + [3] * 3 + [4] * 2 + [3] * 6 + [5] * 9
    assert values["tokenizer.ggml.tokens"][302:312] == [
        "<|im_end|>",
        "<think>",
        "</think>",
        *CONTROL_TOKENS,
        "[PAD311]",
    ]
    assert values["tokenizer.ggml.eos_token_id"] == 302
    assert values["tokenizer.ggml.padding_token_id"] == 300
    assert len(values["tokenizer.ggml.merges"]) == 300 - 256
    assert "output.weight" not in tensors
    assert tensors["token_embd.weight"].tensor_type == gguf.GGMLQuantizationType.F16
    assert tensors["blk.0.attn_q_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    assert sorted(tmp_path.iterdir()) == [out]  # no temporary file stays


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("name", "changes", "dtype", "noise"),
    [
        ("Qwen3", {}, "f32", 1e-4),
        ("Qwen3", {}, "f16", 5e-2),
        ("Qwen3", {}, "bf16", 3e-1),
        ("Qwen2", {}, "f32", 1e-4),  # q, k, v with bias
        ("Llama", {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True}, "f32", 1e-4),
        ("Llama", {"rope_parameters": LLAMA3}, "f32", 1e-4),
        ("Qwen3", {"rope_parameters": {**YARN, "beta_fast": 32}}, "f32", 1e-4),
        ("Qwen2", {"rope_parameters": {**YARN, "attention_factor": 1.7}}, "f32", 5e-4),  # a sharper softmax
        ("Llama", {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}}, "f32", 1e-4),
        (
            "Qwen3",
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "f32",
            1e-4,
        ),
    ],
)
def test_same_model_as_hugging_face(name, changes, dtype, noise, tmp_path):
    folder = save(tmp_path / "model", name, **changes)
    out = tmp_path / "m.gguf"
    convert.convert(folder, out, dtype, dial=True, name="tiny")
    measured = verify.verify(out, folder)  # token ids, logits, greedy text
    assert measured["dial"]
    assert measured["logits_off"] < noise
    assert ("output.weight" in fields(out)[1]) == (name == "Llama")


def test_permute_pairs_halves():
    # one head of 4 rows: halves (0, 1) and (2, 3) become pairs (0, 2), (1, 3)
    assert convert.permute(np.array([0, 1, 2, 3]), 1).tolist() == [0, 2, 1, 3]
    rows = np.arange(16).reshape(8, 2)
    assert convert.permute(rows, 2)[:, 0].tolist() == [0, 4, 2, 6, 8, 12, 10, 14]


@pytest.mark.parametrize(
    ("steps", "ignore_merges", "expected"),
    [
        ([{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}], False, "gpt-2"),
        (
            [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            ],
            False,
            "smollm",
        ),
    ],
)
def test_pre_tokenizer_from_structure(steps, ignore_merges, expected):
    tokenizer = {"model": {"type": "BPE", "ignore_merges": ignore_merges}, "pre_tokenizer": steps[0]}
    if len(steps) > 1:
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    assert vocab.pre_tokenizer(tokenizer) == expected
    steps[0]["individual_digits"] = False
    steps[-1]["add_prefix_space"] = True
    with pytest.raises(LiteError, match="prefix space"):
        vocab.pre_tokenizer(tokenizer)


def test_split_pattern_decides(qwen3):
    tokenizer = json.loads((qwen3 / "tokenizer.json").read_text())
    split = tokenizer["pre_tokenizer"]["pretokenizers"][0]
    assert vocab.pre_tokenizer(tokenizer) == "qwen2"
    split["pattern"]["Regex"] = split["pattern"]["Regex"].replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    with pytest.raises(LiteError, match="no pre-tokenizer"):
        vocab.pre_tokenizer(tokenizer)  # Llama 3's pattern, but merges not ignored
    tokenizer["model"]["ignore_merges"] = True
    assert vocab.pre_tokenizer(tokenizer) == "llama-bpe"
    tokenizer["model"]["byte_fallback"] = True
    with pytest.raises(LiteError, match="byte fallback"):
        vocab.pre_tokenizer(tokenizer)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"architectures": ["GPT2LMHeadModel"]}, "architecture 'GPT2LMHeadModel'"),
        ("config.json", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        (
            "config.json",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope type 'dynamic'",
        ),
        ("config.json", {"tie_word_embeddings": False}, "no tensor lm_head.weight"),
        ("config.json", {"num_hidden_layers": "two"}, "num_hidden_layers' expected int, got str"),
        ("config.json", {"rms_norm_eps": None}, "rms_norm_eps' expected float, got NoneType"),
        ("config.json", {"num_hidden_layers": 10**6}, r"num_hidden_layers` .1000000. must"),
        ("config.json", {"intermediate_size": "abc"}, "intermediate_size' expected int, got str"),
        ("config.json", {"intermediate_size": 10**30}, "intermediate_size = 1000000"),
        ("config.json", {"hidden_size": -5}, "hidden_size = -5;"),
        ("config.json", {"num_attention_heads": 0}, "num_attention_heads = 0;"),
        (
            "config.json",
            {"rope_parameters": {**YARN, "beta_fast": 16}},
            "beta_fast = 16 of rope type yarn cannot",
        ),
        (
            "config.json",
            {"rope_parameters": {**YARN, "truncate": False}},
            "truncate = False of rope type yarn",
        ),
        (
            "config.json",
            {"rope_scaling": {"type": "linear", "factor": 2.0, "nix": 2}, "rope_parameters": None},
            "nix = 2 of rope",
        ),
        ("tokenizer.json", {"model": None}, "could not be loaded"),
        ("tokenizer.json", {"added_tokens": [{"id": 3}]}, "could not be loaded"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "normalizer 'Lowercase'"),
        (
            "tokenizer_config.json",
            {"eos_token": None},
            "neither eos_token nor eos_token_id, so no reply would end",
        ),
        (
            "generation_config.json",
            {"eos_token_id": [302, 999]},
            "eos_token_id holds 999, which is no token's id",
        ),
        ("generation_config.json", {"eos_token_id": "302"}, "eos_token_id holds '302'"),
    ],
)
def test_what_cannot_be_exported_is_refused(file, changes, message, tmp_path):
    folder = save(tmp_path / "model")
    edit(folder, file, **changes)
    with pytest.raises(LiteError, match=message):
        convert.convert(folder, tmp_path / "m.gguf", "f16", dial=True, name="m")
    assert not list(tmp_path.glob("*gguf*"))


def test_dial_needs_control_tokens(base, tmp_path):
    with pytest.raises(LiteError, match="<COMP_20>"):
        convert.convert(base, tmp_path / "m.gguf", "f16", dial=True, name="m")


def test_too_large_for_f16(tmp_path):
    with pytest.raises(LiteError, match="too large for f16; use bf16 or f32"):
        convert._pack(np.array([[7e4]], np.float32), "f16", "w")
    with pytest.raises(LiteError, match="NaN"):
        convert._pack(np.array([[np.nan]], np.float32), "f32", "w")


def test_cut_safetensors(tmp_path):
    folder = save(tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LiteError, match="not a whole safetensors file"):
        convert.convert(folder, tmp_path / "m.gguf", "f16", dial=True, name="m")


def add_head(folder):
    """A head of its own beside tied embeddings."""
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder):
    """Two shards and their index, beside a third that an earlier save left."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    stale = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(stale, folder / "model-3.safetensors", metadata={"format": "pt"})


def shard_and_keep(folder):
    data = (folder / "model.safetensors").read_bytes()
    shard(folder)
    (folder / "model.safetensors").write_bytes(data)


def lose_a_shard(folder):
    shard(folder)
    (folder / "model-2.safetensors").unlink()


def rename_end(folder):
    """A name that llama.cpp does not know, in the generation config only."""
    for file in ("tokenizer.json", "chat_template.jinja"):
        (folder / file).write_text((folder / file).read_text().replace("<|im_end|>", "<|fin|>"))
    edit(folder, "tokenizer_config.json", eos_token="<|endoftext|>")
    edit(folder, "generation_config.json", eos_token_id=302)


def no_end_in_tokenizer(folder):
    edit(folder, "tokenizer_config.json", eos_token=None)
    edit(folder, "generation_config.json", eos_token_id=[302])


def rename_end_among_many(folder):
    rename_end(folder)
    edit(folder, "generation_config.json", eos_token_id=[40, 41, 302])


def add_token(folder):
    (folder / "added_tokens.json").write_text('{"<only_here>": 311}')


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (shard, {"tokenizer.ggml.eos_token_id": 302}),
        (rename_end, {"tokenizer.ggml.eos_token_id": 300, "tokenizer.ggml.eot_token_id": 302}),
        (no_end_in_tokenizer, {"tokenizer.ggml.eos_token_id": 302}),
        (add_token, {"tokenizer.ggml.eos_token_id": 302}),
        (add_head, "tie_word_embeddings is true, and model.safetensors has a lm_head.weight of its own"),
        (
            shard_and_keep,
            "model.safetensors lies beside model.safetensors.index.json, which does not name it",
        ),
        (lose_a_shard, "index.json: names model-2.safetensors, which is not beside it"),
        (rename_end_among_many, r"<\|fin\|> \(id 302\) ends a reply in Hugging Face and not in llama.cpp"),
    ],
)
def test_the_right_file_or_the_cause(change, expected, tmp_path):
    folder, out = save(tmp_path / "model"), tmp_path / "m.gguf"
    change(folder)
    if isinstance(expected, str):
        with pytest.raises(LiteError, match=expected):
            export.export(folder, {"f32": out}, "m", dial=True)
        assert not out.exists()
    else:
        assert export.export(folder, {"f32": out}, "m", dial=True)["f32"]["logits_off"] < 1e-4
        values = fields(out)[0]
        assert {key: values.get(key) for key in expected} == expected
        assert (values["tokenizer.ggml.tokens"][311] == "<only_here>") == (change is add_token)
