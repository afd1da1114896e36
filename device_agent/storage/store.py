"""What survives: SQLite (WAL, synchronous=FULL) for everything small, files named by their digest for blobs.

Every method may wait for the disk; the agent calls them on its one writer thread. A file is written under a temporary name,
fsynced, renamed, and its folder fsynced. The journal is hash-chained: each row's `chain` covers the row and the chain of the row
before it that is of the same instance.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_agent.instance.states import ENDED, Phase
from device_agent.instance.updates import Update
from device_agent.storage import floors, schema
from device_agent.storage.disk import errors_as_reasons, logger
from device_agent.storage.documents import Documents
from device_agent.storage.messages import Added, Bounds, BusMessage, Outcome, Version
from device_agent.storage.recovery import NAME as DATABASE
from device_agent.storage.tables import StoreError, recovers
from ota.formats import cbor, journal
from ota.formats.deployment import checked_config
from ota.formats.manifest import AnyVerified
from ota.formats.module import CONFIG_LIMIT_BYTES
from ota.formats.reasons import Reason, Refused
from ota.formats.report import JournalHead

__all__ = ["DATABASE", "Added", "Bounds", "BusMessage", "Commit", "Outcome", "Slot", "Store", "StoreError", "Version"]

JOURNAL_ROWS, JOURNAL_INSTANCES = journal.ROWS_KEPT, journal.INSTANCES_KEPT
DETAIL_CHARACTERS = 1_000
_SLOT = "instance, name, module, envelope, config, sequence, epoch, failures, failed_s"


@dataclass(frozen=True)
class Slot:
    """A module that an instance may run: its "confirmed" or its "previous" one."""

    instance: str
    name: str
    module: str  # its name
    envelope: bytes  # digest
    config: bytes  # that the deployment gave it, encoded; empty for none
    sequence: int
    epoch: int
    failures: int = 0
    failed_s: int = 0  # when it failed last, seconds since 1970

    @classmethod
    def confirmed(cls, instance: str, verified: AnyVerified, config: Mapping[str, str]) -> "Slot":
        """The slot of a module that is to be confirmed, with the configuration of its deployment."""
        manifest = verified.manifest
        named = instance, "confirmed", manifest.kept_as
        return cls(*named, verified.envelope_digest, encode_config(config), manifest.sequence, manifest.security_epoch)

    @property
    def release(self) -> bytes:
        """What identifies manifest and configuration (`ota.formats.deployment.release_id`)."""
        return cbor.sha256(self.envelope + self.config) if self.config else self.envelope

    @property
    def settings(self) -> dict[str, str]:
        """The configuration that the deployment gave it. Raises Refused MALFORMED for what a fault of the disk has changed."""
        return decode_config(self.config, f"the configuration of the {self.name} module")


@dataclass(frozen=True)
class Commit:
    """What becomes final: an update that confirms the module of a slot, or one that removes an instance, without a slot."""

    instance: str
    update: Update
    slot: Slot | None = None
    signers: Collection[bytes] = ()  # the keys that signed its manifest


def encode_config(config: Mapping[str, str]) -> bytes:
    """For a column; empty for no configuration."""
    return cbor.encode(dict(config)) if config else b""


def decode_config(stored: bytes, what: str) -> dict[str, str]:
    """Raises Refused MALFORMED, TOO_LARGE."""
    return checked_config(cbor.decode(stored, what, CONFIG_LIMIT_BYTES), what) if stored else {}


_COUNT_SYNCS = """insert into meta (key, value) values ('syncs', 1)
    on conflict (key) do update set value = value + 1"""  # SQLite syncs a transaction that changes something, and no other
READY_KEPT = 256
"""Of that many updates the board remembers since when they are ready."""
_READY = "ready:"  # in the table meta: when an update was ready, by instance and manifest
_KEPT = {"keyvalue": "key, value", "states": "state"}  # what versions of modules keep: tables, and their columns beside the version
_ASIDE = b"aside:"  # before the release, in both: what a version had before it went on trial


class Store(Documents):
    """Journal, slots, manifests and what modules keep; with what `Documents`, `Messages` and `Blobs` have.

    `journal_head`: of the journal as it is on the disk; may be read on any thread.
    """

    def __init__(self, folder: Path, free_bytes: int = 0) -> None:
        super().__init__(folder, free_bytes)
        self.journal_head = JournalHead()
        self._note_head()

    # -- journal and slots

    @recovers
    def instances(self) -> tuple[str, ...]:
        """The instances that have a slot, or whose update has not ended; sorted."""
        ended = ", ".join(f"'{phase.value}'" for phase in ENDED)
        last = "select max(id) from journal group by instance"
        query = f"select instance from slots union select instance from journal where id in ({last}) and phase not in ({ended})"
        return tuple(sorted(name for (name,) in self._database.execute(query)))

    @recovers
    def last_updates(self) -> dict[str, Update]:
        """The update at the end of each instance's journal, of those that are gone too."""
        names = [name for (name,) in self._database.execute("select distinct instance from journal").fetchall()]
        return {name: self.last_update(name) for name in names}

    @recovers
    def last_update(self, instance: str) -> Update:
        """The update at the end of an instance's journal; none where that is damaged: what the operator wants is offered again."""
        query = f"select {schema.UPDATE} from journal where instance = ? order by id desc limit 1"
        row = self._database.execute(query, (instance,)).fetchone()
        confirmed = self._confirmed(instance)
        if row is None:
            return Update(confirmed=confirmed)
        phase, deployment, manifest, config, together, resumptions, reason, detail, events = row
        try:
            return Update(
                Phase(phase),
                deployment,
                manifest,
                resumptions,
                Reason(reason) if reason else None,
                detail,
                events,
                decode_config(config, "configuration"),
                tuple(together.split(",")) if together else (),
                confirmed=confirmed,
            )
        except (ValueError, Refused) as error:
            logger.error("the last row of the journal of %s is damaged: %s", instance, error)
            return Update(confirmed=confirmed)

    @recovers
    def write_journal(self, instance: str, update: Update, time_s: int, synced: bool = True) -> None:
        """Appends an update. One that is not `synced` is there after a power cut if anything is that was written later.

        Raises Refused DISK_FULL, and STORAGE_UNWRITABLE for one that could not be kept.
        """
        if not update.ended:
            self._check_writable()
        with self._transaction(synced=synced):
            self._append(instance, update, time_s)
        if synced:
            self._note_head()

    @recovers
    def commit_all(self, commits: Sequence[Commit], time_s: int) -> None:
        """In one transaction: makes each slot its instance's confirmed one, the confirmed one the previous, raises what must not go
        back, deletes what removed instances had, and writes the journals.

        Raises Refused DISK_FULL, STORAGE_UNWRITABLE.
        """
        self._check_writable()
        with self._transaction():
            for each in commits:
                if each.slot is None:
                    self._remove(each.instance)
                else:
                    self._confirm(each.slot, each.signers)
                self._append(each.instance, each.update, time_s)
            if all(each.slot is None for each in commits):
                self.home.write_anchor()  # before: a database without slots is taken for one that has lost them
        self.home.write_anchor()
        self._note_head()

    @recovers
    def sync(self) -> None:
        """All that was written outlives a power cut, and is in the anchor: before anybody is told of it.

        Raises Refused DISK_FULL, STORAGE_UNWRITABLE.
        """
        if self._unsynced:
            with self._transaction():
                self._database.execute(_COUNT_SYNCS)
            self._unsynced = False
            self._note_head()
        self.home.write_anchor()

    @recovers
    def slots(self, instance: str) -> dict[str, Slot]:
        """The confirmed and the previous module of an instance."""
        return self._slots(instance)

    @recovers
    def holds(self, envelope: bytes) -> bool:
        """Whether some instance has a module with this manifest as its confirmed one."""
        query = "select 1 from slots where name = 'confirmed' and envelope = ?"
        return self._database.execute(query, (envelope,)).fetchone() is not None

    @recovers
    def set_failures(self, instance: str, name: str, failures: int, time_s: int = 0) -> None:
        """How often the module of a slot has failed since it last proved itself, and when it did last."""
        with self._transaction():
            query = "update slots set failures = ?, failed_s = ? where (instance, name) = (?, ?)"
            self._database.execute(query, (failures, time_s, instance, name))

    @recovers
    def ready_since(self, instance: str, what: bytes, now_s: int) -> int:
        """When an update of an instance was ready, in seconds since 1970: now, where that is not known or lies in the future."""
        mark = f"{_READY}{instance}:{what.hex()}"
        row = self._database.execute("select value from meta where key = ?", (mark,)).fetchone()
        if row is not None and row[0] <= now_s:
            return int(row[0])
        with self._transaction():
            self._forget_ready(instance)
            self._database.execute("insert into meta (key, value) values (?, ?)", (mark, now_s))
            marks = f"from meta where substr(key, 1, {len(_READY)}) = '{_READY}'"
            newest = f"select key {marks} order by value desc limit {READY_KEPT}"
            self._database.execute(f"delete {marks} and key not in ({newest})")
        return now_s

    def journal_is_whole(self) -> bool:
        """Whether every row's hash fits the row and the one before it of the same instance."""
        names = [name for (name,) in self._database.execute("select distinct instance from journal")]
        query = f"select {schema.JOURNAL}, chain from journal where instance = ? order by id"
        return all(schema.is_chained(self._database.execute(query, (name,)).fetchall()) for name in names)

    # -- envelopes and blobs

    @recovers
    def envelope(self, digest: bytes) -> bytes | None:
        """A kept envelope; None for one that is damaged, too, so that it is fetched again."""
        row = self._database.execute("select envelope from envelopes where digest = ?", (digest,)).fetchone()
        return row[0] if row and cbor.sha256(row[0]) == digest else None

    @recovers
    def add_envelope(self, envelope: bytes) -> None:
        """Keeps an envelope under its digest; a power cut may take it until the journal says more."""
        with self._transaction(synced=False):
            query = "insert or replace into envelopes (digest, envelope) values (?, ?)"
            self._database.execute(query, (cbor.sha256(envelope), envelope))

    @recovers
    def collect(self, manifests: Collection[bytes], releases: Collection[tuple[str, bytes]], blobs: Collection[bytes]) -> None:
        """Deletes all envelopes and blobs but these, and keys and states of other releases (by instance).

        The journal that no longer needs them is on the disk before; a disk that takes no row is made free all the same.
        """
        names = {digest.hex() for digest in blobs}
        with contextlib.suppress(Refused):
            self.sync()
        with errors_as_reasons(self.problems):
            for path in self._blobs.iterdir():
                if path.stem not in names:
                    path.unlink()
        with self._transaction():
            for (digest,) in self._database.execute("select digest from envelopes").fetchall():
                if digest not in manifests:
                    self._database.execute("delete from envelopes where digest = ?", (digest,))
            for table in _KEPT:
                for instance, release in self._database.execute(f"select distinct instance, release from {table}").fetchall():
                    if release and (instance, release.removeprefix(_ASIDE)) not in releases:
                        self._database.execute(f"delete from {table} where (instance, release) = (?, ?)", (instance, release))

    # -- modules

    @recovers
    def keys(self, version: Version) -> dict[str, bytes]:
        """What a version of a module keeps."""
        query = "select key, value from keyvalue where (instance, module, release) = (?, ?, ?)"
        return dict(self._database.execute(query, version))

    @recovers
    def state(self, version: Version) -> bytes:
        """The last saved state of a version of a module, empty before that."""
        query = "select state from states where (instance, module, release) = (?, ?, ?)"
        row = self._database.execute(query, version).fetchone()
        return row[0] if row else b""

    @recovers
    def save_state(self, version: Version, state: bytes) -> None:
        """Keeps the state of a version of a module."""
        with self._transaction():
            self._save_state(version, state)

    @recovers
    def begin_trial(self, new: Version, old: Version | None, state: bytes | None) -> None:
        """Gives a version that is about to run on trial the keys and the state of the one before it, of the same module.

        `state`: what the old one has just saved, None if it could not: then its last one is taken. What the new one has, as one
        that ran before or runs now, is set aside until its trial ends. The old one's own rows stay as they are now, for a rollback.
        A power cut may take this until the journal or an outcome says more: then the trial has not begun.
        """
        with self._transaction(synced=False):
            if old is not None and state is not None:
                self._save_state(old, state)
            if not self._is_aside(new):  # else a power cut ended its trial before
                self._copy_kept(new, _aside(new))
                mark = "insert or ignore into states (instance, module, release, state) values (?, ?, ?, x'')"
                self._database.execute(mark, _aside(new))
            if new == old:
                return  # the release that runs once more: it goes on with its own
            self._forget(new)
            if old is not None and (old.instance, old.module) == (new.instance, new.module):
                self._copy_kept(old, new)

    @recovers
    def end_trial(self, version: Version) -> None:
        """Gives a version back what it had before a trial that was not confirmed; no effect where there was none."""
        if not self._is_aside(version):
            return
        with self._transaction():
            self._forget(version)
            self._copy_kept(_aside(version), version)
            self._database.execute("delete from states where (instance, module, release) = (?, ?, ?) and state = x''", version)
            self._forget(_aside(version))

    @recovers
    def adopt_unversioned(self, version: Version) -> None:
        """Gives a version what its module kept under schema 1, if no version has that yet."""
        found = "select 1 from {} where (instance, module, release) = (:instance, :module, x'')"
        query = f"{found.format('keyvalue')} union {found.format('states')}"
        if self._database.execute(query, {"instance": version.instance, "module": version.module}).fetchone() is None:
            return
        with self._transaction():
            schema.adopt(self._database, *version)

    # -- inside

    @recovers
    def _note_head(self) -> None:
        if self.home.in_memory:
            return  # a power cut takes it, and another row gets its number
        last = "select instance, id, chain from journal where id in (select max(id) from journal group by instance)"
        rows = self._database.execute(last).fetchall()
        number = max((number for _, number, _ in rows), default=0)
        self.journal_head = journal.head(number, {instance: found for instance, _, found in rows})

    def _slots(self, instance: str) -> dict[str, Slot]:
        rows = self._database.execute(f"select {_SLOT} from slots where instance = ?", (instance,))
        return {row[1]: Slot(*row) for row in rows}

    def _confirm(self, slot: Slot, signers: Collection[bytes]) -> None:
        if self._confirmed(slot.instance) != slot.release:  # else it is done already, by an attempt that ended with an error
            self._database.execute("delete from slots where (instance, name) = (?, 'previous')", (slot.instance,))
            query = "update slots set name = 'previous' where (instance, name) = (?, 'confirmed')"
            self._database.execute(query, (slot.instance,))
        self._database.execute(
            f"insert or replace into slots ({_SLOT}) values (?, 'confirmed', ?, ?, ?, ?, ?, 0, 0)",
            (slot.instance, slot.module, slot.envelope, slot.config, slot.sequence, slot.epoch),
        )
        for table in _KEPT:  # what it had before its trial
            query = f"delete from {table} where instance = ? and substr(release, 1, {len(_ASIDE)}) = ?"
            self._database.execute(query, (slot.instance, _ASIDE))
        floors.lift(self._database, floors.SEQUENCE + slot.module, signers, slot.sequence, slot.envelope)
        floors.lift(self._database, floors.EPOCH + slot.module, signers, slot.epoch)
        self.home.floors_are_known()

    def _remove(self, instance: str) -> None:
        for table in ("slots", "keyvalue", "states"):
            self._database.execute(f"delete from {table} where instance = ?", (instance,))
        self._database.execute("delete from bus where target = ?", (instance,))
        self._forget_ready(instance)
        self._bus_waiting = None

    def _forget_ready(self, instance: str) -> None:
        mark = f"{_READY}{instance}:"
        self._database.execute("delete from meta where substr(key, 1, ?) = ?", (len(mark), mark))

    def _confirmed(self, instance: str) -> bytes:
        """The release of the confirmed module; empty for none."""
        found = self._slots(instance).get("confirmed")
        return found.release if found is not None else b""

    def _save_state(self, version: Version, state: bytes) -> None:
        query = "insert or replace into states (instance, module, release, state) values (?, ?, ?, ?)"
        self._database.execute(query, (*version, state))

    def _forget(self, version: Version) -> None:
        for table in _KEPT:
            self._database.execute(f"delete from {table} where (instance, module, release) = (?, ?, ?)", version)

    def _is_aside(self, version: Version) -> bool:
        query = "select 1 from states where (instance, module, release) = (?, ?, ?)"
        return self._database.execute(query, _aside(version)).fetchone() is not None

    def _copy_kept(self, source: Version, target: Version) -> None:
        for table, columns in _KEPT.items():
            self._database.execute(
                f"insert into {table} (instance, module, release, {columns}) select instance, module, ?, {columns}"
                f" from {table} where (instance, module, release) = (?, ?, ?)",
                (target.release, *source),
            )

    def _append(self, instance: str, update: Update, time_s: int) -> None:
        if update.phase is Phase.CONFIRMED and update.release != (found := self._confirmed(instance)):
            raise StoreError(f"{instance}: the journal would confirm {update.release.hex()}, the slot holds {found.hex()}")
        row = (
            time_s,
            instance,
            update.phase.value,
            update.deployment,
            update.manifest,
            encode_config(update.config),
            ",".join(update.together),
            update.resumptions,
            update.reason.value if update.reason else "",
            update.detail[:DETAIL_CHARACTERS],
            update.events,
        )
        query = "select chain from journal where instance = ? order by id desc limit 1"
        last = self._database.execute(query, (instance,)).fetchone()
        marks = ", ".join("?" * len(row))
        values = (*row, journal.chain(last[0] if last else b"", row))
        self._database.execute(f"insert into journal ({schema.JOURNAL}, chain) values ({marks}, ?)", values)
        if last is None:  # with a new row only: each row number has one head
            gone = (
                "select instance from journal where instance not in (select instance from slots)"
                " group by instance order by max(id) desc limit -1 offset ?"
            )
            self._database.execute(f"delete from journal where instance in ({gone})", (JOURNAL_INSTANCES,))
        old = "select id from journal where instance = ? order by id desc limit 1 offset ?"
        self._database.execute(f"delete from journal where instance = ? and id <= ({old})", (instance, instance, JOURNAL_ROWS))


def _aside(version: Version) -> Version:
    return version._replace(release=_ASIDE + version.release)
