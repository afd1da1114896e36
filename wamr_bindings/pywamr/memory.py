"""Linear memory as a view in which every access is checked."""

import ctypes
from typing import TYPE_CHECKING

from pywamr import _abi
from pywamr.errors import PywamrError

if TYPE_CHECKING:
    from pywamr._live import Live

_AT_ONCE_BYTES = 1 << 30  # ctypes.string_at takes a C int


class Memory:
    """The default memory of an instance. Offsets and sizes are in bytes, without sign; guest code may grow it at any call."""

    def __init__(self, live: "Live") -> None:
        self._live = live
        self._at = _abi.library().pw_memory_at

    def __len__(self) -> int:
        """Its present size, a multiple of 64 KiB; 0 for a module without a memory."""
        return int(_abi.library().pw_memory_size(self._live.handle()))

    def read(self, offset: int, size: int) -> bytes:
        """A copy of `size` bytes at `offset`. Raises MemoryRangeError when they are not all inside."""
        address = self._check(offset, size)
        if size <= _AT_ONCE_BYTES:
            return ctypes.string_at(address, size)
        return b"".join(ctypes.string_at(address + at, min(_AT_ONCE_BYTES, size - at)) for at in range(0, size, _AT_ONCE_BYTES))

    def write(self, offset: int, content: bytes) -> None:
        """Copies `content` to `offset`. Raises MemoryRangeError, with nothing written, when it does not all fit."""
        ctypes.memmove(self._check(offset, len(content)), content, len(content))

    def _check(self, offset: int, size: int) -> int:
        if offset >= 0 and size >= 0 and offset + size < 1 << 64:
            address: int | None = self._at(self._live.handle(), offset, size)
            if address is not None:
                return address
        raise MemoryRangeError(f"bytes {offset} to {offset + size} are outside the memory of {len(self)} bytes")


class MemoryRangeError(PywamrError, IndexError):
    """An access outside the memory, from the host's side."""
