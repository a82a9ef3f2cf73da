"""Make the tiny reasoner that the quickstart starts from: a Qwen3 of under a million parameters.

    uv run python recipes/tiny_reasoner.py --out lite/quickstart/reasoner

Trained from scratch on the procedural world (lite/quickstart/world.py, seed "pretrain"): 60 % wordy chains of
thought in the chat form, 40 % plain text in three terse styles, without chat markers. No control token
is ever seen: SFT teaches the dial, not arithmetic.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from lite import grading, tokens
from lite.quickstart import world

END, PAD = "<|im_end|>", "<|endoftext|>"
SPARE_ROWS = 24  # unused embedding rows for the control tokens, as real bases have them
# The split of Qwen2: llama.cpp knows it by name.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with single digits, trained on the world's own text."""
    rng = random.Random("tokenizer")

    def texts():
        for index in range(6000):
            story = world.tell(rng, index % world.MAX_STEPS + 1)
            yield tokens.user_text(story.question)
            yield tokens.write_reply(None, world.wordy(rng, story), world.visible(story))
            yield world.terse(rng, story)
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
        texts(), trainers.BpeTrainer(vocab_size=1024, min_frequency=50, initial_alphabet=alphabet, show_progress=False)
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


def draw(tokenizer, rng: random.Random) -> tuple[list[int], list[int]]:
    """One training text as (prompt ids, ids to learn)."""
    story = world.tell(rng, rng.randint(1, world.MAX_STEPS))
    if rng.random() < 0.6:
        prompt = tokens.encode_prompt(tokenizer, story.question, tokens.BASE)
        reply = tokens.write_reply(None, world.wordy(rng, story), world.visible(story)) + END
    else:
        prompt = tokenizer.encode(story.question + "\n", add_special_tokens=False)
        reply = world.terse(rng, story) + PAD
    return prompt, tokenizer.encode(reply, add_special_tokens=False)


def batches(tokenizer, rng: random.Random, size: int):
    """Yield (inputs, targets), both (size, T), of texts of similar length, for ever."""
    while True:
        pool = sorted((draw(tokenizer, rng) for _ in range(size * 16)), key=lambda pair: len(pair[0]) + len(pair[1]))
        groups = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(groups)
        for group in groups:
            longest = -(-max(len(prompt) + len(reply) for prompt, reply in group) // 16) * 16
            inputs = torch.full((size, longest), tokenizer.pad_token_id)
            targets = torch.full((size, longest), -100)
            for row, (prompt, reply) in enumerate(group):
                end = len(prompt) + len(reply)
                inputs[row, :end] = torch.tensor(prompt + reply)
                targets[row, len(prompt) : end] = torch.tensor(reply)
            yield inputs, targets


@torch.no_grad()
def accuracy(model, tokenizer, num: int, seed: int) -> float:
    """Greedy accuracy on `num` unseen problems, wordy, in the chat form."""
    model.eval()
    unseen = list(world.problems(num, seed))
    prompts = [tokens.encode_prompt(tokenizer, problem.question, tokens.BASE) for problem in unseen]
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    inputs = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    outputs = model.generate(inputs, attention_mask=mask, max_new_tokens=520, do_sample=False)
    replies = tokenizer.batch_decode(outputs[:, width:], skip_special_tokens=True)
    model.train()
    right = [grading.is_correct(tokens.parse_reply(reply).visible, p.answer) for reply, p in zip(replies, unseen)]
    return sum(right) / num


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and the tokenizer")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of 32 texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3, help="peak AdamW learning rate of embeddings and norms")
    parser.add_argument("--muon-lr", type=float, default=2e-2, help="peak Muon learning rate of the matrices")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=options.muon_lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def schedule(step: int) -> float:  # warm up, hold, then fall to nothing over the last 40 %
        return min(1.0, (step + 1) / 50, (options.steps - step) / (0.4 * options.steps))

    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in optimizers]
    stream = batches(tokenizer, random.Random(f"pretrain/{options.seed}"), 32)
    started, seen = time.time(), 0
    for step in range(options.steps):
        inputs, targets = next(stream)
        loss = model(input_ids=inputs, labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        seen += inputs.numel()
        if step % 50 == 0 or step == options.steps - 1:
            rate = seen / (time.time() - started)
            print(f"step {step} loss {loss.item():.4f} {rate:.0f} tokens/s {time.time() - started:.0f} s", flush=True)
        if step % 500 == 499:
            print(f"step {step} accuracy {accuracy(model, tokenizer, 120, seed=1_000_000):.3f}", flush=True)
    model.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    model.float()
    print(f"accuracy on 600 unseen problems: {accuracy(model, tokenizer, 600, seed=1_000_001):.3f}")


if __name__ == "__main__":
    main()
