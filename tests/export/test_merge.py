import shutil

import pytest
from tiny_models import build_model, build_tokenizer, save

from export import merge
from lite.errors import LiteError
from lite.tokens import CONTROL_TOKENS


@pytest.fixture(autouse=True, scope="module")
def libraries(patched) -> None:
    """Imported late: collecting the tests loads no torch."""
    global torch, LoraConfig, PeftModel, get_peft_model, AutoModelForCausalLM, AutoTokenizer, IDS
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    IDS = torch.tensor([[305, 10, 42, 303, 77, 310, 12, 304, 308]])  # control tokens, think marks, plain ones


def make_adapter(base, folder, num_rows=None, save_embeddings="auto"):
    """A random LoRA adapter with six trained token rows, and its tokenizer, as the sft stage leaves them."""
    tokenizer = build_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(base)
    if num_rows:
        model.resize_token_embeddings(num_rows, mean_resizing=False)
    ids = tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS))
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj", "down_proj"],
        trainable_token_indices=ids,
        init_lora_weights=False,
    )
    adapted = get_peft_model(model, config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.normal_(0, 0.5)
    adapted.save_pretrained(folder, save_embedding_layers=save_embeddings)
    tokenizer.save_pretrained(folder)
    return ids


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("tied", [True, False])
def test_merged_equals_unmerged(tied, tmp_path):
    base = save(tmp_path / "base", control=False, tie_word_embeddings=tied)
    ids = make_adapter(base, tmp_path / "adapter")
    merge.merge(str(base), tmp_path / "adapter", tmp_path / "merged", "float32")
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = plain.get_input_embeddings().weight.detach().clone()
    expected = logits(PeftModel.from_pretrained(plain, tmp_path / "adapter"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged), expected, atol=1e-4)
    assert not torch.allclose(logits(AutoModelForCausalLM.from_pretrained(base)), expected, atol=1e-1)
    # six rows moved, no other; spare rows of the base took them
    moved = (merged.get_input_embeddings().weight != before).any(-1).nonzero().flatten().tolist()
    assert moved == ids == [305, 306, 307, 308, 309, 310]
    assert merged.config.vocab_size == 320
    inputs, outputs = merged.get_input_embeddings().weight, merged.get_output_embeddings().weight
    assert (inputs.data_ptr() == outputs.data_ptr()) == tied
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").encode("<COMP_40>") == [306]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "merged"]


@pytest.mark.parametrize(("num_rows", "save_embeddings"), [(311, False), (320, True)])
def test_a_base_without_spare_rows_grows(num_rows, save_embeddings, tmp_path):
    build_model("Qwen3", 305).save_pretrained(tmp_path / "base")
    make_adapter(tmp_path / "base", tmp_path / "adapter", num_rows, save_embeddings)
    merge.merge(str(tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged", "bfloat16")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.get_input_embeddings().weight.shape == (num_rows, 64)
    assert merged.dtype == torch.bfloat16
    assert merged.config.tie_word_embeddings


def test_what_does_not_fit(base, tmp_path):
    with pytest.raises(LiteError, match="holds no adapter_model.safetensors; run the stage"):
        merge.merge(str(base), tmp_path, tmp_path / "merged", "float32")
    make_adapter(base, tmp_path / "adapter")
    wide = save(tmp_path / "wide", control=False, hidden_size=96)
    with pytest.raises(LiteError, match="does not fit the base"):
        merge.merge(str(wide), tmp_path / "adapter", tmp_path / "merged", "float32")
    assert not (tmp_path / "merged").exists()


def test_stage_keeps_what_is_whole(base, tmp_path):
    from lite.config import build
    from lite.run import Run

    run = Run(build({"model": str(base), "merge": {"dtype": "float32"}}), tmp_path)
    make_adapter(base, run.path("sft", "adapter"))
    shutil.copytree(run.path("sft", "adapter"), run.path("chrpo", "adapter"))
    half = run.path("merge", ".sft.tmp")
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    run.path("merge", "policy").mkdir()
    for file in (*base.glob("*"),):
        shutil.copy(file, run.path("merge", "policy"))
    before = run.path("merge", "policy", "model.safetensors").read_bytes()
    assert merge.run(run)["embedding_rows"] == 320
    assert run.path("merge", "policy", "model.safetensors").read_bytes() == before
    assert run.path("merge", "sft", "model.safetensors").read_bytes() != before
    assert not half.exists()
