"""What became of a board's request for a certificate."""

from dataclasses import dataclass

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """`reason` is empty when the device has its certificate now."""

    device: str
    reason: str
    detail: str = ""
    repeated: bool = False  # the certificate that it was given before
    renewed: bool = False  # asked for with the certificate before, not with a token
