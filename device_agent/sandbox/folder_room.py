"""What a module may keep in its folders: every change that makes them larger, within a quota.

A file takes its length, and each file and folder one entry more, so that empty ones run out too; a file that was removed while it
is open takes its room until it is closed. What grows is added up. What is removed, here or by others, is only seen when the room
seems to be used up: then everything is counted again.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence

from device_agent.sandbox.wasi_numbers import NOSPC, Errno

ENTRY_BYTES = 4096
_NO_COUNT = 1 << 62  # of folders that can't be read to their end: nothing may grow there
_HERE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderRoom:
    """The room that is left. Whatever does not fit raises Errno NOSPC before anything is changed; else OSError as the call does."""

    def __init__(self, quota_bytes: int, folders: Sequence[int]) -> None:
        """`folders`: descriptors of those that may be written."""
        self._quota, self._folders = quota_bytes, folders
        self._open: set[int] = set()  # descriptors of files, whether they may be written or not
        self._left = 0
        self._count()

    def _count(self) -> None:
        seen: set[tuple[int, int]] = set()  # folders may lie in each other, files have several names
        taken = sum(_taken(each, seen) for each in self._folders)
        for each in self._open:
            about = os.fstat(each)
            if not about.st_nlink and (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                taken += about.st_size
        self._left = self._quota - taken

    def _take(self, size: int) -> None:
        if size > self._left:
            self._count()
        if size > max(0, self._left):
            raise Errno(NOSPC)
        self._left -= size

    @contextlib.contextmanager
    def _resized(self, descriptor: int, size: int) -> Iterator[None]:
        """Around what may make a file as long as `size`."""
        growth = max(0, size - os.fstat(descriptor).st_size)
        self._take(growth)
        try:
            yield
        except OSError:
            self._left += growth  # nothing was written
            raise

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
        """As os.open of a name in a folder."""
        if flags & os.O_CREAT and not exists(name, parent):
            self._take(ENTRY_BYTES)
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._open.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        """As os.close."""
        self._open.discard(descriptor)
        os.close(descriptor)

    def mkdir(self, name: str, parent: int) -> None:
        """As os.mkdir."""
        self._take(ENTRY_BYTES)
        os.mkdir(name, 0o700, dir_fd=parent)

    def symlink(self, target: str, name: str, parent: int) -> None:
        """As os.symlink."""
        if not exists(name, parent):
            self._take(ENTRY_BYTES)
        os.symlink(target, name, dir_fd=parent)

    def link(self, name: str, parent: int, new: str, other: int) -> None:
        """As os.link, of a name in one folder to a name in another; a symbolic link is linked to as such."""
        if not exists(new, other):
            self._take(ENTRY_BYTES)
        os.link(name, new, src_dir_fd=parent, dst_dir_fd=other, follow_symlinks=False)


def exists(name: str, parent: int) -> bool:
    """Whether a folder has a name, be it a link's that leads nowhere."""
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_new(about: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    """Whether this file or folder is met for the first time."""
    before = len(seen)
    seen.add((about.st_dev, about.st_ino))
    return len(seen) > before


def _taken(root: int, seen: set[tuple[int, int]]) -> int:
    """What a folder holds that was not seen yet. One descriptor at a time, however deep it is."""
    total, waiting = 0, ["."]
    while waiting:
        path = waiting.pop()
        try:
            folder = os.open(path, _HERE, dir_fd=root)
        except FileNotFoundError:
            continue
        except OSError:
            return _NO_COUNT
        try:
            if not _is_new(os.fstat(folder), seen):
                continue
            for name in os.listdir(folder):  # noqa: PTH208
                about = os.stat(name, dir_fd=folder, follow_symlinks=False)
                total += ENTRY_BYTES
                if stat.S_ISDIR(about.st_mode):
                    waiting.append(f"{path}/{name}")
                elif stat.S_ISREG(about.st_mode) and _is_new(about, seen):
                    total += about.st_size
        except FileNotFoundError:
            continue  # somebody else was faster
        except OSError:
            return _NO_COUNT
        finally:
            os.close(folder)
    return total
