"""Reading of files that others may have made: the limit comes before the content."""

from pathlib import Path

from ota.formats.reasons import Reason, Refused

__all__ = ["read_bounded"]


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """The content. Raises Refused TOO_LARGE before more than the limit is kept, whatever the file is; OSError."""
    with path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise Refused(Reason.TOO_LARGE, f"{path} has more than {limit_bytes} bytes")
    return data
