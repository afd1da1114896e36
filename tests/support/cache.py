"""Results of compilers below build/cache, by the digest of what they were made of; and locks between test processes."""

import fcntl
import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / "build" / "cache"
UNUSED_DAYS = 30


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Keeps other test processes out of something that they share."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached(kind: str, inputs: tuple[bytes | str, ...], make: Callable[[Path], None]) -> bytes:
    """What `make` writes to the path that it gets. The inputs are all that the result depends on, the tool included."""
    digest = hashlib.sha256()
    for each in inputs:
        data = each.encode() if isinstance(each, str) else each
        digest.update(len(data).to_bytes(8, "little") + data)
    name = digest.hexdigest()
    target = CACHE / kind / name[:2] / name
    if target.exists():
        os.utime(target)
        return target.read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE / kind) as folder:
        made = Path(folder) / "made"
        make(made)
        made.replace(target)
    return target.read_bytes()


@functools.cache
def digest_of(tool: str | Path) -> str:
    """The digest of a program: another version is another input."""
    return hashlib.sha256(Path(tool).read_bytes()).hexdigest()


def forget_unused() -> None:
    """Removes what no test has asked for in UNUSED_DAYS."""
    oldest = time.time() - UNUSED_DAYS * 86_400
    for path in CACHE.glob("*/??/*"):
        if path.is_file() and path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
