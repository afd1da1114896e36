"""Storage that is damaged or can't be written: what is kept, what is told, and that the agent never stops for it."""

import os
import shutil
import sqlite3
import subprocess

import pytest

from device_agent.channel.frames import KeyWrite
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.storage import anchor, database, floors, recovery
from device_agent.storage.disk import DAMAGED, FAILING, LOST, READ_ONLY, REBUILT
from device_agent.storage.store import Bounds, BusMessage, Commit, Outcome, Slot, Store, Version
from ota.formats import cbor
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Message

ENVELOPE = b"envelope of the confirmed module"
INSTANCE = "i"
SLOT = Slot(INSTANCE, "confirmed", "m", sha256(ENVELOPE), b"", 7, 3)
NEWER = Slot(INSTANCE, "confirmed", "m", sha256(b"newer"), b"", 8, 3)
MODULE = Version(INSTANCE, "m", SLOT.envelope)
CONFIRMED = Update(Phase.CONFIRMED, b"d" * 16, SLOT.envelope)
KEYS = frozenset((b"key",))
TABLES = database._TABLES
INDEX = ChunkIndex.of(b"x" * 5000, 1024)


def fill(folder) -> Store:
    """A store with something in each table."""
    store = Store(folder)
    store.add_envelope(ENVELOPE)
    store.add_root(2, b"second root")
    store.commit_all([Commit(INSTANCE, CONFIRMED, SLOT, KEYS)], 1)
    store.lift_floor("deployment.lab", KEYS, 40, b"x" * 32)
    store.save_state(MODULE, b"state" * 100)
    messages = [Message(0, 1.0, INSTANCE, "m", "t", bytes(2000)) for _ in range(10)]
    store.add_outcomes([Outcome(MODULE, [KeyWrite(f"k{number}", b"v" * 900) for number in range(9)], messages)], Bounds(100))
    store.keep_document("desired", b"0")
    store.add_outcomes([Outcome(MODULE, bus=[BusMessage(0, 1.0, INSTANCE, "other", "local/x", bytes(900), 0)])], Bounds())
    return store


@pytest.fixture
def folder(tmp_path):
    """A folder with a store that was closed."""
    fill(tmp_path / "store").close()
    return tmp_path / "store"


def codes(store) -> set[str]:
    return {each.split(":")[0] for each in store.problems.texts}


def holds_what_matters(store) -> None:
    """Floors, slots with their manifests, and roots are there."""
    assert store.slots(INSTANCE)["confirmed"] == SLOT
    assert store.envelope(SLOT.envelope) == ENVELOPE
    assert [store.floor(each, KEYS).value for each in ("sequence.m", "epoch.m", "deployment.lab")] == [7, 3, 40]
    assert store.roots() == {2: b"second root"}


def works(store) -> None:
    """New things can be written, and are there after a restart."""
    store.write_journal(INSTANCE, Update(Phase.OFFERED, b"e" * 16, b"n" * 32), 9)
    store.save_state(MODULE, b"new")


def damaged_at(path, *offsets) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(os.urandom(4096))


def pages_of(path, table) -> list[int]:
    with sqlite3.connect(path) as connection:
        (root,) = connection.execute("select rootpage from sqlite_schema where type = 'table' and name = ?", (table,)).fetchone()
    connection.close()
    return [(root - 1) * 4096]


def test_a_header_of_garbage(folder):
    damaged_at(folder / "agent.sqlite", 0)
    store = Store(folder)
    holds_what_matters(store)
    assert codes(store) == {REBUILT}
    works(store)
    store.close()
    store = Store(folder)
    holds_what_matters(store)
    assert store.state(MODULE) == b"new"
    assert codes(store) == {REBUILT}, "as long as the damaged one is there"
    store.close()


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_page_in_a_table(folder, table):
    """Found at the start; what stands in other tables is all there."""
    damaged_at(folder / "agent.sqlite", *pages_of(folder / "agent.sqlite", table))
    store = Store(folder)
    holds_what_matters(store)
    assert codes(store) == {REBUILT}
    if table not in ("keyvalue", "states", "outbox"):
        assert len(store.keys(MODULE)) == 9
        assert store.state(MODULE) == b"state" * 100
        assert len(store.outbox(0, 100)) == 10
    works(store)
    store.close()


