"""COSE_Sign1 (RFC 9052) with ES256 and EdDSA, the public half: keys, decoding, verification. Signing is `ota.keyring`'s."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cbor2 import CBORTag
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ota.formats import cbor
from ota.formats.fields import Fields, malformed
from ota.formats.reasons import Reason, Refused

SIGN1_TAG = 18
ALGORITHM, CRITICAL, KEY_ID, TYPE = 1, 2, 4, 16  # header labels: RFC 9052 section 3.1, RFC 9596
ES256 = frozenset((-7, -9))  # ES256 (RFC 9053), ESP256 (RFC 9864)
EDDSA = frozenset((-8, -19))  # EdDSA (RFC 9053), Ed25519 (RFC 9864)
SIGN1_LIMIT_BYTES = 1 << 20
MAX_KEY_ID_BYTES = 64
_P256_BYTES = 32
_MEMBERS = frozenset((1, 3, -1, -2, -3))  # of a COSE_Key


@dataclass(frozen=True)
class VerifyKey:
    """A public key that can verify; its type fixes the algorithm, independent of the message."""

    key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

    @property
    def algorithms(self) -> frozenset[int]:
        """The COSE algorithm numbers that this key may be used with."""
        return ES256 if isinstance(self.key, ec.EllipticCurvePublicKey) else EDDSA

    @property
    def key_id(self) -> bytes:
        """The COSE key thumbprint (RFC 9679): SHA-256 over the required members."""
        return cbor.sha256(cbor.encode(self._members()))

    def to_cose_key(self) -> dict[int, Any]:
        """COSE_Key (RFC 9052 section 7) as a map."""
        return self._members() | {3: -7 if isinstance(self.key, ec.EllipticCurvePublicKey) else -8}

    def _members(self) -> dict[int, Any]:
        if isinstance(self.key, ec.EllipticCurvePublicKey):
            numbers = self.key.public_numbers()
            return {1: 2, -1: 1, -2: numbers.x.to_bytes(_P256_BYTES), -3: numbers.y.to_bytes(_P256_BYTES)}
        return {1: 1, -1: 6, -2: self.key.public_bytes(Encoding.Raw, PublicFormat.Raw)}

    @classmethod
    def from_cose_key(cls, value: Any) -> "VerifyKey":
        """Raises Refused MALFORMED for anything but a P-256 or Ed25519 public key."""
        fields = Fields(value, "COSE_Key", _MEMBERS)
        kind = (fields.number(1), fields.number(-1), fields.number(3, -65536, 0) if 3 in fields else None)
        try:
            if kind[:2] == (2, 1) and (kind[2] is None or kind[2] in ES256):
                x, y = (int.from_bytes(fields.data(label, _P256_BYTES)) for label in (-2, -3))
                return cls(ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
            if kind[:2] == (1, 6) and (kind[2] is None or kind[2] in EDDSA):
                return cls(ed25519.Ed25519PublicKey.from_public_bytes(fields.data(-2, 32)))
        except ValueError as error:
            raise malformed("COSE_Key", str(error)) from error
        raise malformed("COSE_Key", "neither ES256 on P-256 nor Ed25519")

    @classmethod
    def from_pem(cls, pem: bytes) -> "VerifyKey":
        """Raises Refused MALFORMED for anything but a PEM public key of P-256 or Ed25519."""
        try:
            key = load_pem_public_key(pem)
        except ValueError as error:
            raise malformed("public key", str(error)) from error
        if isinstance(key, ed25519.Ed25519PublicKey):
            return cls(key)
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            return cls(key)
        raise malformed("public key", "neither P-256 nor Ed25519")

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` (RFC 9053: 64 bytes for both algorithms) is this key's over `message`."""
        if len(signature) != 2 * _P256_BYTES:
            return False
        try:
            if isinstance(self.key, ec.EllipticCurvePublicKey):
                r, s = (int.from_bytes(half) for half in (signature[:_P256_BYTES], signature[_P256_BYTES:]))
                self.key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
            else:
                self.key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class UnusableKey:
    """A public key of a type, or with members, that this version does not know: kept and named, never used."""

    key_id: bytes
    cose_key: Mapping[Any, Any]

    @property
    def label(self) -> str:
        """What is known of it, for people."""
        names = {1: "type", -1: "curve", 3: "algorithm"}
        found = [f"{names[label]} {self.cose_key[label]!r}" for label in names if type(self.cose_key.get(label)) in (int, str)]
        return f"{self.key_id.hex()[:16]} ({', '.join(found)})"

    def to_cose_key(self) -> dict[Any, Any]:
        """As it was read."""
        return dict(self.cose_key)


