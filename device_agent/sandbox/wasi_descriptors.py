"""What a module of `wasi` has open."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from device_agent.sandbox.wasi_numbers import (
    ALL_RIGHTS,
    FILE_RIGHTS,
    FOLDER,
    FOLDER_RIGHTS,
    READ_RIGHT,
    STREAM_RIGHTS,
    WRITE_RIGHTS,
)

LINE_LIMIT = 1000


class Lines:
    """Output as log records, one a line; a line without end is cut."""

    def __init__(self, log: Callable[[str, str], None], level: str) -> None:
        self._log, self._level = log, level
        self._rest = bytearray()

    def write(self, content: bytes) -> None:
        """Whole lines become records."""
        self._rest += content
        while (end := self._rest.find(b"\n")) >= 0 or len(self._rest) > LINE_LIMIT:
            end = end if 0 <= end <= LINE_LIMIT else LINE_LIMIT
            self._log(self._level, self._rest[:end].decode("utf-8", "replace"))
            del self._rest[: end + (self._rest[end : end + 1] == b"\n")]

    def end(self) -> None:
        """The rest becomes one too: a call into the module has ended."""
        if self._rest:
            self.write(b"\n")


class Output(Protocol):
    """Where a standard stream goes."""

    def write(self, content: bytes) -> None:
        """Takes what was written."""

    def end(self) -> None:
        """A call into the module has ended."""


@dataclass(frozen=True)
class Streams:
    """Standard input, by how much of it is wanted at most, output and error."""

    read: Callable[[int], bytes]
    outputs: tuple[Output, Output]


@dataclass
class Descriptor:
    """A file, a folder, or one of the three streams, whose `real` is -1."""

    real: int
    kind: int
    readable: bool
    writable: bool
    preopen: str = ""
    flags: int = 0
    lines: Output | None = None

    def rights(self) -> tuple[int, int]:
        """What may be done with it, and with what is opened by it; libraries look at both before they do anything."""
        allowed = ALL_RIGHTS & ~(0 if self.writable else WRITE_RIGHTS) & ~(0 if self.readable else READ_RIGHT)
        if self.kind == FOLDER:
            return allowed & FOLDER_RIGHTS, allowed
        base = allowed & (STREAM_RIGHTS if self.real < 0 else FILE_RIGHTS)
        return base, base