@pytest.mark.parametrize("table", TABLES)
def test_a_page_that_is_damaged_while_the_agent_runs(tmp_path, table):
    """Found when it is read or written; the call that finds it answers from what was rebuilt."""
    store = fill(tmp_path / "store")
    store._database.execute("pragma wal_checkpoint(truncate)")
    path = tmp_path / "store" / "agent.sqlite"
    offsets = [
        (root - 1) * 4096
        for (root,) in store._database.execute("select rootpage from sqlite_schema where tbl_name = ?", (table,)).fetchall()
    ]
    damaged_at(path, *offsets)
    store.home.connection.close()
    store.home.connection = database.connect(path)  # which has nothing of the disk in memory
    holds_what_matters(store)
    store.keys(MODULE), store.state(MODULE), store.outbox(0, 10), store.last_update(INSTANCE)
    works(store)
    store.add_outcomes([Outcome(MODULE, [], [Message(0, 1.0, INSTANCE, "m", "t", b"1")])], Bounds(100))
    store.close()


def test_a_file_that_is_cut(folder):
    path = folder / "agent.sqlite"
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    store = Store(folder)
    holds_what_matters(store)
    works(store)
    store.close()


@pytest.mark.parametrize("how", ["emptied", "deleted", "a folder"])
def test_a_file_that_is_gone(folder, how):
    path = folder / "agent.sqlite"
    path.unlink()
    if how == "emptied":
        path.touch()
    elif how == "a folder":
        path.mkdir()
    store = Store(folder)
    holds_what_matters(store)
    assert REBUILT in codes(store)
    works(store)
    store.close()


def without_its_log(folder, made) -> None:
    """A store in `made` that knows a newer module than its database on the disk, as after a power cut that took the log."""
    store = fill(folder)
    store._database.execute("pragma wal_checkpoint(truncate)")
    store.add_envelope(b"newer")
    store.commit_all([Commit(INSTANCE, Update(Phase.CONFIRMED, b"e" * 16, NEWER.envelope), NEWER, KEYS)], 2)
    shutil.copytree(folder, made)
    store.close()
    (made / "agent.sqlite-wal").unlink()


def knows_the_newer_one(store) -> None:
    assert store.floor("sequence.m", KEYS).value == 8
    assert store.slots(INSTANCE)["confirmed"] == NEWER
    assert store.envelope(NEWER.envelope) == b"newer"


def test_a_log_that_is_gone_takes_no_floor_and_no_slot_back(tmp_path):
    without_its_log(tmp_path / "store", tmp_path / "copy")
    store = Store(tmp_path / "copy")
    knows_the_newer_one(store)
    store.close()


def test_floors_that_are_lost_are_told_until_the_next_module_is_confirmed(folder):
    damaged_at(folder / "agent.sqlite", 0)
    (folder / anchor.NAME).write_bytes(b"damaged too")
    for _ in range(2):
        store = Store(folder)
        assert {LOST, REBUILT} == codes(store)
        store.close()
    store = Store(folder)
    store.commit_all([Commit(INSTANCE, CONFIRMED, SLOT, KEYS)], 1)
    assert codes(store) == {REBUILT}
    store.close()
    store = Store(folder)
    assert codes(store) == {REBUILT}
    store.close()


def test_a_damaged_anchor_alone_is_written_anew(folder):
    (folder / anchor.NAME).write_bytes(b"damaged")
    store = Store(folder)
    holds_what_matters(store)
    assert codes(store) == set()
    store.close()
    assert anchor.read(folder).slots == ((INSTANCE, "confirmed", "m", SLOT.envelope, b"", 7, 3),)


@pytest.mark.parametrize(
    "content",
    [
        [2, [0], [], [], []],
        [2, [[1, "text"]], [], [], []],
        [2, [[1 << 63, b""]], [], [], []],
        [2, [], [["sequence", b"", True, b""]], [], []],
        [2, [], [], [["a", "confirmed", "m", b"", b"", 1]], []],
        [2, [], [], [], ["text"]],
        [1, [], [], [["confirmed", b"", 1]], []],
        [1, [], [[]], [], []],
    ],
)
def test_an_anchor_whose_digest_is_right_and_whose_rows_are_not_is_as_a_damaged_one(folder, content):
    encoded = cbor.encode(content)
    (folder / anchor.NAME).write_bytes(cbor.encode([encoded, cbor.sha256(encoded)]))
    assert anchor.read(folder) is None
    store = Store(folder)
    holds_what_matters(store)
    store.close()


