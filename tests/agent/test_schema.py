"""Databases of older agents, as they left them (dumps in tests/data), and one of a newer agent."""

import sqlite3
from pathlib import Path

import pytest

from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.storage import anchor, floors
from device_agent.storage.messages import BusMessage
from device_agent.storage.store import Bounds, Commit, Outcome, Slot, Store, StoreError, Version
from ota.formats import cbor
from ota.formats.reasons import Reason
from ota.formats.report import Message

DUMPS = Path(__file__).parents[1] / "data"
INSTANCE = "pump"  # the name of the module of the dumps


def opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    return sqlite3.connect(path, isolation_level=None)


@pytest.fixture(params=[1, 2])
def old(tmp_path, request):
    """A storage folder as the agent of a schema left it."""
    database = opened(tmp_path / "store" / "agent.sqlite")
    database.executescript((DUMPS / f"agent-schema-{request.param}.sql").read_text())
    database.close()
    return tmp_path / "store", request.param


def rows(folder, query):
    database = sqlite3.connect(folder / "agent.sqlite")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def test_what_an_older_agent_kept_goes_to_an_instance_named_after_its_module(old):
    folder, schema = old
    before = dict(rows(folder, "select name, envelope from slots"))
    (release_key,) = rows(folder, "select key from floors where name = 'sequence'")[0] if schema == 2 else (b"r",)
    (deploy_key,) = rows(folder, "select key from floors where name = 'deployment.lab'")[0] if schema == 2 else (b"d",)
    for _ in range(2):  # migrated once
        store = Store(folder)
        assert store.instances() == (INSTANCE,)
        slots = store.slots(INSTANCE)
        failed_s = 99 if schema == 2 else 0
        assert slots["confirmed"] == Slot(INSTANCE, "confirmed", "pump", before["confirmed"], b"", 2, 3)
        assert slots["previous"] == Slot(INSTANCE, "previous", "pump", before["previous"], b"", 1, 0, 2, failed_s)
        confirmed = Version(INSTANCE, "pump", before["confirmed"])
        assert (store.keys(confirmed), store.state(confirmed)) == ({"k": b"1"}, b"state")
        assert store.last_update(INSTANCE) == Update(
            Phase.FAILED, b"\3" * 16, b"\x09" * 32, 1, Reason.CHUNK_MISSING, "why", confirmed=before["confirmed"]
        )
        assert store.journal_is_whole()
        assert store.outbox(0, 10) == [Message(n, 1.0, INSTANCE, "pump 2.0.0", "t", bytes([n - 1])) for n in (2, 3)]
        store.settle_floors({release_key}, {deploy_key})
        assert store.floor("deployment.lab", {deploy_key}).value == 40
        assert store.problems.texts == ()
        store.close()


def test_floors_of_an_agent_that_knew_one_module_hold_for_every_module(old):
    folder, _ = old
    store = Store(folder)
    keys = {key for (key,) in store._database.execute("select key from floors")}
    for module in ("pump", "another"):
        assert store.module_floor(floors.SEQUENCE, module, keys).value == 2
        assert store.module_floor(floors.EPOCH, module, keys).value == 3
    store.close()


def test_message_numbers_of_an_older_agent_are_not_used_again(old):
    folder, _ = old
    store = Store(folder)
    store.add_outcomes([], Bounds(), {INSTANCE: 3})
    version = Version(INSTANCE, "pump", b"r")
    assert store.add_outcomes([Outcome(version, (), [Message(0, 1.0, INSTANCE, "m", "t", b"")])], Bounds()).last == 4
    store.close()


def test_an_older_agent_s_broken_journal_is_not_made_whole(old):
    folder, _ = old
    database = opened(folder / "agent.sqlite")
    database.execute("update journal set detail = 'changed' where id = 4")
    database.close()
    store = Store(folder)
    assert not store.journal_is_whole()
    store.close()


def test_a_damaged_database_of_an_older_agent_is_salvaged(old):
    folder, schema = old
    with sqlite3.connect(folder / "agent.sqlite") as database:
        (page,) = database.execute("select rootpage from sqlite_schema where name = 'roots'").fetchone()
        (size,) = database.execute("pragma page_size").fetchone()
    database.close()
    data = bytearray((folder / "agent.sqlite").read_bytes())
    data[(page - 1) * size : page * size] = b"\xff" * size
    (folder / "agent.sqlite").write_bytes(data)
    store = Store(folder)
    assert set(store.slots(INSTANCE)) == {"confirmed", "previous"}
    release = store.slots(INSTANCE)["confirmed"].envelope
    version = Version(INSTANCE, "pump", release)
    assert store.keys(version) == {"k": b"1"}
    assert [each.number for each in store.outbox(0, 10)] == [2, 3]
    if schema == 1:  # it does not know who raised them
        store.settle_floors({b"r"}, {b"d"})
    keys = {key for (key,) in store._database.execute("select key from floors")}
    assert store.module_floor(floors.SEQUENCE, "pump", keys).value == 2
    assert "storage-rebuilt" in store.problems
    store.close()


def test_what_was_kept_before_modules_had_versions_waits_for_the_factory_module(tmp_path):
    """Nobody but the configuration knows the factory module's manifest."""
    database = opened(tmp_path / "store" / "agent.sqlite")
    database.executescript((DUMPS / "agent-schema-1.sql").read_text())
    database.execute("insert into keyvalue values ('lamp', 'k', x'33')")
    database.execute("insert into states values ('lamp', x'36')")
    database.close()
    store = Store(tmp_path / "store")
    lamp = Version(INSTANCE, "lamp", b"f" * 32)
    store.adopt_unversioned(lamp)
    assert (store.keys(lamp), store.state(lamp)) == ({"k": b"3"}, b"6")
    store.close()


