"""The storage folder: what survives, what is refused, what a full disk does."""

import errno
import os
import sqlite3
from collections import Counter

import pytest

from device_agent.channel.frames import KeyWrite
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.storage import blobs, floors
from device_agent.storage import store as stores
from device_agent.storage.store import Bounds, BusMessage, Commit, Outcome, Store, StoreError, Version
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Message
from tests.support.kept import M2, SIGNERS, M, again, slot

BLOB = os.urandom(5000)


INDEX = ChunkIndex.of(BLOB, 1024)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


def chunk(number):
    return BLOB[number * 1024 : (number + 1) * 1024]


def test_the_journal_survives_and_is_chained(store, tmp_path):
    update = Update(Phase.TRIAL, b"d" * 16, b"m" * 32, 1, Reason.TRAPPED, "why")
    for phase in (Phase.OFFERED, Phase.FETCHING):
        store.write_journal("i", Update(phase, b"d" * 16, b"m" * 32), 5)
    store.write_journal("i", update, 6)
    store = again(store, tmp_path)
    assert store.last_update("i") == update
    assert store.journal_is_whole()
    with sqlite3.connect(tmp_path / "store" / "agent.sqlite") as database:
        database.execute("update journal set detail = 'changed' where id = 2")
    database.close()
    assert not store.journal_is_whole()
    store.close()


def test_a_commit_moves_the_slots_and_raises_what_must_not_go_back(store):
    for sequence in (5, 9):
        new = slot(bytes([sequence]) * 32, sequence, 2)
        store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"d", new.envelope), new, SIGNERS)], 1)
    slots = store.slots("i")
    assert slots["confirmed"] == slot(bytes([9]) * 32, 9, 2)
    assert slots["previous"] == slot(bytes([5]) * 32, 5, 2, name="previous")
    assert [store.module_floor(name, "m", SIGNERS).value for name in (floors.SEQUENCE, floors.EPOCH)] == [9, 2]
    store.lift_floor(floors.SEQUENCE + "m", SIGNERS, 3, b"")
    assert store.module_floor(floors.SEQUENCE, "m", SIGNERS) == floors.Floor(9, SIGNERS, frozenset((bytes([9]) * 32,)))
    assert store.module_floor(floors.SEQUENCE, "other", SIGNERS).value == 0


def test_a_commit_that_fails_leaves_nothing_behind(store, monkeypatch):
    store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"d", b"1" * 32), slot(b"1" * 32, 1, 0), SIGNERS)], 1)
    monkeypatch.setattr(floors, "lift", lambda *_: (_ for _ in ()).throw(RuntimeError("power")))
    with pytest.raises(RuntimeError):
        store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"e", b"2" * 32), slot(b"2" * 32, 2, 0), SIGNERS)], 2)
    assert store.slots("i")["confirmed"].sequence == 1
    assert store.last_update("i").deployment == b"d"


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
    store.blob_path(INDEX.digest).write_bytes(BLOB)
    assert store.blob(INDEX.digest) == BLOB
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


def test_a_sparse_part_counts_as_the_blocks_that_it_has(store, monkeypatch):
    """It is as long as the blob from the beginning, and nearly all of it is still to be written."""
    large = ChunkIndex.of(bytes(1 << 20), 1024)
    store.begin_blob(large)
    monkeypatch.setattr(blobs, "free_bytes", lambda _: 500_000)
    with pytest.raises(Refused) as caught:
        store.begin_blob(large)
    assert caught.value.reason is Reason.DISK_FULL


