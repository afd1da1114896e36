"""Renewal: messages at the edges of what is read, and who is believed. What is decided: tests/operator/test_renewal.py."""

import pytest
from cbor2 import CBORTag
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.broker.identity import Identity
from ota.formats import cbor
from ota.formats.cose import ALGORITHM, KEY_ID, SIGN1_TAG, TYPE, X5CHAIN
from ota.formats.reasons import Reason, Refused
from ota.formats.renewal import (
    ANSWER_LIMIT_BYTES,
    ANSWER_TYPE,
    AUTHORITIES_LIMIT_BYTES,
    CERTIFICATE_LIMIT_BYTES,
    REQUEST_LIMIT_BYTES,
    REQUEST_TYPE,
    RenewalAnswer,
    RenewalRequest,
    SignedRequest,
    mark_of,
)
from ota.keyring import SigningKey, sign_document

BOARD, OTHER = (Identity(ec.derive_private_key(number, ec.SECP256R1()), b"certificate") for number in (41, 42))
AUTHORITY = SigningKey.generate("es256")
REQUEST = RenewalRequest("roof-1", b"csr", b"serial")
MARK = bytes(range(32))
ANSWER = RenewalAnswer("roof-1", MARK, b"pem", b"authorities")


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


# -- requests


def test_a_request_is_the_boards_once_it_is_verified_with_its_key():
    read = SignedRequest.from_bytes(BOARD.sign1(REQUEST.to_payload(), REQUEST_TYPE))
    assert (read.claimed, read.certificate) == (REQUEST, b"certificate")
    assert read.verify(BOARD.public) == REQUEST
    assert refusal(read.verify, OTHER.public).reason is Reason.SIGNATURE_INVALID
    assert REQUEST.mark == mark_of(b"csr") == cbor.sha256(b"csr")


@pytest.mark.parametrize(
    ("member", "good", "bad"),
    [
        ("v", [1], [0, 2]),
        ("device", ["n" * 64], ["n" * 65, "+"]),
        ("csr", [b"", bytes(8192)], [bytes(8193), "text"]),
        ("refused", [b"", bytes(20)], [bytes(21), "text"]),
        ("later", ["ignored"], []),
    ],
)
def test_each_member_of_a_request_is_read_up_to_its_limit(member, good, bad):
    value = cbor.decode(REQUEST.to_payload(), "test", 1000)
    for content in good:
        assert RenewalRequest.from_payload(cbor.encode(value | {member: content}))
    for content in bad:
        expected = Reason.MEMBER_UNKNOWN if member == "v" else Reason.MALFORMED
        assert refusal(RenewalRequest.from_payload, cbor.encode(value | {member: content})).reason is expected


def message(headers: dict, beside: dict, payload: bytes | None) -> bytes:
    return cbor.encode(CBORTag(SIGN1_TAG, [cbor.encode(headers), beside, payload, bytes(64)]))


NAMED = {ALGORITHM: -7, KEY_ID: BOARD.public.key_id, TYPE: REQUEST_TYPE}
BESIDE = {X5CHAIN: b"c"}
NO_REQUEST = f"renewal request: not a message of the type {REQUEST_TYPE}"


@pytest.mark.parametrize(
    ("headers", "beside", "payload", "why"),
    [
        (NAMED | {TYPE: ANSWER_TYPE}, BESIDE, REQUEST.to_payload(), NO_REQUEST),
        ({ALGORITHM: -7}, BESIDE | {TYPE: REQUEST_TYPE}, REQUEST.to_payload(), NO_REQUEST),
        ({TYPE: REQUEST_TYPE}, BESIDE | {ALGORITHM: -7}, REQUEST.to_payload(), NO_REQUEST),
        (NAMED, BESIDE, None, NO_REQUEST),
        (NAMED, {}, REQUEST.to_payload(), "renewal request: it shows no certificate"),
        (NAMED, {X5CHAIN: [b"a", b"b"]}, REQUEST.to_payload(), "renewal request: it shows no certificate"),
        (NAMED, {X5CHAIN: bytes(8193)}, REQUEST.to_payload(), "renewal request: it shows no certificate"),
    ],
)
def test_a_message_of_another_kind_or_without_its_certificate_is_no_request(headers, beside, payload, why):
    error = refusal(SignedRequest.from_bytes, message(headers, beside, payload))
    assert (error.reason, error.detail) == (Reason.MALFORMED, why)


