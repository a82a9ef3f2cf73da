"""CHRPO: grading a rollout, the control term's reach, two real steps."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_model

from lite import tokens
from lite.errors import LiteError
from lite.models import generate as generate_module
from lite.models import unsloth
from lite.runtime.files import Journal, write_records
from lite.schema import TeacherRatio
from lite.train import checkpoints, chrpo, rewards
from lite.train.rollouts import Environment, StepRewards, collapse, encode_prompts, entropy, judge, summarise

SECTIONS = """
sft: {rank: 4, alpha: 8}
chrpo: {steps: 2, prompts: 2, group: 2, explore: 0.5, batch_size: 2, max_tokens: 12, save_steps: 1, learning_rate: 0.01}
"""
TEACHERS = [
    TeacherRatio("a", "2 + 3", "5", 0.4, [0, 1, 1, 1, 1], 10),
    TeacherRatio("b", "what is 4 + 4", "8", 0.6),
]


@pytest.mark.parametrize(
    "text, correct, chosen, realised, has_think",
    [
        ("<COMP_40>\n<think>\nabcd\n</think>\n\n\\boxed{5}", True, 0.4, 0.4, True),
        ("<think>\nab\n</think>\n\n\\boxed{5}", True, None, 0.2, True),
        ("<COMP_20>\n\\boxed{5}", True, 0.2, 0.0, False),
        ("<COMP_40>\nabcd\n</think>\n\n\\boxed{5}", True, 0.4, 0.0, False),  # never opened
        ("<COMP_20>\n<think>\n\n</think>\n\n\\boxed{5}", True, 0.2, 0.0, False),  # an empty block is none
        ("<COMP_100>\n<think>\n\\boxed{5}", False, 1.0, 0.9, True),  # cut: all of it counts
    ],
)
def test_judge(model_folder, text, correct, chosen, realised, has_think):
    rollout, num_tokens = judge(text, TEACHERS[0], unsloth.load_tokenizer(model_folder))
    assert (rollout.correct, rollout.chosen, rollout.teacher, rollout.has_think) == (
        correct,
        chosen,
        0.4,
        has_think,
    )
    assert rollout.realised == pytest.approx(realised) and num_tokens == round(10 * realised)


def test_prompts_of_fixed_modes(model_folder):
    tokenizer = unsloth.load_tokenizer(model_folder)
    prompts = encode_prompts(tokenizer, TEACHERS, 0.5)
    assert list(prompts) == ["policy/a", "policy/b", "0.2/a", "0.4/b"]
    assert prompts["0.4/b"] == tokens.encode_prompt(tokenizer, TEACHERS[1].question, "0.4")
    assert list(encode_prompts(tokenizer, TEACHERS, 0.0)) == ["policy/a", "policy/b"]
    many = [
        replace(TEACHERS[0], id=str(place)) for place in range(9)
    ]  # the second lap does not repeat the first
    fixed = [key for key in encode_prompts(tokenizer, many, 2 / 3) if not key.startswith("policy")]
    assert len(fixed) == 18 and {"0.2/0", "0.4/0", "0.8/8", "1.0/8"} <= set(fixed)
    text = "<COMP_40>\n<think>\nabcd\n</think>\n\n\\boxed{8}"
    assert judge(text, TEACHERS[0], tokenizer)[0].asked is None
    assert judge(text, TEACHERS[0], tokenizer, "0.4")[0].asked == 0.4


def test_prompt_order():
    """Whole steps of whole epochs, as TRL's sampler draws them; more steps change nothing of those before."""
    unsloth.prepare()
    from trl.trainer.utils import RepeatSampler

    order = chrpo.prompt_order(7, 3, 5, seed=1)
    sampler = RepeatSampler(range(7), mini_repeat_count=1, batch_size=3, seed=1)
    assert order == [*sampler, *sampler, *sampler][:15]
    assert len(set(order[:6])) == 6 and order[:6] != order[6:12]
    assert chrpo.prompt_order(7, 3, 9, seed=1)[:15] == order != chrpo.prompt_order(7, 3, 5, seed=2)


