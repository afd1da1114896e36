"""Roots of trust on a real board: damaged, newer, rotated, stolen. What was confirmed runs in each case."""

import sqlite3
import time
from dataclasses import replace

import pytest

from ota.author.build import sign
from ota.formats import topics
from ota.formats.capabilities import ABI
from ota.formats.manifest import class_id, vendor_id
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document
from ota.operator.publish import artifacts
from tests.support.lab import Lab, echo, open_lab


@pytest.fixture
def board(lab):
    """A board that runs version 1."""
    lab.start()
    lab.install(1)
    return lab


def root_document(lab: Lab, number: int, **changes) -> bytes:
    return sign_document(lab.signer.root(number, **changes).to_payload(), ROOT_TYPE, [lab.signer.keys["root"]])


def follow(lab: Lab, *numbers: int) -> None:
    """Puts roots on the broker and waits until the board has stored them."""
    lab.put([(topics.root(number), root_document(lab, number)) for number in numbers])
    lab.observer.wait(lambda: set(numbers) <= set(stored_roots(lab)), lab.patience_s, f"roots {numbers}")


def stored_roots(lab: Lab) -> dict[int, bytes]:
    database = sqlite3.connect(lab.folder / "store" / "agent.sqlite")
    try:
        return dict(database.execute("select number, document from roots"))
    finally:
        database.close()


def damage_stored_root(lab: Lab, number: int) -> None:
    database = sqlite3.connect(lab.folder / "store" / "agent.sqlite")
    with database:
        database.execute("update roots set document = ? where number = ?", (b"\x82\x41", number))
    database.close()


def test_a_board_whose_configuration_has_a_newer_root_than_it_followed_starts(board):
    follow(board, 2)
    board.kill()
    (board.folder / "root.cbor").write_bytes(root_document(board, 3))
    board.start()
    assert board.running("1.0.0").problems == ()
    board.install(2)


def test_a_damaged_stored_root_is_named_fetched_again_and_the_module_runs(board):
    follow(board, 2)
    board.kill()
    damage_stored_root(board, 2)
    board.start()
    board.running("1.0.0")
    board.observer.wait(lambda: stored_roots(board)[2] == root_document(board, 2), board.patience_s, "root 2 once more")
    board.observer.wait(lambda: board.report.problems == (), board.patience_s, "the end of the problem")
    assert "root-damaged: stored root 2: malformed" in board.log()
    board.install(2)


@pytest.mark.parametrize("content", [b"", None])
def test_a_board_whose_configured_root_is_damaged_or_gone_uses_the_one_it_stored(board, content):
    follow(board, 2)
    board.kill()
    file = board.folder / "root.cbor"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    board.start()
    (problem,) = board.running("1.0.0").problems
    assert problem.startswith(f"root-damaged: {file}: ")
    board.install(2)


def test_a_board_without_any_root_runs_its_module_and_accepts_nothing(board):
    board.kill()
    (board.folder / "root.cbor").unlink()
    damage_stored_root(board, 1)
    board.start()
    assert len(board.running("1.0.0").problems) == 2
    board.still_answers(1)
    board.deploy(board.signer.update(echo(2), name="echo", version="2.0.0"))
    board.wait_refusal("signer-unknown")
    board.still_answers(1)


def test_a_changed_vendor_takes_effect_at_once(board):
    board.put([(topics.root(2), root_document(board, 2, vendor="new.example"))])
    vendor = vendor_id("new.example")
    update = board.signer.update(
        echo(2),
        name="echo",
        version="2.0.0",
        vendor=vendor,
        class_identifier=class_id(vendor, "generic", "wasm", ABI),
    )
    board.wait_state("confirmed", deployment=board.deploy(update))
    old = board.signer.update(echo(3), name="echo", version="3.0.0")
    report = board.wait_state("rejected", deployment=board.deploy(old))
    assert report.attempt.reason == "vendor-mismatch"
    board.still_answers(2)


