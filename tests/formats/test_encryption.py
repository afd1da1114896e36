"""Who can read a blob: published vectors, round trips, and every way in which a COSE_Encrypt can be spoilt."""

from dataclasses import replace

import pytest
from cbor2 import CBORTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from hypothesis import given
from hypothesis import strategies as some

from ota.author.build import BuildError, Update
from ota.author.encryption import Readers, encrypted
from ota.formats import cbor, suit
from ota.formats.encryption import (
    MAX_RECIPIENTS,
    Ciphertext,
    EncryptionInfo,
    GroupKey,
    ReadingKeys,
    Recipient,
    agreed_key,
    board_key_id,
    cipher,
    public_cose_key,
    public_key,
    read_public_key,
)
from ota.formats.key_delivery import KeyDelivery
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, Manifest
from ota.formats.profile import Profile
from ota.formats.reasons import Reason, Refused
from tests.support.documents import UPDATE
from tests.support.sealing import KEY, OTHER_KEY, respelled, sealed
from tests.support.signing import Signer

BOARD, STRANGER = (ec.derive_private_key(number, ec.SECP256R1()) for number in (5, 6))
SIGNER = Signer()
PLAIN = b"This is a real firmware image."
CTR, IV = -65534, bytes(16)


def reason(work) -> Reason:
    with pytest.raises(Refused) as caught:
        work()
    return caught.value.reason


def test_the_vector_of_the_draft_for_a_shared_key_is_decrypted():
    """draft-ietf-suit-firmware-encryption, AES-KW and AES-CTR: KEK 'aaaaaaaaaaaaaaaa'."""
    key = aes_key_unwrap(b"a" * 16, bytes.fromhex("CE34035CE5C2E2666E46D4C131FC561DD190A6D26CFA1990"))
    found = bytes.fromhex("B74188DE68CD904873C7D4AB265A7F5608AC63F68DBBCE7773ADCB38DA07")
    assert cipher(key, bytes.fromhex("93702C81590F845D9EC866CCAC767BD1")).update(found) == PLAIN


def test_a_vector_for_a_device_key_is_decrypted():
    """The SUIT examples for personal data, by ECDH-ES+A128KW and AES-CTR, for the receiver's key of the draft."""
    own = ec.derive_private_key(int("60FE6DD6D85D5740A5349B6F91267EEAC5BA81B8CB53EE249E4B4EB102C476B3", 16), ec.SECP256R1())
    sender = public_key(
        bytes.fromhex("F2452399667F57993B14C5F1107F667884854C190894FC08531C1E2290A7BA19"),
        bytes.fromhex("275EDDE29FD75C9393AFFA706F8FAD3C49D03D67D47F8B0C027BE5F0BCA884CB"),
    )
    key = aes_key_unwrap(agreed_key(own, sender), bytes.fromhex("7D806DA1ACEC6F704D803F0CFE7420525C81E1957699FCCE"))
    found = bytes.fromhex(
        "6D5BE4F569E98AE01F38B071EF025437B742FF28854AB32C868BC6A76CD33B5CA112FF22BA95EA4672B7199C89A7829183794A21A6BE345C4371DCB0DC"
    )
    plain = cipher(key, bytes.fromhex("67E3BA7CD42D02BBC39C508B5EA0F1C4")).update(found)
    assert plain == b'{"name":"FOO Bar","secret":"0123456789abfcdef0123456789abcd"}'


@given(some.binary(min_size=1, max_size=5000), some.lists(some.binary(min_size=16, max_size=16), min_size=1, max_size=4))
def test_what_is_sealed_is_opened_by_each_reader_and_by_nobody_else(content, secrets):
    readers = Readers([GroupKey(each) for each in secrets], [BOARD.public_key()])
    made = encrypted(SIGNER.update(content).draft, readers)
    assert made.manifest.size == len(made.blob) == len(content)
    info = EncryptionInfo.from_bytes(made.manifest.ciphertext.info)
    for keys in (*(ReadingKeys({each.key_id: each}) for each in readers.groups), ReadingKeys({}, BOARD)):
        assert cipher(keys.content_key(info), info.iv).update(made.blob) == content
    assert reason(lambda: ReadingKeys({}, STRANGER).content_key(info)) is Reason.RECIPIENT_MISSING


