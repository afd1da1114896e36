"""What survives: SQLite (WAL, synchronous=FULL) for everything small, files named by their digest for blobs.

Every method may wait for the disk; the agent calls them on its one writer thread. A file is written under a temporary name,
fsynced, renamed, and its folder fsynced. The journal is hash-chained: each row's `chain` covers the row and the chain before it.
"""

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from device_agent.channel.frames import KeyWrite
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.storage import floors, schema
from ota.errors import OtaError
from ota.formats import cbor
from ota.formats.chunks import ChunkIndex
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Message

DATABASE = "agent.sqlite"  # below the storage folder
JOURNAL_ROWS = 10_000


class StoreError(OtaError):
    """The storage folder can't be used."""


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


def _locked(path: Path) -> int:
    """A descriptor that holds the lock. Raises BlockingIOError when somebody else has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.lockf(lock, os.F_TLOCK, 0)
    except OSError:
        os.close(lock)
        raise
    return lock


class Store:
    """The storage folder of one agent."""

    def __init__(self, folder: Path, free_bytes: int = 0) -> None:
        self._folder = folder
        self._blobs = folder / "blobs"
        self._free_bytes = free_bytes
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._lock = _locked(folder / "lock")
        except BlockingIOError:
            raise StoreError(f"another agent uses {folder}") from None
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror}") from error
        try:
            self._database = sqlite3.connect(folder / DATABASE, isolation_level=None, check_same_thread=False)
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise StoreError(f"{folder / DATABASE}: {error}") from error
        try:
            self._database.executescript("pragma journal_mode=wal; pragma synchronous=full; pragma foreign_keys=on;")
            if schema.version_of(self._database) != schema.SCHEMA_VERSION:
                with self._transaction():
                    schema.migrate(self._database)
        except (sqlite3.DatabaseError, schema.SchemaError) as error:
            self.close()
            raise StoreError(f"{folder / DATABASE}: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the use of the folder. Again: no effect."""
        self._database.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- trust

    def roots(self) -> dict[int, bytes]:
        """Root documents by number."""
        return dict(self._database.execute("select number, document from roots order by number"))

    def drop_roots(self, first: int) -> None:
        """Deletes root documents from a number on."""
        with self._transaction():
            self._database.execute("delete from roots where number >= ?", (first,))

    def add_root(self, number: int, document: bytes) -> None:
        """Keeps a verified root document."""
        with self._transaction():
            self._database.execute("insert or replace into roots values (?, ?)", (number, document))

    def floor(self, name: str, keys: Collection[bytes]) -> floors.Floor:
        """What must not go back, as far as these keys signed it."""
        return floors.read(self._database, name, keys)

    def lift_floor(self, name: str, keys: Collection[bytes], value: int, digest: bytes) -> None:
        """Notes that these keys signed a number, in the document with this digest; a lower one than before changes nothing."""
        with self._transaction():
            floors.lift(self._database, name, keys, value, digest)

    def settle_floors(self, release: Collection[bytes], deploy: Collection[bytes]) -> None:
        """Forgets what keys signed that have neither role any more."""
        with self._transaction():
            floors.settle(self._database, release, deploy)

    # -- journal and slots

    def last_update(self) -> Update:
        """The update at the end of the journal."""
        row = self._database.execute(f"select {schema.UPDATE} from journal order by id desc limit 1").fetchone()
        confirmed = self._confirmed()
        if row is None:
            return Update(confirmed=confirmed)
        phase, deployment, manifest, resumptions, reason, detail, events = row
        why = Reason(reason) if reason else None
        return Update(Phase(phase), deployment, manifest, resumptions, why, detail, events, confirmed=confirmed)

    def write_journal(self, update: Update, time_s: int) -> None:
        """Appends an update, durably."""
        with self._transaction():
            self._append(update, time_s)

    def commit(self, update: Update, slot: Slot, signers: Collection[bytes], time_s: int) -> None:
        """Makes `slot` the confirmed one, the confirmed one the previous, and raises what must not go back: one transaction.

        `signers`: the keys that signed its manifest.
        """
        with self._transaction():
            self._database.execute("delete from slots where name = 'previous'")
            self._database.execute("update slots set name = 'previous' where name = 'confirmed'")
            self._database.execute(
                "insert into slots values ('confirmed', ?, ?, ?, 0, 0)", (slot.envelope, slot.sequence, slot.epoch)
            )
            self._append(update, time_s)
            floors.lift(self._database, floors.SEQUENCE, signers, slot.sequence)
            floors.lift(self._database, floors.EPOCH, signers, slot.epoch)

    def slots(self) -> dict[str, Slot]:
        """The confirmed and the previous module."""
        rows = self._database.execute("select name, envelope, sequence, epoch, failures, failed_s from slots")
        return {row[0]: Slot(*row) for row in rows}

    def set_failures(self, name: str, failures: int, time_s: int = 0) -> None:
        """How often the module of a slot has failed since it last proved itself, and when it did last."""
        with self._transaction():
            self._database.execute("update slots set failures = ?, failed_s = ? where name = ?", (failures, time_s, name))

    def journal_is_whole(self) -> bool:
        """Whether every row's hash fits the row and the one before it."""
        return schema.is_chained(self._database, schema.JOURNAL)

    # -- envelopes and blobs

    def envelope(self, digest: bytes) -> bytes | None:
        """A kept envelope."""
        row = self._database.execute("select envelope from envelopes where digest = ?", (digest,)).fetchone()
        return row[0] if row else None

    def add_envelope(self, envelope: bytes) -> None:
        """Keeps an envelope under its digest."""
        with self._transaction():
            self._database.execute("insert or ignore into envelopes values (?, ?)", (cbor.sha256(envelope), envelope))

    def blob_path(self, digest: bytes) -> Path:
        """Where a whole blob lies, or would."""
        return self._blobs / digest.hex()

    def blob(self, digest: bytes) -> bytes:
        """A whole blob, its digest checked. Raises Refused BLOB_DIGEST_MISMATCH, also when it is not there."""
        try:
            content = self.blob_path(digest).read_bytes()
        except OSError as error:
            raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"blob {digest.hex()}: {error.strerror}") from error
        if cbor.sha256(content) != digest:
            raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"blob {digest.hex()} is damaged on disk")
        return content

    def begin_blob(self, index: ChunkIndex) -> set[int]:
        """Makes room for a blob; returns the numbers of the chunks that are missing. None are when it is whole already.

        Raises Refused DISK_FULL.
        """
        with contextlib.suppress(Refused):
            self.blob(index.digest)
            return set()
        part = self._part(index)
        present = part.stat().st_size if part.exists() else 0
        free = shutil.disk_usage(self._blobs).free
        if free - (index.size - present) < self._free_bytes:
            raise Refused(
                Reason.DISK_FULL, f"{free} bytes are free, {index.size - present} and a reserve of {self._free_bytes} needed"
            )
        missing = set()
        with _disk_full(), part.open("ab+") as file:
            file.truncate(index.size)
            file.seek(0)
            for number in range(len(index.digests)):
                try:
                    index.check(number, file.read(index.chunk_size(number)))
                except Refused:
                    missing.add(number)
        return missing

    def add_chunk(self, index: ChunkIndex, number: int, chunk: bytes) -> None:
        """Writes a chunk that was checked. Not durable yet: a chunk that is lost is fetched again. Raises Refused DISK_FULL."""
        with _disk_full():
            descriptor = os.open(self._part(index), os.O_WRONLY)
            try:
                os.pwrite(descriptor, chunk, number * index.chunk_bytes)
            finally:
                os.close(descriptor)

    def finish_blob(self, index: ChunkIndex) -> None:
        """Checks the whole and makes it durable. Raises Refused BLOB_DIGEST_MISMATCH, DISK_FULL."""
        part = self._part(index)
        if not part.exists():
            self.blob(index.digest)
            return
        with _disk_full():
            content = part.read_bytes()
            if cbor.sha256(content) != index.digest:
                part.unlink()
                raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"the chunks of {index.digest.hex()} do not make the blob")
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.rename(self.blob_path(index.digest))
            self._sync_folder()

    def add_blob(self, content: bytes) -> None:
        """Keeps a blob that arrived whole, from a file. Raises Refused DISK_FULL."""
        path = self.blob_path(cbor.sha256(content))
        if path.exists() and path.read_bytes() == content:
            return
        with _disk_full():
            temporary = path.with_suffix(".part")
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            self._sync_folder()

    def collect(self, keep_manifests: set[bytes], keep_blobs: set[bytes]) -> None:
        """Deletes envelopes, blobs, keys and states that nothing names any more."""
        names = {digest.hex() for digest in keep_blobs}
        for path in self._blobs.iterdir():
            if path.stem not in names:
                path.unlink()
        with self._transaction():
            for table, column in (("envelopes", "digest"), ("keyvalue", "manifest"), ("states", "manifest")):
                for (digest,) in self._database.execute(f"select distinct {column} from {table}").fetchall():
                    if digest and digest not in keep_manifests:
                        self._database.execute(f"delete from {table} where {column} = ?", (digest,))

    # -- modules

    def keys(self, version: Version) -> dict[str, bytes]:
        """What a version of a module keeps."""
        return dict(self._database.execute("select key, value from keyvalue where (module, manifest) = (?, ?)", version))

    def state(self, version: Version) -> bytes:
        """The last saved state of a version of a module, empty before that."""
        row = self._database.execute("select state from states where (module, manifest) = (?, ?)", version).fetchone()
        return row[0] if row else b""

    def save_state(self, version: Version, state: bytes) -> None:
        """Keeps the state of a version of a module."""
        with self._transaction():
            self._save_state(version, state)

    def begin_trial(self, new: Version, old: Version | None, state: bytes | None) -> None:
        """Gives a version that is about to run on trial the keys and the state of the one before it, of the same module.

        `state`: what the old one has just saved, None if it could not: then its last one is taken. What the new one kept in an
        earlier trial is gone. The old one's own rows stay as they are now, for the way back.
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

    def forget(self, version: Version) -> None:
        """Deletes keys and state of a version that is not to run again."""
        with self._transaction():
            self._forget(version)

    def adopt_unversioned(self, version: Version) -> None:
        """Gives a version what its module kept under schema 1, if no version has that yet."""
        found = "select 1 from {} where (module, manifest) = (:module, x'')"
        query = f"{found.format('keyvalue')} union {found.format('states')}"
        if self._database.execute(query, {"module": version.module}).fetchone() is None:
            return
        with self._transaction():
            schema.adopt(self._database, version.module, version.manifest)

    def add_outcomes(self, outcomes: list[tuple[Version, list[KeyWrite], list[Message]]], limit: int) -> tuple[int, int]:
        """What handled events asked for, by version: key writes and messages, in one transaction.

        Returns the number of the last message, and how many of the oldest were dropped to stay within `limit` messages.
        """
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
            last = self._database.execute("select coalesce(max(number), 0) from outbox").fetchone()[0]
            dropped = self._database.execute("delete from outbox where number <= ?", (last - limit,)).rowcount
        return int(last), int(dropped)

    def outbox(self, after: int, count: int) -> list[Message]:
        """Messages not delivered yet with numbers above `after`, oldest first."""
        rows = self._database.execute(
            "select number, time_s, module, topic, payload from outbox where number > ? order by number limit ?", (after, count)
        )
        return [Message(*row) for row in rows]

    def delivered(self, number: int) -> None:
        """Forgets messages up to a number."""
        with self._transaction():
            self._database.execute("delete from outbox where number <= ?", (number,))

    def outbox_size(self) -> int:
        """How many messages wait."""
        return int(self._database.execute("select count(*) from outbox").fetchone()[0])

    # -- inside

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
        with _disk_full():
            self._database.execute("begin immediate")
            try:
                yield
                self._database.execute("commit")
            except BaseException:
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
            update.detail,
            update.events,
        )
        last = self._database.execute("select chain, id from journal order by id desc limit 1").fetchone()
        before, number = last or (b"", 0)
        marks = ", ".join("?" * len(row))
        self._database.execute(
            f"insert into journal ({schema.JOURNAL}, chain) values ({marks}, ?)", (*row, schema.chain(before, row))
        )
        self._database.execute("delete from journal where id <= ?", (number - JOURNAL_ROWS,))

    def _part(self, index: ChunkIndex) -> Path:
        return self._blobs / f"{index.digest.hex()}.part"

    def _sync_folder(self) -> None:
        descriptor = os.open(self._blobs, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _disk_full() -> Iterator[None]:
    """Turns a full disk into Refused DISK_FULL."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Refused(Reason.DISK_FULL, f"the disk is full: {error.strerror}") from error
        raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise Refused(Reason.DISK_FULL, "the disk is full: the database can't grow") from error
        raise