def test_a_power_cut_while_the_last_instance_is_removed_does_not_bring_it_back(folder, monkeypatch):
    store = Store(folder)
    write, calls = anchor.write, []

    def once(*arguments):  # the power goes before it is written a second time
        calls.append(arguments)
        if len(calls) == 1:
            write(*arguments)

    monkeypatch.setattr(anchor, "write", once)
    store.commit_all([Commit(INSTANCE, Update(Phase.CONFIRMED, b"gone" * 4))], 2)
    monkeypatch.undo()
    store.close()
    store = Store(folder)
    assert store.slots(INSTANCE) == {}
    assert store.floor("sequence.m", KEYS).value == 7
    store.close()


def test_two_damaged_databases_are_kept_at_most(folder, monkeypatch):
    for second in range(4):
        monkeypatch.setattr(recovery.time, "time", lambda second=second: 1000.0 + second)
        damaged_at(folder / "agent.sqlite", 0)
        Store(folder).close()
    kept = sorted(each.name for each in folder.glob("agent.sqlite.damaged-*"))
    assert kept == ["agent.sqlite.damaged-1002", "agent.sqlite.damaged-1003"]


def test_message_numbers_are_not_used_again_after_damage(folder):
    damaged_at(folder / "agent.sqlite", 0)
    store = Store(folder)
    last, *_ = store.add_outcomes([Outcome(MODULE, [], [Message(0, 1.0, INSTANCE, "m", "t", b"1")])], Bounds(100))
    assert last > 10
    store.close()


@pytest.mark.parametrize("step", ["new", "next"])
def test_a_power_cut_while_a_database_is_put_in_place(folder, step):
    whole = (folder / "agent.sqlite").read_bytes()
    (folder / f"agent.sqlite.{step}").write_bytes(whole if step == "next" else whole[:5000])
    damaged_at(folder / "agent.sqlite", 0)
    store = Store(folder)
    holds_what_matters(store)
    works(store)
    store.close()
    assert not (folder / "agent.sqlite.next").exists()


def test_a_database_of_schema_1_that_is_damaged_is_salvaged(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    with sqlite3.connect(folder / "agent.sqlite") as connection:
        connection.executescript("""create table numbers (name text primary key, value integer not null) strict;
            create table keyvalue (module text, key text, value blob not null, primary key (module, key)) strict;
            insert into numbers values ('sequence', 5); insert into keyvalue values ('m', 'k', x'01');
            pragma user_version = 1""")
    connection.close()
    store = Store(folder)
    assert store.module_floor(floors.SEQUENCE, "m", {b""}).value == 5
    module = Version("m", "m", SLOT.envelope)
    store.adopt_unversioned(module)
    assert store.keys(module) == {"k": b"\1"}
    store.close()


class Failing:
    """A connection whose disk fails: the same interface, and an error of SQLite's for what writes."""

    def __init__(self, connection, code):
        self._connection, self._code = connection, code

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, statement, *values):
        if statement.startswith("begin"):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self._code
            raise error
        return self._connection.execute(statement, *values)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN])
def test_a_disk_that_fails_while_the_agent_runs(tmp_path, code):
    now = [0.0]
    store = fill(tmp_path / "store")
    store.home._clock = lambda: now[0]
    store.home.connection = Failing(store.home.connection, code)
    store.save_state(MODULE, b"in memory")
    assert codes(store) == {FAILING}
    holds_what_matters(store)
    assert store.state(MODULE) == b"in memory"
    assert len(store.keys(MODULE)) == 9
    for refused in (
        lambda: store.write_journal(INSTANCE, Update(Phase.OFFERED, b"e" * 16, b"n" * 32), 9),
        lambda: store.commit_all([Commit(INSTANCE, CONFIRMED, SLOT, KEYS)], 1),
        lambda: store.begin_blob(INDEX),
    ):
        with pytest.raises(Refused) as caught:
            refused()
        assert caught.value.reason is Reason.STORAGE_UNWRITABLE
    store.write_journal(INSTANCE, Update(Phase.FAILED, b"e" * 16, b"n" * 32), 9)
    now[0] = recovery.RETRY_S
    store.write_journal(INSTANCE, Update(Phase.OFFERED, b"e" * 16, b"n" * 32), 9)
    assert codes(store) == set()
    store.close()
    store = Store(tmp_path / "store")
    assert store.state(MODULE) == b"in memory"
    assert store.last_update(INSTANCE).phase is Phase.OFFERED
    store.close()


