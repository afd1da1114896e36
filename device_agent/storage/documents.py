"""What a board knows of the world: roots, floors, documents that were accepted; with the time, its starts, and its session."""

import contextlib
from collections.abc import Collection

from device_agent.storage import floors
from device_agent.storage.messages import Messages
from device_agent.storage.tables import recovers
from ota.formats.fields import MAX_TIME_S
from ota.formats.reasons import Refused

__all__ = ["LAST_START", "ROOTS_KEPT", "Documents"]

LAST_START = (1 << 35) - 1  # a time in seconds far beyond 2038; a counter of 63 bits has 28 for what is said in one start
ROOTS_KEPT = 8
"""The newest ones, against damage to the last of them; and the first one. The chain grows for as long as the board lives."""
_TIME = "time_s"  # in the table meta
_SESSION = "session:"  # in the table documents, and the number of the start
_SESSION_NAME = f"'{_SESSION}' || (select value from meta where key = 'start')"


class Documents(Messages):
    """That part of the store."""

    @recovers
    def next_start(self, now_s: int) -> int:
        """The number of this start of the agent, higher than that of any before and at least `now_s`.

        It is kept before it is returned, as far as the disk can be written.
        """
        found = self._database.execute("select value from meta where key = 'start'").fetchone()
        start = min(max(now_s, (found[0] if found else 0) + 1), LAST_START)
        with contextlib.suppress(Refused):
            with self._transaction():
                self._database.execute("insert or replace into meta (key, value) values ('start', ?)", (start,))
            self.home.write_anchor()
        return start

    # -- trust

    @recovers
    def roots(self) -> dict[int, bytes]:
        """Root documents by number."""
        return dict(self._database.execute("select number, document from roots order by number"))

    @recovers
    def drop_roots(self, first: int) -> None:
        """Deletes root documents from a number on."""
        with self._transaction():
            self._database.execute("delete from roots where number >= ?", (first,))
        self.home.write_anchor()

    @recovers
    def add_root(self, number: int, document: bytes) -> None:
        """Keeps a verified root document."""
        with self._transaction():
            self._database.execute("insert or replace into roots (number, document) values (?, ?)", (number, document))
        self.home.write_anchor()

    @recovers
    def follow_root(self, number: int, document: bytes, release: Collection[bytes], deploy: Collection[bytes]) -> None:
        """Keeps the root that is in force from now on, and forgets what too many keys without a role signed. One transaction."""
        with self._transaction():
            self._database.execute("insert or replace into roots (number, document) values (?, ?)", (number, document))
            self._database.execute(
                "delete from roots where number > (select min(number) from roots) and number <= ?", (number - ROOTS_KEPT,)
            )
            floors.settle(self._database, release, deploy)
            self.home.write_anchor()  # before: what only the anchor has is taken for lost

    @recovers
    def floor(self, name: str, keys: Collection[bytes]) -> floors.Floor:
        """What must not go back, as far as these keys signed it."""
        return floors.read(self._database, name, keys)

    @recovers
    def module_floor(self, name: str, module: str, keys: Collection[bytes]) -> floors.Floor:
        """What must not go back of a module, wherever on the board it runs: floors.SEQUENCE or floors.EPOCH."""
        return floors.of_module(self._database, name, module, keys)

    @recovers
    def lift_floor(self, name: str, keys: Collection[bytes], value: int, digest: bytes) -> None:
        """Notes that these keys signed a number, in the document with this digest; a lower one than before changes nothing."""
        with self._transaction():
            floors.lift(self._database, name, keys, value, digest)
        self.home.write_anchor()

    @recovers
    def settle_floors(self, release: Collection[bytes], deploy: Collection[bytes]) -> None:
        """Forgets what keys signed that have neither role any more, as far as they are too many."""
        with self._transaction():
            floors.settle(self._database, release, deploy)
            self.home.write_anchor()  # before: what only the anchor has is taken for lost

    @recovers
    def keep_time(self, time_s: int) -> None:
        """Keeps the time, in seconds since 1970, which may be earlier than what was kept. Raises Refused DISK_FULL."""
        with self._transaction():
            self._database.execute("insert or replace into meta (key, value) values (?, ?)", (_TIME, time_s))

    @recovers
    def kept_time_s(self) -> int:
        """What was kept last, 0 for nothing."""
        row = self._database.execute("select value from meta where key = ?", (_TIME,)).fetchone()
        return min(max(int(row[0]), 0), MAX_TIME_S) if row else 0

    @recovers
    def document(self, name: str) -> bytes | None:
        """A document that was accepted."""
        row = self._database.execute("select document from documents where name = ?", (name,)).fetchone()
        return row[0] if row else None

    @recovers
    def keep_document(self, name: str, document: bytes, keys: Collection[bytes] = (), epoch: int = 0, digest: bytes = b"") -> None:
        """Keeps a document that was accepted, in the place of the one before it, and what these keys signed by it.

        A power cut may take it until anything that was written later is synced: then it never came.
        """
        with self._transaction(synced=False):
            self._database.execute("insert or replace into documents (name, document) values (?, ?)", (name, document))
            floors.lift(self._database, name, keys, epoch, digest)

    @recovers
    def keep_session(self, session: bytes) -> None:
        """Keeps what this start of the agent leaves at the broker, for the next one. Raises Refused DISK_FULL."""
        with self._transaction():
            self._database.execute(f"insert or replace into documents (name, document) values ({_SESSION_NAME}, ?)", (session,))

    @recovers
    def take_session(self) -> bytes | None:
        """What the last start of an agent has left at the broker, once; before `next_start`. Raises Refused DISK_FULL.

        Nothing while the disk can't be written: the next start would take it up once more, when it is another.
        """
        if self.home.in_memory:
            return None
        sessions = f"from documents where substr(name, 1, {len(_SESSION)}) = '{_SESSION}'"
        found = self._database.execute(f"select name = {_SESSION_NAME}, document {sessions}").fetchall()
        if found:
            with self._transaction():
                self._database.execute(f"delete {sessions}")
        return next((session for is_last, session in found if is_last), None)
