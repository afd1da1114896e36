"""Who can read a blob: the key of its content, wrapped for each recipient (draft-ietf-suit-firmware-encryption-26, RFC 9052).

A COSE_Encrypt without its ciphertext, which travels as the chunks of a blob. The content is encrypted with AES-128 in counter mode
(RFC 9459), which keeps its size; a key of its own encrypts each blob. That key is wrapped with AES Key Wrap, by a key that a group
shares (A128KW), or by one agreed with a board's key (ECDH-ES+A128KW). Integrity is the signed manifest's matter: it has the digests
of ciphertext and plaintext. This module opens; `ota.author.encryption` seals.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cbor2 import CBORTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from ota.formats import cbor
from ota.formats.cose import ALGORITHM, KEY_ID
from ota.formats.fields import Fields, malformed
from ota.formats.reasons import Reason, Refused

__all__ = [
    "INFO_LIMIT_BYTES",
    "KEY_BYTES",
    "KEY_LIMIT_BYTES",
    "MAX_RECIPIENTS",
    "Ciphertext",
    "EncryptionInfo",
    "GroupKey",
    "ReadingKeys",
    "Recipient",
    "agreed_key",
    "board_key_id",
    "cipher",
    "public_cose_key",
    "read_public_key",
]

ENCRYPT_TAG = 96
IV = 5  # header label, RFC 9052 section 3.1
EPHEMERAL = -1  # header label, RFC 9053 section 6.3.1
A128CTR, A128KW, ECDH_ES_A128KW = -65534, -3, -29  # RFC 9459, RFC 9053
KTY, KID, ALG, SYMMETRIC, EC2, P256, CRV_OR_K, X, Y = 1, 2, 3, 4, 2, 1, -1, -2, -3  # COSE_Key, RFC 9052 and 9053
KEY_BYTES, WRAPPED_BYTES, IV_BYTES, COORDINATE_BYTES = 16, 24, 16, 32
KEY_ID_BYTES = 8
INFO_LIMIT_BYTES = 16 * 1024
KEY_LIMIT_BYTES = 256  # of a group's key as a file, and of a board's public key
MAX_RECIPIENTS = 64
_CONTEXT = b"SUIT Payload Encryption"
_NOBODY = [None, None, None]  # PartyInfo of the KDF's context


@dataclass(frozen=True)
class Ciphertext:
    """What travels in the place of a blob: as many bytes, with another digest."""

    digest: bytes  # SHA-256
    info: bytes  # an EncryptionInfo, encoded


@dataclass(frozen=True)
class Recipient:
    """The wrapped key of the content for one recipient, a COSE_recipient."""

    key_id: bytes
    wrapped: bytes
    ephemeral: tuple[bytes, bytes] | None = None  # x and y of the sender's key, for a board; None for a group's key

    def to_value(self) -> list[Any]:
        """Plain, for cbor.encode."""
        if self.ephemeral is None:
            return [b"", {ALGORITHM: A128KW, KEY_ID: self.key_id}, self.wrapped]
        x, y = self.ephemeral
        return [_PROTECTED, {KEY_ID: self.key_id, EPHEMERAL: {KTY: EC2, CRV_OR_K: P256, X: x, Y: y}}, self.wrapped]

    @classmethod
    def from_value(cls, value: Any) -> "Recipient | None":
        """None for one of a kind that this version does not know: it is somebody else's. Raises Refused MALFORMED."""
        what = "recipient"
        match value:
            case [bytes() as protected, dict() as unprotected, bytes() as wrapped]:
                pass
            case _:
                raise malformed(what, "not [protected, unprotected, wrapped key]")
        if protected in _EMPTY and unprotected.get(ALGORITHM) == A128KW:
            fields = Fields(unprotected, what, (ALGORITHM, KEY_ID))
            ephemeral = None
        elif protected == _PROTECTED:
            fields = Fields(unprotected, what, (KEY_ID, EPHEMERAL))
            ephemeral = _point(fields.map(EPHEMERAL), "ephemeral key", ())
        else:
            return None
        if len(wrapped) != WRAPPED_BYTES:
            raise malformed(what, f"a wrapped key of {len(wrapped)} bytes, not {WRAPPED_BYTES}")
        return cls(fields.data(KEY_ID, limit=64), wrapped, ephemeral)


