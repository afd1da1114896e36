"""What the store keeps of many instances."""

from dataclasses import replace

import pytest

from device_agent.channel.frames import KeyWrite
from device_agent.instance import slots
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update
from device_agent.storage import anchor, floors
from device_agent.storage import store as stores
from device_agent.storage.database import CACHE_KB
from device_agent.storage.store import Bounds, BusMessage, Commit, Outcome, Store, Version, encode_config
from ota.formats.deployment import release_id
from ota.formats.reasons import Reason, Refused
from tests.support.kept import M2, SIGNERS, M, again, slot
from tests.support.signing import Signer


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


def test_only_what_means_something_by_itself_waits_for_the_disk(store):
    """The others are on the disk with the row of the journal, or the outcome, that needs them."""

    def level() -> int:
        return store._database.execute("pragma synchronous").fetchone()[0]

    old, new = Version("i", "m", b"1"), Version("i", "m", b"2")
    store.add_envelope(b"manifest")
    assert level() == 1
    store.write_journal("i", Update(Phase.FETCHING, b"n" * 16, b"3" * 32), 2)
    assert level() == 2
    store.begin_trial(new, old, b"state")
    assert level() == 1
    assert store.state(new) == b"state"
    store.add_outcomes([Outcome(new, [KeyWrite("k", b"v")])], Bounds())
    assert level() == 2


# -- many instances


def bus(target, payload, source="a", hops=0, number=0):
    return BusMessage(number, 1.0, source, target, "local/x", payload, hops)


def test_instances_have_slots_journals_and_keys_of_their_own(store):
    for number, name in enumerate(("one", "two")):
        new = slot(bytes([number]) * 32, 5, 0, instance=name)
        store.commit_all([Commit(name, Update(Phase.CONFIRMED, bytes([number]) * 16, new.envelope), new, SIGNERS)], 1)
        store.save_state(Version(name, "m", b"r"), name.encode())
    store.write_journal("two", Update(Phase.OFFERED, b"n" * 16, b"3" * 32, config={"k": "v"}, together=("one", "two")), 2)
    assert store.last_update("one").phase is Phase.CONFIRMED
    two = store.last_update("two")
    assert (two.deployment, dict(two.config), two.together, two.confirmed) == (b"n" * 16, {"k": "v"}, ("one", "two"), b"\1" * 32)
    assert [store.slots(name)["confirmed"].envelope for name in ("one", "two")] == [bytes(32), b"\1" * 32]
    assert store.state(Version("one", "m", b"r")) == b"one"
    assert store.instances() == ("one", "two")
    assert store.journal_is_whole()


def test_a_new_configuration_of_the_confirmed_module_makes_the_old_one_the_previous(store):
    for config in (b"", encode_config({"k": "1"})):
        new = slot(b"1" * 32, 5, 0, config=config)
        update = Update(Phase.CONFIRMED, b"d", b"1" * 32, config=new.settings)
        store.commit_all([Commit("i", update, new, SIGNERS)], 1)
    slots = store.slots("i")
    assert (slots["confirmed"].settings, slots["previous"].settings) == ({"k": "1"}, {})
    assert slots["confirmed"].release == release_id(b"1" * 32, {"k": "1"}) != slots["previous"].release == b"1" * 32


