"""The error base of `ota`."""


class OtaError(Exception):
    """Base of every error that this package raises; its text is one line for a person."""