def test_a_disk_that_fails_under_an_open_file_is_said_in_words(store, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    store.begin_blob(INDEX)
    monkeypatch.setattr(blobs.os, "pwrite", fails)
    with pytest.raises(Refused) as caught:
        store.add_chunk(INDEX, 0, BLOB[: INDEX.chunk_bytes])
    assert (caught.value.reason, caught.value.detail) == (
        Reason.STORAGE_UNWRITABLE,
        "a file of the storage: Input/output error",
    )


def test_what_nobody_needs_is_deleted_before_a_disk_is_called_full(store, monkeypatch):
    free = [100]
    monkeypatch.setattr(blobs, "free_bytes", lambda _: free[0])
    store.collect_unused = lambda: free.insert(0, 1 << 20)
    assert store.begin_blob(INDEX) == {0, 1, 2, 3, 4}


def test_a_disk_that_fills_up_is_a_refusal(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store.begin_blob(INDEX)
    monkeypatch.setattr(blobs.os, "pwrite", full)
    with pytest.raises(Refused) as caught:
        store.add_chunk(INDEX, 0, chunk(0))
    assert caught.value.reason is Reason.DISK_FULL


def test_a_database_that_cannot_grow_is_a_refusal_and_stays_whole(store):
    store._database.execute("pragma max_page_count = 20")
    with pytest.raises(Refused) as caught:
        for number in range(1000):
            store.add_outcomes([Outcome(M, [KeyWrite(str(number), bytes(3000))], [])], Bounds(10))
    assert caught.value.reason is Reason.DISK_FULL
    store._database.execute("pragma max_page_count = 100000")
    store.write_journal("i", Update(Phase.OFFERED, b"d", b"m"), 1)
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


def test_a_chunk_of_a_blob_that_another_instance_has_made_whole_is_left_alone(store):
    for number in store.begin_blob(INDEX) & store.begin_blob(INDEX):
        store.add_chunk(INDEX, number, chunk(number))
    store.finish_blob(INDEX)
    store.add_chunk(INDEX, 1, chunk(1))
    store.finish_blob(INDEX)
    whole = store.blob_path(INDEX.digest)
    assert [each for each in whole.parent.iterdir() if INDEX.digest.hex() in each.name] == [whole]
    whole.unlink()
    with pytest.raises(Refused, match="blob-digest-mismatch"):
        store.add_chunk(INDEX, 1, chunk(1))


def test_the_outbox_keeps_order_and_drops_the_oldest(store):
    messages = [Message(0, 1.0, "i", "m", "t", bytes([number])) for number in range(10)]
    assert store.add_outcomes([Outcome(M, [], messages)], Bounds(6))[:2] == (10, 4)
    assert [each.number for each in store.outbox(0, 100)] == [5, 6, 7, 8, 9, 10]
    store.add_outcomes([], Bounds(6), {"i": 7})
    assert [each.payload for each in store.outbox(0, 2)] == [bytes([7]), bytes([8])]
    assert store.outbox_size() == 3


def test_the_outbox_is_bounded_in_bytes_also_after_a_restart(store, tmp_path):
    large = [Message(0, 1.0, "i", "m", "t", bytes(1000)) for _ in range(50)]
    added = store.add_outcomes([Outcome(M, [], large)], Bounds(1000, 20_000))
    assert (added.dropped, added.dropped_bytes) == (32, 32 * 1066)
    store = again(store, tmp_path)
    for _ in range(5):
        added = store.add_outcomes([Outcome(M, [], large[:10])], Bounds(1000, 20_000))
        assert (added.dropped, store.outbox_size()) == (10, 18)
    store.add_outcomes([], Bounds(), {"i": added.last - 10})
    assert store.add_outcomes([Outcome(M, [], large[:8])], Bounds(1000, 20_000)).dropped == 0
    assert store.add_outcomes([Outcome(M, [], [Message(0, 1.0, "i", "m", "t", bytes(30_000))])], Bounds(1000, 20_000)).dropped == 19
    assert store.outbox_size() == 0
    store.close()


@pytest.mark.parametrize("own", [(50, 1 << 20), (10_000, 50 * 75)])
def test_a_flood_on_the_bus_takes_no_room_from_other_sources_nor_beyond_its_targets_own_bounds(store, tmp_path, own):
    def said(source: str, target: str, number: int) -> BusMessage:
        return BusMessage(0, 1.0, source, target, "local/x", b"%04d" % number, 1)

    bounds = Bounds(bus=1000, bus_of={"small": own})
    store.add_outcomes([Outcome(M, bus=[said("quiet", "small", number) for number in range(5)])], bounds)
    for turn in range(6):
        if turn == 3:
            store = again(store, tmp_path)
        flood = [said("flood", target, number) for number in range(100) for target in ("small", "large")]
        store.add_outcomes([Outcome(M, bus=flood)], bounds)
    kept = store.bus(0, 5000)
    small = [each for each in kept if each.target == "small"]
    assert [each.payload for each in small if each.source == "quiet"] == [b"%04d" % number for number in range(5)]
    assert 40 <= len(small) <= 51
    assert small[-1].payload == b"0099"
    assert len(kept) - len(small) == 600
    store.close()


@pytest.mark.parametrize("bounds", [Bounds(messages=500), Bounds(message_bytes=500 * 70)])
def test_a_flood_takes_no_room_in_the_outbox_from_other_instances(store, tmp_path, bounds):
    quiet = [Message(0, 1.0, "quiet", "m", "t", bytes([number])) for number in range(20)]
    store.add_outcomes([Outcome(M, [], quiet)], bounds)
    flood, dropped = [Message(0, 1.0, "flood", "m", "t", bytes(4))] * 70, 0
    for number in range(20):
        if number == 10:
            store = again(store, tmp_path)
        dropped += store.add_outcomes([Outcome(M, [], flood)], bounds).dropped
    kept = store.outbox(0, 2000)
    assert kept[:20] == [each._replace(number=number) for number, each in enumerate(quiet, 1)]
    assert (dropped, len(kept)) == (20 + 20 * 70 - store.outbox_size(), store.outbox_size())
    assert 480 <= len(kept) <= 500
    assert [each.number for each in kept[20:]] == list(range(1421 - len(kept) + 20, 1421))
    store.add_outcomes([], bounds, {"quiet": 1420, "flood": 1420})
    assert (store.add_outcomes([Outcome(M, [], flood)], bounds).dropped, store.outbox_size()) == (0, 70)
    store.close()


def test_of_two_floods_the_outbox_keeps_as_much_of_each(store):
    for _ in range(10):
        said = [Message(0, 1.0, name, "m", "t", b"") for name in ("a", "b") for _ in range(30)]
        store.add_outcomes([Outcome(M, [], said)], Bounds(messages=40))
    assert Counter(each.instance for each in store.outbox(0, 100)) == {"a": 20, "b": 20}


def test_the_journal_is_bounded(store, monkeypatch):
    monkeypatch.setattr(stores, "JOURNAL_ROWS", 20)
    for number in range(60):
        store.write_journal("i", Update(Phase.FAILED, b"d", b"m", 0, Reason.TRAPPED, f"{number} " + "x" * 5000), number)
    rows = store._database.execute("select length(detail) from journal").fetchall()
    assert len(rows) == 20
    assert max(rows) == (stores.DETAIL_CHARACTERS,)
    assert store.journal_is_whole()


def test_message_numbers_are_never_used_twice(store, tmp_path):
    store.add_outcomes([Outcome(M, [], [Message(0, 1.0, "i", "m", "t", b"1")])], Bounds(10))
    store.add_outcomes([], Bounds(), {"i": 1})
    store = again(store, tmp_path)
    assert store.add_outcomes([Outcome(M, [], [Message(0, 1.0, "i", "m", "t", b"2")])], Bounds(10))[0] == 2
    store.close()


def test_keys_and_states_are_kept_by_version(store):
    other = Version("i", "other", M.release)
    store.add_outcomes(
        [Outcome(M, [KeyWrite("k", b"1"), KeyWrite("gone", b"2")], []), Outcome(other, [KeyWrite("k", b"3")], [])], Bounds(10)
    )
    store.add_outcomes([Outcome(M, [KeyWrite("gone", None)], []), Outcome(M2, [KeyWrite("k", b"4")], [])], Bounds(10))
    store.save_state(M, b"state")
    assert [store.keys(each) for each in (M, M2, other)] == [{"k": b"1"}, {"k": b"4"}, {"k": b"3"}]
    assert [store.state(each) for each in (M, M2, other)] == [b"state", b"", b""]


def test_a_trial_begins_with_what_the_old_version_has_and_leaves_that_alone(store):
    store.add_outcomes([Outcome(M, [KeyWrite("k", b"1")], []), Outcome(M2, [KeyWrite("of an earlier time", b"x")], [])], Bounds(10))
    store.save_state(M, b"at the last checkpoint")
    store.begin_trial(M2, M, b"at the swap")
    store.add_outcomes([Outcome(M2, [KeyWrite("k", b"2"), KeyWrite("new", b"3")], [])], Bounds(10))
    store.save_state(M2, b"on trial")
    assert (store.keys(M2), store.state(M2)) == ({"k": b"2", "new": b"3"}, b"on trial")
    assert (store.keys(M), store.state(M)) == ({"k": b"1"}, b"at the swap")
    store.end_trial(M2)
    assert (store.keys(M2), store.state(M2)) == ({"of an earlier time": b"x"}, b"")
    assert (store.keys(M), store.state(M)) == ({"k": b"1"}, b"at the swap")


def test_a_trial_after_an_old_version_that_is_dead_begins_with_its_last_state(store):
    store.save_state(M, b"at the last checkpoint")
    store.begin_trial(M2, M, None)
    assert store.state(M2) == b"at the last checkpoint"


def test_a_module_of_another_name_begins_its_trial_with_nothing(store):
    store.add_outcomes([Outcome(M, [KeyWrite("k", b"1")], [])], Bounds(10))
    store.begin_trial(Version("i", "other", b"o" * 32), M, b"state")
    assert (store.keys(Version("i", "other", b"o" * 32)), store.state(Version("i", "other", b"o" * 32))) == ({}, b"")
    assert store.state(M) == b"state"


def test_what_versions_that_nothing_names_kept_is_collected(store):
    store.add_outcomes([Outcome(M, [KeyWrite("k", b"1")], []), Outcome(M2, [KeyWrite("k", b"2")], [])], Bounds(10))
    store.save_state(M, b"1")
    store.save_state(M2, b"2")
    store.collect((), {("i", M2.release)}, ())
    assert (store.keys(M), store.state(M)) == ({}, b"")
    assert (store.keys(M2), store.state(M2)) == ({"k": b"2"}, b"2")


def test_the_journal_confirms_only_what_the_slot_holds(store):
    held = slot(b"1" * 32, 1, 0)
    with pytest.raises(StoreError, match="the journal would confirm"):
        store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"d", b"2" * 32), held, SIGNERS)], 1)
    assert store.slots("i") == {}
    store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"d", b"1" * 32), held, SIGNERS)], 1)
    with pytest.raises(StoreError, match="the journal would confirm"):
        store.write_journal("i", Update(Phase.CONFIRMED, b"e", b"2" * 32), 2)
    assert store.last_update("i") == Update(Phase.CONFIRMED, b"d", b"1" * 32, confirmed=b"1" * 32)