def test_a_set_is_committed_in_one_transaction_or_not_at_all(store, monkeypatch):
    def commits(number):
        made = [slot(bytes([number + each]) * 32, number, 0, instance=f"i{each}") for each in range(3)]
        return [Commit(each.instance, Update(Phase.CONFIRMED, b"d", each.envelope), each, SIGNERS) for each in made]

    store.commit_all(commits(1), 1)
    lift, calls = floors.lift, []

    def power_goes(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise RuntimeError("power")
        lift(*arguments)

    monkeypatch.setattr(floors, "lift", power_goes)
    with pytest.raises(RuntimeError):
        store.commit_all(commits(9), 2)
    assert [store.slots(f"i{each}")["confirmed"].sequence for each in range(3)] == [1, 1, 1]
    monkeypatch.undo()
    store.commit_all(commits(9), 2)
    assert [store.slots(f"i{each}")["confirmed"].sequence for each in range(3)] == [9, 9, 9]


def test_a_removed_instance_leaves_its_floors_and_the_update_that_removed_it(store):
    version = Version("i", "m", b"1" * 32)
    store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"d", b"1" * 32), slot(b"1" * 32, 7, 1), SIGNERS)], 1)
    store.add_outcomes([Outcome(version, [KeyWrite("k", b"1")], (), [bus("i", b"1"), bus("other", b"2")])], Bounds())
    store.save_state(version, b"state")
    store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"gone" * 4))], 2)
    assert (store.slots("i"), store.keys(version), store.state(version), store.instances()) == ({}, {}, b"", ())
    assert [each.target for each in store.bus(0, 10)] == ["other"]
    assert store.last_update("i") == Update(Phase.CONFIRMED, b"gone" * 4)
    assert store.module_floor(floors.SEQUENCE, "m", SIGNERS).value == 7


def test_what_an_instance_says_to_another_is_kept_until_an_outcome_consumes_it(store, tmp_path):
    first = store.add_outcomes([Outcome(M, (), (), [bus("b", b"1"), bus("b", b"2", hops=3)])], Bounds())
    assert [(each.number, each.payload, each.hops) for each in first.bus] == [(1, b"1", 0), (2, b"2", 3)]
    store.add_outcomes([Outcome(M2, [KeyWrite("k", b"v")], (), [bus("c", b"3", "b", 1)], consumed=[1])], Bounds())
    store = again(store, tmp_path)
    assert [(each.number, each.target, each.payload) for each in store.bus(0, 10)] == [(2, "b", b"2"), (3, "c", b"3")]
    store.add_outcomes([Outcome(M, consumed=[2, 3])], Bounds())
    assert store.bus(0, 10) == []
    store.close()


def test_the_bus_is_bounded_for_each_target(store):
    bounds = Bounds(bus=5, bus_bytes=2000)
    added = store.add_outcomes([Outcome(M, (), (), [bus("b", bytes([n])) for n in range(8)] + [bus("c", b"x")])], bounds)
    assert (added.bus_dropped, [each.payload for each in added.bus]) == (3, [bytes([n]) for n in range(3, 8)] + [b"x"])
    large = store.add_outcomes([Outcome(M, (), (), [bus("b", bytes(1900))])], bounds)
    assert (large.bus_dropped, [each.target for each in store.bus(0, 10)]) == (5, ["c", "b"])


def test_the_journal_of_one_instance_takes_no_room_from_another(store, monkeypatch):
    monkeypatch.setattr(stores, "JOURNAL_ROWS", 5)
    store.write_journal("quiet", Update(Phase.FAILED, b"q", b"m", 0, Reason.TRAPPED), 1)
    for number in range(60):
        store.write_journal("busy", Update(Phase.FAILED, b"d", b"m", 0, Reason.TRAPPED), number)
    rows = dict(store._database.execute("select instance, count(*) from journal group by instance").fetchall())
    assert rows == {"quiet": 1, "busy": 5}
    assert store.last_update("quiet").deployment == b"q"


def test_a_document_and_what_its_keys_signed_are_kept_together_or_not_at_all(store, monkeypatch):
    store.keep_document("d", b"1", SIGNERS, 4, b"x" * 32)
    assert (store.document("d"), store.floor("d", SIGNERS).value) == (b"1", 4)

    def broken(*_):
        raise ValueError("between the two")

    monkeypatch.setattr(floors, "lift", broken)
    with pytest.raises(ValueError, match="between the two"):
        store.keep_document("d", b"2", SIGNERS, 5, b"y" * 32)
    assert (store.document("d"), store.floor("d", SIGNERS).value) == (b"1", 4)


