"""The error base of `ota`."""


class OtaError(Exception):
    """Base of every error that this package raises; its text is one line for a person."""


class KeyFileError(OtaError):
    """A key file is missing, readable by others, of another kind, or locked with another passphrase."""
