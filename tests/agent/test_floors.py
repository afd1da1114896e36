"""Numbers that must not go back, key by key."""

import pytest

from device_agent.storage import floors
from device_agent.storage.floors import DEPLOYMENT, KEYS_KEPT, SEQUENCE, Floor
from device_agent.storage.store import Store

A, B, C = b"a", b"b", b"c"


@pytest.fixture
def database(tmp_path):
    store = Store(tmp_path)
    yield store._database
    store.close()


def test_a_floor_is_the_highest_number_of_the_keys_that_have_the_role_now(database):
    assert floors.read(database, "x", [A, B]) == Floor()
    floors.lift(database, "x", [A], 5, b"of 5")
    floors.lift(database, "x", [B], 7, b"of 7")
    floors.lift(database, "y", [A], 9)
    assert floors.read(database, "x", [A, B]) == Floor(7, frozenset((B,)), frozenset((b"of 7",)))
    assert floors.read(database, "x", [A]) == Floor(5, frozenset((A,)), frozenset((b"of 5",)))
    assert floors.read(database, "x", [C]) == Floor()
    assert floors.read(database, "y", [A]) == Floor(9, frozenset((A,)), frozenset())


def test_a_lower_or_equal_number_changes_no_floor_and_no_digest(database):
    floors.lift(database, "x", [A, B], 5, b"first")
    for number in (4, 5):
        floors.lift(database, "x", [A], number, b"later")
        assert floors.read(database, "x", [A, B]) == Floor(5, frozenset((A, B)), frozenset((b"first",)))
    floors.lift(database, "x", [A], 6, b"higher")
    assert floors.read(database, "x", [A]) == Floor(6, frozenset((A,)), frozenset((b"higher",)))


def test_two_documents_of_one_number_are_both_known(database):
    floors.lift(database, "x", [A], 5, b"one")
    floors.lift(database, "x", [B], 5, b"other")
    assert floors.read(database, "x", [A, B]) == Floor(5, frozenset((A, B)), frozenset((b"one", b"other")))


def test_the_floor_of_a_module_is_at_least_that_of_a_board_that_knew_one_module(database):
    floors.lift(database, SEQUENCE, [A], 5)
    floors.lift(database, f"{SEQUENCE}blink", [A], 3)
    floors.lift(database, f"{SEQUENCE}sense", [A], 8)
    assert [floors.of_module(database, SEQUENCE, name, [A]).value for name in ("blink", "sense", "new")] == [5, 8, 5]
    assert floors.of_module(database, SEQUENCE, "blink", [B]).value == 0


def test_floors_of_nobody_go_to_the_keys_of_the_role(database):
    floors.lift(database, f"{DEPLOYMENT}lab", [b""], 5)
    floors.lift(database, f"{SEQUENCE}blink", [b""], 7)
    floors.settle(database, [A], [B])
    assert [floors.read(database, f"{DEPLOYMENT}lab", [key]).value for key in (A, B, b"")] == [0, 5, 0]
    assert [floors.read(database, f"{SEQUENCE}blink", [key]).value for key in (A, B, b"")] == [7, 0, 0]


def test_floors_of_keys_without_a_role_are_kept_for_the_newest_64(database):
    gone = [b"gone %d" % number for number in range(KEYS_KEPT + 1)]
    database.execute("begin")
    floors.lift(database, "x", [A, B, *gone], 5)
    floors.settle(database, [A], [B])
    database.execute("commit")
    assert [floors.read(database, "x", [key]).value for key in (A, B, gone[0], gone[1], gone[-1])] == [5, 5, 0, 5, 5]
