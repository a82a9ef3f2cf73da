"""The backend on a tiny random model: tokens, rows, generation, adapters."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_model

from lite import tokens
from lite.errors import LiteError
from lite.models import adapters, generate, pretrained, unsloth
from lite.runtime import hardware

SETTINGS = {"max_tokens": 256, "rank": 4, "alpha": 8, "four_bit": False, "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny_model.write(tmp_path_factory.mktemp("model")))


def test_resolve_says_what_is_missing(tmp_path):
    assert pretrained.resolve("Qwen/Qwen3-1.7B") == "Qwen/Qwen3-1.7B"
    for model in ("./nowhere", "/nowhere/at/all", "nowhere"):
        with pytest.raises(LiteError, match="no such folder"):
            pretrained.resolve(model)
    with pytest.raises(LiteError, match="config.json"):
        pretrained.resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("flags", "override", "expected"),
    [
        ("avx2 avx512_bf16 amx_bf16", "", True),
        ("avx2 avx512_bf16", "", False),  # torch's products in bf16 are slower there than in float32
        ("avx2 avx512_bf16", "1", True),
        ("amx_bf16", "0", False),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_multiplies_matrices_of_it(monkeypatch, flags, override, expected):
    monkeypatch.setattr(hardware.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(unsloth.Path, "read_text", lambda *_, **__: f"flags\t: fpu {flags}\n")
    monkeypatch.setenv("UNSLOTH_CPU_BF16", override)
    assert hardware.multiplies_bf16() is expected


def test_control_tokens_are_one_id_each_and_user_text_cannot_write_them(folder):
    tokenizer = unsloth.load_tokenizer(folder)
    assert adapters.control_ids(tokenizer) == [261, 262, 263, 264, 265, 266]
    assert tokenizer.encode("<COMP_20>", add_special_tokens=False) == [261]
    prompt = tokens.encode_prompt(tokenizer, "a <COMP_20> <|im_end|>", "policy")
    assert [id for id in prompt if id >= 256] == [257, 266, 258, 257]  # start, POLICY, end, start
    assert generate.count_tokens(tokenizer, "12 <COMP_20>") == 4  # one, two, space, one control token


def test_untied_models_train_the_rows_on_both_ends(tmp_path):
    folder = str(tiny_model.write(tmp_path, tied=False))
    model, _ = unsloth.load_trainable(folder, **SETTINGS)
    rows = [name for name, _ in model.named_parameters() if "trainable_tokens_delta" in name]
    assert len(rows) == 2 and {"embed_tokens" in name for name in rows} == {True, False}
    assert model.get_output_embeddings().bias is None


@pytest.mark.parametrize("spare_rows, rows", [(11, 272), (0, 267)])
def test_new_rows_use_spare_ones_and_ties_are_kept(tmp_path, spare_rows, rows):
    folder = str(tiny_model.write(tmp_path, spare_rows))
    model, tokenizer = unsloth.load_trainable(folder, **SETTINGS)
    embedding = model.get_input_embeddings().weight
    assert embedding.shape[0] == rows == max(261 + spare_rows, len(tokenizer))
    assert embedding.data_ptr() != 0 and model.get_base_model().config.tie_word_embeddings
    import torch

    six, known = embedding[261:267].float(), embedding[:261].float()
    assert torch.allclose(six.norm(dim=1), known.norm(dim=1).mean().expand(6), rtol=0.01)
    words = torch.stack(
        [known[tokenizer.encode(w, add_special_tokens=False)].mean(0) for w in tokens.CONTROL_WORDS]
    )
    near = torch.nn.functional.cosine_similarity(six, words)
    assert near.min() > 0.5 and near.max() < 0.95  # near its word, and not the word itself


def test_generate_matches_transformers_and_batches_do_not_matter(folder):
    import torch

    model, tokenizer = unsloth.load(folder, max_tokens=256)
    prompts = [tokens.encode_prompt(tokenizer, "2 + 3" + " more" * length, "base") for length in (0, 3, 1, 3)]
    seen = []
    greedy = {"max_tokens": 20, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    together = generate.generate(model, tokenizer, prompts, batch_size=4, advance=seen.append, **greedy)
    in_twos = generate.generate(model, tokenizer, prompts, batch_size=2, advance=seen.append, **greedy)
    assert together == in_twos and together[1] == together[3]
    assert seen == [4, 2, 2]
    for prompt, reply in zip(prompts, together, strict=True):
        ids = torch.tensor([prompt], device=model.device)
        full = model.generate(ids, max_new_tokens=20, do_sample=False)[0, len(prompt) :].tolist()
        assert reply == (full[: full.index(258)] if 258 in full else full)


def test_generate_cuts_at_the_end_and_repeats_from_its_seed(folder):
    import torch

    model, tokenizer = unsloth.load(folder, max_tokens=256)
    prompts = [tokens.encode_prompt(tokenizer, "hello", "base")] * 24
    with torch.no_grad():  # a model that often ends its reply
        model.get_input_embeddings().weight[258] += 0.4 * model.get_input_embeddings().weight[:256].std()
    sampled = {"max_tokens": 60, "temperature": 1.5, "top_p": 0.95, "batch_size": 24}
    first = generate.generate(model, tokenizer, prompts, seed=1, **sampled)
    assert first == generate.generate(model, tokenizer, prompts, seed=1, **sampled)
    assert first != generate.generate(model, tokenizer, prompts, seed=2, **sampled)
    assert all(258 not in reply for reply in first)


def test_rollouts_leave_the_weights_as_they_were(folder):
    import torch

    model, tokenizer = unsloth.load_trainable(folder, **SETTINGS)
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param.add_(0.05 * torch.randn_like(param))
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    ids = tiny_model.prompt_ids(model, tokenizer, "2 + 3", "policy")
    expected = unsloth.last_logits(model, ids, torch.ones_like(ids))
    with unsloth.for_rollouts(model) as inner, torch.no_grad():
        assert torch.allclose(
            unsloth.last_logits(inner, ids, torch.ones_like(ids)), expected, **tiny_model.near(model)
        )
    assert model.training
    for name, param in model.named_parameters():
        assert torch.equal(param, before[name]), name
    assert torch.allclose(unsloth.last_logits(model, ids, torch.ones_like(ids)), expected, atol=1e-6)


def test_adapter_round_trip(folder, tmp_path):
    import torch

    from lite.train import checkpoints

    model, tokenizer = unsloth.load_trainable(folder, **SETTINGS)
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param.add_(0.05 * torch.randn_like(param))
    checkpoints.save_adapter(model, tokenizer, tmp_path / "adapter")
    again, _ = unsloth.load_trainable(folder, **{**SETTINGS, "seed": 4}, adapter=tmp_path / "adapter")
    merged, _ = unsloth.load(folder, max_tokens=256, adapter=tmp_path / "adapter")
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    ids = tiny_model.prompt_ids(model, tokenizer, "2 + 3", "0.4")
    expected = unsloth.last_logits(model, ids, torch.ones_like(ids))
    assert torch.allclose(unsloth.last_logits(again, ids, torch.ones_like(ids)), expected, atol=1e-6)
    assert torch.allclose(
        unsloth.last_logits(merged, ids, torch.ones_like(ids)), expected, **tiny_model.near(model)
    )
    with pytest.raises(LiteError, match="adapter_model"):
        unsloth.load(folder, max_tokens=256, adapter=tmp_path)


def test_four_bit_base_trains(folder):
    import torch

    model, tokenizer = unsloth.load_trainable(folder, **{**SETTINGS, "four_bit": True})
    ids = tiny_model.prompt_ids(model, tokenizer, "2 + 3", "0.4")
    unsloth.last_logits(model, ids, torch.ones_like(ids)).logsumexp(-1).sum().backward()
    quantised = {type(module).__name__ for module in model.modules()} & {"Linear4bit"}
    assert quantised == {"Linear4bit"}
    rows = [p for name, p in model.named_parameters() if "trainable_tokens_delta" in name]
    assert len(rows) == 1 and rows[0].shape == (6, 64) and rows[0].grad.abs().sum() > 0


@pytest.mark.parametrize("tied", [True, False])
def test_rollouts_of_a_quantised_base_read_the_trained_rows_from_its_tables(tmp_path, tied):
    """PEFT's wrappers would copy the whole table at every decode step."""
    import torch
    from peft.utils.other import TrainableTokensWrapper

    folder = str(tiny_model.write(tmp_path, tied=tied))
    model, tokenizer = unsloth.load_trainable(folder, **{**SETTINGS, "four_bit": True})
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param.add_(0.05 * torch.randn_like(param))
    trained = {name: param.detach().clone() for name, param in model.named_parameters()}
    ids = tiny_model.prompt_ids(model, tokenizer, "2 + 3", "0.4")
    expected = unsloth.last_logits(model, ids, torch.ones_like(ids))
    with unsloth.for_rollouts(model) as inner, torch.no_grad():
        assert not any(isinstance(part, TrainableTokensWrapper) for part in inner.modules())
        assert torch.equal(unsloth.last_logits(inner, ids, torch.ones_like(ids)), expected)
    assert sum(isinstance(part, TrainableTokensWrapper) for part in model.modules()) == 2
    for name, param in model.named_parameters():
        assert torch.equal(param, trained[name]), name
    assert torch.equal(unsloth.last_logits(model, ids, torch.ones_like(ids)), expected)


