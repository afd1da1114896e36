"""Every change that a module makes in its folders, within a quota: what is there is counted at the start, then with each change.

A file takes its length, and each file and folder one entry more, so that empty ones run out too. A file that was removed while it
is open takes its room until it is closed.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator

from device_agent.wasi_numbers import NOSPC, Errno

ENTRY_BYTES = 4096


class FolderRoom:
    """The room that is left. Whatever does not fit raises Errno NOSPC before anything is changed; else OSError as the call does."""

    def __init__(self, quota_bytes: int, folders: Iterable[int]) -> None:
        """`folders`: descriptors of those that may be written."""
        self._left = quota_bytes - sum(map(_taken, folders))
        self._open: dict[int, tuple[int, int]] = {}  # descriptors of files, and which files those are

    def _take(self, size: int) -> None:
        if size > self._left:
            raise Errno(NOSPC)
        self._left -= size

    @contextlib.contextmanager
    def _resized(self, descriptor: int, size: int | None = None) -> Iterator[None]:
        """Around what may make a file as long as `size`; None: shorter."""
        before = os.fstat(descriptor).st_size
        if size is not None and size - before > max(0, self._left):
            raise Errno(NOSPC)
        try:
            yield
        finally:
            self._left -= os.fstat(descriptor).st_size - before

    def write(self, descriptor: int, content: bytes) -> int:
        """As os.write."""
        with self._resized(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR) + len(content)):
            return os.write(descriptor, content)

    def pwrite(self, descriptor: int, content: bytes, offset: int) -> int:
        """As os.pwrite."""
        with self._resized(descriptor, offset + len(content)):
            return os.pwrite(descriptor, content, offset)

    def truncate(self, descriptor: int, size: int) -> None:
        """As os.ftruncate."""
        with self._resized(descriptor, size):
            os.ftruncate(descriptor, size)

    def open(self, name: str, flags: int, parent: int) -> int:
        """As os.open of a name in a folder, for writing."""
        before = _about(name, parent)
        if before is None and flags & os.O_CREAT:
            self._take(ENTRY_BYTES)
        try:
            descriptor = os.open(name, flags & ~os.O_TRUNC, 0o600, dir_fd=parent)
        except OSError:
            if before is None and flags & os.O_CREAT:
                self._left += ENTRY_BYTES
            raise
        about = os.fstat(descriptor)
        if stat.S_ISREG(about.st_mode):
            self._open[descriptor] = (about.st_dev, about.st_ino)
            if flags & os.O_TRUNC:
                with self._resized(descriptor):
                    os.ftruncate(descriptor, 0)
        return descriptor

    def close(self, descriptor: int) -> None:
        """As os.close."""
        which = self._open.pop(descriptor, None)
        about = os.fstat(descriptor)
        os.close(descriptor)
        if which is not None and not about.st_nlink and which not in self._open.values():
            self._left += about.st_size

    def mkdir(self, name: str, parent: int) -> None:
        """As os.mkdir."""
        self._take(ENTRY_BYTES)
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except OSError:
            self._left += ENTRY_BYTES
            raise

    def rmdir(self, name: str, parent: int) -> None:
        """As os.rmdir."""
        os.rmdir(name, dir_fd=parent)
        self._left += ENTRY_BYTES

    def unlink(self, name: str, parent: int) -> None:
        """As os.unlink."""
        before = _about(name, parent)
        os.unlink(name, dir_fd=parent)
        self._gone(before)

    def rename(self, name: str, parent: int, new: str, other: int) -> None:
        """As os.rename from one folder into another."""
        before, moved = _about(new, other), _about(name, parent)
        os.rename(name, new, src_dir_fd=parent, dst_dir_fd=other)
        if before is not None and moved is not None and (before.st_dev, before.st_ino) != (moved.st_dev, moved.st_ino):
            self._gone(before)

    def _gone(self, about: os.stat_result | None) -> None:
        if about is None:
            return
        self._left += ENTRY_BYTES
        if stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and (about.st_dev, about.st_ino) not in self._open.values():
            self._left += about.st_size


def _about(name: str, parent: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _taken(folder: int) -> int:
    """What a folder holds."""
    total = 0
    for _, folders, files, descriptor in os.fwalk(".", dir_fd=folder):
        total += ENTRY_BYTES * (len(folders) + len(files))
        for name in files:
            about = _about(name, descriptor)
            total += about.st_size if about is not None and stat.S_ISREG(about.st_mode) else 0
    return total
