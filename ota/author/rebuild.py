"""Whether an update is what its source gives: built again it has the same bytes, and the same signatures where the keys are."""

from collections.abc import Sequence
from dataclasses import replace

from ota.author.build import Draft, Update, is_encrypted, without_transfer
from ota.formats import suit
from ota.formats.cose import Sign1
from ota.formats.manifest import MANIFEST_LIMIT_BYTES, Manifest
from ota.formats.provenance import Provenance
from ota.keyring import Signer

__all__ = ["differences", "said_of", "signed_again"]


def said_of(update: Update) -> Provenance:
    """What an update says of itself. Raises Refused for a text that is none of ours."""
    return Provenance.from_bytes(update.text) if update.text else Provenance()


def differences(update: Update, again: Draft) -> list[str]:
    """What of an update is not as it was built again, each as a phrase; of the manifest everything but its signatures.

    Of an encrypted one the manifest tells: it has the digests of what was encrypted, and the ciphertext is another each time.
    """
    same_number = replace(again.manifest, sequence=update.manifest.sequence)
    about = [("text", update.text, again.text), ("bill of materials", update.sbom, again.sbom)]
    if is_encrypted(update.manifest):
        assert isinstance(update.manifest, Manifest)
        assert isinstance(same_number, Manifest)
        about.insert(0, ("manifest", without_transfer(update.manifest).to_bytes(), without_transfer(same_number).to_bytes()))
        return [_phrase(what, published, built) for what, published, built in about if published != built]
    found = [
        ("manifest", _manifest(update), same_number.to_bytes()),
        *about,
        ("module", update.blob, again.blob),
        ("chunk index", update.index.to_bytes(), again.index.to_bytes()),
    ]
    images, rebuilt = [each for each, _ in update.images], [each for each, _ in again.images]
    found += [(f"image {number}", *pair) for number, pair in enumerate(zip(images, rebuilt, strict=False), 1)]
    differing = [_phrase(what, published, built) for what, published, built in found if published != built]
    if len(images) != len(rebuilt):
        differing.append(f"{len(images)} ahead-of-time images, built again {len(rebuilt)}")
    return differing


def signed_again(update: Update, keys: Sequence[Signer]) -> tuple[int, int]:
    """How many of an update's signatures its keys make again, and how many they make otherwise.

    A key that is not here, or that signs the same in another way each time (ML-DSA, many tokens), counts for neither.
    """
    envelope, here = suit.Envelope.from_bytes(update.envelope, MANIFEST_LIMIT_BYTES), {key.public.key_id: key for key in keys}
    same = other = 0
    for signature in envelope.signatures:
        key = here.get(signature.key_id or b"")
        if key is None or (made := key.sign1(envelope.digest)) != key.sign1(envelope.digest):
            continue
        same, other = (same + 1, other) if Sign1.from_bytes(made) == signature else (same, other + 1)
    return same, other


def _manifest(update: Update) -> bytes:
    return suit.Envelope.from_bytes(update.envelope, MANIFEST_LIMIT_BYTES).manifest_bytes


def _phrase(what: str, published: bytes, built: bytes) -> str:
    first = next((at for at, (a, b) in enumerate(zip(published, built, strict=False)) if a != b), min(len(published), len(built)))
    return f"the {what}: {len(published)} bytes, built again {len(built)}, other from byte {first} on"
