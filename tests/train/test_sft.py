"""SFT: token-exact rows, what moves and what does not, resuming."""

from __future__ import annotations

import json

import pytest
import tiny_model

from lite import backend, tokens
from lite.errors import LiteError
from lite.records import Row, write_records
from lite.train import sft

ROWS = [
    Row(f"{index}", mode, f"{index} + 3", tokens.RATIOS[index % 5], "a = 1", "\\boxed{4}")
    for index, mode in enumerate([*tokens.MODES, *tokens.MODES])
]


def test_encode_row(model_folder):
    tokenizer = backend.load_tokenizer(model_folder)
    ids, labels = sft.encode_row(tokenizer, Row("x", "policy", "1+1", 0.4, "b", "2"))
    prompt = f"<|im_start|>user\n{tokens.INSTRUCTION}\n1+1 <COMP_POLICY><|im_end|>\n<|im_start|>assistant\n"
    reply = "<COMP_40>\n<think>\nb\n</think>\n\n2<|im_end|>"
    assert tokenizer.decode(ids) == prompt + reply
    start = labels.index(262)  # <COMP_40> is the first token with a loss
    assert labels[:start] == [-100] * start and tokenizer.decode(ids[:start]) == prompt
    assert labels[start:] == ids[start:]
    # <COMP_40> \n <think> \n b \n </think> \n \n 2 <|im_end|>
    assert len(labels) - start == 11 and labels[-1] == 258


def test_only_lora_and_the_six_rows_move(model_folder, tmp_path, make_run):
    import torch

    config = make_run("sft: {max_steps: 3, batch_size: 6, learning_rate: 0.01, rank: 4, alpha: 8}").recipe.sft
    model, tokenizer = backend.load_trainable(
        model_folder, max_tokens=512, rank=4, alpha=8, four_bit=False, seed=0
    )
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    effective = model.get_output_embeddings().weight.detach().clone()
    examples = sft.encode_rows(tokenizer, ROWS, 512)
    trainer = sft.make_trainer(model, tokenizer, examples, config, 0, str(tmp_path))
    trainer.train()
    moved = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
    trained = {name for name in before if "lora_" in name or "trainable_tokens_delta" in name}
    assert moved == trained
    assert len(trained) == 2 * 7 * 2 + 1  # A and B of seven linear layers in two blocks, and the rows
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert torch.equal(inputs, outputs)  # tied, with the trained rows in both
    changed = (outputs != effective).any(1).nonzero().squeeze(1).tolist()
    assert changed == backend.control_ids(tokenizer)


def test_rows_are_grouped_by_the_longest_of_their_trace(model_folder):
    tokenizer = backend.load_tokenizer(model_folder)
    rows = [
        Row("a", "0.2", "q", 0.2, "b", "2"),
        Row("a", "1.0", "q", 1.0, "b " * 20, "2"),
        Row("b", "0.2", "q", 0.2, "b " * 5, "2"),
    ]
    examples = sft.encode_rows(tokenizer, rows, 512)
    own = [len(example["input_ids"]) for example in examples]
    assert [example["length"] for example in examples] == [own[1], own[1], own[2]]
    assert [len(example["input_ids"]) for example in sft.encode_rows(tokenizer, rows, own[1] - 1)] == [
        own[0],
        own[2],
    ]


def test_batches_are_drawn_by_the_length_of_the_trace(model_folder, tmp_path, make_run):
    config = make_run("sft: {batch_size: 4, rank: 4, alpha: 8}").recipe.sft
    model, tokenizer = backend.load_trainable(
        model_folder, max_tokens=512, rank=4, alpha=8, four_bit=False, seed=0
    )
    examples = sft.encode_rows(tokenizer, ROWS, 512)
    trainer = sft.make_trainer(model, tokenizer, examples, config, 0, str(tmp_path))
    sampler = trainer.get_train_dataloader().batch_sampler
    while hasattr(sampler, "batch_sampler"):
        sampler = sampler.batch_sampler
    assert list(sampler.sampler.lengths) == [example["length"] for example in examples]


def test_loss_is_on_the_reply_only(model_folder, tmp_path, make_run):
    """The trainer's first loss is the mean cross entropy over reply tokens, computed here by hand."""
    import torch

    config = make_run("sft: {max_steps: 1, batch_size: 2, learning_rate: 1e-9, rank: 4, alpha: 8}").recipe.sft
    model, tokenizer = backend.load_trainable(
        model_folder, max_tokens=512, rank=4, alpha=8, four_bit=False, seed=0
    )
    examples = sft.encode_rows(tokenizer, ROWS[:2], 512)
    losses = []
    for ids, labels in ((example["input_ids"], example["labels"]) for example in examples):
        log_probs = torch.log_softmax(
            model(input_ids=torch.tensor([ids], device=model.device)).logits[0].detach(), -1
        )
        losses += [-log_probs[at - 1, label] for at, label in enumerate(labels) if label != -100]
    trainer = sft.make_trainer(model, tokenizer, examples, config, 0, str(tmp_path))
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(
        torch.stack(losses).mean().item(), abs=tiny_model.near(model)["atol"]
    )


def test_stage_resumes_from_the_last_whole_checkpoint(make_run, monkeypatch):
    from lite.train import checkpoints

    run = make_run(
        "sft: {max_steps: 5, batch_size: 4, save_steps: 2, learning_rate: 0.01, rank: 4, alpha: 8, max_tokens: 512}"
    )
    write_records(run.path("mixture", "rows.jsonl"), ROWS)
    save = checkpoints.save_adapter
    monkeypatch.setattr(checkpoints, "save_adapter", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sft.run(run)
    work = run.path("sft", "checkpoints")
    assert checkpoints.last_whole(work) == work / "checkpoint-5"
    with pytest.raises(KeyboardInterrupt):  # nothing is left to train, only to save
        sft.run(run)
    assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    assert not run.path("sft", "adapter").exists()
    for path in work.glob("checkpoint-5/*"):  # as if it had been cut while it was being written
        if path.name in ("whole", "trainer_state.json", "optimizer.pt"):
            path.unlink()
    assert checkpoints.last_whole(work) == work / "checkpoint-4"
    monkeypatch.setattr(checkpoints, "save_adapter", save)
    measured = sft.run(run)
    assert measured["steps"] == 5 and measured["rows"] == 12
    curve = [json.loads(line) for line in run.path("sft", "loss.jsonl").read_text().splitlines()]
    assert [point["step"] for point in curve] == [1, 2, 3, 4, 5]
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert run.path("sft", "adapter", "adapter_model.safetensors").is_file()
    assert not work.exists()


def test_rows_too_long_is_one_clear_line(make_run):
    run = make_run("sft: {max_tokens: 10, rank: 4, alpha: 8}")
    write_records(run.path("mixture", "rows.jsonl"), ROWS)
    with pytest.raises(LiteError, match="none of 12 rows has at most 10 tokens"):
        sft.run(run)