def test_pages_in_memory_are_bounded(store):
    assert store.home.connection.execute("pragma cache_size").fetchone() == (-CACHE_KB,)


def test_journals_of_instances_that_are_gone_are_forgotten_after_a_while(store, monkeypatch):
    monkeypatch.setattr(stores, "JOURNAL_INSTANCES", 2)
    store.commit_all([Commit("i", Update(Phase.CONFIRMED, b"d", b"1" * 32), slot(b"1" * 32, 7, 1), SIGNERS)], 1)
    for number in range(5):
        store.write_journal(f"gone{number}", Update(Phase.FAILED, b"d", b"m"), 1)
    assert {name for (name,) in store._database.execute("select instance from journal")} == {"i", "gone3", "gone4"}


def test_each_row_of_the_journal_has_one_head(store, monkeypatch):
    """Whatever is deleted meanwhile: two heads of a row show that the journal was changed."""
    monkeypatch.setattr(stores, "JOURNAL_INSTANCES", 2)
    heads = set()
    for number in range(5):
        store.write_journal(f"gone{number}", Update(Phase.FAILED, b"d", b"m"), 1)
        heads.add((store.journal_head.row, store.journal_head.digest))
        store.collect((), (), ())
        store._note_head()
        heads.add((store.journal_head.row, store.journal_head.digest))
    assert [row for row, _ in sorted(heads)] == [1, 2, 3, 4, 5]


def test_a_row_that_a_power_cut_may_take_is_in_no_head(store, monkeypatch):
    store.write_journal("i", Update(Phase.FAILED, b"d", b"m"), 1)
    monkeypatch.setattr(store.home, "in_memory", True)
    monkeypatch.setattr(store.home, "retry", lambda: None)
    store.write_journal("i", Update(Phase.FAILED, b"d", b"m"), 2)
    assert store.journal_head.row == 1


def test_the_head_is_of_rows_that_no_power_cut_takes_and_the_anchor_knows_what_was_accepted(tmp_path):
    store = Store(tmp_path)
    store.write_journal("i", Update(Phase.FAILED, b"d", b"m"), 1)
    head = store.journal_head
    store.write_journal("i", Update(Phase.OFFERED, b"d", b"m"), 2, False)
    store.keep_document("d", b"1", SIGNERS, 4, b"x" * 32)
    assert store.journal_head == head
    store.sync()
    assert store.journal_head.row == head.row + 1
    assert [(name, value) for name, _, value, _ in anchor.read(tmp_path).floors if name == "d"] == [("d", 4)] * len(SIGNERS)
    store.close()


def test_the_release_that_runs_keeps_its_state_when_it_goes_on_trial_again(store):
    store.save_state(M, b"old")
    store.add_outcomes([Outcome(M, [KeyWrite("k", b"1")])], Bounds())
    store.begin_trial(M, M, b"now")
    assert (store.keys(M), store.state(M)) == ({"k": b"1"}, b"now")
    store.add_outcomes([Outcome(M, [KeyWrite("k", b"on trial"), KeyWrite("new", b"2")])], Bounds())
    store.save_state(M, b"on trial")
    store.end_trial(M)
    assert (store.keys(M), store.state(M)) == ({"k": b"1"}, b"now")


@pytest.mark.parametrize("cut", [False, True])
def test_a_release_of_another_slot_gets_back_what_it_had_when_its_trial_fails(store, cut):
    """As one does that is tried once more with its old configuration; also after a power cut in the trial, or two."""
    store.save_state(M, b"of the previous one")
    store.add_outcomes([Outcome(M, [KeyWrite("k", b"1")]), Outcome(M2, [KeyWrite("k", b"2")])], Bounds())
    for _ in range(2 if cut else 1):
        store.begin_trial(M, M2, b"of the confirmed one")
        store.add_outcomes([Outcome(M, [KeyWrite("k", b"on trial")])], Bounds())
        assert (store.keys(M), store.state(M)) == ({"k": b"on trial"}, b"of the confirmed one")
        store.collect((), {("i", M.release), ("i", M2.release)}, ())
    store.end_trial(M)
    store.end_trial(M)
    assert (store.keys(M), store.state(M)) == ({"k": b"1"}, b"of the previous one")
    assert (store.keys(M2), store.state(M2)) == ({"k": b"2"}, b"of the confirmed one")
    assert store._database.execute("select count(*) from states").fetchone() == (2,)


