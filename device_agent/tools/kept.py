"""What a module keeps from one `ota run` to the next: the state that it saved and its keys, as a file in JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_agent.channel.frames import STATE_LIMIT_BYTES
from device_agent.tools.errors import RunError
from ota.durable import write_durably

__all__ = ["Kept"]

FILE_LIMIT_BYTES = 64 << 20
_NO_FILE = 'is not what --state writes: {"state": "…", "keys": {"…": "…"}} is expected, with bytes in hexadecimal'


@dataclass(frozen=True)
class Kept:
    """State (empty: none) and keys."""

    state: bytes = b""
    keys: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Kept":
        """What `write` wrote; nothing where there is no file yet. Raises RunError."""
        try:
            with path.open("rb") as file:
                content = file.read(FILE_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}") from error
        try:
            if len(content) > FILE_LIMIT_BYTES:
                raise ValueError
            value: Any = json.loads(content)
            kept = cls(bytes.fromhex(value["state"]), {key: bytes.fromhex(each) for key, each in value["keys"].items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise RunError(f"{path} {_NO_FILE}") from None
        if len(kept.state) > STATE_LIMIT_BYTES:
            raise RunError(f"{path} holds a state of {len(kept.state)} bytes, the limit is {STATE_LIMIT_BYTES}")
        return kept

    def write(self, path: Path) -> None:
        """Replaces the file. Raises OSError."""
        value = {"state": self.state.hex(), "keys": {key: each.hex() for key, each in sorted(self.keys.items())}}
        write_durably(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
