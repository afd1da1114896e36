"""SUIT envelopes and command sequences of every form, whatever our profile makes of them."""

import pytest
from cbor2 import CBORTag

from ota.formats import cbor, suit
from ota.formats.cose import SIGN1_TAG
from ota.formats.reasons import Reason, Refused
from ota.formats.suit import Envelope, command_sequence
from ota.keyring import SigningKey

LIMIT = 1 << 20
KEY = SigningKey.generate()
MANIFEST = cbor.encode({suit.VERSION: 1, suit.SEQUENCE: 3})
SIGNATURE = KEY.sign1(suit.signed_digest(MANIFEST))


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def envelope(members: dict | None = None, manifest: bytes = MANIFEST, wrapper: object = None) -> bytes:
    """`members`: in addition, or None in the place of one that is to be left out."""
    blocks = [suit.signed_digest(manifest), SIGNATURE] if wrapper is None else wrapper
    authentication = blocks if isinstance(blocks, bytes) else cbor.encode(blocks)
    found = {suit.AUTHENTICATION: authentication, suit.MANIFEST: manifest} | (members or {})
    return cbor.encode(CBORTag(suit.ENVELOPE_TAG, {key: each for key, each in found.items() if each is not None}))


def severed(member: int, content: bytes, digest: object = None) -> bytes:
    named = [suit.SHA_256, cbor.sha256(cbor.encode(content))] if digest is None else digest
    return envelope({member: content}, cbor.encode({member: named}))


def test_an_envelope_is_read_as_it_was_written():
    found = Envelope.from_bytes(envelope({"#payload": b"inside"}), LIMIT)
    assert (found.manifest, found.manifest_bytes) == ({suit.VERSION: 1, suit.SEQUENCE: 3}, MANIFEST)
    assert (found.severed, found.integrated) == ({}, {"#payload": b"inside"})
    assert found.digest == suit.signed_digest(MANIFEST)
    (signature,) = found.signatures
    assert signature.verify(KEY.public, found.digest) == found.digest


@pytest.mark.parametrize(
    ("data", "reason", "why"),
    [
        (cbor.encode({}), Reason.MALFORMED, "SUIT envelope: not a map under tag 107"),
        (cbor.encode(CBORTag(107, [])), Reason.MALFORMED, "SUIT envelope: not a map under tag 107"),
        (envelope({suit.MANIFEST: None}), Reason.MALFORMED, "SUIT envelope: authentication wrapper or manifest is missing"),
        (envelope({suit.AUTHENTICATION: None}), Reason.MALFORMED, "SUIT envelope: authentication wrapper or manifest is missing"),
        (envelope({suit.AUTHENTICATION: 1}), Reason.MALFORMED, "SUIT envelope: authentication wrapper or manifest is missing"),
        (envelope({suit.MANIFEST: "text"}), Reason.MALFORMED, "SUIT envelope: authentication wrapper or manifest is missing"),
        (envelope({"#payload": 1}), Reason.MALFORMED, "SUIT envelope: member '#payload' is not bytes"),
        (envelope({suit.VALIDATE: b"x"}), Reason.MALFORMED, "SUIT envelope: member 7 is unknown"),
        (envelope({b"name": b"x"}), Reason.MALFORMED, None),
        (envelope(manifest=cbor.encode([])), Reason.MALFORMED, "SUIT manifest: not a map"),
        (envelope({suit.TEXT: b"x"}), Reason.MALFORMED, "SUIT envelope: text is severed, but the manifest has no digest of it"),
        (
            severed(suit.TEXT, b"x", b"inside"),
            Reason.MALFORMED,
            "SUIT envelope: text is severed, but the manifest has no digest of it",
        ),
        (severed(suit.INSTALL, b"x", [suit.SHA_256, bytes(32)]), Reason.SEVERED_MISMATCH, None),
        (
            severed(suit.INSTALL, b"x", [-15, bytes(32)]),
            Reason.COMMAND_UNSUPPORTED,
            "digest algorithm -15: only SHA-256 (-16) is supported",
        ),
        (envelope(wrapper=b"\x80"), Reason.MALFORMED, "authentication wrapper: not a list of byte strings"),
        (envelope(wrapper=b"\xa0"), Reason.MALFORMED, "authentication wrapper: not a list of byte strings"),
        (
            envelope(wrapper=[suit.signed_digest(MANIFEST), 7]),
            Reason.MALFORMED,
            "authentication wrapper: not a list of byte strings",
        ),
        (
            envelope(wrapper=[suit.signed_digest(MANIFEST), b""]),
            Reason.MALFORMED,
            "authentication wrapper: a block that is not COSE_Sign1",
        ),
        (
            envelope(wrapper=[suit.signed_digest(MANIFEST), SIGNATURE[1:]]),
            Reason.MALFORMED,
            "authentication wrapper: a block that is not COSE_Sign1",
        ),
        (
            envelope(wrapper=[suit.signed_digest(MANIFEST), *[SIGNATURE] * 17]),
            Reason.MALFORMED,
            "authentication wrapper: 17 signatures, the limit is 16",
        ),
        (envelope(wrapper=[cbor.encode([suit.SHA_256, bytes(32)]), SIGNATURE]), Reason.SIGNATURE_INVALID, None),
    ],
)
def test_an_envelope_of_another_form_is_refused(data, reason, why):
    error = refusal(Envelope.from_bytes, data, LIMIT)
    assert (error.reason, why is None or error.detail == why) == (reason, True), error.detail


