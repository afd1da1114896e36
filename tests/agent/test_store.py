"""The storage folder: what survives, what is refused, what a full disk does."""

import errno
import os
import sqlite3

import pytest

from device_agent.channel.frames import KeyWrite
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.storage import store as stores
from device_agent.storage.store import Slot, Store, StoreError
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Message

BLOB = os.urandom(5000)
INDEX = ChunkIndex.of(BLOB, 1024)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


def again(store, tmp_path):
    store.close()
    return Store(tmp_path / "store")


def chunk(number):
    return BLOB[number * 1024 : (number + 1) * 1024]


def test_the_journal_survives_and_is_chained(store, tmp_path):
    update = Update(Phase.TRIAL, b"d" * 16, b"m" * 32, 1, Reason.TRAPPED, "why")
    for phase in (Phase.OFFERED, Phase.FETCHING):
        store.write_journal(Update(phase, b"d" * 16, b"m" * 32), 5)
    store.write_journal(update, 6)
    store = again(store, tmp_path)
    assert store.last_update() == update
    assert store.journal_is_whole()
    with sqlite3.connect(tmp_path / "store" / "agent.sqlite") as database:
        database.execute("update journal set detail = 'changed' where id = 2")
    database.close()
    assert not store.journal_is_whole()
    store.close()


def test_a_commit_moves_the_slots_and_raises_what_must_not_go_back(store):
    for sequence in (5, 9):
        store.commit(
            Update(Phase.CONFIRMED, b"d", bytes([sequence]) * 32), Slot("confirmed", bytes([sequence]) * 32, sequence, 2), 1
        )
    slots = store.slots()
    assert slots["confirmed"] == Slot("confirmed", bytes([9]) * 32, 9, 2)
    assert slots["previous"] == Slot("previous", bytes([5]) * 32, 5, 2)
    assert (store.number("sequence"), store.number("epoch")) == (9, 2)
    store.raise_number("sequence", 3)
    assert store.number("sequence") == 9


def test_a_commit_that_fails_leaves_nothing_behind(store, monkeypatch):
    store.commit(Update(Phase.CONFIRMED, b"d", b"1" * 32), Slot("confirmed", b"1" * 32, 1, 0), 1)
    monkeypatch.setattr(Store, "_raise", lambda *_: (_ for _ in ()).throw(RuntimeError("power")))
    with pytest.raises(RuntimeError):
        store.commit(Update(Phase.CONFIRMED, b"e", b"2" * 32), Slot("confirmed", b"2" * 32, 2, 0), 2)
    assert store.slots()["confirmed"].sequence == 1
    assert store.last_update().deployment == b"d"


def test_a_blob_is_resumed_after_a_restart(store, tmp_path):
    assert store.begin_blob(INDEX) == {0, 1, 2, 3, 4}
    for number in (0, 3):
        store.add_chunk(INDEX, number, chunk(number))
    store = again(store, tmp_path)
    assert store.begin_blob(INDEX) == {1, 2, 4}
    for number in (1, 2, 4):
        store.add_chunk(INDEX, number, chunk(number))
    store.finish_blob(INDEX)
    assert store.blob(INDEX.digest) == BLOB
    assert store.begin_blob(INDEX) == set()
    store.finish_blob(INDEX)
    store.close()


def test_a_chunk_torn_by_a_power_cut_is_fetched_again(store, tmp_path):
    store.begin_blob(INDEX)
    store.add_chunk(INDEX, 1, chunk(1)[:500])
    assert store.begin_blob(INDEX) == {0, 1, 2, 3, 4}


def test_chunks_that_do_not_make_the_blob_are_refused_and_dropped(store):
    store.begin_blob(INDEX)
    with pytest.raises(Refused) as caught:
        store.finish_blob(INDEX)
    assert caught.value.reason is Reason.BLOB_DIGEST_MISMATCH
    assert store.begin_blob(INDEX) == {0, 1, 2, 3, 4}


