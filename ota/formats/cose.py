"""COSE_Sign1 (RFC 9052), the public half: keys, decoding, verification. Signing is `ota.keyring`'s, and that of boards
`device_agent.broker.identity`'s.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cbor2 import CBORTag
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ota.formats import cbor
from ota.formats.algorithms import ALG, ALGORITHMS, Algorithm, algorithm_of, verifies
from ota.formats.fields import Fields, malformed
from ota.formats.reasons import Reason, Refused

SIGN1_TAG = 18
ALGORITHM, CRITICAL, KEY_ID, TYPE, X5CHAIN = 1, 2, 4, 16, 33  # header labels: RFC 9052 section 3.1, RFC 9596, RFC 9360
KCCS = 14  # header label: a CWT claims set with a key in it, RFC 9528
_CONFIRMATION, _COSE_KEY = 8, 1  # of a CWT claims set: RFC 8747
SIGN1_LIMIT_BYTES = 1 << 20
MAX_KEY_ID_BYTES = 64


@dataclass(frozen=True)
class VerifyKey:
    """A public key that can verify; its type fixes the algorithm, independent of the message."""

    key: Any  # a public key of `cryptography`, for one of ota.formats.algorithms

    @functools.cached_property
    def algorithm(self) -> Algorithm:
        """What it is for."""
        return algorithm_of(self.key)

    @functools.cached_property
    def key_id(self) -> bytes:
        """The COSE key thumbprint (RFC 9679): SHA-256 over the required members."""
        return cbor.sha256(cbor.encode(self.algorithm.required(self.key)))

    @property
    def label(self) -> str:
        """The start of its identifier and its algorithm, for people."""
        return f"{self.key_id.hex()[:16]} ({self.algorithm.name})"

    def to_cose_key(self) -> dict[int, Any]:
        """COSE_Key (RFC 9052 section 7) as a map."""
        return self.algorithm.required(self.key) | {ALG: self.algorithm.numbers[0]}

    @classmethod
    def from_cose_key(cls, value: Any) -> "VerifyKey":
        """Raises Refused MALFORMED for anything but a public key of a known algorithm that this machine can use."""
        if not isinstance(value, dict):
            raise malformed("COSE_Key", "not a map")
        for each in ALGORITHMS:
            if each.usable and each.is_of(value):
                fields = Fields(value, "COSE_Key", each.labels)
                try:
                    return cls(each.load(*(fields.data(label, size) for label, size in each.sizes.items())))
                except ValueError as error:
                    raise malformed("COSE_Key", str(error)) from error
        raise malformed("COSE_Key", f"not a key of {', '.join(each.name for each in ALGORITHMS if each.usable)}")

    @classmethod
    def from_pem(cls, pem: bytes) -> "VerifyKey":
        """Raises Refused MALFORMED for anything but a PEM public key of a known algorithm."""
        try:
            key = load_pem_public_key(pem)
            algorithm_of(key)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise malformed("public key", str(error)) from error
        return cls(key)

    def to_pem(self) -> bytes:
        """As a PEM file (SubjectPublicKeyInfo)."""
        pem: bytes = self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature`, in COSE's form, is this key's over `message`."""
        return verifies(self.algorithm, self.key, signature, message)


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
    if not any(each.usable and each.is_of(value) for each in ALGORITHMS):
        return UnusableKey(key_id, value)
    key = VerifyKey.from_cose_key(value)
    if key.key_id != key_id:
        raise malformed("COSE_Key", "a key is not listed under its own identifier")
    return key


def bare_key(key: VerifyKey) -> dict[int, Any]:
    """What stands under KCCS: a key that nobody vouches for."""
    return {_CONFIRMATION: {_COSE_KEY: key.to_cose_key()}}


def read_bare_key(headers: Mapping[Any, Any]) -> VerifyKey | None:
    """The key under KCCS, None where there is none. Raises Refused MALFORMED."""
    if KCCS not in headers:
        return None
    claims = headers[KCCS]
    confirmation = claims.get(_CONFIRMATION) if isinstance(claims, dict) else None
    if not isinstance(confirmation, dict):
        raise malformed("COSE_Sign1", "kccs holds no key")
    return VerifyKey.from_cose_key(confirmation.get(_COSE_KEY))


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

    def verify(self, key: VerifyKey, payload: bytes | None = None, external_aad: bytes = b"") -> bytes:
        """The payload, once the signature is found to be this key's.

        Raises Refused SIGNATURE_INVALID when it is not, or when the message names an algorithm that the key is not for.
        """
        named, known = self.headers.get(ALGORITHM, self.unprotected.get(ALGORITHM)), key.algorithm
        if type(named) is not int or named not in known.numbers:
            raise Refused(
                Reason.SIGNATURE_INVALID, f"the message names algorithm {named!r}, the key is for {sorted(known.numbers)}"
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
