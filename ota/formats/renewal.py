"""How a board gets its next certificate: a request signed with the key of the present one, an answer signed by the authority that
issued it.

The request carries a PKCS #10 request for the next key, the board's name and the present certificate. The answer holds a
certificate, or the reason why there is none, and the broker's authorities. A board believes nobody else: not the broker, and no
certificate that another authority signed.
"""

from dataclasses import dataclass

from ota.formats import cbor
from ota.formats.cose import ALGORITHM, TYPE, X5CHAIN, Sign1, VerifyKey
from ota.formats.fields import Fields, Unknown, malformed
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role, SignedDocument

__all__ = ["ANSWER_TYPE", "AUTHORITIES_LIMIT_BYTES", "REQUEST_TYPE", "RenewalAnswer", "RenewalRequest", "SignedRequest", "mark_of"]

REQUEST_TYPE = "application/vnd.wamr-ota.renewal+cbor"
ANSWER_TYPE = "application/vnd.wamr-ota.renewal-answer+cbor"
REQUEST_LIMIT_BYTES = 16 * 1024
CERTIFICATE_LIMIT_BYTES = 8192
AUTHORITIES_LIMIT_BYTES = 48 * 1024  # the broker's authorities in an answer
ANSWER_LIMIT_BYTES = CERTIFICATE_LIMIT_BYTES + AUTHORITIES_LIMIT_BYTES + 4096
SERIAL_LIMIT_BYTES = 20  # RFC 5280, section 4.1.2.2
_REFUSALS = (
    Reason.REQUEST_INVALID.value,
    Reason.CERTIFICATE_EXPIRED.value,
    Reason.DEVICE_RETIRED.value,
    Reason.KEY_CLONED.value,
)


def mark_of(signing_request: bytes) -> bytes:
    """What names a signing request: two boards never make the same one."""
    return cbor.sha256(signing_request)


@dataclass(frozen=True)
class RenewalRequest:
    """What a board asks for."""

    device: str
    signing_request: bytes  # PEM
    refused: bytes = b""  # the serial of a certificate that was issued for the present one, and that the broker refused

    @property
    def mark(self) -> bytes:
        """Names it in the answer."""
        return mark_of(self.signing_request)

    def to_payload(self) -> bytes:
        """To be signed as REQUEST_TYPE."""
        return cbor.encode({"v": 1, "device": self.device, "csr": self.signing_request, "refused": self.refused})

    @classmethod
    def from_payload(cls, payload: bytes) -> "RenewalRequest":
        """Raises Refused TOO_LARGE, MALFORMED."""
        what = "renewal request"
        fields = Fields(cbor.decode(payload, what, REQUEST_LIMIT_BYTES), what, ("v", "device", "csr", "refused"), Unknown.IGNORE)
        fields.version("v")
        return cls(
            fields.name("device"),
            fields.data("csr", limit=CERTIFICATE_LIMIT_BYTES),
            fields.data("refused", limit=SERIAL_LIMIT_BYTES),
        )


@dataclass(frozen=True)
class SignedRequest:
    """A request as it came, not verified: it claims a name and shows a certificate."""

    claimed: RenewalRequest
    certificate: bytes  # DER
    _message: Sign1

    @classmethod
    def from_bytes(cls, data: bytes) -> "SignedRequest":
        """Raises Refused TOO_LARGE, MALFORMED."""
        what = "renewal request"
        if len(data) > REQUEST_LIMIT_BYTES:
            raise Refused(Reason.TOO_LARGE, f"{what} of {len(data)} bytes, the limit is {REQUEST_LIMIT_BYTES}")
        message = Sign1.from_bytes(data)
        certificate = message.unprotected.get(X5CHAIN)
        if message.headers.get(TYPE) != REQUEST_TYPE or ALGORITHM not in message.headers or message.payload is None:
            raise malformed(what, f"not a message of the type {REQUEST_TYPE}")
        if not isinstance(certificate, bytes) or len(certificate) > CERTIFICATE_LIMIT_BYTES:
            raise malformed(what, "it shows no certificate")
        return cls(RenewalRequest.from_payload(message.payload), certificate, message)

    def verify(self, key: VerifyKey) -> RenewalRequest:
        """The request, once it is found to be signed with the certificate's key. Raises Refused SIGNATURE_INVALID."""
        self._message.verify(key)
        return self.claimed


@dataclass(frozen=True)
class RenewalAnswer:
    """A certificate and who issued it (PEM, the board's first), or the reason why there is none."""

    device: str
    mark: bytes  # of the request
    certificate: bytes = b""
    authorities: bytes = b""  # PEM: those that the board is to believe a broker by; b"": as before
    reason: str = ""

    def to_payload(self) -> bytes:
        """To be signed as ANSWER_TYPE."""
        return cbor.encode(
            {
                "v": 1,
                "device": self.device,
                "request": self.mark,
                "certificate": self.certificate,
                "authorities": self.authorities,
                "reason": self.reason,
            }
        )

    @classmethod
    def verified(cls, data: bytes, authority: VerifyKey, device: str, mark: bytes) -> "RenewalAnswer":
        """The answer of this authority to this board's request.

        Raises Refused TOO_LARGE, MALFORMED, SIGNATURE_INVALID, SIGNER_UNKNOWN, REQUEST_INVALID for one that is another board's, or
        to another request.
        """
        what = "renewal answer"
        document = SignedDocument.from_bytes(data, what, ANSWER_LIMIT_BYTES)
        document.verify(Role({authority.key_id: authority}, 1), ANSWER_TYPE, what)
        known = ("v", "device", "request", "certificate", "authorities", "reason")
        fields = Fields(cbor.decode(document.payload, what, ANSWER_LIMIT_BYTES), what, known, Unknown.IGNORE)
        fields.version("v")
        made = cls(
            fields.name("device"),
            fields.data("request", 32),
            fields.data("certificate", limit=CERTIFICATE_LIMIT_BYTES),
            fields.data("authorities", limit=AUTHORITIES_LIMIT_BYTES),
            fields.text("reason", 64),
        )
        if (made.device, made.mark) != (device, mark):
            raise Refused(Reason.REQUEST_INVALID, f"{what}: it is for {made.device}, or to another request of {device}")
        if bool(made.certificate) == bool(made.reason) or (made.reason and made.reason not in _REFUSALS):
            raise malformed(what, "neither a certificate nor a reason that is known")
        return made
