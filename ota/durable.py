"""Atomic and durable replacement of files."""

import contextlib
import fcntl
import os
from pathlib import Path


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replaces a file so that after a power cut it is the old or the new one, whole. An OSError names the file."""
    try:
        _replace(path, content, mode)
    except OSError as error:  # a write that fails does not say by itself of which file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # not on every file system
            fcntl.flock(folder, fcntl.LOCK_EX)  # another writer of the file has the same temporary one
        temporary.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


def sync_folder(path: Path) -> None:
    """Makes what was created, renamed or removed in a folder last over a power cut."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
