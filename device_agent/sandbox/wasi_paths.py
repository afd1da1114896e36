"""Walks a module's paths below a granted folder, one name at a time, on descriptors.

Symbolic links are read and followed here, never by the kernel, so that neither a link nor `..` leads out of the folder, whoever
changes it meanwhile. A link to an absolute path leads out.
"""

import errno
import os

from device_agent.sandbox.wasi_numbers import FOLDER, INVAL, LOOP, NAMETOOLONG, NOENT, NOTCAPABLE, NOTDIR, Errno, file_type

MAX_LINKS = 40  # in one path, as Linux has it (path_resolution(7))
PATH_LIMIT_BYTES = 4096
_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OF_A_FOLDER = ("/", "/.")


def decode(raw: bytes) -> str:
    """A path as the module wrote it. Raises Errno for one that is too long, empty, or no text."""
    if len(raw) > PATH_LIMIT_BYTES:
        raise Errno(NAMETOOLONG)
    if not raw:
        raise Errno(NOENT)
    if b"\0" in raw:
        raise Errno(INVAL)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Errno(INVAL) from None


def names_a_folder(path: str) -> bool:
    """Whether a path's end says that it must be a folder."""
    return path.endswith(_OF_A_FOLDER)


def enter(root: int, path: str, *, follow: bool) -> tuple[int, str]:
    """The folder that a path's last name lies in, as a descriptor for the caller to close, and that name ("." for itself).

    `follow`: whether a symbolic link at the end is followed. Raises Errno NOTCAPABLE for what leads out of the folder, LOOP after
    MAX_LINKS links, NOTDIR, and OSError as the kernel does.
    """
    walk = _Walk(root)
    try:
        return walk.go(path, follow=follow)
    finally:
        walk.close()


def checked_target(target: str) -> str:
    """The target of a new symbolic link. Raises Errno NOTCAPABLE for one that could ever lead out: absolute, or with `..`."""
    if target.startswith("/") or ".." in target.split("/"):
        raise Errno(NOTCAPABLE)
    return target


class _Walk:
    """The folders from the granted one down to where a path has led so far."""

    def __init__(self, root: int) -> None:
        self._folders = [os.dup(root)]
        self._links = 0

    def close(self) -> None:
        for each in self._folders:
            os.close(each)

    def go(self, path: str, *, follow: bool) -> tuple[int, str]:
        waiting = _names(path)
        must_be_folder = names_a_folder(path)
        while waiting:
            name = waiting.pop()
            if name == "..":
                self._up()
            elif (target := self._target(name) if waiting or follow else None) is not None:
                must_be_folder |= not waiting and names_a_folder(target)
                waiting += _names(target)
            elif waiting:
                self._folders.append(os.open(name, _STEP, dir_fd=self._folders[-1]))
            else:
                if must_be_folder and _is_something_else(name, self._folders[-1]):
                    raise Errno(NOTDIR)
                return self._folders.pop(), name
        return self._folders.pop(), "."

    def _up(self) -> None:
        if len(self._folders) == 1:
            raise Errno(NOTCAPABLE)
        os.close(self._folders.pop())

    def _target(self, name: str) -> str | None:
        """Where a symbolic link leads; None for anything else."""
        try:
            target = os.readlink(name, dir_fd=self._folders[-1])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise
        self._links += 1
        if self._links > MAX_LINKS:
            raise Errno(LOOP)
        return target


def _names(path: str) -> list[str]:
    """Of a path, the last first. Raises Errno NOTCAPABLE for an absolute one."""
    if path.startswith("/"):
        raise Errno(NOTCAPABLE)
    return [each for each in reversed(path.split("/")) if each not in ("", ".")]


def _is_something_else(name: str, parent: int) -> bool:
    """Than a folder, if there is anything."""
    try:
        return file_type(os.stat(name, dir_fd=parent, follow_symlinks=False)) != FOLDER
    except FileNotFoundError:
        return False