def test_a_release_that_is_confirmed_keeps_what_it_wrote_on_trial(store):
    store.save_state(M, b"before")
    store.begin_trial(M, M2, b"handed over")
    new = slot(M.release, 5, 0, instance=M.instance)
    store.commit_all([Commit(M.instance, Update(Phase.CONFIRMED, b"d" * 16, M.release), new, SIGNERS)], 1)
    store.end_trial(M)
    assert store.state(M) == b"handed over"


def test_a_release_that_kept_nothing_leaves_nothing_when_its_trial_fails(store):
    store.begin_trial(M, M2, b"handed over")
    store.end_trial(M)
    assert store._database.execute("select release from states").fetchall() == [(M2.release,)]


def test_what_was_set_aside_is_collected_with_its_release(store):
    store.begin_trial(M, M2, b"handed over")
    store.collect((), {("i", M2.release)}, ())
    assert store._database.execute("select count(*) from states").fetchone() == (1,)


def collect(store, update: Update, *, crowded: bool = False) -> None:
    found = slots.needs("m", store, None, lambda vendor: (), update, (), (), crowded=crowded)
    store.collect(found.manifests, found.releases, found.blobs)


def test_what_an_update_in_the_journal_has_fetched_is_not_deleted_before_it_is_resumed(store):
    """Another instance may be confirmed first, or the disk be full."""
    update = Signer().update(b"module" * 100)
    store.add_envelope(update.envelope)
    part = store.blob_path(update.manifest.digest).with_suffix(".part")
    store.begin_blob(update.index)
    collect(store, Update(Phase.FETCHING, b"d" * 16, update.digest))
    assert part.exists()
    collect(store, Update(Phase.FAILED, b"d" * 16, update.digest))
    assert not part.exists()


def test_what_an_update_has_fetched_that_is_tried_again_stays_while_there_is_room(store):
    update = Signer().update(b"module" * 100)
    store.add_envelope(update.envelope)
    part = store.blob_path(update.manifest.digest).with_suffix(".part")
    store.begin_blob(update.index)
    failed = Update(Phase.FAILED, b"d" * 16, update.digest, reason=Reason.CHUNK_MISSING)
    collect(store, failed)
    assert part.exists()
    collect(store, replace(failed, together=("m", "n"), phase=Phase.ROLLED_BACK))  # a set that went back
    assert part.exists()
    collect(store, failed, crowded=True)
    assert not part.exists()


def test_what_an_update_needed_is_deleted_once_its_end_is_on_the_disk(store, monkeypatch):
    """Else a power cut brings back the row of a staged update, and not its file."""
    blob = store.blob_path(b"b" * 32)
    blob.write_bytes(b"module")
    store.write_journal("i", Update(Phase.OFFERED, b"n" * 16, b"3" * 32), 2, synced=False)
    there = []
    sync = store.sync

    def noted() -> None:
        there.append(blob.exists())
        sync()

    monkeypatch.setattr(store, "sync", noted)
    store.collect((), (), ())
    assert there == [True]
    assert not blob.exists()


def test_a_disk_that_takes_no_row_is_made_free_all_the_same(store, monkeypatch):
    blob = store.blob_path(b"b" * 32)
    blob.write_bytes(b"module")

    def full() -> None:
        raise Refused(Reason.DISK_FULL, "no room")

    monkeypatch.setattr(store, "sync", full)
    store.collect((), (), ())
    assert not blob.exists()