def test_a_request_has_at_most_16_kib_with_a_certificate_of_8():
    largest = bytes(CERTIFICATE_LIMIT_BYTES)
    assert (len(largest), REQUEST_LIMIT_BYTES) == (8192, 16_384)
    assert SignedRequest.from_bytes(message(NAMED, {X5CHAIN: largest}, REQUEST.to_payload())).certificate == largest
    error = refusal(SignedRequest.from_bytes, bytes(REQUEST_LIMIT_BYTES + 1))
    assert (error.reason, error.detail) == (
        Reason.TOO_LARGE,
        "renewal request of 16385 bytes, the limit is 16384",
    )
    assert refusal(SignedRequest.from_bytes, bytes(REQUEST_LIMIT_BYTES)).reason is Reason.MALFORMED
    assert refusal(RenewalRequest.from_payload, bytes(REQUEST_LIMIT_BYTES + 1)).reason is Reason.TOO_LARGE
    assert refusal(RenewalRequest.from_payload, bytes(REQUEST_LIMIT_BYTES)).reason is Reason.MALFORMED


# -- answers


def sent(answer: RenewalAnswer | bytes, key: SigningKey = AUTHORITY, kind: str = ANSWER_TYPE) -> bytes:
    return sign_document(answer if isinstance(answer, bytes) else answer.to_payload(), kind, [key])


def read(data: bytes) -> RenewalAnswer:
    return RenewalAnswer.verified(data, AUTHORITY.public, "roof-1", MARK)


@pytest.mark.parametrize("reason", ["request-invalid", "certificate-expired", "device-retired", "key-cloned"])
def test_an_answer_is_a_certificate_or_a_reason(reason):
    assert read(sent(ANSWER)) == ANSWER
    refused = RenewalAnswer("roof-1", MARK, reason=reason)
    assert read(sent(refused)) == refused


@pytest.mark.parametrize(
    ("answer", "key", "kind", "reason"),
    [
        (ANSWER, SigningKey.generate("es256"), ANSWER_TYPE, Reason.SIGNER_UNKNOWN),
        (ANSWER, AUTHORITY, REQUEST_TYPE, Reason.SIGNATURE_INVALID),
        (RenewalAnswer("roof-2", MARK, b"pem"), AUTHORITY, ANSWER_TYPE, Reason.REQUEST_INVALID),
        (RenewalAnswer("roof-1", bytes(32), b"pem"), AUTHORITY, ANSWER_TYPE, Reason.REQUEST_INVALID),
        (RenewalAnswer("roof-1", MARK), AUTHORITY, ANSWER_TYPE, Reason.MALFORMED),
        (RenewalAnswer("roof-1", MARK, b"pem", reason="key-cloned"), AUTHORITY, ANSWER_TYPE, Reason.MALFORMED),
        (RenewalAnswer("roof-1", MARK, reason="because"), AUTHORITY, ANSWER_TYPE, Reason.MALFORMED),
        (RenewalAnswer("roof-1", MARK, reason="trapped"), AUTHORITY, ANSWER_TYPE, Reason.MALFORMED),
    ],
)
def test_an_answer_of_another_or_for_another_is_not_believed(answer, key, kind, reason):
    assert refusal(read, sent(answer, key, kind)).reason is reason


@pytest.mark.parametrize(
    ("member", "good", "bad"),
    [
        ("v", [1], [0, 2]),
        ("device", [], ["", "+"]),
        ("request", [], [MARK[:-1], MARK + b"x", "text"]),
        ("certificate", [bytes(8192)], [bytes(8193), "text"]),
        ("authorities", [b"", bytes(49_152)], [bytes(49_153), "text"]),
        ("reason", [], ["x" * 64, "x" * 65, b"key-cloned"]),
        ("later", ["ignored"], []),
    ],
)
def test_each_member_of_an_answer_is_read_up_to_its_limit(member, good, bad):
    value = cbor.decode(ANSWER.to_payload(), "test", 1000)
    for content in good:
        assert read(sent(cbor.encode(value | {member: content})))
    for content in bad:
        expected = Reason.MEMBER_UNKNOWN if member == "v" else Reason.MALFORMED
        assert refusal(read, sent(cbor.encode(value | {member: content}))).reason is expected


def test_an_answer_with_everything_at_its_limit_is_read_and_a_larger_one_is_not():
    largest = RenewalAnswer("roof-1", MARK, bytes(CERTIFICATE_LIMIT_BYTES), bytes(AUTHORITIES_LIMIT_BYTES))
    assert read(sent(largest)) == largest
    assert refusal(read, bytes(ANSWER_LIMIT_BYTES)).reason is Reason.MALFORMED
    assert refusal(read, bytes(ANSWER_LIMIT_BYTES + 1)).reason is Reason.TOO_LARGE
    assert ANSWER_LIMIT_BYTES == 8192 + 49_152 + 4096
