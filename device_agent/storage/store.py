"""What survives: SQLite (WAL, synchronous=FULL) for everything small, files named by their digest for blobs.

Every method may wait for the disk; the agent calls them on its one writer thread. A file is written under a temporary name,
fsynced, renamed, and its folder fsynced. The journal is hash-chained: each row's `chain` covers the row and the chain before it.
"""

import contextlib
import functools
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from device_agent.channel.frames import KeyWrite
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.storage import floors, schema
from device_agent.storage.blobs import Blobs
from device_agent.storage.disk import Problems, add_system_note, errors_as_reasons, lock, logger
from device_agent.storage.recovery import NAME as DATABASE
from device_agent.storage.recovery import RecoveringDatabase
from ota.errors import OtaError
from ota.formats import cbor
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Message

__all__ = ["DATABASE", "Slot", "Store", "StoreError", "Version"]

JOURNAL_ROWS, DETAIL_CHARACTERS = 2_000, 1_000
MESSAGE_BYTES = 64  # that a message in the outbox has beside its texts and payload, about
_SIZE = f"length(payload) + length(cast(topic as blob)) + length(cast(module as blob)) + {MESSAGE_BYTES}"
T = TypeVar("T")
P = ParamSpec("P")


class StoreError(OtaError):
    """The storage folder can't be used."""


class Added(NamedTuple):
    """What came of adding messages to the outbox."""

    last: int  # number of the newest message
    dropped: int  # of the oldest
    dropped_bytes: int


class Version(NamedTuple):
    """A version of a module. Each has keys and a state of its own, so that going back finds what was left behind."""

    module: str
    manifest: bytes  # digest of its envelope


@dataclass(frozen=True)
class Slot:
    """A module that the board may run: "confirmed" or "previous"."""

    name: str
    envelope: bytes  # digest
    sequence: int
    epoch: int
    failures: int = 0
    failed_s: int = 0  # when it failed last, seconds since 1970


def recovers(method: Callable[Concatenate["Store", P], T]) -> Callable[Concatenate["Store", P], T]:
    """Does it once more when the database had to be replaced, or when the disk was full and now is not."""

    @functools.wraps(method)
    def wrapped(self: "Store", /, *args: P.args, **kwargs: P.kwargs) -> T:
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