def test_an_envelope_has_at_most_16_signatures_and_a_wrapper_of_64_kib():
    found = Envelope.from_bytes(envelope(wrapper=[suit.signed_digest(MANIFEST), *[SIGNATURE] * 16]), LIMIT)
    assert len(found.signatures) == 16
    data = envelope()
    assert Envelope.from_bytes(data, len(data))
    assert refusal(Envelope.from_bytes, data, len(data) - 1).reason is Reason.TOO_LARGE
    for size, reason in ((1 << 16, Reason.MALFORMED), ((1 << 16) + 1, Reason.TOO_LARGE)):
        wrapper = cbor.encode([b"", bytes(size - 5)])
        assert (len(wrapper), refusal(Envelope.from_bytes, envelope(wrapper=wrapper), LIMIT).reason) == (size, reason)
    assert SIGNATURE[0] == 0xC0 | SIGN1_TAG


def test_a_severed_section_is_read_from_beside_the_manifest():
    commands = cbor.encode([suit.IMAGE_MATCH, 15])
    for member in (suit.PAYLOAD_FETCH, suit.INSTALL):
        found = Envelope.from_bytes(severed(member, commands), LIMIT)
        assert found.severed == {member: commands}
        assert found.sequence(member) == ((suit.IMAGE_MATCH, 15),)
    inside = Envelope.from_bytes(envelope(manifest=cbor.encode({suit.INSTALL: commands, suit.LOAD: [suit.SHA_256, b""]})), LIMIT)
    assert inside.sequence(suit.INSTALL) == ((suit.IMAGE_MATCH, 15),)
    assert inside.sequence(suit.VALIDATE) is None  # not there
    assert inside.sequence(suit.LOAD) is None  # its digest alone


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([suit.SHA_256, bytes(16)], None),
        ([suit.SHA_256, bytes(64)], None),
        ([suit.SHA_256, bytes(15)], Reason.MALFORMED),
        ([suit.SHA_256, bytes(65)], Reason.MALFORMED),
        ([True, bytes(32)], Reason.MALFORMED),
        ([suit.SHA_256, "text"], Reason.MALFORMED),
        ([suit.SHA_256, bytes(32), 1], Reason.MALFORMED),
        (bytes(253), Reason.MALFORMED),
        (bytes(254), Reason.MALFORMED),
        (bytes(255), Reason.TOO_LARGE),
    ],
)
def test_a_digest_is_an_algorithm_and_16_to_64_bytes(value, reason):
    encoded = cbor.encode(value)
    if reason is None:
        assert suit.read_digest(encoded) == tuple(value)
    else:
        assert refusal(suit.read_digest, encoded).reason is reason