def test_a_folder_that_can_not_be_made_is_replaced_by_memory(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file" / "store")
    assert codes(store) == {FAILING}
    store.save_state(MODULE, b"x")
    assert store.state(MODULE) == b"x"
    with pytest.raises(Refused):
        store.begin_blob(INDEX)
    store.close()


@pytest.fixture
def disk(tmp_path):
    """A small file system that can be mounted again with other options: its folder, and a function that does so."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    yield place, remount
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("clean", [True, False])
def test_a_disk_that_is_read_only_at_the_start(disk, clean):
    """Also after a power cut: the log that was left is read, too."""
    place, remount = disk
    store = fill(place / "store")
    if clean:
        store.close()
    else:
        shutil.copytree(place / "store", place / "cut")
        store.close()
        shutil.rmtree(place / "store")
        (place / "cut").rename(place / "store")
    remount("ro")
    store = Store(place / "store")
    store.save_state(MODULE, b"in memory")
    assert codes(store) == {READ_ONLY}
    holds_what_matters(store)
    assert len(store.outbox(0, 100)) == 10
    with pytest.raises(Refused) as caught:
        store.begin_blob(INDEX)
    assert caught.value.reason is Reason.STORAGE_UNWRITABLE
    remount("rw")
    store.close()
    store = Store(place / "store")
    assert store.state(MODULE) == b"in memory"
    assert codes(store) == set()
    store.close()


def test_the_log_of_the_database_does_not_fill_a_small_disk(disk):
    place, remount = disk
    remount("size=400k")
    store = fill(place / "store")
    for number in range(300):
        store.save_state(MODULE, bytes([number % 256]) * 3000)
    assert (place / "store" / "agent.sqlite-wal").stat().st_size < 150_000
    store.close()


def fill_up(place) -> None:
    with (place / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(4096))


def test_a_disk_that_is_full_at_the_start(disk):
    place, _ = disk
    fill(place / "store").close()
    fill_up(place)
    store = Store(place / "store")
    holds_what_matters(store)
    (place / "filler").unlink()
    store.close()


def test_a_log_that_is_gone_on_a_full_disk(disk):
    place, _ = disk
    without_its_log(place / "store", place / "copy")
    fill_up(place)
    store = Store(place / "copy")
    knows_the_newer_one(store)
    (place / "filler").unlink()
    store.close()
    store = Store(place / "copy")
    knows_the_newer_one(store)
    store.close()


def test_putting_aside_needs_no_room_that_is_not_there(disk):
    """The damaged database is given up before the new one is."""
    place, remount = disk
    store = fill(place / "store")
    for number in range(20):
        store.add_outcomes([Outcome(MODULE, [KeyWrite(f"large{number}", bytes(30_000))], [])], Bounds(100))
    store.close()
    damaged_at(place / "store" / "agent.sqlite", *pages_of(place / "store" / "agent.sqlite", "journal"))
    remount("size=1200k")
    store = Store(place / "store")
    holds_what_matters(store)
    works(store)
    store.close()


def test_everything_at_once_leaves_a_store_in_memory(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    fill(tmp_path / "store").close()
    damaged_at(tmp_path / "store" / "agent.sqlite", 0)
    monkeypatch.setattr(database, "replace", broken)
    store = Store(tmp_path / "store")
    assert codes(store) == {DAMAGED}
    holds_what_matters(store)
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        "journal set phase = 'confirmee'",
        "journal set reason = 'no-such-reason'",
        "journal set detail = cast(x'61ff' as text)",
        "slots set name = cast(x'ff' as text) where name = 'previous'",
        "outbox set topic = cast(x'61ff' as text)",
        "keyvalue set key = cast(x'61ff' as text) where key = 'k1'",
        "documents set name = cast(x'ff' as text)",
        "floors set name = cast(x'ff' as text) where name = 'deployment.lab'",
        "envelopes set envelope = x'00'",
    ],
)
def test_a_changed_byte_that_the_database_does_not_notice(folder, change):
    """SQLite has no checksums: what it reads may be no number, name or text that was ever written."""
    with sqlite3.connect(folder / "agent.sqlite") as connection:
        connection.execute(f"update {change}")
    connection.close()
    store = Store(folder)
    update = store.last_update(INSTANCE)
    assert update.confirmed == SLOT.envelope
    assert update.phase in (Phase.CONFIRMED, Phase.IDLE)
    assert store.slots(INSTANCE)["confirmed"] == SLOT
    assert store.envelope(SLOT.envelope) in (ENVELOPE, None)
    assert len(store.outbox(0, 100)) == 10
    assert len(store.keys(MODULE)) == 9
    assert [store.floor(each, KEYS).value for each in ("sequence.m", "epoch.m")] == [7, 3]
    works(store)
    store.close()
    store = Store(folder)
    assert store.last_update(INSTANCE).phase is Phase.OFFERED
    store.close()
