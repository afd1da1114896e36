"""Envelopes and roots at the edges: who signs, what a root may say, and who is named in a refusal."""

from dataclasses import replace

import pytest

from ota.formats import cbor
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import MAX_SIGNATURES, Role, SignedDocument, check_signatures, good_signers
from ota.formats.trust import MAX_KEYS, NOBODY, ROLES, ROOT_TYPE, Root, first_root, next_root
from ota.keyring import SigningKey, sign_document
from tests.support.signing import Signer

SIGNER = Signer()
_NUMBER, _ISSUED, _EXPIRES, _VENDOR, _KEYS, _ROLES = range(2, 8)
LATEST_S = 1 << 40
KIND = "application/test"


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def keys_of(*keys: SigningKey) -> dict:
    return {key.public.key_id: key.public for key in keys}


def payload(change=None) -> bytes:
    value = cbor.decode(SIGNER.root().to_payload(), "test", 1 << 16)
    if change is not None:
        change(value)
    return cbor.encode(value)


def put(member, content):
    return lambda value: value.__setitem__(member, content)


def role(content):
    return lambda value: value[_ROLES].__setitem__("deploy", content)


OWN = SIGNER.keys["deploy"].public.key_id


# -- envelopes


@pytest.mark.parametrize(
    ("value", "reason", "why"),
    [
        ([b"p", []], Reason.SIGNATURE_MISSING, "x is not signed"),
        ([b"p"], Reason.MALFORMED, "x: not [payload, signatures]"),
        (["p", []], Reason.MALFORMED, "x: not [payload, signatures]"),
        ([b"p", {}], Reason.MALFORMED, "x: not [payload, signatures]"),
        ({}, Reason.MALFORMED, "x: not [payload, signatures]"),
        ([b"p", ["text"]], Reason.MALFORMED, "x: a signature is not bytes"),
        ([b"p", [7]], Reason.MALFORMED, "x: a signature is not bytes"),
        ([b"p", [b""] * 17], Reason.MALFORMED, "x: 17 signatures, the limit is 16"),
    ],
)
def test_an_envelope_of_another_form_is_refused(value, reason, why):
    error = refusal(SignedDocument.from_bytes, cbor.encode(value), "x", 1000)
    assert (error.reason, error.detail) == (reason, why)


def test_an_envelope_has_at_most_16_signatures_and_a_draft_may_have_none():
    keys = [SigningKey.generate() for _ in range(MAX_SIGNATURES)]
    data = sign_document(b"p", KIND, keys)
    assert len(SignedDocument.from_bytes(data, "x", len(data)).verify(Role(keys_of(*keys), 16), KIND, "x")) == 16
    assert refusal(SignedDocument.from_bytes, data, "x", len(data) - 1).reason is Reason.TOO_LARGE
    assert SignedDocument.draft(sign_document(b"p", KIND, []), "x", 100) == SignedDocument(b"p", ())


def test_who_has_signed_is_counted_and_wrong_signatures_are_not():
    first, second, stranger = (SigningKey.generate() for _ in range(3))
    known = Role(keys_of(first, second), 2)
    document = SignedDocument.draft(sign_document(b"p", KIND, [first, stranger]), "x", 1000)
    assert good_signers(document.signatures, b"p", known, KIND) == {first.public.key_id}
    assert good_signers(document.signatures, b"q", known, KIND) == frozenset()
    assert good_signers(document.signatures, b"p", known, None) == frozenset()
    error = refusal(check_signatures, document.signatures, b"p", known, KIND, "x")
    assert (error.reason, error.detail) == (Reason.SIGNER_THRESHOLD, "x: 1 of 2 needed signatures")
    error = refusal(check_signatures, document.signatures, b"p", known, "application/other", "x")
    assert error.reason is Reason.SIGNATURE_INVALID
    assert error.detail == "x: a signature does not name its algorithm and the type 'application/other'"


def test_a_role_says_what_it_is_short_of():
    key = SigningKey.generate()
    mixed = Role(keys_of(key), 1, mixed=True)
    assert mixed.lacks([]) == "0 of 1 needed signatures"
    assert mixed.lacks(keys_of(key)) == "no post-quantum signature"
    assert Role(keys_of(key), 1).lacks(keys_of(key)) == ""


# -- roots


