"""Reading TOML files that people write, with one line for anything that is wrong with them."""

import tomllib
from pathlib import Path
from typing import Any

from ota.errors import OtaError

__all__ = ["TomlError", "parse_toml", "read_toml"]


class TomlError(OtaError):
    """A file cannot be read, or is not TOML."""


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises TomlError naming the file."""
    try:
        return parse_toml(path.read_bytes(), path)
    except OSError as error:
        raise TomlError(f"{path}: {error.strerror}") from error


def parse_toml(content: bytes, path: Path) -> dict[str, Any]:
    """The content of a TOML file that was read from `path`. Raises TomlError naming it."""
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise TomlError(f"{path} is not UTF-8 text: a TOML file is expected") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TomlError(f"{path} is not valid TOML: {error}") from error
