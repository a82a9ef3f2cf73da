"""The one exception that reaches a user: a single line with the value and the remedy."""


class LiteError(Exception):
    """A fault a user can reach and mend. The CLI prints it as one line and exits with code 2."""