def test_a_step_in_the_journal(make_run):
    config = make_run(SECTIONS).recipe.chrpo
    rollouts = [
        rewards.Rollout(True, 0.4, 0.4, 0.5, True),
        rewards.Rollout(False, None, 0.4, 0.0, False),
        rewards.Rollout(True, 0.6, 0.4, 0.7, True, asked=0.6),
        rewards.Rollout(True, 0.2, 0.4, 0.4, True, asked=0.6),
    ]
    step = summarise(3, rollouts, [rewards.score(each, config) for each in rollouts], [5, 0, 7, 4])
    assert (step.step, step.accuracy, step.think_tokens, step.realised) == (3, 0.75, 4.0, 0.4)
    assert step.chosen == {"0.4": 1, "none": 1}  # of the policy's prompts
    assert step.chosen_by_teacher == {"0.4": {"0.4": 1, "none": 1}} and step.entropy == 0.6931
    assert step.realised_by_mode == {"0.6": 0.55}


def line(chosen_by_teacher):
    zeros = dict.fromkeys("acc mode cal empty main ctrl accuracy think_tokens realised".split(), 0.0)
    chosen = {}
    for counts in chosen_by_teacher.values():
        for ratio, count in counts.items():
            chosen[ratio] = chosen.get(ratio, 0) + count
    return StepRewards(step=1, **zeros, chosen=chosen, chosen_by_teacher=chosen_by_teacher)


@pytest.mark.parametrize(
    "by_teacher, said",
    [
        (
            {"0.2": {"0.2": 50}, "1.0": {"0.2": 50}},
            "0.2 in 100% of the last 2 steps' POLICY rollouts, while r* is spread",
        ),
        ({"0.2": {"0.2": 50}, "1.0": {"1.0": 50}}, ""),  # it chooses by problem
        ({"0.2": {"0.2": 96}, "1.0": {"0.2": 4}}, ""),  # nearly all need the same
        ({}, ""),
    ],
)
def test_collapse(by_teacher, said):
    found = collapse([line(by_teacher), line(by_teacher)])
    assert said in found and bool(found) == bool(said)


def test_entropy_by_hand():
    assert entropy([5, 5]) == pytest.approx(0.693147, abs=1e-6)
    assert entropy([7, 0]) == 0


def test_drawn_ratios(make_run, model_folder, tmp_path):
    tokenizer = unsloth.load_tokenizer(model_folder)
    config = replace(make_run(SECTIONS).recipe.chrpo, explore=0.5, group=4)
    with Journal(tmp_path / "rewards.jsonl", StepRewards) as journal:
        environment = Environment([], tokenizer, config, 0, journal)
    prompts = ["policy/a"] * 4 + ["0.4/a"] * 4 + ["policy/b"] * 4
    drawn = environment.draw(prompts, 7)
    assert sorted(drawn) == [0, 1, 8, 9]  # the first half of each group of the policy's
    assert {*tokenizer.convert_ids_to_tokens(list(drawn.values()))} <= {*tokens.RATIO_TOKENS}
    assert (
        drawn == environment.draw(prompts, 7)
        and len({*map(str, map(environment.draw, [prompts] * 9, range(9)))}) > 1
    )
    rollout = rewards.Rollout(True, 0.4, 0.4, 0.5, True, explored=True)
    step = summarise(1, [rollout], [rewards.score(rollout, config)], [5])
    assert step.chosen == {} and step.entropy == 0  # not the model's choice


