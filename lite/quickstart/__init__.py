"""The embedded default: a procedural world of word problems, a tiny reasoner trained on it, and what `lite quickstart`
made of that."""

from pathlib import Path

GGUF = Path(__file__).with_name("quickstart-q8_0.gguf")  # the policy of the run that the README reports