def test_what_nothing_names_is_collected(store):
    for blob in (BLOB, b"other"):
        store.blob_path(sha256(blob)).write_bytes(blob)
    store.add_envelope(b"one")
    store.add_envelope(b"two")
    store.collect({sha256(b"one")}, (), {INDEX.digest})
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


def test_an_image_that_runs_without_its_data_partition_is_reported(tmp_path, monkeypatch):
    note = tmp_path / "storage-problem"
    monkeypatch.setattr("device_agent.storage.disk.SYSTEM_NOTE", note)
    store = Store(tmp_path / "kept")
    assert store.problems.texts == ()
    store.close()
    note.write_text("the data partition cannot be read\n" + "x" * 1000)
    store = Store(tmp_path / "kept")
    assert len(store.problems.texts) == 1
    assert store.problems.texts[0].startswith("storage-not-mounted: the data partition cannot be read")
    assert len(store.problems.texts[0]) < 250
    store.close()


def test_a_manifest_that_is_damaged_on_disk_is_missing_until_it_is_kept_again(tmp_path):
    store = Store(tmp_path)
    digest = sha256(b"envelope")
    store.add_envelope(b"envelope")
    store._database.execute("update envelopes set envelope = ?", (b"envelopf",))
    assert store.envelope(digest) is None
    store.add_envelope(b"envelope")
    assert store.envelope(digest) == b"envelope"
    store.close()