def rotate(lab: Lab, number: int, role: str) -> SigningKey:
    """A new key for a role by the next root; returns the old one."""
    old = lab.signer.keys[role]
    lab.signer.keys[role] = SigningKey.generate()
    follow(lab, number)
    return old


def test_a_board_recovers_from_the_highest_sequence_by_a_stolen_release_key(board):
    """And what was confirmed under the new key does not go back either."""
    signer = board.signer
    thiefs = signer.update(echo(6), name="echo", version="6.6.6", sequence=(1 << 63) - 1, epoch=5)
    board.wait_state("confirmed", deployment=board.deploy(thiefs))
    honest = signer.update(echo(2), name="echo", version="2.0.0", epoch=1)
    assert board.wait_state("rejected", deployment=board.deploy(honest)).attempt.reason == "sequence-too-old"
    stolen = rotate(board, 2, "release")
    recovered = signer.update(echo(3), name="echo", version="3.0.0", epoch=1)
    board.wait_state("confirmed", deployment=board.deploy(recovered))
    older = signer.update(echo(4), name="echo", version="4.0.0", sequence=recovered.manifest.sequence - 1)
    assert board.wait_state("rejected", deployment=board.deploy(older)).attempt.reason == "sequence-too-old"
    again = sign(replace(thiefs.manifest, sequence=9), thiefs.blob, thiefs.index, [stolen])
    assert board.wait_state("rejected", deployment=board.deploy(again)).attempt.reason == "signer-unknown"
    board.still_answers(3)


def test_a_board_recovers_from_the_highest_epoch_by_a_stolen_deploy_key(board):
    update = board.signer.update(echo(6), name="echo", version="6.6.6")
    board.wait_state("confirmed", deployment=board.deploy(update, epoch=(1 << 63) - 1))
    board.deploy(board.signer.update(echo(2), name="echo", version="2.0.0"))
    board.wait_refusal("deployment-replayed")
    rotate(board, 2, "deploy")
    board.install(3)
    board.kill()
    board.start()
    board.install(4)
    assert board.running("4.0.0").running.slot == "confirmed"


def test_a_board_that_was_away_while_the_release_key_changed_again_and_again_takes_what_the_last_one_signed(board):
    """It learns what is wanted sooner than it follows all roots, so it meets a key that it does not know yet."""
    board.kill()
    for number in range(2, 8):
        board.signer.keys["release"] = SigningKey.generate()
        board.put([(topics.root(number), root_document(board, number))])
    update = board.signer.update(echo(2), name="echo", version="2.0.0")
    deployment = board.deploy(update)
    board.start()
    board.wait_state("confirmed", deployment=deployment)
    board.kill()
    board.start()
    board.still_answers(2)


def test_a_key_that_is_revoked_while_its_update_is_fetched_starts_nothing(tmp_path):
    lab = open_lab(tmp_path, fetch_timeout=60)
    try:
        lab.start()
        lab.install(1)
        update = lab.signer.update(echo(2, padding=5000), name="echo", version="2.0.0")
        held = topics.blob_chunk(update.index.digest, 1)
        deployment = lab.deploy(update, leave_out=(held,))
        lab.wait_state("fetching", deployment=deployment)
        begun = lab.folder / "store" / "blobs" / f"{update.index.digest.hex()}.part"
        end = time.monotonic() + lab.patience_s
        while not begun.exists():  # the manifest was verified before
            assert time.monotonic() < end
            time.sleep(0.02)
        rotate(lab, 2, "release")
        lab.put([(held, dict(artifacts(update))[held])])
        # It fails, and is tried again at once, as another root may know the key: reports may leave out the first of the two.
        assert lab.wait_state("failed", "rejected", "confirmed", deployment=deployment).attempt.reason == "signer-unknown"
        later = lab.log().split("confirmed to offered")[1]
        assert "starting to failed (signer-unknown" in later
        assert "to trial" not in later
        lab.still_answers(1)
    finally:
        lab.close()