def read_key(key_id: Any, value: Any) -> VerifyKey | UnusableKey:
    """A key of a list, under its identifier (RFC 9679).

    Raises Refused MALFORMED for one that is none, or that is listed under an identifier that is not its own.
    """
    if not isinstance(key_id, bytes) or not 0 < len(key_id) <= MAX_KEY_ID_BYTES or not isinstance(value, dict) or 1 not in value:
        raise malformed("COSE_Key", "not a key under its identifier")
    curves = {2: (1, ES256), 1: (6, EDDSA)}  # by key type: RFC 9053, section 7
    curve, algorithms = curves.get(value[1], (None, frozenset())) if type(value[1]) is int else (None, frozenset())
    named = value.get(3)
    if (
        value.get(-1) != curve
        or curve is None
        or not (named is None or (type(named) is int and named in algorithms))
        or not set(value) <= _MEMBERS
    ):
        return UnusableKey(key_id, value)
    key = VerifyKey.from_cose_key(value)
    if key.key_id != key_id:
        raise malformed("COSE_Key", "a key is not listed under its own identifier")
    return key


@dataclass(frozen=True)
class Sign1:
    """A decoded COSE_Sign1, not yet verified."""

    protected: bytes
    headers: dict[Any, Any]  # the protected ones
    unprotected: dict[Any, Any]
    payload: bytes | None  # None: detached
    signature: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> "Sign1":
        """A message with its tag or without (RFC 9052 section 2).

        Raises Refused MALFORMED for anything else, and for critical headers.
        """
        value = cbor.decode(data, "COSE_Sign1", SIGN1_LIMIT_BYTES, (SIGN1_TAG,))
        match value.value if isinstance(value, CBORTag) else value:
            case [bytes() as protected, dict() as unprotected, (bytes() | None) as payload, bytes() as signature]:
                pass
            case _:
                raise malformed("COSE_Sign1", "not [protected, unprotected, payload, signature]")
        headers = cbor.decode(protected, "protected headers", 4096) if protected else {}
        if not isinstance(headers, dict):
            raise malformed("COSE_Sign1", "the protected headers are not a map")
        if set(headers) & set(unprotected):
            raise malformed("COSE_Sign1", "a header is both protected and unprotected")  # RFC 9052 section 3
        if CRITICAL in headers or CRITICAL in unprotected:
            raise malformed("COSE_Sign1", "critical headers are not supported")
        return cls(protected, headers, unprotected, payload, signature)

    @property
    def key_id(self) -> bytes | None:
        """The key identifier, a hint only."""
        found = self.headers.get(KEY_ID, self.unprotected.get(KEY_ID))
        return found if isinstance(found, bytes) else None

    def to_be_signed(self, payload: bytes | None = None, external_aad: bytes = b"") -> bytes:
        """Sig_structure (RFC 9052 section 4.4); `payload` is given when, and only when, it is detached."""
        return sig_structure(self.protected, self._content(payload), external_aad)

    def verify(self, key: VerifyKey, payload: bytes | None = None, external_aad: bytes = b"") -> bytes:
        """The payload, once the signature is found to be this key's.

        Raises Refused SIGNATURE_INVALID when it is not, or when the message names an algorithm that the key is not for.
        """
        named = self.headers.get(ALGORITHM, self.unprotected.get(ALGORITHM))
        if type(named) is not int or named not in key.algorithms:
            raise Refused(
                Reason.SIGNATURE_INVALID, f"the message names algorithm {named!r}, the key is for {sorted(key.algorithms)}"
            )
        content = self._content(payload)
        if not key.verify(self.signature, sig_structure(self.protected, content, external_aad)):
            raise Refused(Reason.SIGNATURE_INVALID, "the signature does not match")
        return content

    def _content(self, payload: bytes | None) -> bytes:
        if (payload is None) == (self.payload is None):
            raise malformed("COSE_Sign1", "the payload must be either inside or detached")
        content = self.payload if payload is None else payload
        assert content is not None
        return content


def sig_structure(protected: bytes, payload: bytes, external_aad: bytes = b"") -> bytes:
    """What a COSE_Sign1 signature is made over (RFC 9052 section 4.4)."""
    return cbor.encode(["Signature1", protected if protected != b"\xa0" else b"", external_aad, payload])
