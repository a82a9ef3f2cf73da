"""What reaches a user: a single line with the value and the remedy."""

_HARMLESS = str.maketrans({code: None for code in (*range(9), *range(11, 32), *range(127, 160))})


def printable(text: str) -> str:
    """The text without what a terminal would obey."""
    return text.translate(_HARMLESS)


class LiteError(Exception):
    """A fault a user can reach and mend. The CLI prints it as one line and exits with code 2."""


class Unreachable(LiteError):
    """A server that is away for now. What it gave before stays: the same command goes on from there."""
