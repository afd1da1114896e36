"""Decrypting on the disk: block by block, and from the beginning after a power cut at any step."""

import os
import tracemalloc

import pytest

from device_agent.desired.reading_keys import GROUP_KEYS, KeyFiles
from device_agent.storage import blobs
from device_agent.storage.blobs import BLOCK_BYTES
from device_agent.storage.store import Store
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.encryption import GroupKey, cipher
from ota.formats.reasons import Reason, Refused
from tests.support.sealing import KEY, OTHER_KEY, sealed
from tests.support.signing import Signer

SECRET, IV = b"s" * 16, bytes(16)
PLAIN = os.urandom(2 * BLOCK_BYTES + 77)
SENT = cipher(SECRET, IV).update(PLAIN)
INDEX = ChunkIndex.of(SENT, 256 * 1024)
DIGEST = sha256(PLAIN)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


def fetch(store) -> None:
    for number in store.begin_blob(INDEX):
        store.add_chunk(INDEX, number, SENT[number * INDEX.chunk_bytes : (number + 1) * INDEX.chunk_bytes])
    store.finish_blob(INDEX)


def names(store):
    return sorted(each.name for each in store.blob_path(DIGEST).parent.iterdir())


class PowerCut(Exception):
    """What ends the agent; nothing after it happens."""


def test_the_plaintext_takes_the_place_of_the_ciphertext(store):
    fetch(store)
    store.decrypt_blob(INDEX.digest, DIGEST, SECRET, IV)
    assert names(store) == [DIGEST.hex()]
    assert store.blob(DIGEST) == PLAIN
    assert store.blob_path(DIGEST).stat().st_mode & 0o077 == 0
    store.decrypt_blob(INDEX.digest, DIGEST, SECRET, IV)  # another instance fetched the same


CUTS = {
    "before anything": "_decrypt",
    "in the middle": "cipher",
    "before it is durable": "os.fsync",
    "before it has its name": "os.rename",
    "before the name is durable": "sync_folder",
    "before the ciphertext is gone": "os.unlink",
}


@pytest.mark.parametrize("name", CUTS)
def test_a_power_cut_while_decrypting_costs_no_chunk(store, tmp_path, monkeypatch, name):
    fetch(store)
    with monkeypatch.context() as patched:
        cut(patched, CUTS[name])
        with pytest.raises(PowerCut):
            store.decrypt_blob(INDEX.digest, DIGEST, SECRET, IV)
    store.close()
    again = Store(tmp_path / "store")
    assert store_has(again, DIGEST) or again.begin_blob(INDEX) == set(), "a chunk would be fetched again"
    if not store_has(again, DIGEST):
        again.finish_blob(INDEX)
        again.decrypt_blob(INDEX.digest, DIGEST, SECRET, IV)
    again.drop_blob(INDEX.digest)
    assert again.blob(DIGEST) == PLAIN
    assert names(again) == [DIGEST.hex()]
    again.close()


def store_has(store, digest) -> bool:
    try:
        return store.blob(digest) is not None
    except Refused:
        return False


def cut(patched, where: str) -> None:
    def end(*_, **__):
        raise PowerCut

    if where == "cipher":  # the first block is written
        real, calls = blobs.cipher, []

        class Ending:
            def __init__(self, key, iv):
                self._context = real(key, iv)

            def update(self, block):
                calls.append(1)
                if len(calls) > 1:
                    raise PowerCut
                return self._context.update(block)

        patched.setattr(blobs, "cipher", Ending)
    elif where == "os.rename":
        patched.setattr(type(blobs.Path()), "rename", end)
    elif where == "os.unlink":
        real_unlink = type(blobs.Path()).unlink
        patched.setattr(
            type(blobs.Path()),
            "unlink",
            lambda self, missing_ok=False: end() if self.name == INDEX.digest.hex() else real_unlink(self, missing_ok),
        )
    elif where == "os.fsync":
        patched.setattr(blobs.os, "fsync", end)
    else:
        patched.setattr(blobs, where, end)


@pytest.mark.parametrize(("key", "iv"), [(b"t" * 16, IV), (SECRET, b"1" * 16)])
def test_a_wrong_key_leaves_neither_plaintext_nor_ciphertext(store, key, iv):
    fetch(store)
    with pytest.raises(Refused) as caught:
        store.decrypt_blob(INDEX.digest, DIGEST, key, iv)
    assert caught.value.reason is Reason.DECRYPTION_FAILED
    assert names(store) == []


def test_a_full_disk_keeps_the_ciphertext_for_the_next_try(store, monkeypatch):
    fetch(store)
    with monkeypatch.context() as patched:
        patched.setattr(blobs, "free_bytes", lambda _: len(PLAIN) - 1)
        with pytest.raises(Refused) as caught:
            store.decrypt_blob(INDEX.digest, DIGEST, SECRET, IV)
    assert caught.value.reason is Reason.DISK_FULL
    store.decrypt_blob(INDEX.digest, DIGEST, SECRET, IV)
    assert store.blob(DIGEST) == PLAIN


def test_a_ciphertext_that_is_gone_is_fetched_again(store):
    with pytest.raises(Refused) as caught:
        store.decrypt_blob(INDEX.digest, DIGEST, SECRET, IV)
    assert caught.value.reason is Reason.BLOB_DIGEST_MISMATCH


def test_decrypting_takes_a_few_blocks_of_memory_whatever_the_size(tmp_path):
    size = 64 * BLOCK_BYTES
    (tmp_path / "sent").write_bytes(bytes(size))
    tracemalloc.start()
    blobs._decrypt(tmp_path / "sent", tmp_path / "plain", SECRET, IV)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * BLOCK_BYTES
    assert (tmp_path / "plain").stat().st_size == size


# -- keys


def test_the_boards_own_key_is_made_once_and_kept_to_its_owner(tmp_path):
    made = KeyFiles(tmp_path, tmp_path / "store")
    assert (tmp_path / "store" / "encryption.pem").stat().st_mode & 0o777 == 0o600
    assert KeyFiles(tmp_path, tmp_path / "store").public == made.public != b""


def test_a_key_that_cannot_be_used_is_left_out_and_the_others_stay(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "encryption.pem").write_text("damaged")
    for number in range(3):
        (tmp_path / f"group-{number}.key").write_bytes(b"damaged")
    (tmp_path / "group-endless.key").write_bytes(bytes(1 << 20))
    (tmp_path / "group-good.key").write_bytes(KEY.to_bytes())
    (tmp_path / "other.key").write_bytes(OTHER_KEY.to_bytes())
    files, signer = KeyFiles(tmp_path, tmp_path / "store"), Signer()
    assert files.public == b""
    update = signer.update(b"x" * 100)
    assert files.content_key(update.manifest) is None
    assert files.content_key(sealed(signer, update).manifest).iv == IV
    with pytest.raises(Refused) as caught:
        files.content_key(sealed(signer, update, (OTHER_KEY,)).manifest)
    assert caught.value.reason is Reason.RECIPIENT_MISSING


def test_the_number_of_keys_that_are_read_is_bounded(tmp_path):
    keys = [GroupKey(bytes([number]) * 16) for number in range(GROUP_KEYS + 1)]
    for number, key in enumerate(keys):
        (tmp_path / f"group-{number:03}.key").write_bytes(key.to_bytes())
    files = KeyFiles(tmp_path, tmp_path / "store")
    assert len(files._groups()) == GROUP_KEYS
