"""The fast layers of a CPU give the losses and gradients of the stock ones."""

from __future__ import annotations

import pytest
import tiny_model

from lite import tokens
from lite.models import unsloth
from lite.schema import Row
from lite.train import cpu, sft


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def batch(request, tmp_path):
    """A model in float32 whose adapter does something, and right-padded rows: (model, ids, mask, labels)."""
    import torch

    folder = str(tiny_model.write(tmp_path, tied=request.param))
    model, tokenizer = unsloth.load_trainable(folder, max_tokens=256, rank=4, alpha=8, four_bit=False, seed=0)
    if model.device.type != "cpu":
        pytest.skip("a CPU's layers")
    model = model.float()
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_B" in name or "tokens_delta" in name:
                param.add_(0.05 * torch.randn_like(param))
    rows = [Row(f"{n}", "0.2", f"{n} + 3", 0.2, "a = 1 " * (3 * n + 1), "4") for n in range(4)]
    pairs = [sft.encode_row(tokenizer, row) for row in rows]
    width = max(len(ids) for ids, _ in pairs)
    spare = [width - len(ids) for ids, _ in pairs]
    columns = zip(pairs, spare, strict=True)
    ids, mask, labels = zip(
        *(([*i, *[256] * n], [1] * len(i) + [0] * n, [*label, *[-100] * n]) for (i, label), n in columns),
        strict=True,
    )
    return model, *(torch.tensor(part) for part in (ids, mask, labels))


def gradients(model):
    found = {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}
    model.zero_grad()
    return found


def test_loss_and_gradients_are_the_stock_ones(batch, monkeypatch):
    import torch

    model, ids, mask, labels = batch
    logits = model(input_ids=ids, attention_mask=mask).logits  # (B, T, V)
    stock = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    stock.backward()
    expected = gradients(model)
    assert any("lora_A" in name for name in expected) and any("tokens_delta" in name for name in expected)

    cpu.speed_up(model)
    monkeypatch.setattr(cpu, "CHUNK_ELEMENTS", 7 * 272)  # seven positions at a time
    loss = model(input_ids=ids, reply_labels=labels)
    loss.backward()
    found = gradients(model)
    assert loss.item() == pytest.approx(stock.item(), rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-5 * gradient.abs().max().item()), name
    # generation and scoring go on as before
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids, attention_mask=mask).logits, logits, atol=1e-5)
    with unsloth.for_rollouts(model) as merged, torch.no_grad():
        assert torch.allclose(merged(input_ids=ids, attention_mask=mask).logits, logits, atol=1e-4)


def test_a_head_with_a_cap_or_a_scale_keeps_its_own_loss():
    from transformers import Qwen3Config

    assert cpu._has_plain_head(Qwen3Config())
    for name, value in (("final_logit_softcapping", 30.0), ("logits_scaling", 8.0)):
        config = Qwen3Config()
        setattr(config, name, value)
        assert not cpu._has_plain_head(config)


def test_control_rows_that_no_text_holds_still_learn_from_the_head(batch):
    """Softmax lowers them everywhere: their gradient is not zero, and it is the whole vocabulary's."""
    model, ids, _, labels = batch
    assert not (ids == 266).any()  # <COMP_POLICY>
    cpu.speed_up(model)
    model(input_ids=ids, reply_labels=labels).backward()
    deltas = [grad for name, grad in gradients(model).items() if "tokens_delta" in name]
    assert max(delta[tokens.CONTROL_TOKENS.index(tokens.POLICY_TOKEN)].abs().max() for delta in deltas) > 0


def test_passes_by_length(monkeypatch):
    import torch

    monkeypatch.setattr(cpu, "GRAIN", 1)

    def rollouts(*sizes):  # (prompt tokens, completion tokens) of each; padded to 4 and 5
        prompts = torch.tensor([[0] * (4 - prompt) + [1] * prompt for prompt, _ in sizes])
        masks = torch.tensor([[1] * own + [0] * (5 - own) for _, own in sizes])
        ids = torch.tensor([own for _, own in sizes])
        return {
            "prompt_ids": prompts * 7,
            "prompt_mask": prompts,
            "completion_ids": masks * ids[:, None],
            "completion_mask": masks,
            "advantages": ids.float(),
            "num_items_in_batch": torch.tensor(12),
        }

    first, second = cpu.by_length([rollouts((4, 1), (2, 5)), rollouts((1, 2), (3, 4))])
    assert first["advantages"].tolist() == [5, 4] and second["advantages"].tolist() == [2, 1]
    assert first["completion_ids"].tolist() == [[5] * 5, [4, 4, 4, 4, 0]]
    assert second["completion_ids"].tolist() == [[2, 2], [1, 0]]
    assert first["prompt_ids"].tolist() == [[0, 7, 7], [7, 7, 7]]
    assert second["prompt_mask"].tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]
    assert first["num_items_in_batch"] == second["num_items_in_batch"] == 12
