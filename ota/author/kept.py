"""What is slow to make, kept in files for the next time: whole or not at all, whatever ends in the middle."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ota.durable import write_durably

__all__ = ["UNUSED_DAYS", "cache_folder", "kept"]

UNUSED_DAYS = 60
_DIGEST_BYTES = 32


def cache_folder() -> Path:
    """WAMR_OTA_CACHE, else `wamr-ota` in the user's cache."""
    own = os.environ.get("WAMR_OTA_CACHE")
    return Path(own).absolute() if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wamr-ota"


def kept(name: str, make: Callable[[Path], bytes]) -> bytes:
    """The file `name` of the cache; where it is missing or damaged, what `make` returns, which gets an empty folder to work in.

    The name says all that the result depends on. Other processes that want the same wait. What begins with the same word (up to a
    dash) and was not asked for in UNUSED_DAYS is removed. Raises OSError, and as `make` does.
    """
    folder = cache_folder()
    path = folder / name
    found = _read(path)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f".{name}.work") as work:
        found = _read(path)  # another process may have made it meanwhile
        if found is None:
            if path.is_dir():
                shutil.rmtree(path)  # it is not ours, or an earlier version's
            elif path.exists():
                sys.stderr.write(f"{path} is damaged: it is made anew\n")
            found = make(work)
            write_durably(path, found + hashlib.sha256(found).digest())
            _forget_unused(folder, name.partition("-")[0])
    return found


def _read(path: Path) -> bytes | None:
    """The content, which its SHA-256 follows."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return None
    made, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(made).digest() != digest:
        return None
    with contextlib.suppress(OSError):  # a cache that may not be written
        os.utime(path)
    return made


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """An empty folder, for one process at a time. One that was killed leaves the folder behind for the next, but no lock."""
    lock, work = folder / "lock", folder / "work"
    with _locked(lock):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            lock.unlink()
            with contextlib.suppress(OSError):  # another process waits already
                folder.rmdir()


def _locked(lock: Path) -> IO[str]:
    """The lock, open, until it is closed."""
    while True:
        with contextlib.suppress(FileExistsError):  # not Path.mkdir, which fails if it is removed at the same moment
            os.mkdir(lock.parent)  # noqa: PTH102
        with contextlib.ExitStack() as opened, contextlib.suppress(FileNotFoundError):  # the one before is removing it
            file = opened.enter_context(lock.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                opened.pop_all()
                return file


def _forget_unused(folder: Path, word: str) -> None:
    oldest = time.time() - UNUSED_DAYS * 86_400
    for each in folder.glob(f"{word}-*"):
        with contextlib.suppress(OSError):
            if each.is_file() and each.stat().st_mtime < oldest:
                each.unlink()
