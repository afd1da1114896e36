"""What boards sign: of which kind, by which key, and at the edges of what is read."""

import pytest
from cbor2 import CBORTag
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.broker.identity import Identity
from ota.formats import cbor, signed_report
from ota.formats.cose import ALGORITHM, KEY_ID, SIGN1_TAG, TYPE, X5CHAIN
from ota.formats.reasons import Reason, Refused
from ota.formats.report import BATCH_LIMIT_BYTES, REPORT_LIMIT_BYTES
from ota.formats.signed_report import CERTIFICATE_LIMIT_BYTES, INSTANCE_REPORT, LOG, OVERHEAD_BYTES, REPORT, TELEMETRY, Statement

BOARD, OTHER = (Identity(ec.derive_private_key(number, ec.SECP256R1())) for number in (21, 22))
KINDS = (REPORT, INSTANCE_REPORT, LOG, TELEMETRY)


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def message(protected: dict | None = None, unprotected: dict | None = None, payload: bytes | None = b"said") -> bytes:
    headers = {ALGORITHM: -7, KEY_ID: BOARD.public.key_id, TYPE: REPORT} if protected is None else protected
    return cbor.encode(CBORTag(SIGN1_TAG, [cbor.encode(headers), unprotected or {}, payload, bytes(64)]))


@pytest.mark.parametrize("introduce", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_statement_is_what_its_board_signed(kind, introduce):
    statement = Statement.from_bytes(BOARD.sign1(b"said", kind, introduce=introduce), kind)
    assert statement.verify(BOARD.public) == statement.claimed == b"said"
    assert (statement.key_id, statement.certificate) == (BOARD.public.key_id, b"")
    assert statement.key == (BOARD.public if introduce else None)


def test_a_certificate_comes_beside_the_statement_and_has_at_most_4096_bytes():
    for size in (1, 4096):
        assert Statement.from_bytes(message(unprotected={X5CHAIN: bytes(size)}), REPORT).certificate == bytes(size)
    for wrong in (bytes(4097), "text", [b"one", b"two"], []):
        error = refusal(Statement.from_bytes, message(unprotected={X5CHAIN: wrong}), REPORT)
        assert (error.reason, error.detail) == (
            Reason.MALFORMED,
            "signed report: x5chain is not one certificate of at most 4096 bytes",
        )


@pytest.mark.parametrize(("kind", "limit"), list(zip(KINDS, [REPORT_LIMIT_BYTES] * 2 + [BATCH_LIMIT_BYTES] * 2, strict=True)))
def test_a_statement_may_have_its_payload_its_signature_and_a_certificate_and_no_more(kind, limit):
    whole = limit + OVERHEAD_BYTES + CERTIFICATE_LIMIT_BYTES
    assert refusal(Statement.from_bytes, bytes(whole), kind).reason is Reason.MALFORMED
    error = refusal(Statement.from_bytes, bytes(whole + 1), kind)
    assert (error.reason, error.detail) == (
        Reason.TOO_LARGE,
        f"a signed report is {whole + 1} bytes, the limit is {whole}",
    )
    largest = Identity(BOARD.key, bytes(CERTIFICATE_LIMIT_BYTES)).sign1(bytes(limit), kind)
    assert Statement.from_bytes(largest, kind).verify(BOARD.public) == bytes(limit)
    assert len(BOARD.sign1(bytes(limit), kind, introduce=False)) <= limit + OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("data", "reason", "why"),
    [
        (
            message(payload=None),
            Reason.MALFORMED,
            "signed report: it has no payload, or does not name its key in its protected headers",
        ),
        (
            message({ALGORITHM: -7, TYPE: REPORT}, {KEY_ID: BOARD.public.key_id}),
            Reason.MALFORMED,
            "signed report: it has no payload, or does not name its key in its protected headers",
        ),
        (
            message({ALGORITHM: -7, TYPE: REPORT, KEY_ID: "text"}),
            Reason.MALFORMED,
            "signed report: it has no payload, or does not name its key in its protected headers",
        ),
        (
            message({ALGORITHM: -7, TYPE: LOG, KEY_ID: BOARD.public.key_id}),
            Reason.REPORT_FORGED,
            f"it is signed as {LOG!r}, and came as {REPORT}",
        ),
        (
            message({ALGORITHM: -7, KEY_ID: BOARD.public.key_id}, {TYPE: REPORT}),
            Reason.REPORT_FORGED,
            f"it is signed as None, and came as {REPORT}",
        ),
        (
            message({TYPE: REPORT, KEY_ID: BOARD.public.key_id}, {ALGORITHM: -7}),
            Reason.REPORT_FORGED,
            "its algorithm is not in its protected headers",
        ),
    ],
)
def test_a_statement_of_another_kind_or_without_its_key_and_algorithm_under_the_signature_is_refused(data, reason, why):
    error = refusal(Statement.from_bytes, data, REPORT)
    assert (error.reason, error.detail) == (reason, why)


def test_a_statement_by_another_key_is_forged_and_both_keys_are_named():
    statement = Statement.from_bytes(OTHER.sign1(b"said", REPORT), REPORT)
    error = refusal(statement.verify, BOARD.public)
    assert error.reason is Reason.REPORT_FORGED
    assert error.detail == f"it is signed with key {OTHER.public.key_id.hex()[:16]}, the board's is {BOARD.public.label}"
    error = refusal(Statement.from_bytes(message(), REPORT).verify, BOARD.public)  # in the board's name
    assert (error.reason, error.detail) == (Reason.REPORT_FORGED, "the signature does not match")


def test_the_kinds_have_names_of_their_own():
    assert len(set(KINDS)) == 4
    assert signed_report.CERTIFICATE_LIMIT_BYTES == 4096
