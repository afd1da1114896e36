"""Linear memory as a view in which every access is checked."""

import ctypes
from typing import TYPE_CHECKING

from pywamr import _abi
from pywamr._owned import Owned
from pywamr.errors import PywamrError

if TYPE_CHECKING:
    from pywamr._live import Live


class Memory(Owned):
    """The default memory of an instance. Offsets and sizes are in bytes, without sign; guest code may grow it at any call.

    Everything raises ClosedError when the instance is closed, and reading and writing BusyError while another thread is in it.
    """

    def __init__(self, live: "Live") -> None:
        self._live = live
        library = _abi.library()
        self._read, self._write, self._size = library.pw_memory_read, library.pw_memory_write, library.pw_memory_size

    def __len__(self) -> int:
        """Its present size, a multiple of 64 KiB; 0 for a module without a memory."""
        size = ctypes.c_uint64()
        self._live.usable(self._size(self._live.handle(), size))
        return size.value

    @property
    def refused_pages(self) -> int:
        """The pages of 64 KiB that the last call from outside asked for and did not get, the most at once; 0 for none."""
        pages = ctypes.c_uint32()
        self._live.usable(_abi.library().pw_memory_refused(self._live.handle(), pages))
        return pages.value

    def read(self, offset: int, size: int) -> bytes:
        """A copy of `size` bytes at `offset`. Raises MemoryRangeError when they are not all inside."""
        handle = self._live.handle()
        if offset >= 0 and size >= 0 and offset + size < 1 << 64:
            found: bytes | int = self._read(handle, offset, size)
            if isinstance(found, bytes):
                return found
            self._live.usable(found)
        raise self._outside(offset, size)

    def write(self, offset: int, content: bytes | bytearray | memoryview) -> None:
        """Copies `content` to `offset`. Raises MemoryRangeError, with nothing written, when it does not all fit."""
        handle = self._live.handle()
        if not isinstance(content, bytes):
            content = bytes(memoryview(content))
        if not 0 <= offset < 1 << 64 or self._live.usable(self._write(handle, offset, content, len(content))) != _abi.OK:
            raise self._outside(offset, len(content))

    def _outside(self, offset: int, size: int) -> "MemoryRangeError":
        return MemoryRangeError(f"bytes {offset} to {offset + size} are outside the memory of {len(self)} bytes")


class MemoryRangeError(PywamrError, IndexError):
    """An access outside the memory, from the host's side."""