def test_a_blob_damaged_on_disk_is_refused(store):
    store.add_blob(BLOB)
    store.blob_path(INDEX.digest).write_bytes(BLOB[:-1] + bytes((BLOB[-1] ^ 1,)))
    with pytest.raises(Refused) as caught:
        store.blob(INDEX.digest)
    assert caught.value.reason is Reason.BLOB_DIGEST_MISMATCH


def test_a_full_disk_is_a_refusal_before_anything_is_written(tmp_path):
    store = Store(tmp_path / "store", free_bytes=1 << 60)
    with pytest.raises(Refused) as caught:
        store.begin_blob(INDEX)
    assert caught.value.reason is Reason.DISK_FULL
    assert not list((tmp_path / "store" / "blobs").iterdir())
    store.close()


def test_a_disk_that_fills_up_is_a_refusal(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store.begin_blob(INDEX)
    monkeypatch.setattr(stores.os, "pwrite", full)
    with pytest.raises(Refused) as caught:
        store.add_chunk(INDEX, 0, chunk(0))
    assert caught.value.reason is Reason.DISK_FULL


def test_a_database_that_cannot_grow_is_a_refusal_and_stays_whole(store):
    store._database.execute("pragma max_page_count = 20")
    with pytest.raises(Refused) as caught:
        for number in range(1000):
            store.add_outcomes([("m", [KeyWrite(str(number), bytes(3000))], [])], 10)
    assert caught.value.reason is Reason.DISK_FULL
    store._database.execute("pragma max_page_count = 100000")
    store.write_journal(Update(Phase.OFFERED, b"d", b"m"), 1)
    assert store.journal_is_whole()


def test_two_agents_cannot_share_a_folder(store, tmp_path):
    pid = os.fork()
    if pid == 0:
        try:
            Store(tmp_path / "store")
        except StoreError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_the_outbox_keeps_order_and_drops_the_oldest(store):
    messages = [Message(0, 1.0, "m", "t", bytes([number])) for number in range(10)]
    assert store.add_outcomes([("m", [], messages)], limit=6) == (10, 4)
    assert [each.number for each in store.outbox(0, 100)] == [5, 6, 7, 8, 9, 10]
    store.delivered(7)
    assert [each.payload for each in store.outbox(0, 2)] == [bytes([7]), bytes([8])]
    assert store.outbox_size() == 3


def test_message_numbers_are_never_used_twice(store, tmp_path):
    store.add_outcomes([("m", [], [Message(0, 1.0, "m", "t", b"1")])], 10)
    store.delivered(1)
    store = again(store, tmp_path)
    assert store.add_outcomes([("m", [], [Message(0, 1.0, "m", "t", b"2")])], 10)[0] == 2
    store.close()


def test_keys_and_states_are_kept_by_module(store):
    store.add_outcomes([("a", [KeyWrite("k", b"1"), KeyWrite("gone", b"2")], []), ("b", [KeyWrite("k", b"3")], [])], 10)
    store.add_outcomes([("a", [KeyWrite("gone", None)], [])], 10)
    store.save_state("a", b"state")
    assert store.keys("a") == {"k": b"1"}
    assert store.keys("b") == {"k": b"3"}
    assert (store.state("a"), store.state("b")) == (b"state", b"")


def test_what_nothing_names_is_collected(store):
    store.add_blob(BLOB)
    store.add_blob(b"other")
    store.add_envelope(b"one")
    store.add_envelope(b"two")
    store.collect({sha256(b"one")}, {INDEX.digest})
    assert store.envelope(sha256(b"one")) == b"one"
    assert store.envelope(sha256(b"two")) is None
    assert store.blob(INDEX.digest) == BLOB
    assert not store.blob_path(sha256(b"other")).exists()


def test_a_store_of_another_version_is_refused(tmp_path):
    Store(tmp_path / "store").close()
    with sqlite3.connect(tmp_path / "store" / "agent.sqlite") as database:
        database.execute("pragma user_version = 99")
    database.close()
    for _ in range(2):  # the lock is let go
        with pytest.raises(StoreError, match="schema 99"):
            Store(tmp_path / "store")
