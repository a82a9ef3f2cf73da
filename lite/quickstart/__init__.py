"""The embedded default: a procedural world of word problems, a tiny reasoner trained on it, and what `lite quickstart`
made of that."""

from pathlib import Path

GGUF = Path(__file__).with_name("quickstart-q8_0.gguf")  # the policy of the run that the README reports
EXAMPLES = (
    "Mia has 12 apples. Mia finds 5 more. How many apples does Mia have at the end?",
    "What is 348-165?",
    "What is 217+486+95?",
)
ABOUT = (
    "This tiny model of 0.9 M parameters shows the dial and nothing else. It knows five kinds of problem: short stories"
    " of things found and given away, sums, differences, scores of a game, and receipts. Other questions get nonsense."
)
NEXT = "lite chat Qwen/Qwen3-0.6B-GGUF:Q8_0"  # a real model, without a dial


def is_one(name: str) -> bool:
    """Whether a GGUF of this name is the packaged one, or another that `lite quickstart` made."""
    return name.startswith("quickstart-")


def about(model: Path) -> str:
    """What the quickstart's model can do, with examples and where to go on; empty for any other GGUF."""
    if not is_one(model.name):
        return ""
    tries = "\n".join(f"  {example}" for example in EXAMPLES)
    return (
        f"{ABOUT} Try:\n{tries}\nA real model without a dial: {NEXT}\n"
        "A real model with one: lite train qwen3-0.6b-8gb (lite plan shows what it takes)"
    )
