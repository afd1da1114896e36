"""The storage folder's lock, its database and its transactions: what all that is kept in tables shares."""

import contextlib
import functools
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from device_agent.storage import schema
from device_agent.storage.blobs import Blobs
from device_agent.storage.disk import Problems, add_system_note, errors_as_reasons, lock
from device_agent.storage.recovery import NAME as DATABASE
from device_agent.storage.recovery import RecoveringDatabase
from ota.errors import OtaError
from ota.formats.reasons import Reason, Refused

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Tables")


class StoreError(OtaError):
    """The storage folder can't be used."""


def recovers(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Does it once more when the database had to be replaced, or when the disk was full and now is not."""

    @functools.wraps(method)
    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except sqlite3.Error as error:
            if not self.home.recover(error):
                raise
        except Refused as refusal:
            if refusal.reason is not Reason.DISK_FULL or not self.home.make_room():
                raise
        return method(self, *args, **kwargs)

    return wrapped


class Tables(Blobs):
    """The storage folder of one agent. What can't be kept on the disk is kept in memory: see `problems`."""

    def __init__(self, folder: Path, free_bytes: int = 0) -> None:
        """Raises StoreError when another agent uses the folder, or one of another version has written it."""
        problems = Problems()
        add_system_note(problems)
        self._unsynced = True  # what an agent before this one has written, and a power cut may still take
        super().__init__(folder / "blobs", free_bytes, problems)
        with contextlib.suppress(Refused), errors_as_reasons(problems):
            self._blobs.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        try:
            self._lock: int | None = lock(folder / "lock")
        except BlockingIOError:
            raise StoreError(
                f"another agent uses the storage folder {folder}: stop it first, or give this one a folder of its own"
            ) from None
        try:
            self.home = RecoveringDatabase(folder, problems)
            self.home.write_anchor()
        except BaseException as error:
            self._unlock()
            if isinstance(error, schema.SchemaError):
                raise StoreError(f"{folder / DATABASE}: {error}") from error
            raise

    def close(self) -> None:
        """Ends the use of the folder. Again: no effect."""
        if self._lock is not None:
            self.home.close()
        self._unlock()

    @property
    def _database(self) -> sqlite3.Connection:
        return self.home.connection

    def _unlock(self) -> None:
        if self._lock is not None and self._lock >= 0:
            os.close(self._lock)
        self._lock = None

    def _check_writable(self) -> None:
        self.home.retry()
        if self.home.in_memory:
            raise Refused(Reason.STORAGE_UNWRITABLE, "; ".join(self.problems.texts)[:500])

    def _drop_spare(self) -> None:
        self.home.make_room()

    @contextlib.contextmanager
    def _transaction(self, *, synced: bool = True) -> Iterator[None]:
        """`synced`: it outlives a power cut from its end on. Else it does from the next one that is synced on, and that never
        outlives a power cut without it (SQLite, "pragma synchronous" with a write-ahead log).
        """
        self.home.retry()
        with errors_as_reasons(self.problems):
            self._database.execute(f"pragma synchronous={'full' if synced else 'normal'}")
            self._database.execute("begin immediate")
            try:
                yield
                self._unsynced |= not synced
                self._database.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # on a disk that fails, the first error tells more
                    if self._database.in_transaction:
                        self._database.execute("rollback")
                raise
