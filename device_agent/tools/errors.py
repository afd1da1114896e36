"""Errors of the desk's tools."""

from ota.errors import OtaError


class RunError(OtaError):
    """The module can't be run."""
