"""A group's keys for one board: who they are for, what is inside, and at the edges of what is read."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ota.author.encryption import sealed_for
from ota.formats import cbor, key_delivery
from ota.formats.encryption import INFO_LIMIT_BYTES, KEY_LIMIT_BYTES, GroupKey
from ota.formats.key_delivery import DELIVERY_LIMIT_BYTES, DELIVERY_TYPE, KEYS, KeyDelivery, plaintext
from ota.formats.reasons import Reason, Refused
from ota.keyring import SigningKey, sign_document
from tests.support.signing import NOW_S, Signer

SIGNER = Signer()
OWN = ec.derive_private_key(31, ec.SECP256R1())
KEY_BY_ID = {each.key_id: each for each in (GroupKey(bytes([number]) * 16) for number in range(KEYS))}
_VERSION, _DEVICE, _GROUP, _EPOCH, _ISSUED, _KEYS, _INFO, _SEALED = range(1, 9)


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def delivery(content: bytes | None = None, key_ids: list[bytes] | None = None) -> KeyDelivery:
    """Of all keys, unless told otherwise."""
    info, sealed = sealed_for(plaintext(KEY_BY_ID) if content is None else content, OWN.public_key(), lambda size: b"\x06" * size)
    return KeyDelivery("roof-1", "lab", 4, NOW_S, tuple(sorted(KEY_BY_ID) if key_ids is None else key_ids), info.to_bytes(), sealed)


def signed(found: KeyDelivery, *keys: SigningKey, kind: str = DELIVERY_TYPE) -> bytes:
    return sign_document(found.to_payload(), kind, list(keys or [SIGNER.keys["deploy"]]))


def test_a_board_gets_every_key_of_its_group():
    found = delivery()
    verified = key_delivery.verified(signed(found), SIGNER.root(), "roof-1", "lab")
    assert (verified.delivery, verified.epoch) == (found, 4)
    assert verified.digest == cbor.sha256(found.to_payload())
    assert verified.signers == {SIGNER.keys["deploy"].public.key_id}
    assert verified.delivery.open(OWN) == KEY_BY_ID
    assert key_delivery.verified(signed(found), SIGNER.root(), "roof-1").delivery == found  # whatever its group
    assert key_delivery.claimed(signed(found, SigningKey.generate())) == found
    assert key_delivery.claimed(b"nothing") is None


@pytest.mark.parametrize(
    ("device", "group", "told"),
    [
        ("roof-2", "lab", "not for roof-2 in group lab"),
        ("roof-2", "", "not for roof-2 in group any"),
        ("roof-1", "other", "not for roof-1 in group other"),
    ],
)
def test_keys_for_another_board_or_group_are_refused(device, group, told):
    error = refusal(key_delivery.verified, signed(delivery()), SIGNER.root(), device, group)
    assert (error.reason, error.detail) == (Reason.GROUP_MISMATCH, f"the keys are for device roof-1 in group lab, {told}")


def test_keys_are_believed_of_the_deploy_role_and_as_a_delivery_alone():
    for keys, kind, reason in (
        ([SIGNER.keys["release"]], DELIVERY_TYPE, Reason.SIGNER_UNKNOWN),
        ([SIGNER.keys["root"]], DELIVERY_TYPE, Reason.SIGNER_UNKNOWN),
        ([SIGNER.keys["deploy"]], "application/other", Reason.SIGNATURE_INVALID),
    ):
        assert refusal(key_delivery.verified, signed(delivery(), *keys, kind=kind), SIGNER.root(), "roof-1").reason is reason
    assert refusal(KeyDelivery.from_payload, bytes(64 * 1024)).reason is Reason.MALFORMED
    data = bytes(DELIVERY_LIMIT_BYTES + 1)
    assert (len(data), KEYS) == (64 * 1024 + 1, 8)
    assert refusal(key_delivery.verified, data, SIGNER.root(), "roof-1").reason is Reason.TOO_LARGE
    assert refusal(KeyDelivery.from_payload, data).reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({_VERSION: 2}, Reason.MEMBER_UNKNOWN),
        ({9: 1}, Reason.MEMBER_UNKNOWN),
        ({63: 1}, Reason.MEMBER_UNKNOWN),
        ({_DEVICE: "+"}, Reason.MALFORMED),
        ({_GROUP: "a/b"}, Reason.MALFORMED),
        ({_EPOCH: -1}, Reason.MALFORMED),
        ({_ISSUED: -1}, Reason.MALFORMED),
        ({_ISSUED: (1 << 40) + 1}, Reason.MALFORMED),
        ({_KEYS: [b"1234567"]}, Reason.MALFORMED),
        ({_KEYS: [b"123456789"]}, Reason.MALFORMED),
        ({_KEYS: ["12345678"]}, Reason.MALFORMED),
        ({_KEYS: [7]}, Reason.MALFORMED),
        ({_KEYS: [bytes([number]) * 8 for number in range(KEYS + 1)]}, Reason.MALFORMED),
        ({_INFO: bytes(INFO_LIMIT_BYTES + 1)}, Reason.MALFORMED),
        ({_SEALED: bytes(KEYS * KEY_LIMIT_BYTES + 1)}, Reason.MALFORMED),
    ],
)
def test_a_delivery_beyond_what_it_may_say_is_refused(change, reason):
    value = cbor.decode(delivery().to_payload(), "test", 1 << 16)
    assert refusal(KeyDelivery.from_payload, cbor.encode(value | change)).reason is reason


@pytest.mark.parametrize(
    "change",
    [
        {64: "ignored"},
        {_EPOCH: 0},
        {_ISSUED: 0},
        {_ISSUED: 1 << 40},
        {_KEYS: []},
        {_INFO: bytes(INFO_LIMIT_BYTES)},
        {_SEALED: bytes(KEYS * KEY_LIMIT_BYTES)},
    ],
)
def test_a_delivery_at_the_edge_of_what_it_may_say_is_read(change):
    value = cbor.decode(delivery().to_payload(), "test", 1 << 16) | change
    assert KeyDelivery.from_payload(cbor.encode(value)).device == "roof-1"


@pytest.mark.parametrize("value", [[], "text", b"", 7])
def test_what_is_no_map_is_no_delivery(value):
    error = refusal(KeyDelivery.from_payload, cbor.encode(value))
    assert (error.reason, error.detail) == (Reason.MALFORMED, "group's keys: not a map")


def test_a_delivery_whose_keys_are_not_those_that_it_lists_is_refused():
    error = refusal(delivery(key_ids=sorted(KEY_BY_ID)[:-1]).open, OWN)
    assert (error.reason, error.detail) == (Reason.MALFORMED, "group's keys: other keys are inside than it lists")
    for content in (cbor.encode(7), cbor.encode(["text"]), cbor.encode([b"no key"]), b"\xff", b""):
        error = refusal(delivery(content).open, OWN)
        assert (error.reason, error.detail) == (Reason.DECRYPTION_FAILED, "what is inside is no list of keys")
    for other in (ec.derive_private_key(32, ec.SECP256R1()), None):
        assert refusal(delivery().open, other).reason is Reason.RECIPIENT_MISSING
