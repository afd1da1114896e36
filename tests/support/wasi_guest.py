"""A module's side of the capability `wasi`, without a module."""

import os
import struct

from device_agent.sandbox.wasi import Wasi

ALL = (1 << 29) - 1
READING = ALL & ~(1 << 6)


class Guest:
    """A memory of 64 KiB, and the functions called as a module calls them."""

    def __init__(self, *folders, quota_bytes: int = 1 << 20, **texts) -> None:
        self.memory = bytearray(65536)
        self.logged = []
        opened = tuple((path, os.open(host, os.O_RDONLY | os.O_DIRECTORY), write) for path, host, write in folders)
        self.wasi = Wasi(self.read, self.write, lambda *each: self.logged.append(each), opened, quota_bytes=quota_bytes, **texts)
        self._functions = self.wasi.functions()

    def read(self, at: int, size: int) -> bytes:
        assert 0 <= at <= at + size <= len(self.memory)
        return bytes(self.memory[at : at + size])

    def write(self, at: int, content: bytes) -> None:
        assert 0 <= at <= at + len(content) <= len(self.memory)
        self.memory[at : at + len(content)] = content

    def __call__(self, name: str, *values):
        return self._functions[name](*values)

    def path(self, name: str, folder: int, path: str, *more, before: tuple = ()):
        raw = path.encode()
        self.write(1000, raw)
        return self._functions[name](folder, *before, 1000, len(raw), *more)

    def open(self, path: str, how: int = 0, rights: int = ALL, flags: int = 0, folder: int = 3) -> int:
        """The new descriptor, or minus the error."""
        error = self.path("path_open", folder, path, how, rights, rights, flags, 0, before=(1,))
        return -error if error else self.u32(0)

    def u32(self, at: int) -> int:
        return struct.unpack_from("<I", self.memory, at)[0]

    def write_file(self, number: int, content: bytes) -> int:
        self.write(2000, content)
        self.write(100, struct.pack("<II", 2000, len(content)))
        return self("fd_write", number, 100, 1, 0)

    def read_file(self, number: int, size: int = 100) -> bytes:
        self.write(100, struct.pack("<II", 2000, size))
        assert self("fd_read", number, 100, 1, 0) == 0
        return self.read(2000, self.u32(0))
