"""The base of every error that this package raises."""


class BoardError(Exception):
    """Something about a board cannot be done; the message says what, and what was expected."""