_PROTECTED = cbor.encode({ALGORITHM: ECDH_ES_A128KW})
_EMPTY = (b"", cbor.encode({}))  # a reader takes both: RFC 9052, section 3


@dataclass(frozen=True)
class EncryptionInfo:
    """SUIT_Encryption_Info: how a blob is encrypted, and for whom."""

    iv: bytes  # the first counter block
    recipients: tuple[Recipient, ...]  # those of known kinds
    unknown: int = 0  # recipients of other kinds

    def to_bytes(self) -> bytes:
        """Encoded; without recipients of unknown kinds."""
        recipients = [each.to_value() for each in self.recipients]
        return cbor.encode(CBORTag(ENCRYPT_TAG, [b"", {ALGORITHM: A128CTR, IV: self.iv}, None, recipients]))

    @classmethod
    def from_bytes(cls, data: bytes) -> "EncryptionInfo":
        """Raises Refused TOO_LARGE, MALFORMED, ENCRYPTION_UNSUPPORTED for content that is encrypted in another way."""
        what = "COSE_Encrypt"
        value = cbor.decode(data, what, INFO_LIMIT_BYTES, (ENCRYPT_TAG,))
        if not isinstance(value, CBORTag) or value.tag != ENCRYPT_TAG:
            raise malformed(what, f"not under tag {ENCRYPT_TAG}")
        match value.value:
            case [bytes() as protected, dict() as unprotected, None, list() as recipients]:
                pass
            case _:
                raise malformed(what, "not [protected, unprotected, null, recipients]")
        named = unprotected.get(ALGORITHM)
        if protected not in _EMPTY or type(named) is not int or named != A128CTR:
            algorithm = _protected_algorithm(protected) if protected else named
            raise Refused(Reason.ENCRYPTION_UNSUPPORTED, f"the content is encrypted with algorithm {algorithm!r}, not {A128CTR}")
        if not 0 < len(recipients) <= MAX_RECIPIENTS:
            raise malformed(what, f"{len(recipients)} recipients, not 1 to {MAX_RECIPIENTS}")
        iv = Fields(unprotected, what, (ALGORITHM, IV)).data(IV, IV_BYTES)
        known = [found for each in recipients if (found := Recipient.from_value(each)) is not None]
        return cls(iv, tuple(known), len(recipients) - len(known))


def _protected_algorithm(protected: bytes) -> Any:
    headers = cbor.decode(protected, "protected headers", 4096)
    return headers.get(ALGORITHM) if isinstance(headers, dict) else None


@dataclass(frozen=True)
class GroupKey:
    """A key that boards of a group share: it wraps the keys of contents."""

    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> bytes:
        """The beginning of the key's thumbprint (RFC 9679)."""
        return cbor.sha256(cbor.encode({KTY: SYMMETRIC, CRV_OR_K: self.secret}))[:KEY_ID_BYTES]

    def to_bytes(self) -> bytes:
        """As a file: a COSE_Key."""
        return cbor.encode({KTY: SYMMETRIC, KID: self.key_id, ALG: A128KW, CRV_OR_K: self.secret})

    @classmethod
    def from_bytes(cls, data: bytes) -> "GroupKey":
        """Raises Refused TOO_LARGE, MALFORMED. Says nothing of the content: it is a secret."""
        what = "group key"
        fields = Fields(cbor.decode(data, what, KEY_LIMIT_BYTES), what, (KTY, KID, ALG, CRV_OR_K))
        fields.number(KTY, SYMMETRIC, SYMMETRIC)
        fields.number(ALG, A128KW, A128KW)
        key = cls(fields.data(CRV_OR_K, KEY_BYTES))
        if fields.data(KID) != key.key_id:
            raise malformed(what, "its identifier is not its own")
        return key