def test_an_encrypted_manifest_is_read_as_it_was_written_with_its_images():
    made = sealed(SIGNER, UPDATE, (KEY, OTHER_KEY), (BOARD.public_key(),))
    manifest = Manifest.from_envelope(suit.Envelope.from_bytes(made.envelope, MANIFEST_LIMIT_BYTES))
    assert manifest == made.manifest
    assert (manifest.digest, manifest.images[0].digest) == (UPDATE.manifest.digest, UPDATE.manifest.images[0].digest)
    assert len({manifest.digest, manifest.sent_digest, manifest.images[0].digest, manifest.images[0].sent_digest}) == 4


def test_each_blob_has_a_key_of_its_own():
    made = sealed(SIGNER, UPDATE)
    keys = ReadingKeys({KEY.key_id: KEY})
    infos = [made.manifest.ciphertext.info, made.manifest.images[0].ciphertext.info]
    assert len({keys.content_key(EncryptionInfo.from_bytes(each)) for each in infos}) == 2


def test_sealing_again_is_the_same_content_and_for_other_readers_is_not(tmp_path):
    one, again, other = (encrypted(UPDATE.draft, Readers(each)) for each in ((KEY, OTHER_KEY), (OTHER_KEY, KEY), (KEY,)))
    assert one.blob != again.blob
    assert one.content == again.content
    assert len({one.content, other.content, UPDATE.draft.content}) == 3
    made = one.signed(7, SIGNER.keys["release"])
    assert Update.load(made.save(tmp_path)) == made
    assert UPDATE.blob not in [each.read_bytes() for each in (tmp_path / one.name).iterdir()]
    assert made.draft.content == one.content


def test_an_agent_that_does_not_know_encryption_refuses_and_runs_no_ciphertext():
    """The components are another list: what reads manifests since before there was encryption knows two of them alone."""
    read = suit.Envelope.from_bytes(sealed(SIGNER, UPDATE).envelope, MANIFEST_LIMIT_BYTES)
    assert reason(lambda: Profile.from_envelope(read, [[b"m"]], [[b"m"], [b"i"]])) is Reason.COMMAND_UNSUPPORTED


def test_a_plain_image_beside_an_encrypted_module_is_refused():
    made = sealed(SIGNER, UPDATE)
    manifest = replace(made.manifest, images=UPDATE.manifest.images)
    envelope = replace(made.draft, manifest=manifest).signed(1, SIGNER.keys["release"]).envelope
    read = suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES)
    assert reason(lambda: Manifest.from_envelope(read)) is Reason.COMMAND_UNSUPPORTED


def test_the_size_of_the_ciphertext_is_that_of_the_plaintext():
    made = sealed(SIGNER, SIGNER.update(bytes(100)))
    envelope = replace(made.draft, manifest=replace(made.manifest, size=101)).signed(1, SIGNER.keys["release"]).envelope
    members = suit.Envelope.from_bytes(envelope, MANIFEST_LIMIT_BYTES)
    common = cbor.decode(members.manifest[suit.COMMON], "common", 4096)
    shared = suit.command_sequence(common[suit.SHARED_SEQUENCE], "shared")
    shared[0][1][suit.P_SIZE] = 100
    common[suit.SHARED_SEQUENCE] = cbor.encode([part for command in shared for part in command])
    members.manifest[suit.COMMON] = cbor.encode(common)
    assert reason(lambda: Manifest.from_envelope(members)) is Reason.MALFORMED


def group(key_id=KEY.key_id, wrapped=bytes(24)):
    return [b"", {1: -3, 4: key_id}, wrapped]


def board(**changes):
    key = {1: 2, -1: 1, -2: bytes(32), -3: bytes(32)} | changes.pop("key", {})
    return [cbor.encode({1: -29}), {4: b"k", -1: key}, changes.pop("wrapped", bytes(24))]


def info(recipients, *, protected=b"", headers=None, payload=None, tag=96) -> bytes:
    return cbor.encode(CBORTag(tag, [protected, headers or {1: CTR, 5: IV}, payload, recipients]))


