"""Encrypts an update for those who are to read it; what opens it on boards is in ota.formats.encryption.

Each blob has a key of its own, made at random, so the first counter block can be zero (draft-ietf-suit-firmware-encryption-26,
section 6.2). Encrypting the same twice gives two ciphertexts.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from ota.author.build import BuildError, Draft, check_readable
from ota.formats.cbor import sha256
from ota.formats.chunks import ChunkIndex
from ota.formats.encryption import (
    KEY_BYTES,
    MAX_RECIPIENTS,
    Ciphertext,
    EncryptionInfo,
    GroupKey,
    Recipient,
    agreed_key,
    board_key_id,
    cipher,
    coordinates,
)
from ota.formats.manifest import Manifest
from ota.formats.reasons import Reason, Refused

__all__ = ["Readers", "encrypted", "sealed_for"]

_FIRST_BLOCK = bytes(16)
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
Random = Callable[[int], bytes]


@dataclass(frozen=True)
class Readers:
    """Who is to read an update."""

    groups: Sequence[GroupKey] = ()
    boards: Sequence[ec.EllipticCurvePublicKey] = ()

    def __bool__(self) -> bool:
        return bool(self.groups or self.boards)


def encrypted(draft: Draft, readers: Readers, random: Random = os.urandom) -> Draft:
    """The same update with the module and its images encrypted. `random` gives so many bytes that nobody can guess.

    Raises BuildError, Refused TOO_LARGE.
    """
    if not isinstance(draft.manifest, Manifest):
        raise BuildError("an agent is not encrypted: its code is no secret")
    if not 0 < (count := len(readers.groups) + len(readers.boards)) <= MAX_RECIPIENTS:
        raise BuildError(f"{count} keys to encrypt for, not 1 to {MAX_RECIPIENTS}: give the boards a key of their group")
    blob, index, whole = _sealed(draft.blob, draft.index.chunk_bytes, readers, random)
    images, sent = [], []
    for image, (content, its_index) in zip(draft.manifest.images, draft.images, strict=True):
        found, found_index, ciphertext = _sealed(content, its_index.chunk_bytes, readers, random)
        images.append(replace(image, index_digest=sha256(found_index.to_bytes()), ciphertext=ciphertext))
        sent.append((found, found_index))
    manifest = replace(draft.manifest, index_digest=sha256(index.to_bytes()), ciphertext=whole, images=tuple(images))
    made = replace(draft, manifest=manifest, blob=blob, index=index, images=tuple(sent))
    try:
        check_readable(made)
    except Refused as error:
        if error.reason is not Reason.TOO_LARGE:
            raise
        why = f"{error.detail}: {count} keys for each of {1 + len(images)} blobs. Give the boards a key of their group"
        raise Refused(error.reason, why) from error
    return made


def _sealed(content: bytes, chunk_bytes: int, readers: Readers, random: Random) -> tuple[bytes, ChunkIndex, Ciphertext]:
    key = random(KEY_BYTES)
    found = cipher(key, _FIRST_BLOCK).update(content)
    index = ChunkIndex.of(found, chunk_bytes)
    info = EncryptionInfo(_FIRST_BLOCK, tuple(_recipients(key, readers.groups, readers.boards, random)))
    return found, index, Ciphertext(index.digest, info.to_bytes())


def sealed_for(content: bytes, board: ec.EllipticCurvePublicKey, random: Random = os.urandom) -> tuple[EncryptionInfo, bytes]:
    """Content encrypted for one board, without integrity of its own: whoever sends it signs it."""
    key = random(KEY_BYTES)
    return EncryptionInfo(_FIRST_BLOCK, tuple(_recipients(key, (), (board,), random))), cipher(key, _FIRST_BLOCK).update(content)


def _recipients(
    key: bytes, groups: Collection[GroupKey], boards: Collection[ec.EllipticCurvePublicKey], random: Random
) -> list[Recipient]:
    found = [Recipient(each.key_id, aes_key_wrap(each.secret, key)) for each in groups]
    for each in boards:
        ephemeral = _ephemeral(random)
        wrapped = aes_key_wrap(agreed_key(ephemeral, each), key)
        found.append(Recipient(board_key_id(each), wrapped, coordinates(ephemeral.public_key())))
    return found


def _ephemeral(random: Random) -> ec.EllipticCurvePrivateKey:
    """A key on P-256 out of 64 bits more than it has, so that no key is likelier than another (FIPS 186-5, A.2.1)."""
    return ec.derive_private_key(1 + int.from_bytes(random(40)) % (_ORDER - 1), ec.SECP256R1())
