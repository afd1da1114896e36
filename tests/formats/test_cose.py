"""COSE_Sign1 and COSE_Key: each attack on their shape is refused before a signature is looked at."""

import cbor2
import pytest

from ota.formats import cbor
from ota.formats.chunks import BLOB_LIMIT_BYTES, CHUNK_MAX_BYTES, CHUNK_MIN_BYTES, ChunkIndex
from ota.formats.cose import CRITICAL, KCCS, MAX_KEY_ID_BYTES, Sign1, UnusableKey, VerifyKey, bare_key, read_bare_key, read_key
from ota.formats.key_delivery import KeyDelivery
from ota.formats.reasons import Reason, Refused
from ota.keyring import SigningKey

KEY = SigningKey.generate()
PUBLIC = KEY.public


def message(protected=None, unprotected=None, payload=b"payload") -> bytes:
    protected = {1: PUBLIC.algorithm.numbers[0]} if protected is None else protected
    return cbor2.dumps([cbor2.dumps(protected, canonical=True), unprotected or {}, payload, bytes(64)], canonical=True)


def refuses(words: str, read, *values) -> None:
    with pytest.raises(Refused, match=words) as caught:
        read(*values)
    assert caught.value.reason is Reason.MALFORMED


def test_one_that_is_well_formed_is_read():
    assert Sign1.from_bytes(message()).headers == {1: PUBLIC.algorithm.numbers[0]}


@pytest.mark.parametrize("where", ["protected", "unprotected"])
def test_a_critical_header_is_refused(where):
    refuses("critical headers", Sign1.from_bytes, message(**{where: {CRITICAL: [-70000]}}))


def test_a_header_in_both_buckets_is_refused():
    refuses("both protected and unprotected", Sign1.from_bytes, message({1: -8}, {1: -7}))


def test_a_payload_is_inside_or_beside_and_never_both_or_neither():
    inside, detached = Sign1.from_bytes(message()), Sign1.from_bytes(message(payload=None))
    refuses("inside or detached", inside.verify, PUBLIC, b"payload")
    refuses("inside or detached", detached.verify, PUBLIC)


def test_protected_headers_have_a_size_limit():
    refused = cbor2.dumps([cbor2.dumps({1: -8, 4: bytes(4096)}), {}, b"", bytes(64)])
    with pytest.raises(Refused) as caught:
        Sign1.from_bytes(refused)
    assert caught.value.reason is Reason.TOO_LARGE
    largest = cbor2.dumps({1: -8, 4: bytes(4096 - 7)})
    assert len(largest) == 4096
    assert Sign1.from_bytes(cbor2.dumps([largest, {}, b"", bytes(64)])).key_id == bytes(4096 - 7)
    refused = cbor2.dumps([cbor2.dumps({1: -8, 4: bytes(4096 - 6)}), {}, b"", bytes(64)])
    with pytest.raises(Refused) as caught:
        Sign1.from_bytes(refused)
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_key_id_is_a_hint_from_either_bucket():
    assert Sign1.from_bytes(message(unprotected={4: b"k"})).key_id == b"k"
    assert Sign1.from_bytes(message(unprotected={4: "k"})).key_id is None


@pytest.mark.parametrize("value", [None, [], "key", {1: 4, -1: b"symmetric"}, {}])
def test_what_is_no_public_key_is_refused(value):
    refuses("COSE_Key", VerifyKey.from_cose_key, value)


def test_a_point_that_is_not_on_its_curve_is_refused_as_such():
    refuses("COSE_Key: (?!not a key of)", VerifyKey.from_cose_key, {1: 2, -1: 1, -2: bytes(32), -3: bytes(32), 3: -7})


def test_an_identifier_of_an_unusable_key_has_a_byte_at_least_and_so_many_at_most():
    for identifier in (b"k", bytes(MAX_KEY_ID_BYTES)):
        assert read_key(identifier, {1: 99}) == UnusableKey(identifier, {1: 99})
    for identifier in (b"", bytes(MAX_KEY_ID_BYTES + 1)):
        refuses("not a key under its identifier", read_key, identifier, {1: 99})


def test_a_key_under_another_keys_identifier_is_refused():
    refuses("its own identifier", read_key, SigningKey.generate().public.key_id, PUBLIC.to_cose_key())


@pytest.mark.parametrize("key_id", [b"", bytes(MAX_KEY_ID_BYTES + 1), "text", None])
def test_a_key_needs_an_identifier_of_bytes(key_id):
    refuses("under its identifier", read_key, key_id, {1: 99})
    assert isinstance(read_key(bytes(MAX_KEY_ID_BYTES), {1: 99}), UnusableKey)


def test_a_key_that_nobody_vouches_for_is_read_from_its_claims_alone():
    assert read_bare_key({}) is None
    assert read_bare_key({KCCS: bare_key(PUBLIC)}).key_id == PUBLIC.key_id
    for claims in (None, [], {}, {8: []}, {8: b"key"}):
        refuses("kccs holds no key", read_bare_key, {KCCS: claims})
    refuses("COSE_Key", read_bare_key, {KCCS: {8: {}}})


def test_keys_of_a_map_are_numbers_or_texts():
    for key in (b"bytes", True, 1.5):
        with pytest.raises(Refused):
            KeyDelivery.from_payload(cbor2.dumps({1: 1, key: 0}))
    refuses("map", KeyDelivery.from_payload, cbor.encode([1, 2]))


def test_chunks_and_blobs_have_sizes_from_to():
    ChunkIndex.of(b"x", CHUNK_MIN_BYTES), ChunkIndex.of(b"x", CHUNK_MAX_BYTES)
    for size in (CHUNK_MIN_BYTES - 1, CHUNK_MAX_BYTES + 1):
        with pytest.raises(ValueError, match="a chunk has"):
            ChunkIndex.of(b"x", size)

    class Huge(bytes):
        def __len__(self) -> int:
            return BLOB_LIMIT_BYTES + 1

    for blob in (b"", Huge()):
        with pytest.raises(ValueError, match="a blob has"):
            ChunkIndex.of(blob)


def test_the_last_chunk_is_as_long_as_what_is_left():
    index = ChunkIndex.of(bytes(2 * CHUNK_MIN_BYTES + 5), CHUNK_MIN_BYTES)
    assert [index.chunk_size(number) for number in range(3)] == [CHUNK_MIN_BYTES, CHUNK_MIN_BYTES, 5]
