"""SFT: token-exact rows, what moves and what does not, resuming."""

from __future__ import annotations

import json

import pytest
import tiny_model

from lite import tokens
from lite.errors import LiteError
from lite.models import adapters, unsloth
from lite.runtime.files import write_records
from lite.schema import Row
from lite.train import sft

ROWS = [
    Row(f"{index}", mode, f"{index} + 3", tokens.RATIOS[index % 5], "a = 1", "\\boxed{4}")
    for index, mode in enumerate([*tokens.MODES, *tokens.MODES])
]


def test_encode_row(model_folder):
    tokenizer = unsloth.load_tokenizer(model_folder)
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
    model, tokenizer = unsloth.load_trainable(
        model_folder, max_tokens=512, rank=4, alpha=8, four_bit=False, seed=0
    )
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    effective = model.get_output_embeddings().weight.detach().clone()
    pairs = [sft.encode_row(tokenizer, row) for row in ROWS]
    trainer = sft.make_trainer(model, tokenizer, pairs, list(range(len(pairs))), config, 0, str(tmp_path))
    trainer.train()
    moved = {name for name, param in model.named_parameters() if not torch.equal(param, before[name])}
    trained = {name for name in before if "lora_" in name or "trainable_tokens_delta" in name}
    assert moved == trained
    assert len(trained) == 2 * 7 * 2 + 1  # A and B of seven linear layers in two blocks, and the rows
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert torch.equal(inputs, outputs)  # tied, with the trained rows in both
    changed = (outputs != effective).any(1).nonzero().squeeze(1).tolist()
    assert changed == adapters.control_ids(tokenizer)


def test_training_order():
    lengths = [10] * 6 + [50] * 6 + [100] * 6
    order = sft.training_order(lengths, 6, 1.0, seed=0)
    steps = [sorted(order[at : at + 6]) for at in range(0, 18, 6)]
    assert steps[0] == list(range(12, 18))  # the longest first
    assert sorted(steps[1:]) == [list(range(6)), list(range(6, 12))]
    assert len(sft.training_order(lengths, 6, 2.4, seed=0)) == 42  # 7 of 7.2 steps
    orders = [sft.training_order(lengths, 6, 8.0, seed=seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(list(range(18)) * 8)
    assert len(set(map(tuple, [orders[0][at : at + 6] for at in range(0, 144, 6)]))) > 3  # not always alike
    assert sorted(sft.training_order([5, 7, 6], 8, 1.0, seed=0)) == [0, 1, 2]  # fewer rows than a step
    assert len(set(sft.training_order(lengths, 4, 1.0, seed=0))) == 16  # two wait for the next epoch


def test_loss_is_on_the_reply_only(model_folder, tmp_path, make_run):
    """The trainer's first loss is the mean cross entropy over reply tokens, computed here by hand."""
    import torch

    config = make_run("sft: {max_steps: 1, batch_size: 2, learning_rate: 1e-9, rank: 4, alpha: 8}").recipe.sft
    model, tokenizer = unsloth.load_trainable(
        model_folder, max_tokens=512, rank=4, alpha=8, four_bit=False, seed=0
    )
    pairs = [sft.encode_row(tokenizer, row) for row in ROWS[:2]]
    losses = []
    for ids, labels in pairs:
        log_probs = torch.log_softmax(
            model(input_ids=torch.tensor([ids], device=model.device)).logits[0].detach(), -1
        )
        losses += [-log_probs[at - 1, label] for at, label in enumerate(labels) if label != -100]
    trainer = sft.make_trainer(model, tokenizer, pairs, list(range(len(pairs))), config, 0, str(tmp_path))
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


def curve_of(run) -> list[float]:
    return [json.loads(line)["loss"] for line in run.path("sft", "loss.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("four_bit", [False, True], ids=["16-bit", "4-bit"])
def test_a_run_that_was_cut_goes_on_to_the_same_losses(make_run, monkeypatch, four_bit):
    """Cut after its third step, resumed from the checkpoint of the second; in 4 bit through bitsandbytes' kernels."""
    import shutil

    from transformers import Trainer

    from lite.train import checkpoints

    run = make_run(
        "sft: {max_steps: 5, batch_size: 2, accumulation: 2, save_steps: 2, learning_rate: 0.01, rank: 4, alpha: 8,"
        f" max_tokens: 512, four_bit: {four_bit}}}"
    )
    write_records(run.path("mixture", "rows.jsonl"), ROWS)
    kinds = set()
    make_trainer, step = sft.make_trainer, Trainer.training_step

    def look(model, *arguments):
        kinds.update(type(module).__name__ for module in model.modules())
        return make_trainer(model, *arguments)

    monkeypatch.setattr(sft, "make_trainer", look)
    sft.run(run)
    whole = curve_of(run)
    assert ("Linear4bit" in kinds) == four_bit
    assert len(whole) == 5 and whole[-1] < whole[0] - 0.2
    shutil.rmtree(run.path("sft"))

    def cut(self, *arguments, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "training_step", cut)
        sft.run(run)
    work = run.path("sft", "checkpoints")
    assert checkpoints.last_whole(work) == work / "checkpoint-2"
    assert (work / "checkpoint-1").is_dir()  # saving is tried at the first step, whatever save_steps is
    sft.run(run)
    assert curve_of(run) == pytest.approx(whole, rel=2e-3)


def test_steps_hold_all_ratios_and_passes_one_length(model_folder, make_run):
    """Ten traces of two lengths; a step of ten rows is two traces at five ratios, its passes are sorted."""
    tokenizer = unsloth.load_tokenizer(model_folder)
    rows = [
        Row(f"{trace}", str(ratio), "q", ratio, "a " * round(ratio * (20 if trace < 5 else 60)), "1")
        for ratio in tokens.RATIOS
        for trace in range(10)
    ]
    config = make_run("sft: {batch_size: 5, accumulation: 2, epochs: 1}").recipe.sft
    pairs, order = sft.prepare(tokenizer, rows, config, seed=0)
    steps = [order[at : at + 10] for at in range(0, 50, 10)]
    assert sorted(order) == list(range(50))
    mixed = 0
    for step in steps:
        lengths = [len(pairs[row][0]) for row in step]
        assert lengths == sorted(lengths, reverse=True)
        mixed += len({rows[row].ratio for row in step}) >= 4
    assert mixed >= 4  # the one step across both lengths may not
    assert max(len(pairs[row][0]) for row in steps[0]) == max(len(ids) for ids, _ in pairs)


def test_rows_too_long_is_one_clear_line(make_run):
    run = make_run("sft: {max_tokens: 10, rank: 4, alpha: 8}")
    write_records(run.path("mixture", "rows.jsonl"), ROWS)
    with pytest.raises(LiteError, match="none of 12 rows has at most 10 tokens"):
        sft.run(run)
