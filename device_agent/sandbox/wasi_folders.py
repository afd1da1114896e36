"""What a module of `wasi` may do on paths below its folders, whichever WASI it was built for.

A path is walked one name at a time (wasi_paths). Everything raises Errno, or OSError as the kernel does.
"""

import os
from collections.abc import Callable
from typing import Any

from device_agent.sandbox import wasi_paths
from device_agent.sandbox.folder_room import FolderRoom, exists
from device_agent.sandbox.wasi_descriptors import Descriptor
from device_agent.sandbox.wasi_numbers import (  # fmt: skip
    CREATE,
    DIRECTORY,
    EXCLUSIVE,
    FILE,
    FOLDER,
    INVAL,
    ISDIR,
    NOENT,
    NOTCAPABLE,
    TRUNCATE,
    Errno,
    file_type,
    times,
)

__all__ = ["Folders"]

_MODES = ((CREATE, os.O_CREAT), (EXCLUSIVE, os.O_EXCL), (TRUNCATE, os.O_TRUNC), (DIRECTORY, os.O_DIRECTORY))


class Folders:
    """One module's, with the room that is left in them."""

    def __init__(self, room: FolderRoom) -> None:
        self.room = room

    def _enter(self, folder: Descriptor, path: str, *, write: bool, follow: bool = False) -> tuple[int, str]:
        """As `wasi_paths.enter`, below an open folder that may be written, if it is to be."""
        if write and not folder.writable:
            raise Errno(NOTCAPABLE)
        return wasi_paths.enter(folder.real, path, follow=follow)

    def _at(self, folder: Descriptor, path: str, action: Callable[[int, str], Any], *, write: bool, follow: bool = False) -> Any:
        parent, name = self._enter(folder, path, write=write, follow=follow)
        try:
            return action(parent, name)
        finally:
            os.close(parent)

    def open(self, folder: Descriptor, path: str, how: int, *, follow: bool, read: bool, write: bool, flags: int = 0) -> Descriptor:
        """A file or folder. `how`: CREATE, DIRECTORY, EXCLUSIVE and TRUNCATE together."""
        if how & CREATE and how & DIRECTORY:  # some kernels make a file of it and fail
            raise Errno(INVAL)
        if how & CREATE and wasi_paths.names_a_folder(path):
            raise Errno(ISDIR)
        changes = bool(how & (CREATE | TRUNCATE) or write)
        mode = (os.O_RDWR if changes else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        mode |= sum(bit for wanted, bit in _MODES if how & wanted)
        follow = follow and not how & EXCLUSIVE
        real: int = self._at(folder, path, lambda parent, name: self.room.open(name, mode, parent), write=changes, follow=follow)
        kind = file_type(os.fstat(real))
        if kind not in (FOLDER, FILE):
            self.room.close(real)
            raise Errno(NOTCAPABLE)  # no devices, pipes or sockets
        readable = kind == FOLDER or not write or read
        return Descriptor(real, kind, readable=readable, writable=folder.writable if kind == FOLDER else changes, flags=flags)

    def make(self, folder: Descriptor, path: str) -> None:
        """A folder."""
        self._at(folder, path, lambda parent, name: self.room.mkdir(name, parent), write=True)

    def remove(self, folder: Descriptor, path: str) -> None:
        """An empty folder."""
        self._at(folder, path, lambda parent, name: os.rmdir(name, dir_fd=parent), write=True)

    def unlink(self, folder: Descriptor, path: str) -> None:
        """A file, or a link."""
        self._at(folder, path, lambda parent, name: os.unlink(name, dir_fd=parent), write=True)

    def rename(self, folder: Descriptor, path: str, target: Descriptor, new_path: str) -> None:
        """Also to another folder."""
        other, new = self._enter(target, new_path, write=True)
        try:
            self._at(folder, path, lambda parent, name: os.rename(name, new, src_dir_fd=parent, dst_dir_fd=other), write=True)
        finally:
            os.close(other)

    def about(self, folder: Descriptor, path: str, *, follow: bool) -> os.stat_result:
        """As os.stat."""
        found: os.stat_result = self._at(
            folder, path, lambda parent, name: os.stat(name, dir_fd=parent, follow_symlinks=False), write=False, follow=follow
        )
        return found

    def set_times(self, folder: Descriptor, path: str, accessed: int, modified: int, flags: int, *, follow: bool) -> None:
        """`flags` as `wasi_numbers.times` has them."""

        def change(parent: int, name: str) -> None:
            about = os.stat(name, dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=times(about, accessed, modified, flags), dir_fd=parent, follow_symlinks=False)

        self._at(folder, path, change, write=True, follow=follow)

    def read_link(self, folder: Descriptor, path: str) -> bytes:
        """Where a symbolic link leads."""
        return os.fsencode(self._at(folder, path, lambda parent, name: os.readlink(name, dir_fd=parent), write=False))

    def link(self, folder: Descriptor, path: str, target: Descriptor, new_path: str) -> None:
        """Another name of a file, where both folders may be written: else it would give away a file that is to be read only."""
        other, new = self._enter(target, new_path, write=True)
        try:
            _refuse_new_folder(new_path, new, other)
            self._at(folder, path, lambda parent, name: self.room.link(name, parent, new, other), write=True)
        finally:
            os.close(other)

    def symlink(self, target: str, folder: Descriptor, path: str) -> None:
        """A symbolic link that can't lead out of the folder."""
        wasi_paths.checked_target(target)

        def make(parent: int, name: str) -> None:
            _refuse_new_folder(path, name, parent)
            self.room.symlink(target, name, parent)

        self._at(folder, path, make, write=True)


def _refuse_new_folder(path: str, name: str, parent: int) -> None:
    """A path of a folder that is not there can't become a link."""
    if wasi_paths.names_a_folder(path) and not exists(name, parent):
        raise Errno(NOENT)
