"""How a board that nobody sits at gets its certificate: a token, good for one name or for a batch, a request, an answer.

The board proves with the token's secret that the request is its own; the operator proves with the same that the answer is from
whoever made the token. Neither the secret nor the board's private key is ever sent.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

from ota.formats import cbor
from ota.formats.fields import Fields, Unknown, is_name, malformed
from ota.formats.reasons import Reason, Refused

__all__ = ["SERIAL", "Answer", "Request", "Token", "address", "allows", "is_pattern"]

LIMIT_BYTES = 16 * 1024
_TOKEN = re.compile(r"wamr-ota-([0-9a-f]{16})-([0-9a-f]{64})")
_REFUSALS = (
    "",
    Reason.TOKEN_EXPIRED.value,
    Reason.TOKEN_USED.value,
    Reason.REQUEST_INVALID.value,
    Reason.NAME_TAKEN.value,
    Reason.DEVICE_RETIRED.value,
)
SERIAL = "{serial}"
"""Stands for a board's serial number in a name that a batch of boards shares."""
CLIENT_PREFIX = "wamr-enrol-"  # boards that have a certificate begin otherwise
ADDRESS_DIGITS = 32


def is_pattern(name: str) -> bool:
    """Whether text is a name with one SERIAL in it, which takes the serial numbers of boards."""
    return name.count(SERIAL) == 1 and is_name(name.replace(SERIAL, "0"))


def allows(names: str, device: str) -> bool:
    """Whether a device's name is the one that a token is for, or fits its pattern."""
    before, found, after = names.partition(SERIAL)
    fits = device.startswith(before) and device.endswith(after) and len(device) > len(before) + len(after)
    return is_name(device) and (fits if found else device == names)


def address(signing_request: bytes) -> str:
    """Where on the broker a request that holds this signing request lies, and the identifier of the client that asks.

    The signature in it is random. Whoever may not read the request cannot know the address, and so cannot overwrite it. Where the
    broker lets clients write and read under their own identifier alone, nobody learns it from the answer either.
    """
    return CLIENT_PREFIX + hashlib.sha256(b"wamr-ota address 1" + signing_request).hexdigest()[:ADDRESS_DIGITS]


@dataclass(frozen=True)
class Token:
    """What a board is given with its settings: a public identifier (8 bytes) and a secret (32 bytes)."""

    identifier: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Token({self.identifier.hex()})"

    def to_text(self) -> str:
        """As it stands in a file."""
        return f"wamr-ota-{self.identifier.hex()}-{self.secret.hex()}"

    @classmethod
    def from_text(cls, text: str) -> "Token":
        """Raises Refused MALFORMED."""
        found = _TOKEN.fullmatch(text.strip()) if len(text) < 200 else None
        if found is None:
            raise malformed("enrolment token", "not wamr-ota-<16 digits>-<64 digits>")
        return cls(bytes.fromhex(found[1]), bytes.fromhex(found[2]))

    def code(self, kind: str, *parts: bytes) -> bytes:
        """HMAC-SHA256 (RFC 2104) over a kind of message and its parts."""
        return hmac.new(self.secret, cbor.encode([f"wamr-ota {kind} 1", *parts]), hashlib.sha256).digest()


@dataclass(frozen=True)
class Request:
    """A board asks for a certificate: its name, and a PKCS #10 request in PEM."""

    token: bytes  # identifier
    device: str
    signing_request: bytes
    code: bytes

    @classmethod
    def make(cls, token: Token, device: str, signing_request: bytes) -> "Request":
        """With the code that proves the token."""
        return cls(token.identifier, device, signing_request, token.code("request", device.encode(), signing_request))

    def to_bytes(self) -> bytes:
        """Encoded."""
        return cbor.encode({"v": 1, "token": self.token, "device": self.device, "csr": self.signing_request, "code": self.code})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Request":
        """Raises Refused TOO_LARGE, MALFORMED."""
        fields = Fields(cbor.decode(data, "enrolment request", LIMIT_BYTES), "enrolment request", _REQUEST_KEYS, Unknown.IGNORE)
        fields.version("v")
        return cls(fields.data("token", 8), fields.name("device"), fields.data("csr", limit=8192), fields.data("code", 32))

    def check(self, token: Token) -> None:
        """Raises Refused REQUEST_INVALID unless whoever made it has the token."""
        wanted = token.code("request", self.device.encode(), self.signing_request)
        if not hmac.compare_digest(self.code, wanted):
            raise Refused(Reason.REQUEST_INVALID, "the request was not made with this token")


_REQUEST_KEYS = ("v", "token", "device", "csr", "code")


@dataclass(frozen=True)
class Answer:
    """A certificate (PEM), or the reason why there is none."""

    certificate: bytes
    reason: str
    code: bytes

    @classmethod
    def make(cls, token: Token, request: Request, certificate: bytes = b"", reason: str = "") -> "Answer":
        """For one request, with the code that proves the token."""
        return cls(certificate, reason, token.code("answer", request.code, certificate, reason.encode()))

    def to_bytes(self) -> bytes:
        """Encoded."""
        return cbor.encode({"v": 1, "certificate": self.certificate, "reason": self.reason, "code": self.code})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Answer":
        """Raises Refused TOO_LARGE, MALFORMED."""
        what = "enrolment answer"
        fields = Fields(cbor.decode(data, what, LIMIT_BYTES), what, ("v", "certificate", "reason", "code"), Unknown.IGNORE)
        fields.version("v")
        reason = fields.text("reason", 64)
        if reason not in _REFUSALS:
            raise malformed(what, f"{reason!r} is no reason")
        return cls(fields.data("certificate", limit=8192), reason, fields.data("code", 32))

    def check(self, token: Token, request: Request) -> None:
        """Raises Refused REQUEST_INVALID unless it answers this request and whoever made it has the token."""
        wanted = token.code("answer", request.code, self.certificate, self.reason.encode())
        if not hmac.compare_digest(self.code, wanted):
            raise Refused(Reason.REQUEST_INVALID, "the answer was not made with this board's token, or is to another request")
