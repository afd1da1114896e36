"""Encrypted modules: on the broker and in bundles they are ciphertext, on the board they run; every way to spoil one is refused."""

from dataclasses import replace

import pytest

from ota.formats import topics
from ota.formats.cbor import sha256
from ota.formats.encryption import GroupKey, read_public_key
from ota.operator.publish import artifacts
from tests.support.aot import aotc, compiled
from tests.support.island import Island
from tests.support.lab import echo, open_lab
from tests.support.sealing import KEY, OTHER_KEY, respelled, sealed
from tests.system.test_aot import identifier


@pytest.fixture
def lab(tmp_path):
    """A board that tries again soon."""
    opened = open_lab(tmp_path, retry=0.5)
    yield opened
    opened.close()


def give(folder, key: GroupKey = KEY) -> None:
    """Puts a group's key beside the board's settings."""
    (folder / f"group-{key.key_id.hex()}.key").write_bytes(key.to_bytes())


def update(lab, version: int, **changes):
    return lab.signer.update(echo(version, padding=5000), name="echo", version=f"{version}.0.0", **changes)


def test_a_module_for_a_group_travels_as_ciphertext_and_runs(lab):
    give(lab.folder)
    lab.start()
    plain = update(lab, 1)
    made = sealed(lab.signer, plain)
    sent = b"".join(payload for _, payload in artifacts(made))
    assert all(plain.blob[at : at + 64] not in sent for at in range(0, len(plain.blob) - 64, 64))
    lab.wait_state("confirmed", deployment=lab.deploy(made))
    lab.running("1.0.0")
    lab.still_answers(1)
    blobs = lab.folder / "store" / "blobs"
    assert [each.name for each in blobs.iterdir()] == [plain.manifest.digest.hex()]
    assert blobs.stat().st_mode & 0o077 == 0 or (lab.folder / "store").stat().st_mode & 0o077 == 0
    lab.kill()
    for each in lab.folder.glob("group-*.key"):  # what is on the disk needs no key any more
        each.unlink()
    lab.start()
    lab.running("1.0.0")


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
def test_ahead_of_time_images_are_encrypted_as_the_module_is(lab):
    give(lab.folder)
    lab.start()
    wasm = echo(1)
    made = sealed(lab.signer, lab.signer.update(wasm, name="echo", version="1.0.0", aot=((identifier(), compiled(wasm)),)))
    assert made.images[0][0] != compiled(wasm)
    lab.wait_state("confirmed", deployment=lab.deploy(made))
    lab.running("1.0.0")
    lab.still_answers(1)
    assert lab.report.running.mode == "aot"


def test_a_module_for_boards_is_read_by_the_key_that_the_board_reports(lab):
    lab.start()
    own = read_public_key(lab.observer.board.encryption)
    key_file = lab.folder / "store" / "encryption.pem"
    assert key_file.stat().st_mode & 0o777 == 0o600
    lab.wait_state("confirmed", deployment=lab.deploy(sealed(lab.signer, update(lab, 1), (), (own,))))
    lab.running("1.0.0")
    lab.kill()
    lab.start()
    assert read_public_key(lab.observer.board.encryption) == own


def test_a_board_takes_the_module_once_it_has_the_key(lab):
    lab.start()
    give(lab.folder, OTHER_KEY)
    deployment = lab.deploy(sealed(lab.signer, update(lab, 1)))
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "recipient-missing"
    give(lab.folder)
    lab.wait_state("confirmed", deployment=deployment)
    lab.running("1.0.0")


@pytest.mark.full
def test_a_module_that_the_disk_has_damaged_is_fetched_and_decrypted_again(lab):
    give(lab.folder)
    lab.start()
    plain = update(lab, 1)
    lab.wait_state("confirmed", deployment=lab.deploy(sealed(lab.signer, plain)))
    lab.kill()
    blob = lab.folder / "store" / "blobs" / plain.manifest.digest.hex()
    blob.write_bytes(b"damaged")
    lab.start()
    lab.running("1.0.0")
    lab.still_answers(1)
    assert [each.read_bytes() for each in blob.parent.iterdir()] == [plain.blob]


