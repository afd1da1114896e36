"""What a file that an author names holds, whatever it was written in: one way for every command that takes one."""

from pathlib import Path

from ota.author.javascript import compiled, is_script
from ota.errors import OtaError
from ota.formats.chunks import BLOB_LIMIT_BYTES

__all__ = ["SourceError", "content"]


class SourceError(OtaError):
    """The file can't be read."""


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