SPOILT = {
    "another tag": (info([group()], tag=16), Reason.MALFORMED),
    "no tag": (cbor.encode([b"", {1: CTR, 5: IV}, None, [group()]]), Reason.MALFORMED),
    "the ciphertext inside": (info([group()], payload=b"x"), Reason.MALFORMED),
    "nobody": (info([]), Reason.MALFORMED),
    "too many": (info([group()] * (MAX_RECIPIENTS + 1)), Reason.MALFORMED),
    "another algorithm": (info([group()], headers={1: -65531, 5: IV}), Reason.ENCRYPTION_UNSUPPORTED),
    "AES-GCM": (info([group()], protected=cbor.encode({1: 1}), headers={5: bytes(12)}), Reason.ENCRYPTION_UNSUPPORTED),
    "no algorithm": (info([group()], headers={5: IV}), Reason.ENCRYPTION_UNSUPPORTED),
    "an algorithm that is equal in Python": (info([group()], headers={1: float(CTR), 5: IV}), Reason.ENCRYPTION_UNSUPPORTED),
    "no counter": (info([group()], headers={1: CTR}), Reason.MALFORMED),
    "a short counter": (info([group()], headers={1: CTR, 5: IV[:12]}), Reason.MALFORMED),
    "a critical header": (info([group()], headers={1: CTR, 5: IV, 2: [5]}), Reason.MEMBER_UNKNOWN),
    "a short wrapped key": (info([group(wrapped=bytes(16))]), Reason.MALFORMED),
    "no key identifier": (info([[b"", {1: -3}, bytes(24)]]), Reason.MALFORMED),
    "a long key identifier": (info([group(key_id=bytes(65))]), Reason.MALFORMED),
    "another kind of key": (info([board(key={1: 3})]), Reason.MALFORMED),
    "another curve": (info([board(key={-1: 2})]), Reason.MALFORMED),
    "a short coordinate": (info([board(key={-2: bytes(31)})]), Reason.MALFORMED),
    "a private key": (info([board(key={-4: bytes(32)})]), Reason.MEMBER_UNKNOWN),
    "no ephemeral key": (info([[cbor.encode({1: -29}), {4: b"k"}, bytes(24)]]), Reason.MALFORMED),
    "not a recipient": (info([b"x"]), Reason.MALFORMED),
    "another algorithm, and as much beside it as there may be": (
        info([group()], protected=cbor.encode({1: 1, 4: bytes(4096 - 7)})),
        Reason.ENCRYPTION_UNSUPPORTED,
    ),
    "another algorithm, and more beside it": (info([group()], protected=cbor.encode({1: 1, 4: bytes(4096 - 6)})), Reason.TOO_LARGE),
    "endless": (bytes(16 * 1024 + 1), Reason.TOO_LARGE),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_encryption_info_is_refused(name):
    data, expected = SPOILT[name]
    assert reason(lambda: EncryptionInfo.from_bytes(data)) is expected


def test_both_spellings_of_an_empty_protected_header_are_read():
    """RFC 9052, section 3: a byte string of no bytes, or one that holds an empty map."""
    spelt = [b"\xa0", *group()[1:]]
    assert EncryptionInfo.from_bytes(info([spelt], protected=b"\xa0")) == EncryptionInfo.from_bytes(info([group()]))


def test_a_recipient_of_a_kind_that_comes_later_locks_nobody_out():
    read = EncryptionInfo.from_bytes(info([[b"", {1: -5, 4: b"k"}, bytes(40)], group(), [b"\xa1\x01\x18\x23", {}, b""]]))
    assert (len(read.recipients), read.unknown) == (1, 2)
    assert EncryptionInfo(IV, read.recipients) == replace(read, unknown=0)  # what is sealed is for known kinds
    alone = EncryptionInfo.from_bytes(info([[b"", {1: -5, 4: KEY.key_id}, bytes(40)]]))
    assert reason(lambda: ReadingKeys({KEY.key_id: KEY}).content_key(alone)) is Reason.RECIPIENT_MISSING


def test_a_key_that_is_wrapped_for_another_under_our_name_is_refused():
    wrapped = EncryptionInfo.from_bytes(info([group()]))
    assert reason(lambda: ReadingKeys({KEY.key_id: KEY}).content_key(wrapped)) is Reason.DECRYPTION_FAILED
    second = Recipient(KEY.key_id, EncryptionInfo.from_bytes(sealed(SIGNER, UPDATE).manifest.ciphertext.info).recipients[0].wrapped)
    both = replace(wrapped, recipients=(*wrapped.recipients, second))
    assert len(ReadingKeys({KEY.key_id: KEY}).content_key(both)) == 16


def test_a_group_key_for_a_board_and_a_board_key_for_a_group_are_none():
    """An identifier counts for its own kind of key alone."""
    as_group = EncryptionInfo.from_bytes(info([group(key_id=board_key_id(BOARD.public_key()))]))
    assert reason(lambda: ReadingKeys({}, BOARD).content_key(as_group)) is Reason.RECIPIENT_MISSING
    value = board()
    value[1][4] = KEY.key_id
    as_board = EncryptionInfo.from_bytes(info([value]))
    assert reason(lambda: ReadingKeys({KEY.key_id: KEY}, BOARD).content_key(as_board)) is Reason.RECIPIENT_MISSING


@pytest.mark.parametrize(
    ("ids", "unknown", "told"),
    [
        ([], 2, "nobody known and 2 of unknown kinds"), ([b"a"], 0, "61"), ([b"a", b"b"], 1, "61, 62 and 1 of unknown kinds"),
        ([b"a"] * 5, 0, "61, 61, 61, 61"),
    ],
)  # fmt: skip
def test_for_whom_it_is_encrypted_instead_is_told(ids, unknown, told):
    info = EncryptionInfo(IV, tuple(Recipient(each, bytes(24)) for each in ids), unknown)
    with pytest.raises(Refused) as caught:
        ReadingKeys({}).content_key(info)
    assert (caught.value.reason, caught.value.detail) == (
        Reason.RECIPIENT_MISSING,
        f"it is encrypted for {told}: no key of this board",
    )


def test_an_ephemeral_key_off_the_curve_is_refused():
    value = board(key={-2: bytes(31) + b"\1", -3: bytes(31) + b"\1"})
    value[1][4] = board_key_id(BOARD.public_key())
    off = EncryptionInfo.from_bytes(info([value]))
    assert reason(lambda: ReadingKeys({}, BOARD).content_key(off)) is Reason.MALFORMED


@given(some.binary(max_size=300))
def test_any_bytes_are_an_encryption_info_or_refused(data):
    for read in (EncryptionInfo.from_bytes, GroupKey.from_bytes, read_public_key):
        try:
            read(data)
        except Refused:
            continue


@pytest.mark.parametrize("change", [lambda ids: ids[::-1], lambda ids: [ids[0], *ids], lambda ids: ["text"], lambda ids: ids * 5])
def test_a_delivery_whose_list_of_keys_is_out_of_order_or_says_one_twice_is_refused(change):
    ids = sorted((GroupKey(b"a" * 16).key_id, GroupKey(b"b" * 16).key_id))
    value = cbor.decode(KeyDelivery("board", "lab", 1, 5, tuple(ids), b"info", b"sealed").to_payload(), "test", 4096)
    assert KeyDelivery.from_payload(cbor.encode(value)).key_ids == tuple(ids)
    value[6] = change(ids)
    with pytest.raises(Refused) as caught:
        KeyDelivery.from_payload(cbor.encode(value))
    assert caught.value.reason is Reason.MALFORMED


def test_files_of_keys_are_strict():
    data = KEY.to_bytes()
    assert GroupKey.from_bytes(data) == KEY
    assert repr(KEY.secret) not in repr(KEY)
    members = cbor.decode(data, "key", 256)
    for change in ({2: b"x" * 8}, {3: -4}, {1: 2}, {-1: bytes(15)}, {4: [5]}):
        assert reason(lambda change=change: GroupKey.from_bytes(cbor.encode(members | change))) in (
            Reason.MALFORMED,
            Reason.MEMBER_UNKNOWN,
        )
    public = public_cose_key(BOARD.public_key())
    assert board_key_id(read_public_key(public)) == board_key_id(BOARD.public_key())
    members = cbor.decode(public, "key", 256)
    for change in ({3: -7}, {-1: 2}, {-3: bytes(32)}, {-4: bytes(32)}):
        assert reason(lambda change=change: read_public_key(cbor.encode(members | change))) in (
            Reason.MALFORMED,
            Reason.MEMBER_UNKNOWN,
        )


def test_more_readers_than_a_manifest_has_room_for_are_named_before_anything_is_signed():
    with pytest.raises(BuildError, match="give the boards a key of their group"):
        encrypted(UPDATE.draft, Readers((), (BOARD.public_key(),) * (MAX_RECIPIENTS + 1)))
    many = SIGNER.update(b"x", aot=tuple((bytes([number]) * 16, b"y") for number in range(16)))
    with pytest.raises(Refused, match="a key of their group") as caught:
        encrypted(many.draft, Readers((), (BOARD.public_key(),) * MAX_RECIPIENTS))
    assert caught.value.reason is Reason.TOO_LARGE


def test_what_signs_says_which_ciphertext_it_is():
    """The authority is the manifest: the ciphertext's digest and the wrapped keys are under its signature."""
    made = sealed(SIGNER, UPDATE)
    changed = respelled(SIGNER, made, lambda each: replace(each, iv=b"1" * 16))
    assert changed.envelope != made.envelope
    swapped = replace(made.manifest, ciphertext=Ciphertext(bytes(32), made.manifest.ciphertext.info))
    assert suit.signed_digest(swapped.to_bytes()) != suit.signed_digest(made.manifest.to_bytes())