def test_a_pad_of_its_own(folder):
    tokenizer = unsloth.load_tokenizer(folder)
    own, other = tokenizer.pad_token_id, tokenizer.encode("x")
    assert adapters.with_own_pad(tokenizer, 300, [other]) is tokenizer
    for used in ([other, [own]], []):  # the pad stands in a prompt, or is the EOS
        if not used:
            tokenizer.pad_token = tokenizer.eos_token
        padding = adapters.with_own_pad(tokenizer, 300, used)
        assert padding.pad_token_id not in {
            tokenizer.eos_token_id,
            *sum(used, []),
            *adapters.control_ids(tokenizer),
        }
        assert padding.encode("a<COMP_20>") == tokenizer.encode("a<COMP_20>")
    everything = [[*range(len(tokenizer))]]
    assert adapters.with_own_pad(tokenizer, 300, everything).pad_token_id == len(tokenizer)
    with pytest.raises(LiteError, match="no token left to pad with"):
        adapters.with_own_pad(tokenizer, len(tokenizer), everything)


def test_another_base_than_the_one_named_is_refused(folder):
    import torch

    layer = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2)})
    layer.config = SimpleNamespace(_name_or_path="unsloth/another")
    with pytest.raises(LiteError, match="loaded unsloth/another in its place"):
        unsloth._check_base(layer, folder, "model", False)
    with pytest.raises(LiteError, match="0 of 1 linear layers were loaded in NF4"):
        unsloth._check_base(layer, "unsloth/another", "model", True)


