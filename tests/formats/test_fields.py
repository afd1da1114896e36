"""The bounds of single fields, each at its edge; signatures that are collected; keys and floats of every kind."""

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ota.formats import cbor
from ota.formats.cose import UnusableKey, VerifyKey
from ota.formats.deployment import DEPLOYMENT_TYPE
from ota.formats.fields import Fields, Unknown
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role, SignedDocument, good_signers
from ota.formats.trust import ROOT_TYPE
from ota.keyring import SigningKey, sign_document

LARGEST = (1 << 63) - 1


def read(value, how: str, *values, **bounds):
    return getattr(Fields({1: value}, "a thing", {1}), how)(1, *values, **bounds)


@pytest.mark.parametrize(
    ("how", "bounds", "good", "bad"),
    [
        ("number", {}, (0, LARGEST), (-1, LARGEST + 1)),
        ("number", {"low": -3, "high": 5}, (-3, 5), (-4, 6)),
        ("text", {}, ("", "x" * 256), ("x" * 257,)),
        ("text", {"limit": 3}, ("xyz",), ("wxyz",)),
        ("name", {}, ("a", "x" * 64), ("", "x" * 65, ".x", "a b")),
        ("data", {}, (b"", bytes(1 << 20)), (bytes((1 << 20) + 1),)),
        ("data", {"size": 4}, (bytes(4),), (bytes(3), bytes(5))),
        ("data", {"limit": 4}, (bytes(4),), (bytes(5),)),
    ],
)
def test_a_field_is_taken_up_to_its_bound_and_refused_beyond(how, bounds, good, bad):
    for value in good:
        assert read(value, how, **bounds) == value
    for value in bad:
        with pytest.raises(Refused) as caught:
            read(value, how, **bounds)
        assert caught.value.reason is Reason.MALFORMED


@pytest.mark.parametrize("unknown", Unknown)
@pytest.mark.parametrize("key", [b"x", True, None, 1.0])
def test_a_key_that_is_neither_number_nor_text_is_malformed_however_others_are_taken(key, unknown):
    with pytest.raises(Refused, match="a key that is neither a whole number nor text") as caught:
        Fields({key: 1}, "a thing", {1, key}, unknown)
    assert caught.value.reason is Reason.MALFORMED


def test_a_name_that_is_too_long_is_told_by_its_length():
    with pytest.raises(Refused, match="has 65 characters, the limit is 64"):
        read("x" * 65, "name")


def test_a_document_of_another_version_is_refused_whichever_it_is():
    read(1, "version")
    read(2, "version", 2)
    for found, known in ((0, 1), (2, 1), (1, 2)):
        with pytest.raises(Refused) as caught:
            read(found, "version", known)
        assert caught.value.reason is Reason.MEMBER_UNKNOWN


def test_of_signatures_that_are_collected_only_the_right_ones_of_the_role_for_this_kind_count():
    ours, other, stranger = (SigningKey.generate() for _ in range(3))
    role = Role({key.public.key_id: key.public for key in (ours, other)}, 2)
    payload = b"payload"

    def counted(*signed) -> set[bytes]:
        document = SignedDocument.from_bytes(sign_document(payload, ROOT_TYPE, [ours]), "a document", 10_000)
        assert document.payload == payload
        found = [
            SignedDocument.from_bytes(sign_document(what, kind, [key]), "x", 10_000).signatures[0] for key, what, kind in signed
        ]
        return set(good_signers(tuple(found), payload, role, ROOT_TYPE))

    assert counted((ours, payload, ROOT_TYPE), (other, payload, ROOT_TYPE)) == {ours.public.key_id, other.public.key_id}
    assert counted((stranger, payload, ROOT_TYPE)) == set()
    assert counted((ours, payload, DEPLOYMENT_TYPE)) == set()
    assert counted((ours, b"another", ROOT_TYPE), (other, payload, ROOT_TYPE)) == {other.public.key_id}


def test_what_is_known_of_an_unusable_key_is_named_and_nothing_else_of_it():
    key = UnusableKey(bytes(range(32)), {1: 7, 3: "x", -1: b"\0" * 9, -2: "no"})
    assert key.label == "0001020304050607 (type 7, algorithm 'x')"
    assert UnusableKey(bytes(32), {1: True, -1: 4}).label == "0000000000000000 (curve 4)"


@pytest.mark.parametrize(("data", "value"), [("f93e00", 1.5), ("fa47c35000", 100_000.0), ("fb3ff199999999999a", 1.1)])
def test_a_float_of_each_size_is_read_and_one_that_is_cut_off_is_not(data, value):
    encoded = bytes.fromhex(data)
    assert cbor.decode(encoded, "a float", 10) == value
    with pytest.raises(Refused) as caught:
        cbor.decode(encoded[:-1], "a float", 10)
    assert caught.value.reason is Reason.MALFORMED


def test_a_public_key_that_signs_nothing_is_refused_where_it_is_read():
    pem = x25519.X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(Refused) as caught:
        VerifyKey.from_pem(pem)
    assert caught.value.reason is Reason.MALFORMED