def test_ratios_are_over_replies_at_one_as_long_as_they_are_by_now(make_run, model_folder, tmp_path):
    tokenizer, config = unsloth.load_tokenizer(model_folder), make_run(SECTIONS).recipe.chrpo
    texts = {
        "1.0/a": "<COMP_100>\n<think>\nabcdefgh\n</think>\n\n\\boxed{5}",  # 8 tokens where the probe had 10
        "0.4/a": "<COMP_40>\n<think>\nabcd\n</think>\n\n\\boxed{5}",
    }
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts.values()]

    def steps(first: int, stop: int) -> list[dict[str, float]]:
        with Journal(tmp_path / "rewards.jsonl", StepRewards) as journal:
            environment = Environment(TEACHERS, tokenizer, config, 0, journal)
            for number in range(first, stop):
                environment.main(list(texts), ids, SimpleNamespace(global_step=number))
            return [step.realised_by_mode for step in journal.records]

    done = steps(0, 25)
    assert done[:2] == [{"0.4": 0.4, "1.0": 0.8}, {"0.4": 0.404, "1.0": 0.8}]  # 0.4 / (19 + 0.8) * 20
    assert done[20:] == [{"0.4": 0.5, "1.0": 0.8}] * 5  # 1.0 stays by the probe's
    assert steps(25, 26)[25] == done[24]  # also after a cut


def test_what_stays_by_the_probes_replies(model_folder):
    tokenizer = unsloth.load_tokenizer(model_folder)
    reply = "<COMP_{}>\n<think>\nabcd\n</think>\n\n\\boxed{{5}}"
    for mode, token, realised in [
        (tokens.POLICY, 40, 0.8),
        (tokens.POLICY, 100, 0.4),
        ("1.0", 40, 0.4),
        ("0.4", 100, 0.8),
    ]:
        rollout, _ = judge(reply.format(token), TEACHERS[0], tokenizer, mode, drift=0.5)
        assert rollout.realised == pytest.approx(realised), (mode, token)


def test_vllm_serves_one_process(make_run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LiteError, match="chrpo.vllm = 0.5: for one process only"):
        chrpo.run(make_run("chrpo: {vllm: 0.5}"))


@pytest.fixture
def trainer(make_run, tmp_path):
    run = make_run(SECTIONS)
    model, tokenizer = unsloth.load_trainable(
        run.recipe.model, max_tokens=256, rank=4, alpha=8, four_bit=False, seed=0
    )
    with Journal(tmp_path / "rewards.jsonl", StepRewards) as journal:
        environment = Environment(TEACHERS, tokenizer, run.recipe.chrpo, 0, journal)
        yield chrpo.make_trainer(model, environment, str(tmp_path / "work"))


def test_control_term_reaches_only_the_first_output_position(trainer):
    import torch

    model, tokenizer = trainer.model, trainer.processing_class
    prompts = [tokens.encode_prompt(tokenizer, teacher.question, tokens.POLICY) for teacher in TEACHERS]
    width = max(map(len, prompts))
    order = [0, 1, 0]  # not grouped: TRL shuffles
    inputs = {
        "prompt_ids": torch.tensor([[256] * (width - len(prompts[i])) + prompts[i] for i in order]),
        "prompt_mask": torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in order]),
        "completion_ids": torch.tensor([[261, 7, 8], [262, 9, 9], [263, 5, 5]]),
        "ctrl_advantages": torch.tensor([1.0, -2.0, 0.5]),
    }
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}

    def gradient(**changed):
        model.zero_grad()
        changed = {name: tensor.to(model.device) for name, tensor in changed.items()}
        loss = trainer.control_term(model, {**inputs, **changed})
        loss.backward()
        return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    loss, reference = gradient()
    # by hand: each prompt alone, unpadded, the log-probability of the first output token at T = 0.7
    by_hand = 0.0
    for i, first, advantage in zip(order, (261, 262, 263), (1.0, -2.0, 0.5), strict=True):
        logits = model(input_ids=torch.tensor([prompts[i]], device=model.device)).logits[0, -1].detach()
        by_hand -= advantage * torch.log_softmax(logits / 0.7, -1)[first].item() / 3
    assert loss == pytest.approx(by_hand, abs=tiny_model.near(model)["atol"])

    # what follows the first output token makes no difference to loss or gradient; the first token does
    other_loss, other = gradient(completion_ids=torch.tensor([[261, 1, 1], [262, 2, 2], [263, 3, 3]]))
    assert other_loss == loss and all(torch.equal(other[name], reference[name]) for name in reference)
    _, moved = gradient(completion_ids=torch.tensor([[264, 7, 8], [262, 9, 9], [263, 5, 5]]))
    assert any(not torch.equal(moved[name], reference[name]) for name in reference)
    # with respect to the logits: only the rows of the last prompt position carry a gradient
    seen = []

    def keep(module, arguments, output):
        output.retain_grad()
        seen.append(output)

    handle = model.get_output_embeddings().register_forward_hook(keep)
    gradient()
    handle.remove()
    assert [tuple(logits.shape) for logits in seen] == [(2, 1, 272)]  # two prompts, one position each
    assert seen[0].grad.abs().sum() > 0

    nothing = torch.zeros_like(inputs["ctrl_advantages"])
    assert trainer.control_term(model, {**inputs, "ctrl_advantages": nothing}).item() == 0


