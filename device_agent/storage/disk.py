"""The disk below the storage folder: its errors as reasons, how much is free, the lock, and what is wrong with it."""

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ota.formats.reasons import Reason, Refused

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
UNWRITABLE = frozenset((errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR))
READ_ONLY, FAILING, DAMAGED = "storage-read-only", "storage-failing", "storage-damaged"
REBUILT, LOST = "storage-rebuilt", "storage-floors-lost"
NOT_MOUNTED = "storage-not-mounted"
SYSTEM_NOTE = Path(
    "/run/wamr-ota/storage-problem"
)  # where an image says that it runs without its data partition (boards/system/boot)
NOTE_CHARACTERS = 200
logger = logging.getLogger(__name__)


class Problems:
    """What is wrong with the storage, by stable code; each is logged when it appears and when it is gone."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self.texts: tuple[str, ...] = ()

    def __contains__(self, code: str) -> bool:
        return code in self._found

    def add(self, code: str, text: str) -> None:
        """Notes one; a newer text of the same code takes the place of the older."""
        if code not in self._found:
            logger.error("%s: %s", code, text)
        self._found[code] = text
        self.texts = tuple(f"{each}: {why}" for each, why in self._found.items())

    def clear(self, *codes: str) -> None:
        """Forgets what is over."""
        for code in codes:
            if self._found.pop(code, None) is not None:
                logger.info("%s: resolved", code)
        self.texts = tuple(f"{each}: {why}" for each, why in self._found.items())


def add_system_note(problems: Problems) -> None:
    """Notes what the system that the agent runs on says of the storage, if it says anything."""
    with contextlib.suppress(OSError):
        with SYSTEM_NOTE.open(encoding="utf-8", errors="replace") as file:
            text = file.read(NOTE_CHARACTERS).strip()
        problems.add(NOT_MOUNTED, text)


@contextlib.contextmanager
def errors_as_reasons(problems: Problems) -> Iterator[None]:
    """Turns a full disk into Refused DISK_FULL, and a file that can't be written into Refused STORAGE_UNWRITABLE."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise Refused(Reason.DISK_FULL, f"the disk is full: {error.strerror}") from error
        if error.errno in UNWRITABLE:
            text = f"{error.filename or 'a file of the storage'}: {error.strerror}"  # one that is open already is not named
            problems.add(READ_ONLY if error.errno == errno.EROFS else FAILING, text)
            raise Refused(Reason.STORAGE_UNWRITABLE, text) from error
        raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise Refused(Reason.DISK_FULL, "the disk is full: the database can't grow") from error
        raise


def lock(path: Path) -> int:
    """A descriptor that holds the lock; -1 where no file can be made for it. Raises BlockingIOError when somebody else has it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in FULL | UNWRITABLE | {errno.ENOENT}:
            return -1
        raise
    try:
        os.lockf(descriptor, os.F_TLOCK, 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_locked(folder: Path) -> bool:
    """Whether an agent uses a storage folder. Takes no lock, and writes nothing."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.lockf(descriptor, os.F_TEST, 0)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def allocated_bytes(path: Path) -> int:
    """What a file has of the disk: of a sparse one, only the parts that were written. 0 when it is not there."""
    try:
        return path.stat().st_blocks * 512  # stat(2): units of 512 bytes on every file system
    except FileNotFoundError:
        return 0


def free_bytes(folder: Path) -> int:
    """What may still be written by an ordinary user."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def is_read_only(folder: Path) -> bool:
    """Whether a folder's file system is mounted read-only."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False
