"""What a file that an author names holds, whatever it was written in: one way for every command that takes one."""

import os
from collections.abc import Mapping
from pathlib import Path

from ota.author.javascript import compiled, is_script
from ota.errors import OtaError
from ota.formats.chunks import BLOB_LIMIT_BYTES

__all__ = ["SourceError", "content", "source_date_s"]

_DATE_DIGITS = 11  # those of dates that there is a year of four digits for


class SourceError(OtaError):
    """The file can't be read, or its date."""


def content(path: Path) -> bytes:
    """The bytes of a .wasm; of a script in JavaScript or TypeScript, those of the module that it becomes. Writes nothing.

    Raises SourceError, ScriptError, EngineError, and what the description of a script is refused for.
    """
    if is_script(path):
        return compiled(path)
    try:
        with path.open("rb") as file:
            data = file.read(BLOB_LIMIT_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    if len(data) > BLOB_LIMIT_BYTES:
        raise SourceError(f"{path} is larger than the largest file that boards accept: the limit is {BLOB_LIMIT_BYTES} bytes")
    return data


def source_date_s(environment: Mapping[str, str] = os.environ) -> int | None:
    """The time of reproducible builds, SOURCE_DATE_EPOCH; None where there is none. Raises SourceError."""
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isdecimal() or len(text) > _DATE_DIGITS:
        raise SourceError(f"SOURCE_DATE_EPOCH is {text[:100]!r}, not seconds since 1970")
    return int(text)