def test_two_steps(make_run):
    run = make_run(SECTIONS)
    model, tokenizer = unsloth.load_trainable(
        run.recipe.model, max_tokens=256, rank=4, alpha=8, four_bit=False, seed=0
    )
    checkpoints.save_adapter(model, tokenizer, run.path("sft", "adapter"))
    write_records(run.path("probe", "ratios.jsonl"), TEACHERS[:1])  # fewer than prompts in a step
    main = Environment.main

    def cut(self, trainer_state, **arguments):
        if trainer_state.global_step == 1:
            raise KeyboardInterrupt
        return main(self, trainer_state=trainer_state, **arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Environment, "main", cut)
        chrpo.run(run)
    measured = chrpo.run(run)
    assert measured["steps"] == 2 and measured["problems"] == 1
    lines = [json.loads(line) for line in run.path("chrpo", "rewards.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert sum(line["chosen"].values()) == 2  # one problem: all prompts are POLICY's; half are drawn
        assert -1 <= line["main"] <= 1 and line["acc"] == 2 * line["accuracy"] - 1
    unsloth.load(run.recipe.model, max_tokens=256, adapter=run.path("chrpo", "adapter"))
    assert not run.path("chrpo", "checkpoints").exists()


def test_control_term_teaches_the_choice(make_run, tmp_path, monkeypatch):
    """Reward one ratio token only: after a few steps it is the likelier one, through the trainer's own loop."""
    import torch

    from lite.train import rewards

    run = make_run(SECTIONS.replace("steps: 2", "steps: 6").replace("batch_size: 2", "batch_size: 4"))
    model, tokenizer = unsloth.load_trainable(
        run.recipe.model, max_tokens=256, rank=4, alpha=8, four_bit=False, seed=0
    )

    def generate(model, tokenizer, prompts, **_):
        return [[261 + index % 2, 10, 11] for index in range(len(prompts))]  # <COMP_20>, <COMP_40>, in turn

    def score(rollout, config):
        return rewards.Rewards(0, 0, 0, 0, main=0.0, ctrl=1.0 if rollout.chosen == 0.4 else 0.0)

    monkeypatch.setattr(generate_module, "generate", generate)
    monkeypatch.setattr(rewards, "score", score)
    ids = tiny_model.prompt_ids(model, tokenizer, TEACHERS[0].question, tokens.POLICY)

    def preference():
        with torch.no_grad():
            logits = unsloth.last_logits(model, ids, torch.ones_like(ids))[0]
        return (logits[262] - logits[261]).item()

    before = preference()
    with Journal(tmp_path / "rewards.jsonl", StepRewards) as journal:
        environment = Environment(TEACHERS[:1], tokenizer, run.recipe.chrpo, 0, journal)
        chrpo.make_trainer(model, environment, str(tmp_path / "work")).train()
    assert preference() > before + 0.1