@pytest.mark.full
def test_two_keys_of_a_group_are_used_side_by_side_while_they_are_changed(lab):
    give(lab.folder)
    lab.start()
    lab.wait_state("confirmed", deployment=lab.deploy(sealed(lab.signer, update(lab, 1), (KEY, OTHER_KEY))))
    give(lab.folder, OTHER_KEY)
    lab.wait_state("confirmed", deployment=lab.deploy(sealed(lab.signer, update(lab, 2))))
    (lab.folder / f"group-{KEY.key_id.hex()}.key").unlink()
    lab.wait_state("confirmed", deployment=lab.deploy(sealed(lab.signer, update(lab, 3), (OTHER_KEY,))))
    lab.running("3.0.0")
    assert lab.wait_state("failed", deployment=lab.deploy(sealed(lab.signer, update(lab, 4)))).attempt.reason == "recipient-missing"


def _wrong_key(lab, made):
    """Wrapped with another key, under the identifier of the board's."""
    return respelled(lab.signer, made, lambda info: replace(info, recipients=(replace(info.recipients[0], wrapped=b"w" * 24),)))


def _other_counter(lab, made):
    """What comes out is another plaintext than the manifest names."""
    return respelled(lab.signer, made, lambda info: replace(info, iv=b"1" * 16))


def _other_plaintext(lab, made):
    manifest = replace(made.manifest, digest=sha256(b"another"))
    return replace(made.draft, manifest=manifest).signed(manifest.sequence, lab.signer.keys["release"])


@pytest.mark.full
@pytest.mark.parametrize("spoil", [_wrong_key, _other_counter, _other_plaintext])
def test_a_ciphertext_that_does_not_give_the_signed_plaintext_is_refused_once(lab, spoil):
    give(lab.folder)
    lab.start()
    lab.wait_state("confirmed", deployment=lab.deploy(sealed(lab.signer, update(lab, 1))))
    made = spoil(lab, sealed(lab.signer, update(lab, 2)))
    seen = lab.wait_state("failed", "rejected", deployment=lab.deploy(made))
    assert seen.attempt.reason == "decryption-failed"
    lab.still_answers(1)
    lab.wait_state("confirmed", deployment=lab.deploy(sealed(lab.signer, update(lab, 3))))
    assert not list((lab.folder / "store" / "blobs").glob("*.plain"))


@pytest.mark.full
@pytest.mark.parametrize("change", [lambda chunk: bytes((chunk[0] ^ 1,)) + chunk[1:], lambda chunk: chunk[:-1]])
def test_a_ciphertext_that_is_tampered_with_or_truncated_is_never_decrypted(lab, change):
    give(lab.folder)
    lab.start()
    made = sealed(lab.signer, update(lab, 1))
    topic = topics.blob_chunk(made.manifest.sent_digest, 2)
    deployment = lab.deploy(made, change={topic: change(dict(artifacts(made))[topic])})
    assert lab.wait_state("failed", deployment=deployment).attempt.reason == "chunk-digest-mismatch"
    assert not (lab.folder / "store" / "blobs" / made.manifest.digest.hex()).exists()
    lab.put(artifacts(made))  # whole: the same deployment is tried again
    lab.wait_state("confirmed", deployment=deployment)


@pytest.mark.full
def test_a_bundle_carries_ciphertext_and_install_decrypts_it(tmp_path):
    island = Island(tmp_path)
    try:
        plain = island.update(1, padding=5000)
        path = island.pack(island.messages(sealed(island.signer, plain)), tmp_path / "lab.bundle")
        assert plain.blob[-4000:-3000] not in path.read_bytes()
        refused = island.install(path)
        assert (refused.returncode, "recipient-missing" in refused.stdout) == (1, True), refused.stdout + refused.stderr
        give(tmp_path)
        done = island.install(path)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        island.close()
