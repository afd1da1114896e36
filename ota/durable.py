"""Atomic and durable replacement of files."""

import errno
import fcntl
import os
import time
from pathlib import Path

_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)  # of file systems and kernels without O_TMPFILE
LOCK_S = 30.0
"""How long a writer waits for another one in the same folder."""


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replaces a file so that after a power cut it is the old or the new one, whole. An OSError names the file."""
    try:
        _replace(path, content, mode)
    except OSError as error:  # a write that fails does not say by itself of which file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(path: Path, content: bytes, mode: int) -> None:
    if not path.name:  # "." and "/", beside which there is no name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    temporary = path.with_name(f".{path.name}.tmp")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(folder)  # another writer of the file has the same temporary one
        temporary.unlink(missing_ok=True)
        try:
            with os.fdopen(_open(temporary, mode), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if _has_no_name(file.fileno()):
                    os.link(f"/proc/self/fd/{file.fileno()}", temporary.name, dst_dir_fd=folder)  # of the file, not of that link
            temporary.replace(path)
        except BaseException:  # Ctrl-C, too: it may hold a secret
            temporary.unlink(missing_ok=True)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


def _open(temporary: Path, mode: int) -> int:
    """A file without a name where the file system has such: who is killed while it is written leaves nothing behind."""
    if Path("/proc/self/fd").is_dir():
        try:
            return os.open(temporary.parent, os.O_TMPFILE | os.O_WRONLY, mode)
        except OSError as error:
            if error.errno not in _NO_NAMELESS:
                raise
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)


def _has_no_name(descriptor: int) -> bool:
    return os.fstat(descriptor).st_nlink == 0


def _lock(folder: int) -> None:
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, f"another program has kept its folder locked for {LOCK_S:.0f} s") from None
            time.sleep(0.01)
            continue
        except OSError:
            pass  # not on every file system
        return


def sync_folder(path: Path) -> None:
    """Makes what was created, renamed or removed in a folder last over a power cut."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
