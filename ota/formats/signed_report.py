"""What boards say, signed: reports, log records and telemetry, each a COSE_Sign1 (RFC 9052) with its payload inside.

Protected headers: ES256, the key's identifier and the kind of statement, which keeps one kind from passing for another. The
report of the board itself has its key with it, in the unprotected headers: in a certificate (x5chain, RFC 9360), or bare in a CWT
claims set (kccs, RFC 9528). Whether that key may speak for the board is not decided here.
"""

from dataclasses import dataclass
from typing import Any

from ota.formats.cose import ALGORITHM, KEY_ID, TYPE, X5CHAIN, Sign1, VerifyKey, read_bare_key
from ota.formats.fields import malformed
from ota.formats.reasons import Reason, Refused
from ota.formats.report import BATCH_LIMIT_BYTES, REPORT_LIMIT_BYTES

__all__ = [
    "CERTIFICATE_LIMIT_BYTES",
    "INSTANCE_REPORT",
    "LOG",
    "OVERHEAD_BYTES",
    "REPORT",
    "TELEMETRY",
    "Statement",
]

REPORT = "application/vnd.wamr-ota.report+cbor"
INSTANCE_REPORT = "application/vnd.wamr-ota.instance-report+cbor"
LOG = "application/vnd.wamr-ota.log+cbor"
TELEMETRY = "application/vnd.wamr-ota.telemetry+cbor"
_LIMITS = {REPORT: REPORT_LIMIT_BYTES, INSTANCE_REPORT: REPORT_LIMIT_BYTES, LOG: BATCH_LIMIT_BYTES, TELEMETRY: BATCH_LIMIT_BYTES}
OVERHEAD_BYTES = 192  # of a statement without a key, at most
CERTIFICATE_LIMIT_BYTES = 4096


@dataclass(frozen=True)
class Statement:
    """A decoded statement of a kind, not yet verified."""

    sign1: Sign1
    key_id: bytes
    certificate: bytes = b""  # that came with it (DER); empty for none

    @classmethod
    def from_bytes(cls, data: bytes, kind: str) -> "Statement":
        """Raises Refused TOO_LARGE before anything is read, MALFORMED, REPORT_FORGED for one of another kind or algorithm."""
        limit = _LIMITS[kind] + OVERHEAD_BYTES + CERTIFICATE_LIMIT_BYTES
        if len(data) > limit:
            raise Refused(Reason.TOO_LARGE, f"a signed report is {len(data)} bytes, the limit is {limit}")
        sign1 = Sign1.from_bytes(data)
        headers = sign1.headers
        if sign1.payload is None or not isinstance(key_id := headers.get(KEY_ID), bytes):
            raise malformed("signed report", "it has no payload, or does not name its key in its protected headers")
        if headers.get(TYPE) != kind:
            raise Refused(Reason.REPORT_FORGED, f"it is signed as {headers.get(TYPE)!r}, and came as {kind}")
        if ALGORITHM not in headers:
            raise Refused(Reason.REPORT_FORGED, "its algorithm is not in its protected headers")
        return cls(sign1, key_id, _certificate(sign1.unprotected))

    @property
    def claimed(self) -> bytes:
        """The payload, whoever signed it."""
        assert self.sign1.payload is not None
        return self.sign1.payload

    @property
    def key(self) -> VerifyKey | None:
        """The key that came with it bare. Raises Refused MALFORMED."""
        return read_bare_key(self.sign1.unprotected)

    def verify(self, key: VerifyKey) -> bytes:
        """The payload, once the signature is found to be this key's. Raises Refused REPORT_FORGED."""
        if key.key_id != self.key_id:
            raise Refused(Reason.REPORT_FORGED, f"it is signed with key {self.key_id.hex()[:16]}, the board's is {key.label}")
        try:
            return self.sign1.verify(key)
        except Refused as error:
            raise Refused(Reason.REPORT_FORGED, error.detail) from error


def _certificate(headers: dict[Any, Any]) -> bytes:
    found = headers.get(X5CHAIN, b"")
    if not isinstance(found, bytes) or len(found) > CERTIFICATE_LIMIT_BYTES:
        raise malformed("signed report", f"x5chain is not one certificate of at most {CERTIFICATE_LIMIT_BYTES} bytes")
    return found
