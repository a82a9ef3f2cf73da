"""Make the tiny reasoner that the quickstart starts from: a Qwen3 of 0.94 million parameters.

    uv run python recipes/tiny_reasoner.py --out reasoner

Trained from scratch on the procedural world (lite/data/word_problems.py, random streams "pretrain/<seed>", no
question that `problems` can give): first plain text, without chat markers, where most tokens are arithmetic; then
60 % in the chat form, wordy or as brief as the question asks for in words, 40 % notes of any length in plain text.
No control token is ever seen: SFT teaches the dial, not arithmetic.

The packaged weights (lite/quickstart/reasoner) came out of two calls on 2 cores that had much other work beside them:
1. --seed 0 --steps 1500 --terse-steps 600, stopped at step 500 (29 minutes, 13 of them to compile)
2. --seed 1 --steps 700 --terse-steps 0 --start <1>, 32 minutes
Measured at their end, greedy, on 600 held-out problems: 92.5 % wordy in the chat form (story 94.3, big 80.0, score 96.7,
receipt 100, column 88.3), 93.5 % terse. Accuracy was still rising. The one call above, with its defaults, has not been
run to its end.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections import defaultdict
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from lite import grading, tokens
from lite.data import chains, word_problems
from lite.models.cpu_decode import decode

END, PAD = "<|im_end|>", "<|endoftext|>"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WORKERS = 2  # that write training texts
SPARE_ROWS = 24  # unused embedding rows for the control tokens, as real bases have them
# The split of Qwen2: llama.cpp knows it by name.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}{{ '\\n' }}{{ message.content }}<|im_end|>{{ '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with single digits, trained on the world's own text."""
    rng = random.Random("tokenizer")

    def texts():
        for _ in range(6000):
            task = word_problems.tell(rng)
            yield tokens.user_text(task.question)
            yield tokens.write_reply(None, chains.wordy(rng, task), chains.visible(task))
            yield chains.terse(rng, task)
            yield "user\nassistant\nsystem\n"

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=1024, min_frequency=50, initial_alphabet=alphabet, show_progress=False
        ),
    )
    bpe.add_special_tokens([AddedToken(token, special=True) for token in (PAD, "<|im_start|>", END)])
    bpe.add_tokens([AddedToken(token, special=False) for token in (tokens.THINK_OPEN, tokens.THINK_CLOSE)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE, model_max_length=1024
    )


def build_model(tokenizer) -> Qwen3ForCausalLM:
    rows = -(-(len(tokenizer) + SPARE_ROWS) // 32) * 32
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=rows,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,
            max_position_embeddings=1024,
            rope_theta=10000.0,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz (Keller Jordan's Muon), in float32.

    torch.optim.Muon iterates in bfloat16, which took 1 s a step on a CPU without bfloat16 units.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                average = self.state[param].setdefault("average", torch.zeros_like(param))
                average.lerp_(param.grad, 1 - group["momentum"])
                update = param.grad.lerp(average, group["momentum"])
                tall = update.shape[0] > update.shape[1]
                update = update.T if tall else update
                update = update / (update.norm() + 1e-7)
                for _ in range(5):
                    square = update @ update.T
                    update = 3.4445 * update + (2.0315 * square @ square - 4.775 * square) @ update
                update = update.T if tall else update
                scale = max(1.0, param.shape[0] / param.shape[1]) ** 0.5
                param.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def draw(tokenizer, rng: random.Random, wordy_share: float) -> tuple[list[int], list[int]]:
    """One training text as (prompt ids, ids to learn)."""
    task = word_problems.tell(
        rng, rng.choice((None, rng.choice(chains.KINDS)))
    )  # more of the hard kinds than problems have
    if word_problems.is_held_out(task.question):
        return draw(tokenizer, rng, wordy_share)
    if rng.random() < wordy_share:
        question, think = task.question, chains.wordy(rng, task)
        if rng.random() < 0.4:
            request, share = rng.choice(list(chains.REQUESTS.items()))
            question, think = f"{question} {request}", chains.notes(rng, task, share, 1.0)
        prompt = tokens.encode_prompt(tokenizer, question, tokens.BASE)
        reply = tokens.write_reply(None, think, chains.visible(task)) + END
    else:
        prompt = tokenizer.encode(task.question + "\n", add_special_tokens=False)
        reply = chains.terse(rng, task) + PAD
    return prompt, tokenizer.encode(reply, add_special_tokens=False)


class Texts(torch.utils.data.IterableDataset):
    """(inputs, targets), both (size, T), of texts of similar length, for ever; each worker has its own stream."""

    def __init__(self, tokenizer, seed: int, size: int, wordy_share: float):
        self.tokenizer, self.seed, self.size, self.wordy_share = tokenizer, seed, size, wordy_share

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = random.Random(f"pretrain/{self.seed}/{self.wordy_share}/{worker.id}")
        while True:
            pool = sorted(
                (draw(self.tokenizer, rng, self.wordy_share) for _ in range(self.size * 8)),
                key=lambda pair: len(pair[0]) + len(pair[1]),
            )
            groups = [pool[start : start + self.size] for start in range(0, len(pool), self.size)]
            rng.shuffle(groups)
            for group in groups:
                longest = -(-max(len(prompt) + len(reply) for prompt, reply in group) // 32) * 32
                inputs = torch.full((self.size, longest), self.tokenizer.pad_token_id)
                targets = torch.full((self.size, longest), -100)
                for row, (prompt, reply) in enumerate(group):
                    end = len(prompt) + len(reply)
                    inputs[row, :end] = torch.tensor(prompt + reply)
                    targets[row, len(prompt) : end] = torch.tensor(reply)
                yield inputs, targets

    def batches(self):
        return iter(torch.utils.data.DataLoader(self, batch_size=None, num_workers=WORKERS))


@torch.no_grad()
def accuracy(model, tokenizer, num: int, seed: int, terse: bool = False) -> dict[str, float]:
    """Greedy accuracy on `num` held-out problems, of all and by kind: wordy in the chat form or terse in plain text."""
    model.eval()
    unseen = list(word_problems.problems(num, seed))
    prompts = [
        tokenizer.encode(problem.question + "\n", add_special_tokens=False)
        if terse
        else tokens.encode_prompt(tokenizer, problem.question, tokens.BASE)
        for problem in unseen
    ]
    pad = tokenizer.pad_token_id
    outputs = decode(model, prompts, pad, [tokenizer.eos_token_id, pad], 150 if terse else 320, 0.0, 1.0)
    right = defaultdict(list)
    for ids, problem in zip(outputs.tolist(), unseen, strict=True):
        ids = ids[: next((i for i, id in enumerate(ids) if id in (tokenizer.eos_token_id, pad)), len(ids))]
        visible = tokens.parse_reply(tokenizer.decode(ids)).visible
        for group in ("all", problem.kind):
            right[group].append(grading.is_correct(visible, problem.answer))
    model.train()
    return {group: round(sum(found) / len(found), 3) for group, found in right.items()}


def save(model, tokenizer, folder: Path) -> Qwen3ForCausalLM:
    """Write the weights in bfloat16; return them as they will be loaded."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).to(DEVICE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and the tokenizer")
    parser.add_argument("--start", type=Path, help="go on from the weights in this folder")
    parser.add_argument("--steps", type=int, default=1600, help="all training steps")
    parser.add_argument(
        "--terse-steps", type=int, default=600, help="the first of them, on terse texts alone"
    )
    parser.add_argument("--batch", type=int, default=64, help="texts in a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=3e-3, help="peak AdamW step size of embeddings and norms")
    parser.add_argument("--muon-lr", type=float, default=2e-2, help="peak Muon step size of the matrices")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    if options.start:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.start, chat_template=CHAT_TEMPLATE)
        model = Qwen3ForCausalLM.from_pretrained(options.start, dtype=torch.float32).train().to(DEVICE)
    else:
        tokenizer = build_tokenizer()
        model = build_model(tokenizer).to(DEVICE)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, lr=options.muon_lr),
        torch.optim.AdamW(others, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def schedule(step: int) -> float:  # warm up, hold, then fall to nothing over the last 40 %
        return min(1.0, (step + 1) / 50, (options.steps - step) / (0.4 * options.steps))

    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in optimizers]
    compiled = torch.compile(model, dynamic=True)  # two minutes to compile, then 1.3 times the tokens/s
    terse_texts = Texts(tokenizer, options.seed, options.batch, 0.0).batches()
    mixed_texts = Texts(tokenizer, options.seed, options.batch, 0.6).batches()
    started, seen = time.time(), 0
    for step in range(options.steps):
        inputs, targets = next(terse_texts if step < options.terse_steps else mixed_texts)
        loss = compiled(input_ids=inputs.to(DEVICE), labels=targets.to(DEVICE)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        seen += inputs.numel()
        if step % 100 == 0 or step == options.steps - 1:
            seconds = time.time() - started
            print(
                f"step {step} loss {loss.item():.4f} {seen / seconds:.0f} tokens/s {seconds:.0f} s",
                flush=True,
            )
        if step % 250 == 249:
            score = accuracy(model, tokenizer, 200, 1_000_000, step < options.terse_steps)
            print(f"step {step} accuracy {score}", flush=True)
            save(model, tokenizer, options.out)
    model = save(model, tokenizer, options.out)
    for terse in (False, True):
        score = accuracy(model, tokenizer, 600, 1_000_001, terse)
        print(f"accuracy on 600 held-out problems, {'terse' if terse else 'wordy'}: {score}")


if __name__ == "__main__":
    main()
