"""Signatures that `cosign sign --key` puts beside an artifact: the tag sha256-DIGEST.sig, a layer for each signature.

Checked with one public key, ECDSA P-256 or Ed25519. Not checked: certificates of Fulcio, entries of Rekor, and the identity in the
payload; the digest binds a signature to its artifact, whatever the repository is called.
"""

import base64
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ota.author.registry import NotThereError, Repository
from ota.errors import OtaError
from ota.formats import oci
from ota.formats.oci import Artifact
from ota.formats.reasons import Reason, Refused

__all__ = ["PublicKey", "check", "load_key"]

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

PAYLOAD_LIMIT_BYTES, MAX_SIGNATURES, _KEY_LIMIT_BYTES, _SIGNATURE_LIMIT = 64 * 1024, 16, 16 * 1024, 1024
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
    try:
        found = Artifact.from_bytes(repository.manifest(digest.replace(":", "-") + ".sig"), what)
    except NotThereError as error:
        raise Refused(Reason.SIGNATURE_MISSING, f"{what}: no signatures ({error})") from error
    signatures = [each for each in found.layers if each.media_type == PAYLOAD and SIGNATURE in each.annotations]
    for each in signatures[:MAX_SIGNATURES]:
        payload = repository.blob(each, PAYLOAD_LIMIT_BYTES)
        if _is_signed(payload, each.annotations[SIGNATURE], key) and _is_about(payload, digest, what):
            return
    raise Refused(Reason.SIGNATURE_INVALID, f"{what}: none of {len(signatures)} signatures is by this key and for {digest}")


def _is_signed(payload: bytes, signature: str, key: PublicKey) -> bool:
    try:
        raw = base64.b64decode(signature[:_SIGNATURE_LIMIT], validate=True)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(raw, payload)
        else:
            key.verify(raw, payload, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _is_about(payload: bytes, digest: str, what: str) -> bool:
    """Whether what was signed names this artifact (cosign's specs/SIGNATURE_SPEC.md, "Simple Signing")."""
    critical = oci.parse_json(payload, PAYLOAD_LIMIT_BYTES, what).get("critical")
    image = critical.get("image") if isinstance(critical, dict) else None
    said = image.get("docker-manifest-digest") if isinstance(image, dict) else None
    return isinstance(critical, dict) and said == digest and critical.get("type") == "cosign container image signature"