@dataclass(frozen=True)
class ReadingKeys:
    """What a board can open: keys of groups by their identifiers, and its own."""

    groups: Mapping[bytes, GroupKey]
    own: ec.EllipticCurvePrivateKey | None = None

    def content_key(self, info: EncryptionInfo) -> bytes:
        """The key of the content.

        Raises Refused RECIPIENT_MISSING where it is for none of these keys, DECRYPTION_FAILED where that key does not open it.
        """
        own_id = board_key_id(self.own.public_key()) if self.own is not None else b""
        failed = b""
        for each in info.recipients:
            if each.ephemeral is None and each.key_id in self.groups:
                key = self.groups[each.key_id].secret
            elif each.ephemeral is not None and self.own is not None and each.key_id == own_id:
                key = agreed_key(self.own, public_key(*each.ephemeral))
            else:
                continue
            try:
                return aes_key_unwrap(key, each.wrapped)
            except InvalidUnwrap:
                failed = each.key_id
        if failed:
            raise Refused(Reason.DECRYPTION_FAILED, f"key {failed.hex()} does not open what is encrypted for it")
        ids = [each.key_id.hex() for each in info.recipients]
        more = f" and {info.unknown} of unknown kinds" if info.unknown else ""
        raise Refused(
            Reason.RECIPIENT_MISSING, f"it is encrypted for {', '.join(ids[:4]) or 'nobody known'}{more}: no key of this board"
        )


def cipher(key: bytes, iv: bytes) -> CipherContext:
    """AES-128 in counter mode, from the first byte on: encrypting and decrypting are the same."""
    return Cipher(AES(key), modes.CTR(iv)).encryptor()


def agreed_key(private: ec.EllipticCurvePrivateKey, public: ec.EllipticCurvePublicKey) -> bytes:
    """The key that wraps, by ECDH-ES+A128KW with HKDF-SHA-256 (RFC 9053 section 5.2, the draft's context)."""
    context = cbor.encode([A128KW, _NOBODY, _NOBODY, [8 * KEY_BYTES, _PROTECTED, _CONTEXT]])
    return HKDF(SHA256(), KEY_BYTES, None, context).derive(private.exchange(ec.ECDH(), public))


# -- a board's public key


def coordinates(key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    """Of a point on P-256: x and y."""
    numbers = key.public_numbers()
    return numbers.x.to_bytes(COORDINATE_BYTES), numbers.y.to_bytes(COORDINATE_BYTES)


def public_key(x: bytes, y: bytes) -> ec.EllipticCurvePublicKey:
    """Raises Refused MALFORMED for what is no point of P-256."""
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()
    except ValueError as error:
        raise malformed("key", "not a point on P-256") from error


def board_key_id(key: ec.EllipticCurvePublicKey) -> bytes:
    """The beginning of the key's thumbprint (RFC 9679)."""
    x, y = coordinates(key)
    return cbor.sha256(cbor.encode({KTY: EC2, CRV_OR_K: P256, X: x, Y: y}))[:KEY_ID_BYTES]


def public_cose_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """A board's public key as reports have it: an encoded COSE_Key."""
    x, y = coordinates(key)
    return cbor.encode({KTY: EC2, ALG: ECDH_ES_A128KW, CRV_OR_K: P256, X: x, Y: y})


def read_public_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """What `public_cose_key` wrote. Raises Refused TOO_LARGE, MALFORMED."""
    what = "board's key"
    value = cbor.decode(data, what, KEY_LIMIT_BYTES)
    if not isinstance(value, dict) or value.get(ALG) != ECDH_ES_A128KW:
        raise malformed(what, "not a COSE_Key for ECDH-ES+A128KW")
    return public_key(*_point(value, what, (ALG,)))


def _point(value: Any, what: str, more: tuple[int, ...]) -> tuple[bytes, bytes]:
    fields = Fields(value, what, (KTY, CRV_OR_K, X, Y, *more))
    fields.number(KTY, EC2, EC2)
    fields.number(CRV_OR_K, P256, P256)
    return fields.data(X, COORDINATE_BYTES), fields.data(Y, COORDINATE_BYTES)