def test_an_older_agent_without_any_slot_gives_its_keys_to_their_module(tmp_path):
    database = opened(tmp_path / "store" / "agent.sqlite")
    database.executescript((DUMPS / "agent-schema-2.sql").read_text())
    database.execute("delete from slots")
    database.close()
    store = Store(tmp_path / "store")
    assert {each for (each,) in store._database.execute("select distinct instance from keyvalue")} == {"pump"}
    store.close()


def test_an_anchor_of_an_older_agent_is_read(tmp_path):
    database = opened(tmp_path / "store" / "agent.sqlite")
    database.executescript((DUMPS / "agent-schema-2.sql").read_text())
    content = [
        1,
        database.execute("select number, document from roots").fetchall(),
        database.execute("select name, key, value, digest from floors").fetchall(),
        database.execute("select name, envelope, sequence, epoch from slots").fetchall(),
        [each for (each,) in database.execute("select envelope from envelopes")],
    ]
    keys = {row[1] for row in content[2]}
    confirmed = {row[0]: row[1] for row in content[3]}["confirmed"]
    database.close()
    (tmp_path / "store" / "agent.sqlite").unlink()
    encoded = cbor.encode(content)
    (tmp_path / "store" / anchor.NAME).write_bytes(cbor.encode([encoded, cbor.sha256(encoded)]))
    store = Store(tmp_path / "store")
    assert store.slots(INSTANCE)["confirmed"] == Slot(INSTANCE, "confirmed", "pump", confirmed, b"", 2, 3)
    assert store.module_floor(floors.SEQUENCE, "pump", keys).value == 2
    assert store.envelope(confirmed) is not None
    store.close()


NEWER = """
alter table slots add column colour text not null default 'red';
alter table journal add column mood integer not null default 0;
alter table outbox add column priority integer not null default 5;
alter table floors add column reason text not null default '';
alter table documents add column seen_s integer not null default 0;
alter table keyvalue add column lease_s integer not null default 0;
alter table states add column kind text not null default '';
alter table envelopes add column used_s integer not null default 0;
alter table roots add column seen_s integer not null default 0;
alter table bus add column priority integer not null default 0;
create table moods (name text primary key) strict;
insert into moods values ('good');
update meta set value = 5 where key = 'schema';
"""


def test_the_agent_before_uses_what_a_newer_one_has_added_to(tmp_path):
    folder = tmp_path / "store"
    store = Store(folder)
    slot = Slot("i", "confirmed", "m", b"1" * 32, b"", 1, 0)
    store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"d" * 16, b"1" * 32), slot, [b"key"])], 1)
    store.close()
    database = opened(folder / "agent.sqlite")
    database.executescript(NEWER)
    database.close()
    for number in (2, 3):
        store = Store(folder)
        slot = Slot("i", "confirmed", "m", bytes([number]) * 32, b"", number, 0)
        store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"e" * 16, slot.envelope), slot, [b"key"])], 1)
        version = Version("i", "m", slot.release)
        store.add_outcomes([Outcome(version, (), [Message(0, 1.0, "i", "m", "t", b"")])], Bounds())
        store.begin_trial(Version("i", "m", b"n"), version, b"state")
        store.add_envelope(b"envelope")
        store.add_root(number, b"root")
        store.keep_document("deployment.lab", b"document")
        assert store.problems.texts == ()
        assert store.journal_is_whole()
        store.close()
    assert rows(folder, "select value from meta") == [(5,)]  # the newer one finds its tables as it left them
    assert rows(folder, "select name from moods") == [("good",)]
    assert rows(folder, "select name, colour from slots order by name") == [("confirmed", "red"), ("previous", "red")]


def test_a_newer_database_that_an_older_agent_can_not_use_is_refused(tmp_path):
    folder = tmp_path / "store"
    Store(folder).close()
    database = opened(folder / "agent.sqlite")
    database.execute("pragma user_version = 5")
    database.close()
    with pytest.raises(StoreError, match="schema 5"):
        Store(folder)


def test_what_the_agent_before_said_between_modules_waits_for_no_answer(tmp_path):
    folder = tmp_path / "store"
    database = opened(folder / "agent.sqlite")
    database.executescript((DUMPS / "agent-schema-3.sql").read_text())
    database.close()
    for _ in range(2):  # migrated once
        store = Store(folder)
        assert [(each.payload, each.reply_to) for each in store.outbox(0, 10)] == [(b"first", ""), (b"second", "")]
        assert store.bus(0, 10) == [BusMessage(1, 1.0, "roof", "cellar", "local/a", b"said", 1)]
        assert store.problems.texts == ()
        store.close()
    store = Store(folder)
    said = BusMessage(0, 3.0, "roof", "cellar", "local/a", b"?", 1, "local/b")
    version = Version("roof", "pump", b"1" * 32)
    store.add_outcomes([Outcome(version, (), [Message(0, 3.0, "roof", "pump 1.0.0", "t", b"?", "u")], [said])], Bounds())
    store.close()
    store = Store(folder)
    assert (store.outbox(2, 10)[0].reply_to, store.bus(1, 10)[0].reply_to) == ("u", "local/b")
    store.close()
    assert rows(folder, "select value from meta") == [(4,)]


def test_an_older_outbox_is_read_by_instance_without_reading_all_of_it(tmp_path):
    database = opened(tmp_path / "store" / "agent.sqlite")
    database.executescript((DUMPS / "agent-schema-3.sql").read_text())
    database.close()
    Store(tmp_path / "store").close()
    plan = rows(
        tmp_path / "store", "explain query plan select number from outbox where instance = 'm' and number > 7 order by number"
    )
    assert "USING COVERING INDEX outbox_of (instance=? AND number>?)" in plan[0][-1]
