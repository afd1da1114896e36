"""Signatures that `cosign sign --key` puts beside an artifact, in both of its forms, checked with one public key.

- The tag sha256-DIGEST.sig, a layer for each signature (cosign's specs/SIGNATURE_SPEC.md, "Simple Signing").
- Bundles of Sigstore, which refer to the artifact (ota.author.cosign_bundles).

The key is ECDSA P-256 or Ed25519. Not checked: certificates of Fulcio, entries of Rekor, and the identity in the payload; the
digest binds a signature to its artifact, whatever the repository is called.
"""

from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ota.author import cosign_bundles
from ota.author.cosign_bundles import PublicKey, is_signed
from ota.author.registry import NotThereError, Repository
from ota.errors import OtaError
from ota.formats import oci
from ota.formats.oci import Artifact
from ota.formats.reasons import Reason, Refused

__all__ = ["PublicKey", "check", "load_key"]

PAYLOAD_LIMIT_BYTES, MAX_SIGNATURES, _KEY_LIMIT_BYTES = 64 * 1024, 16, 16 * 1024
PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"


def load_key(path: Path) -> PublicKey:
    """`cosign.pub`. Raises OtaError for another file, and a key of another kind."""
    try:
        with path.open("rb") as file:
            key = load_pem_public_key(file.read(_KEY_LIMIT_BYTES))
    except OSError as error:
        raise OtaError(f"{path}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm):
        raise OtaError(f"{path} is no public key in PEM") from None
    if isinstance(key, ed25519.Ed25519PublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"):
        return key
    raise OtaError(f"{path}: a key of ECDSA P-256 or Ed25519 is expected")


def check(repository: Repository, digest: str, key: PublicKey) -> None:
    """Whether the key signed the artifact with this digest. Raises Refused SIGNATURE_MISSING, SIGNATURE_INVALID, HttpError."""
    what = f"{repository.reference}: cosign"
    why_not: list[str] = []
    for found in (_simple(repository, digest, key, what), cosign_bundles.read(repository, digest, key, what)):
        for reason in found:
            if not reason:
                return
            why_not.append(reason)
    if not why_not:
        raise Refused(Reason.SIGNATURE_MISSING, f"{what}: no signatures of {digest}, neither by tag nor as bundles")
    told = ", ".join(f"{each} ({why_not.count(each)})" for each in sorted(set(why_not)))
    raise Refused(Reason.SIGNATURE_INVALID, f"{what}: none of {len(why_not)} signatures is by this key and for {digest}: {told}")


def _simple(repository: Repository, digest: str, key: PublicKey, what: str) -> Iterator[str]:
    """Of each signature by tag why it does not count, empty for one that does."""
    try:
        found = Artifact.from_bytes(repository.manifest(digest.replace(":", "-") + ".sig"), what)
    except NotThereError:
        return
    signatures = [each for each in found.layers if each.media_type == PAYLOAD and SIGNATURE in each.annotations]
    for each in signatures[:MAX_SIGNATURES]:
        payload = repository.blob(each, PAYLOAD_LIMIT_BYTES)
        if not is_signed(payload, each.annotations[SIGNATURE], key):
            yield cosign_bundles.BY_ANOTHER
        else:
            yield "" if _is_about(payload, digest, what) else cosign_bundles.FOR_ANOTHER


def _is_about(payload: bytes, digest: str, what: str) -> bool:
    """Whether what was signed names this artifact."""
    critical = oci.parse_json(payload, PAYLOAD_LIMIT_BYTES, what).get("critical")
    image = critical.get("image") if isinstance(critical, dict) else None
    said = image.get("docker-manifest-digest") if isinstance(image, dict) else None
    return isinstance(critical, dict) and said == digest and critical.get("type") == "cosign container image signature"