@pytest.mark.parametrize(
    ("encoded", "reason", "why"),
    [
        ("no bytes", Reason.MALFORMED, "x: not a list of commands and arguments"),
        (cbor.encode({}), Reason.MALFORMED, "x: not a list of commands and arguments"),
        (cbor.encode([3]), Reason.MALFORMED, "x: not a list of commands and arguments"),
        (cbor.encode([4, 15]), Reason.COMMAND_UNSUPPORTED, "x: command 4 is not in draft-ietf-suit-manifest-37"),
        (cbor.encode([True, 15]), Reason.COMMAND_UNSUPPORTED, "x: command True is not in draft-ietf-suit-manifest-37"),
        (cbor.encode(["3", 15]), Reason.COMMAND_UNSUPPORTED, "x: command '3' is not in draft-ietf-suit-manifest-37"),
        (cbor.encode(bytes((1 << 16) - 3)), Reason.MALFORMED, "x: not a list of commands and arguments"),
        (cbor.encode(bytes((1 << 16) - 2)), Reason.TOO_LARGE, None),
    ],
)
def test_a_sequence_is_commands_that_the_draft_has_each_with_its_argument(encoded, reason, why):
    error = refusal(command_sequence, encoded, "x")
    assert (error.reason, why is None or error.detail == why) == (reason, True), error.detail
    assert command_sequence(cbor.encode([]), "x") == ()


def test_a_signature_is_added_to_what_is_an_envelope_and_to_nothing_else():
    text = cbor.encode({"und": {}})
    manifest = cbor.encode({suit.TEXT: [suit.SHA_256, cbor.sha256(cbor.encode(text))]})
    once = suit.encode_envelope(manifest, [], text)
    twice = suit.add_signature(once, KEY.sign1(suit.signed_digest(manifest)), LIMIT)
    assert twice == suit.encode_envelope(manifest, [KEY.sign1(suit.signed_digest(manifest))], text)
    forged = envelope(wrapper=[cbor.encode([suit.SHA_256, bytes(32)])])
    for data, reason in (
        (forged, Reason.SIGNATURE_INVALID),
        (cbor.encode({}), Reason.MALFORMED),
        (bytes(LIMIT + 1), Reason.TOO_LARGE),
    ):
        assert refusal(suit.add_signature, data, SIGNATURE, LIMIT).reason is reason


def test_the_numbers_are_those_of_the_drafts():
    """draft-ietf-suit-manifest-37, section 12; draft-ietf-suit-firmware-encryption-26, section 11."""
    assert {name: number for number, name in suit.MANIFEST_MEMBERS.items()} == {
        "manifest-version": 1, "sequence-number": 2, "common": 3, "reference-uri": 4, "validate": 7, "load": 8, "invoke": 9,
        "payload-fetch": 16, "install": 20, "text": 23,
    }  # fmt: skip
    assert {name: number for number, name in suit.COMMANDS.items()} == {
        "condition-vendor-identifier": 1, "condition-class-identifier": 2, "condition-image-match": 3,
        "condition-component-slot": 5, "condition-check-content": 6, "directive-set-component-index": 12, "condition-abort": 14,
        "directive-try-each": 15, "directive-write": 18, "directive-override-parameters": 20, "directive-fetch": 21,
        "directive-copy": 22, "directive-invoke": 23, "condition-device-identifier": 24, "directive-swap": 31,
        "directive-run-sequence": 32,
    }  # fmt: skip
    assert {name: number for number, name in suit.PARAMETERS.items()} == {
        "vendor-identifier": 1, "class-identifier": 2, "image-digest": 3, "component-slot": 5, "strict-order": 12,
        "soft-failure": 13, "image-size": 14, "content": 18, "encryption-info": 19, "uri": 21, "source-component": 22,
        "invoke-args": 23, "device-identifier": 24, "fetch-arguments": 25,
    }  # fmt: skip
    assert (suit.ENVELOPE_TAG, suit.AUTHENTICATION, suit.MANIFEST, suit.SHA_256) == (107, 2, 3, -16)
    assert (suit.COMPONENTS, suit.SHARED_SEQUENCE, suit.MAX_SIGNATURES) == (2, 4, 16)
