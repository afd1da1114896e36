"""The keys of a board's group, on their way to that board: encrypted to the board's own key, signed by the `deploy` role, retained.

One document for each board says all keys that its group has; the next one takes its place, so a key that it does not list is gone.
The signature covers who it is for and its epoch, and the ciphertext: AES-128 in counter mode, as modules are encrypted, under a key
that ECDH-ES wraps for one recipient (ota.formats.encryption). `ota.author.encryption` seals.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from ota.formats import cbor
from ota.formats.encryption import INFO_LIMIT_BYTES, KEY_ID_BYTES, KEY_LIMIT_BYTES, EncryptionInfo, GroupKey, ReadingKeys, cipher
from ota.formats.fields import MAX_TIME_S, Fields, Unknown, malformed
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import SignedDocument
from ota.formats.trust import Root

__all__ = ["DELIVERY_LIMIT_BYTES", "DELIVERY_TYPE", "KEYS", "KeyDelivery", "VerifiedDelivery", "claimed", "plaintext", "verified"]

DELIVERY_TYPE = "application/vnd.wamr-ota.group-keys+cbor"
DELIVERY_LIMIT_BYTES = 64 * 1024  # with signatures of every algorithm
KEYS = 8  # of a group
_WHAT = "group's keys"
_VERSION, _DEVICE, _GROUP, _EPOCH, _ISSUED, _KEYS, _INFO, _SEALED = range(1, 9)


@dataclass(frozen=True)
class KeyDelivery:
    """What one board is told."""

    device: str
    group: str
    epoch: int  # rises with every document for this board
    issued_s: int  # since 1970
    key_ids: tuple[bytes, ...]  # of the keys inside, in order
    info: bytes  # an EncryptionInfo, encoded
    sealed: bytes  # the encoded list of keys, encrypted

    def to_payload(self) -> bytes:
        """The bytes that deploy keys sign."""
        members: Mapping[int, Any] = {
            _VERSION: 1,
            _DEVICE: self.device,
            _GROUP: self.group,
            _EPOCH: self.epoch,
            _ISSUED: self.issued_s,
            _KEYS: list(self.key_ids),
            _INFO: self.info,
            _SEALED: self.sealed,
        }
        return cbor.encode(members)

    @classmethod
    def from_payload(cls, payload: bytes) -> "KeyDelivery":
        """Raises Refused TOO_LARGE, MALFORMED, MEMBER_UNKNOWN."""
        value = cbor.decode(payload, _WHAT, DELIVERY_LIMIT_BYTES)
        fields = Fields(value, _WHAT, range(1, 9), Unknown.CRITICAL)
        fields.version(_VERSION)
        key_ids = fields.items(_KEYS, KEYS)
        if not all(isinstance(each, bytes) and len(each) == KEY_ID_BYTES for each in key_ids) or key_ids != sorted(set(key_ids)):
            raise malformed(_WHAT, "not different identifiers of keys in order")
        return cls(
            fields.name(_DEVICE),
            fields.name(_GROUP),
            fields.number(_EPOCH),
            fields.number(_ISSUED, 0, MAX_TIME_S),
            tuple(key_ids),
            fields.data(_INFO, limit=INFO_LIMIT_BYTES),
            fields.data(_SEALED, limit=KEYS * KEY_LIMIT_BYTES),
        )

    def open(self, own: ec.EllipticCurvePrivateKey | None) -> dict[bytes, GroupKey]:
        """The keys by their identifiers.

        Raises Refused MALFORMED, RECIPIENT_MISSING where they are encrypted for another key, DECRYPTION_FAILED,
        ENCRYPTION_UNSUPPORTED.
        """
        info = EncryptionInfo.from_bytes(self.info)
        plain = cipher(ReadingKeys({}, own).content_key(info), info.iv).update(self.sealed)
        try:
            value = cbor.decode(plain, _WHAT, KEYS * KEY_LIMIT_BYTES)
            found = [GroupKey.from_bytes(each) for each in value]
        except (Refused, TypeError) as error:
            raise Refused(Reason.DECRYPTION_FAILED, "what is inside is no list of keys") from error
        if tuple(each.key_id for each in found) != self.key_ids:
            raise malformed(_WHAT, "other keys are inside than it lists")
        return {each.key_id: each for each in found}


def plaintext(keys: Mapping[bytes, GroupKey]) -> bytes:
    """What is encrypted: the keys in the order of their identifiers."""
    return cbor.encode([keys[each].to_bytes() for each in sorted(keys)])


@dataclass(frozen=True)
class VerifiedDelivery:
    """A document whose signatures count."""

    delivery: KeyDelivery
    digest: bytes  # SHA-256 of what is signed
    signers: frozenset[bytes]

    @property
    def epoch(self) -> int:
        """The delivery's."""
        return self.delivery.epoch


def verified(data: bytes, root: Root, device: str, group: str = "") -> VerifiedDelivery:
    """The document for this board and, unless it is empty, this group.

    Raises Refused TOO_LARGE, GROUP_MISMATCH, the SIGNATURE and SIGNER reasons, and as `KeyDelivery.from_payload`.
    """
    document = SignedDocument.from_bytes(data, _WHAT, DELIVERY_LIMIT_BYTES)
    signers = document.verify(root.roles["deploy"], DELIVERY_TYPE, _WHAT)
    found = KeyDelivery.from_payload(document.payload)
    if found.device != device or group not in ("", found.group):
        raise Refused(
            Reason.GROUP_MISMATCH,
            f"the keys are for device {found.device} in group {found.group}, not for {device} in group {group or 'any'}",
        )
    return VerifiedDelivery(found, cbor.sha256(document.payload), signers)


def claimed(data: bytes) -> KeyDelivery | None:
    """What a document claims, whoever made it; None when it can't be read."""
    try:
        return KeyDelivery.from_payload(SignedDocument.from_bytes(data, _WHAT, DELIVERY_LIMIT_BYTES).payload)
    except Refused:
        return None
