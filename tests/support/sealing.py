"""Updates that are encrypted, and ways in which they may be spoilt."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from ota.author.build import Update
from ota.author.encryption import Readers, encrypted
from ota.formats.encryption import EncryptionInfo, GroupKey
from tests.support.signing import Signer

KEY, OTHER_KEY = GroupKey(b"k" * 16), GroupKey(b"o" * 16)


def sealed(
    signer: Signer,
    update: Update,
    groups: Sequence[GroupKey] = (KEY,),
    boards: Sequence[ec.EllipticCurvePublicKey] = (),
) -> Update:
    """The same update for these readers alone."""
    return encrypted(update.draft, Readers(groups, boards)).signed(update.manifest.sequence, signer.keys["release"])


def respelled(signer: Signer, update: Update, change: Callable[[EncryptionInfo], EncryptionInfo]) -> Update:
    """An encrypted update that says something else of how it is encrypted, signed all the same."""
    ciphertext = update.manifest.ciphertext
    info = change(EncryptionInfo.from_bytes(ciphertext.info)).to_bytes()
    manifest = replace(update.manifest, ciphertext=replace(ciphertext, info=info))
    return replace(update.draft, manifest=manifest).signed(manifest.sequence, signer.keys["release"])