@pytest.mark.parametrize(
    "change",
    [
        put(_NUMBER, 1),
        put(_ISSUED, 0),
        put(_ISSUED, LATEST_S),
        put(_EXPIRES, 0),
        put(_EXPIRES, LATEST_S),
        put(_VENDOR, "v" * 253),
        lambda value: value[_ROLES].__setitem__("audit", "what this version does not know"),
    ],
)
def test_a_root_at_the_edge_of_what_it_may_say_is_read(change):
    assert Root.from_payload(payload(change)).roles == SIGNER.root().roles


@pytest.mark.parametrize(
    "change",
    [
        put(_NUMBER, 0),
        put(_ISSUED, -1),
        put(_ISSUED, LATEST_S + 1),
        put(_EXPIRES, -1),
        put(_EXPIRES, LATEST_S + 1),
        put(_VENDOR, "v" * 254),
        put(_ROLES, {name: [[OWN], 1] for name in ROLES[1:]}),
        put(_KEYS, []),
        role({}),
        role([[OWN]]),
        role([[OWN], True]),
        role([OWN, 1]),
        role([[OWN], 1, False]),
        role([[OWN], 1, 1]),
        role([[OWN], 1, True, True]),
        role([[b"not listed"], 1]),
        role([[OWN, b"not listed"], 1]),
        role([[7], 1]),
        role([[[OWN]], 1]),
        role([[OWN, OWN], 1]),
        role([[OWN], 0]),
        role([[OWN], 2]),
        role([[], 0]),
    ],
)
def test_a_root_beyond_what_it_may_say_is_malformed(change):
    assert refusal(Root.from_payload, payload(change)).reason is Reason.MALFORMED


def test_a_root_names_at_most_32_keys():
    keys = [SigningKey.generate() for _ in range(MAX_KEYS - 1)]
    root = replace(SIGNER.root(), roles=dict(SIGNER.root().roles) | {"deploy": Role(keys_of(*keys[:-1]), 1)})
    assert Root.from_payload(root.to_payload()) == root
    error = refusal(Root.from_payload, replace(root, roles=dict(root.roles) | {"deploy": Role(keys_of(*keys), 1)}).to_payload())
    assert (error.reason, error.detail) == (Reason.MALFORMED, "root document: 33 keys, the limit is 32")


def test_a_root_has_room_in_a_packet_of_128_kib_and_nobody_is_trusted_before_the_first():
    assert refusal(Root.from_payload, bytes(120 * 1024)).reason is Reason.MALFORMED
    assert refusal(Root.from_payload, bytes(120 * 1024 + 1)).reason is Reason.TOO_LARGE
    assert refusal(first_root, bytes(120 * 1024 + 1)).reason is Reason.TOO_LARGE
    assert refusal(next_root, SIGNER.root(), bytes(120 * 1024 + 1)).reason is Reason.TOO_LARGE
    assert Root(0, 0, 0, "", {name: Role({}, 1) for name in ("root", "release", "deploy")}) == NOBODY
    assert refusal(next_root, NOBODY, SIGNER.root_document()).reason is Reason.SIGNER_UNKNOWN
    assert Role({}, 1) == Role({}, 1, {}, mixed=False)


def test_a_key_with_two_roles_is_named_by_its_first_16_digits():
    key = SIGNER.keys["release"]
    roles = dict(SIGNER.root().roles) | {"deploy": Role(keys_of(key), 1)}
    error = refusal(first_root, sign_document(SIGNER.root(roles=roles).to_payload(), ROOT_TYPE, [SIGNER.keys["root"]]))
    digits = key.public.key_id.hex()[:16]
    assert (error.reason, error.detail) == (
        Reason.KEY_REUSED,
        f"root document: key {digits} has the roles release and deploy",
    )


def test_the_root_that_follows_is_named_in_its_refusals():
    def sent(number, *keys):
        return sign_document(SIGNER.root(number).to_payload(), ROOT_TYPE, list(keys))

    own, stranger = SIGNER.keys["root"], SigningKey.generate()
    assert next_root(SIGNER.root(4), sent(5, own)).number == 5
    assert refusal(next_root, SIGNER.root(4), sent(6, own)).detail == "root 6 can't follow root 4"
    assert refusal(next_root, SIGNER.root(4), sent(5, stranger)).detail == (
        "root document after number 4: no signature is by a key that may sign it"
    )
    roles = dict(SIGNER.root().roles) | {"root": Role(keys_of(stranger), 1)}
    document = sign_document(SIGNER.root(5, roles=roles).to_payload(), ROOT_TYPE, [own])
    assert refusal(next_root, SIGNER.root(4), document).detail == "root document 5: no signature is by a key that may sign it"