class Store(Blobs):
    """The storage folder of one agent. What can't be kept on the disk is kept in memory: see `problems`."""

    def __init__(self, folder: Path, free_bytes: int = 0) -> None:
        """Raises StoreError when another agent uses the folder, or one of another version has written it."""
        problems = Problems()
        add_system_note(problems)
        super().__init__(folder / "blobs", free_bytes, problems)
        self._waiting_bytes: int | None = None  # of the outbox; None where that is to be counted
        with contextlib.suppress(Refused), errors_as_reasons(problems):
            self._blobs.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        try:
            self._lock: int | None = lock(folder / "lock")
        except BlockingIOError:
            raise StoreError(f"another agent uses {folder}") from None
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
            self._database.execute("insert or replace into roots values (?, ?)", (number, document))
        self.home.write_anchor()

    @recovers
    def floor(self, name: str, keys: Collection[bytes]) -> floors.Floor:
        """What must not go back, as far as these keys signed it."""
        return floors.read(self._database, name, keys)

    @recovers
    def lift_floor(self, name: str, keys: Collection[bytes], value: int, digest: bytes) -> None:
        """Notes that these keys signed a number, in the document with this digest; a lower one than before changes nothing."""
        with self._transaction():
            floors.lift(self._database, name, keys, value, digest)
        self.home.write_anchor()

    @recovers
    def settle_floors(self, release: Collection[bytes], deploy: Collection[bytes]) -> None:
        """Forgets what keys signed that have neither role any more."""
        with self._transaction():
            floors.settle(self._database, release, deploy)
            self.home.write_anchor()  # before: what only the anchor has is taken for lost

    def document(self, name: str) -> bytes | None:
        """A document that was accepted."""
        row = self._database.execute("select document from documents where name = ?", (name,)).fetchone()
        return row[0] if row else None

    def keep_document(self, name: str, document: bytes) -> None:
        """Keeps a document that was accepted, in the place of the one before it."""
        with self._transaction():
            self._database.execute("insert or replace into documents values (?, ?)", (name, document))

    # -- journal and slots

    @recovers
    def last_update(self) -> Update:
        """The update at the end of the journal; none where that is damaged: what the operator wants is offered again then."""
        row = self._database.execute(f"select {schema.UPDATE} from journal order by id desc limit 1").fetchone()
        confirmed = self._confirmed()
        if row is None:
            return Update(confirmed=confirmed)
        phase, deployment, manifest, resumptions, reason, detail, events = row
        try:
            state, why = Phase(phase), Reason(reason) if reason else None
        except ValueError as error:
            logger.error("the last row of the journal is damaged: %s", error)
            return Update(confirmed=confirmed)
        return Update(state, deployment, manifest, resumptions, why, detail, events, confirmed=confirmed)

    @recovers
    def write_journal(self, update: Update, time_s: int) -> None:
        """Appends an update, durably. Raises Refused DISK_FULL, and STORAGE_UNWRITABLE for one that could not be kept."""
        if not update.ended:
            self._check_writable()
        with self._transaction():
            self._append(update, time_s)

    @recovers
    def commit(self, update: Update, slot: Slot, signers: Collection[bytes], time_s: int) -> None:
        """Makes `slot` the confirmed one, the confirmed one the previous, and raises what must not go back: one transaction.

        `signers`: the keys that signed its manifest. Raises Refused DISK_FULL, STORAGE_UNWRITABLE.
        """
        self._check_writable()
        with self._transaction():
            if self._confirmed() != slot.envelope:  # else it is done already, by an attempt that ended with an error
                self._database.execute("delete from slots where name = 'previous'")
                self._database.execute("update slots set name = 'previous' where name = 'confirmed'")
            self._database.execute(
                "insert or replace into slots values ('confirmed', ?, ?, ?, 0, 0)", (slot.envelope, slot.sequence, slot.epoch)
            )
            self._append(update, time_s)
            floors.lift(self._database, floors.SEQUENCE, signers, slot.sequence)
            floors.lift(self._database, floors.EPOCH, signers, slot.epoch)
            self.home.floors_are_known()
        self.home.write_anchor()

    @recovers
    def slots(self) -> dict[str, Slot]:
        """The confirmed and the previous module."""
        rows = self._database.execute("select name, envelope, sequence, epoch, failures, failed_s from slots")
        return {row[0]: Slot(*row) for row in rows}

    @recovers
    def set_failures(self, name: str, failures: int, time_s: int = 0) -> None:
        """How often the module of a slot has failed since it last proved itself, and when it did last."""
        with self._transaction():
            self._database.execute("update slots set failures = ?, failed_s = ? where name = ?", (failures, time_s, name))

    def journal_is_whole(self) -> bool:
        """Whether every row's hash fits the row and the one before it."""
        return schema.is_chained(self._database, schema.JOURNAL)

    # -- envelopes and blobs

    @recovers
    def envelope(self, digest: bytes) -> bytes | None:
        """A kept envelope; None for one that is damaged, too, so that it is fetched again."""
        row = self._database.execute("select envelope from envelopes where digest = ?", (digest,)).fetchone()
        return row[0] if row and cbor.sha256(row[0]) == digest else None

    @recovers
    def add_envelope(self, envelope: bytes) -> None:
        """Keeps an envelope under its digest."""
        with self._transaction():
            self._database.execute("insert or replace into envelopes values (?, ?)", (cbor.sha256(envelope), envelope))

    @recovers
    def collect(self, keep_manifests: set[bytes], keep_blobs: set[bytes]) -> None:
        """Deletes envelopes, blobs, keys and states that nothing names any more."""
        names = {digest.hex() for digest in keep_blobs}
        with errors_as_reasons(self.problems):
            for path in self._blobs.iterdir():
                if path.stem not in names:
                    path.unlink()
        with self._transaction():
            for table, column in (("envelopes", "digest"), ("keyvalue", "manifest"), ("states", "manifest")):
                for (digest,) in self._database.execute(f"select distinct {column} from {table}").fetchall():
                    if digest and digest not in keep_manifests:
                        self._database.execute(f"delete from {table} where {column} = ?", (digest,))

    # -- modules

    @recovers
    def keys(self, version: Version) -> dict[str, bytes]:
        """What a version of a module keeps."""
        return dict(self._database.execute("select key, value from keyvalue where (module, manifest) = (?, ?)", version))

    @recovers
    def state(self, version: Version) -> bytes:
        """The last saved state of a version of a module, empty before that."""
        row = self._database.execute("select state from states where (module, manifest) = (?, ?)", version).fetchone()
        return row[0] if row else b""

    @recovers
    def save_state(self, version: Version, state: bytes) -> None:
        """Keeps the state of a version of a module."""
        with self._transaction():
            self._save_state(version, state)

    @recovers
    def begin_trial(self, new: Version, old: Version | None, state: bytes | None) -> None:
        """Gives a version that is about to run on trial the keys and the state of the one before it, of the same module.

        `state`: what the old one has just saved, None if it could not: then its last one is taken. What the new one kept in an
        earlier trial is gone. The old one's own rows stay as they are now, for a rollback.
        """
        with self._transaction():
            if old is not None and state is not None:
                self._save_state(old, state)
            self._forget(new)
            if old is not None and old.module == new.module:
                values = (new.manifest, *old)
                source = "where (module, manifest) = (?, ?)"
                self._database.execute(f"insert into keyvalue select module, ?, key, value from keyvalue {source}", values)
                self._database.execute(f"insert into states select module, ?, state from states {source}", values)

    @recovers
    def forget(self, version: Version) -> None:
        """Deletes keys and state of a version that is not to run again."""
        with self._transaction():
            self._forget(version)

    @recovers
    def adopt_unversioned(self, version: Version) -> None:
        """Gives a version what its module kept under schema 1, if no version has that yet."""
        found = "select 1 from {} where (module, manifest) = (:module, x'')"
        query = f"{found.format('keyvalue')} union {found.format('states')}"
        if self._database.execute(query, {"module": version.module}).fetchone() is None:
            return
        with self._transaction():
            schema.adopt(self._database, version.module, version.manifest)

    @recovers
    def add_outcomes(
        self, outcomes: list[tuple[Version, list[KeyWrite], list[Message]]], limit: int, limit_bytes: int = 32 << 20
    ) -> "Added":
        """What handled events asked for, by version: key writes and messages, in one transaction.

        The oldest messages are dropped to stay within `limit` messages and `limit_bytes`.
        """
        waiting, self._waiting_bytes = self._waiting(), None  # unknown, should this fail
        with self._transaction():
            for version, writes, messages in outcomes:
                for write in writes:
                    if write.value is None:
                        self._database.execute(
                            "delete from keyvalue where (module, manifest, key) = (?, ?, ?)", (*version, write.key)
                        )
                    else:
                        self._database.execute(
                            "insert or replace into keyvalue values (?, ?, ?, ?)", (*version, write.key, write.value)
                        )
                self._database.executemany(
                    "insert into outbox (time_s, module, topic, payload) values (?, ?, ?, ?)",
                    [(each.time_s, each.module, each.topic, each.payload) for each in messages],
                )
                waiting += sum(_size_of(each) for each in messages)
            last = self._database.execute("select coalesce(max(number), 0) from outbox").fetchone()[0]
            dropped, size = self._delete_messages(self._first_to_keep(last, limit, waiting - limit_bytes) - 1)
        self._waiting_bytes = waiting - size
        return Added(int(last), dropped, size)

    @recovers
    def outbox(self, after: int, count: int) -> list[Message]:
        """Messages not delivered yet with numbers above `after`, oldest first."""
        rows = self._database.execute(
            "select number, time_s, module, topic, payload from outbox where number > ? order by number limit ?", (after, count)
        )
        return [Message(*row) for row in rows]

    @recovers
    def delivered(self, number: int) -> None:
        """Forgets messages up to a number."""
        waiting, self._waiting_bytes = self._waiting(), None
        with self._transaction():
            _, size = self._delete_messages(number)
        self._waiting_bytes = waiting - size

    @recovers
    def outbox_size(self) -> int:
        """How many messages wait."""
        return int(self._database.execute("select count(*) from outbox").fetchone()[0])

    # -- inside

    def _waiting(self) -> int:
        """How many bytes the outbox has."""
        if self._waiting_bytes is None:
            self._waiting_bytes = int(self._database.execute(f"select coalesce(sum({_SIZE}), 0) from outbox").fetchone()[0])
        return self._waiting_bytes

    def _first_to_keep(self, last: int, limit: int, excess_bytes: int) -> int:
        """The number of the oldest message that stays."""
        first = last - limit + 1
        if excess_bytes > 0:
            for number, size in self._database.execute(f"select number, {_SIZE} from outbox order by number"):
                if excess_bytes <= 0:
                    return max(first, int(number))
                excess_bytes -= size
            return last + 1
        return first

    def _delete_messages(self, up_to: int) -> tuple[int, int]:
        """How many there were up to this number, and their bytes."""
        query = f"select count(*), coalesce(sum({_SIZE}), 0) from outbox where number <= ?"
        count, size = self._database.execute(query, (up_to,)).fetchone()
        self._database.execute("delete from outbox where number <= ?", (up_to,))
        return int(count), int(size)

    def _confirmed(self) -> bytes:
        row = self._database.execute("select envelope from slots where name = 'confirmed'").fetchone()
        return row[0] if row else b""

    def _save_state(self, version: Version, state: bytes) -> None:
        self._database.execute("insert or replace into states values (?, ?, ?)", (*version, state))

    def _forget(self, version: Version) -> None:
        for table in ("keyvalue", "states"):
            self._database.execute(f"delete from {table} where (module, manifest) = (?, ?)", version)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.home.retry()
        with errors_as_reasons(self.problems):
            self._database.execute("begin immediate")
            try:
                yield
                self._database.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # on a disk that fails, the first error tells more
                    if self._database.in_transaction:
                        self._database.execute("rollback")
                raise

    def _append(self, update: Update, time_s: int) -> None:
        if update.phase is Phase.CONFIRMED and update.manifest != self._confirmed():
            raise StoreError(f"the journal would confirm {update.manifest.hex()}, the slot holds {self._confirmed().hex()}")
        row = (
            time_s,
            update.phase.value,
            update.deployment,
            update.manifest,
            update.resumptions,
            update.reason.value if update.reason else "",
            update.detail[:DETAIL_CHARACTERS],
            update.events,
        )
        last = self._database.execute("select chain, id from journal order by id desc limit 1").fetchone()
        before, number = last or (b"", 0)
        marks = ", ".join("?" * len(row))
        self._database.execute(
            f"insert into journal ({schema.JOURNAL}, chain) values ({marks}, ?)", (*row, schema.chain(before, row))
        )
        self._database.execute("delete from journal where id <= ?", (number - JOURNAL_ROWS,))


def _size_of(message: Message) -> int:
    return len(message.payload) + len(message.topic.encode()) + len(message.module.encode()) + MESSAGE_BYTES
