"""The embedded default: a procedural world of word problems and a tiny reasoner trained on it."""
