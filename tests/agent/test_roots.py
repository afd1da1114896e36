"""With which root of trust a board starts, whatever is damaged or newer than it was."""

import dataclasses

import pytest

from device_agent.desired.roots import load, newest
from device_agent.storage.store import Store
from ota.formats import trust
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from tests.support.signing import Signer

FILE = "/etc/wamr-ota/root.cbor"


def chain(signer: Signer, length: int) -> dict[int, bytes]:
    """Root documents; each has a root key of its own, signed by the one before it too."""
    documents, keys = {}, [signer.keys["root"]]
    for number in range(1, length + 1):
        roles = dict(signer.root().roles) | {"root": Role({keys[-1].public.key_id: keys[-1].public}, 1)}
        documents[number] = sign_document(signer.root(number, roles=roles).to_payload(), ROOT_TYPE, keys[-2:])
        keys.append(SigningKey.generate())
    return documents


@pytest.fixture(scope="module")
def roots():
    return chain(Signer(), 4)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    yield store
    store.close()


def damaged(document: bytes) -> bytes:
    return document[:40] + bytes((document[40] ^ 1,)) + document[41:]


def number_and_problems(configured, stored):
    start = newest(configured, stored, FILE)
    return start.root.number, sorted(start.problems)


def test_the_stored_chain_is_followed_from_the_configured_root(roots):
    assert number_and_problems(roots[1], {2: roots[2], 3: roots[3]}) == (3, [])
    assert number_and_problems(roots[1], {}) == (1, [])


@pytest.mark.parametrize("configured", [2, 3, 4])
def test_stored_roots_that_are_not_newer_than_the_configured_one_are_skipped(roots, configured):
    stored = {number: roots[number] for number in (1, 2, 3)}
    assert number_and_problems(roots[configured], stored) == (max(configured, 3), [])


def test_a_damaged_stored_root_is_named_and_what_was_verified_after_it_stays_trusted(roots):
    """A board must not go back to keys that a later root revoked."""
    start = newest(roots[1], {1: roots[1], 2: damaged(roots[2]), 3: roots[3]}, FILE)
    assert start.root.number == 3
    assert list(start.problems) == [2]
    assert start.problems[2].startswith("root-damaged: stored root 2: ")


def test_the_newest_stored_root_is_damaged(roots):
    assert number_and_problems(roots[1], {1: roots[1], 2: roots[2], 3: damaged(roots[3])}) == (2, [3])


def test_a_damaged_configured_file_is_named_and_the_stored_root_is_used(roots):
    start = newest(damaged(roots[1]), {1: roots[1], 2: roots[2]}, FILE)
    assert start.root.number == 2
    assert start.problems[0].startswith(f"root-damaged: {FILE}: ")
    assert (
        newest("No such file or directory", {1: roots[1]}, FILE).problems[0] == f"root-damaged: {FILE}: No such file or directory"
    )


def test_without_any_root_nobody_is_trusted(roots):
    start = newest(b"", {1: damaged(roots[1])}, FILE)
    assert (start.root, sorted(start.problems)) == (trust.NOBODY, [0, 1])
    with pytest.raises(Refused) as caught:
        trust.next_root(start.root, roots[1])
    assert caught.value.reason is Reason.SIGNER_UNKNOWN


def test_a_root_of_another_chain_is_never_taken_from_the_store(roots):
    others = chain(Signer(), 3)
    start = newest(others[1], {1: roots[1], 2: roots[2], 3: roots[3]}, FILE)
    assert start.root == trust.first_root(others[1])
    assert list(start.problems) == [2]


def test_a_configured_root_that_the_chain_has_left_behind_does_not_bring_back_revoked_keys(roots):
    stored = {1: roots[1], 4: roots[4]}
    assert [number_and_problems(roots[configured], stored) for configured in (2, 3)] == [(4, []), (4, [])]
    others = chain(Signer(), 2)
    assert newest(others[2], stored, FILE).root == trust.first_root(others[2])


@pytest.mark.parametrize("keys", ["some", "none"])
def test_a_configured_root_older_than_all_stored_ones_begins_no_new_chain(roots, keys, store, tmp_path):
    """The board was flashed with root 3, and an older package puts root 1 there: its keys were revoked since."""
    others = {number + 1: document for number, document in chain(Signer(), 3).items()}
    old, stored = roots[1], {3: roots[3], 4: roots[4]} if keys == "some" else {3: others[4]}
    assert newest(old, stored, FILE).root == trust.first_root(max(stored.items())[1])
    for number, document in stored.items():
        store.add_root(number, document)
    file = tmp_path / "root.cbor"
    file.write_bytes(old)
    for _ in range(2):  # with the old root kept too
        assert load(file, store).root == trust.first_root(max(stored.items())[1])


def test_a_configured_root_of_another_vendor_begins_a_new_chain_whatever_its_number(roots):
    other = Signer()
    payload = dataclasses.replace(other.root(1), vendor="another vendor").to_payload()
    document = sign_document(payload, ROOT_TYPE, [other.keys["root"]])
    assert newest(document, {3: roots[3]}, FILE).root == trust.first_root(document)


def test_a_stored_root_under_another_number_is_not_taken(roots):
    assert number_and_problems("gone", {7: roots[3], 2: roots[2]}) == (2, [0, 7])


def test_the_configured_root_is_kept_so_that_its_file_may_be_lost(roots, store, tmp_path):
    file = tmp_path / "root.cbor"
    file.write_bytes(roots[2])
    assert load(file, store).root.number == 2
    file.unlink()
    start = load(file, store)
    assert start.root.number == 2
    assert start.problems == {0: f"root-damaged: {file}: No such file or directory"}


def test_a_board_that_is_given_another_chain_drops_the_roots_of_the_old_one(roots, store, tmp_path):
    file = tmp_path / "root.cbor"
    for number in (2, 3):
        store.add_root(number, roots[number])
    file.write_bytes(roots[1])
    assert load(file, store).root.number == 3
    others = chain(Signer(), 2)
    file.write_bytes(others[1])
    assert load(file, store).root == trust.first_root(others[1])
    assert store.roots() == {1: others[1]}
    store.add_root(2, others[2])
    start = load(file, store)
    assert (start.root.number, start.problems) == (2, {})