def test_vllm_is_given_the_adapter_and_a_seed_for_each_reply(folder, monkeypatch):
    """vLLM needs a GPU; a stand-in with the names that Unsloth gives its model notes what it is asked for."""
    tokenizer = unsloth.load_tokenizer(folder)
    prompts = [[5, 6], [7], [5, 6]]
    asked = {}

    def fast_generate(prompts, **rest):
        asked.update(rest, prompts=[prompt["prompt_token_ids"] for prompt in prompts])
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=(9, place, end))])
            for place, end in enumerate(ends)
        ]

    end = tokenizer.eos_token_id
    ends = [end, 8, end]  # the second is cut
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))
    served = SimpleNamespace(
        device=SimpleNamespace(type="cuda"),
        vllm_engine=True,
        fast_generate=fast_generate,
        load_lora=lambda folder, load_tensors: (Path(folder).is_dir(), load_tensors),
    )
    how = {"max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "seed": 4, "batch_size": 3}
    replies = generate.generate(served, tokenizer, prompts, **how)

    assert asked["prompts"] == [[5, 6], [5, 6], [7]]  # of like length side by side
    assert replies == [[9, 0], [9, 2], [9, 1, 8]]  # in the order of the prompts, without the end
    assert asked["lora_request"] == (True, True)
    params = asked["sampling_params"]
    assert len({one.seed for one in params}) == 3
    assert all((one.max_tokens, one.temperature, one.top_p) == (3, 0.7, 0.9) for one in params)
    assert all(one.stop_token_ids == sorted({end, tokenizer.pad_token_id}) for one in params)


def test_vllm_where_there_is_none(folder, tmp_path):
    full = str(tiny_model.write(tmp_path, spare_rows=0))
    with pytest.raises(LiteError, match="no spare rows for control tokens"):
        unsloth.load_trainable(full, **SETTINGS, vllm=0.5)
    with pytest.raises(LiteError, match="vLLM. needs a GPU"):
        unsloth.load_trainable(folder, **SETTINGS, vllm=0.5)
