"""The database as the store has it: on disk, or in memory for as long as the disk can't be used.

The store survives disk errors. A damaged database is put aside and rebuilt from its readable rows and from the anchor. A database
that can't be written is kept in memory, and written to the disk when that works again.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from device_agent.storage import anchor, database, disk
from device_agent.storage.schema import SchemaError

NAME = "agent.sqlite"  # below the storage folder
RETRY_S = 10.0  # between attempts to use a disk again
_LOST = "problem.floors-lost"  # in the table documents, until the next module is confirmed


class RecoveringDatabase:
    """The connection that is to be used, which changes. What is wrong stands in `problems`."""

    def __init__(self, folder: Path, problems: disk.Problems, clock: Callable[[], float] = time.monotonic) -> None:
        """Opens the database of the folder. Raises SchemaError when it is of another agent's version."""
        self._folder, self._path = folder, folder / NAME
        self._problems, self._clock = problems, clock
        self._anchor: anchor.Anchor | None = None  # as it is on disk
        self._aside = ""  # the name that the database on disk gets before it is replaced
        self._retry_at = 0.0
        self.in_memory = False
        try:
            self.connection = database.open_on_disk(self._path)
        except SchemaError:
            raise
        except (sqlite3.Error, OSError) as error:
            self._replace(error)
        else:
            self._restore_if_behind()
        self._tell_what_was()

    def close(self) -> None:
        """Ends the use, with a last attempt to get what is in memory to the disk."""
        self._retry_at = 0.0
        self.retry()
        self.connection.close()

    def recover(self, error: sqlite3.Error) -> bool:
        """After an error of the connection: whether there is another one now, with what could be read."""
        if self.in_memory or not (database.is_damage(error) or database.is_unwritable(error)):
            return False
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()
        self._replace(error)
        return True

    def retry(self) -> None:
        """Puts what is in memory on the disk, if the disk can be used again."""
        if not self.in_memory or self._clock() < self._retry_at:
            return
        self._retry_at = self._clock() + RETRY_S
        try:
            on_disk = self._write_out(self.connection)
        except (sqlite3.Error, OSError):
            return
        self.connection.close()
        self.connection, self.in_memory = on_disk, False
        self._problems.clear(disk.READ_ONLY, disk.FAILING, disk.DAMAGED)
        self._tell_what_was()
        self.write_anchor()

    def make_room(self) -> bool:
        """On a full disk: cuts SQLite's log, and deletes databases that were put aside. Whether that gave any room."""
        before = disk.allocated_bytes(self._path) + disk.allocated_bytes(self._path.with_name(NAME + "-wal"))
        with contextlib.suppress(sqlite3.Error):
            self.connection.execute("pragma incremental_vacuum").fetchall()
            self.connection.execute("pragma wal_checkpoint(truncate)").fetchall()
        after = disk.allocated_bytes(self._path) + disk.allocated_bytes(self._path.with_name(NAME + "-wal"))
        return database.drop_put_aside(self._path, 0) or after < before

    def write_anchor(self) -> None:
        """Keeps what must not be forgotten a second time, if it has changed."""
        if self.in_memory:
            return
        now = anchor.Anchor.of(self.connection)
        if now == self._anchor:
            return
        try:
            anchor.write(self._folder, now)
        except OSError as error:
            disk.logger.warning("the anchor can't be written: %s", error)  # once more with the next change
            return
        self._anchor = now

    def floors_are_known(self) -> None:
        """A module was confirmed: what was lost before does not matter any more."""
        if disk.LOST in self._problems:
            self.connection.execute("delete from documents where name = ?", (_LOST,))
            self._problems.clear(disk.LOST)

    def _replace(self, error: Exception) -> None:
        """Goes on with what can be read, on the disk if that can be written."""
        damaged = database.is_damage(error)
        memory, lost = database.salvage(self._path) if self._path.exists() else (database.open_in_memory(), set[str]())
        kept = anchor.read(self._folder)
        if kept is not None:
            kept.restore(memory)
        elif "floors" in lost:
            text = "older releases and deployments may be accepted once more"
            memory.execute("insert or replace into documents (name, document) values (?, ?)", (_LOST, text.encode()))
        if "outbox" in lost:
            database.raise_last_message(memory, int(time.time() * 1000))  # higher than any that was used
        self._aside = f"{NAME}.damaged-{int(time.time())}" if damaged or lost else ""
        self.connection, self.in_memory = memory, True
        if damaged:
            self._rebuild(error)
        if self.in_memory:
            code = disk.READ_ONLY if disk.is_read_only(self._folder) else disk.FAILING
            self._problems.add(disk.DAMAGED if damaged else code, f"{self._path}: {error}; what is new is kept in memory")
            self._retry_at = self._clock() + RETRY_S

    def _rebuild(self, error: Exception) -> None:
        """Puts the damaged database aside, the new one in its place."""
        try:
            on_disk = self._write_out(self.connection)
        except (sqlite3.Error, OSError):
            return
        self.connection.close()
        self.connection, self.in_memory = on_disk, False
        disk.logger.error("%s was damaged (%s) and is rebuilt", self._path, error)
        self.write_anchor()

    def _write_out(self, memory: sqlite3.Connection) -> sqlite3.Connection:
        """Raises sqlite3.Error, OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for make_room in (self._drop_older, self._drop_damaged, None):
            try:
                on_disk = database.replace(self._path, memory, self._aside)
                break
            except sqlite3.OperationalError:
                if make_room is None:
                    raise
                make_room()
        self._aside = ""
        database.drop_put_aside(self._path, database.PUT_ASIDE_KEPT)
        return on_disk

    def _drop_older(self) -> None:
        database.drop_put_aside(self._path, 0)

    def _drop_damaged(self) -> None:
        """Without room for both: what could be read is in memory, and what must not be forgotten in the anchor."""
        if self._aside:
            database.delete(self._path)
            self._aside = ""

    def _restore_if_behind(self) -> None:
        """The anchor is written after the database: one that knows more shows that the database, or its log, is an older one."""
        self._anchor = kept = anchor.read(self._folder)
        if kept is None or not kept.is_ahead_of(anchor.Anchor.of(self.connection)):
            return
        try:
            self._put_into_it(kept)
        except sqlite3.Error as error:  # a full disk
            self.connection.close()
            self._replace(error)
            self._put_into_it(kept)
        self._problems.add(disk.REBUILT, f"{self._path} was gone or older; what is kept beside it was put into it")

    def _put_into_it(self, kept: anchor.Anchor) -> None:
        self.connection.execute("begin immediate")
        self.connection.execute("delete from slots")
        kept.restore(self.connection)
        database.raise_last_message(self.connection, int(time.time() * 1000))
        self.connection.execute("commit")

    def _tell_what_was(self) -> None:
        if self.connection.execute("select 1 from documents where name = ?", (_LOST,)).fetchone():
            self._problems.add(disk.LOST, "older releases and deployments may be accepted once more")
        aside = database.put_aside(self._path)
        if aside:
            self._problems.add(disk.REBUILT, f"{aside[-1].name} was damaged and put aside; what could be read of it is kept")
