"""Signatures of cosign 3: bundles of Sigstore, version 0.3, that refer to the artifact (OCI distribution specification 1.1).

A bundle holds a DSSE envelope with an in-toto statement. The statement has to be cosign's "signature", not another attestation that
the same key made, and has to name the artifact's digest.
"""

import base64
from collections.abc import Iterator
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256

from ota.author.registry import NotThereError, Repository
from ota.formats import oci
from ota.formats.oci import Artifact, Descriptor
from ota.formats.reasons import Refused

__all__ = ["BY_ANOTHER", "FOR_ANOTHER", "PublicKey", "is_signed", "read"]

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
BUNDLE_LIMIT_BYTES, MAX_BUNDLES, _SIGNATURE_LIMIT = 64 * 1024, 16, 1024
BUNDLE = "application/vnd.dev.sigstore.bundle"  # .v0.3+json and its like
STATEMENT = "application/vnd.in-toto+json"
SIGNED = "https://sigstore.dev/cosign/sign/v1"
BY_ANOTHER, FOR_ANOTHER = "by another key", "for another artifact"
_STANDARD = str.maketrans("-_", "+/")
_KEYLESS = "keyless, by a certificate, which is not read"


def read(repository: Repository, digest: str, key: PublicKey, what: str) -> Iterator[str]:
    """Of each bundle that refers to the artifact why it does not count, empty for one that does. Raises HttpError, Refused."""
    every = [each for each in repository.referrers(digest) if each.artifact_type.startswith(BUNDLE)]
    for each in every[:MAX_BUNDLES]:
        try:
            yield _why_not(_bundle(repository, each, what), digest, key, what)
        except (Refused, NotThereError) as error:  # whoever can write there can add such a thing: another may be good
            yield f"unreadable ({error})"
    for _ in every[MAX_BUNDLES:]:
        yield f"not looked at, behind {MAX_BUNDLES} others"


def is_signed(data: bytes, signature: Any, key: PublicKey) -> bool:
    """Whether a signature in base64 is by this key."""
    if not isinstance(signature, str):
        return False
    try:
        raw = _decoded(signature[:_SIGNATURE_LIMIT])
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(raw, data)
        else:
            key.verify(raw, data, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _decoded(text: str) -> bytes:
    """Base64 in the alphabet of RFC 4648, section 4 or 5: DSSE's envelope and protobuf's JSON allow both. Raises ValueError."""
    return base64.b64decode(text.translate(_STANDARD), validate=True)


def _bundle(repository: Repository, referrer: Descriptor, what: str) -> dict[str, Any]:
    found = Artifact.from_bytes(repository.manifest(referrer.digest), what)
    layer = next((each for each in found.layers if each.media_type.startswith(BUNDLE)), None)
    if layer is None:
        return {}
    return oci.parse_json(repository.blob(layer, BUNDLE_LIMIT_BYTES), BUNDLE_LIMIT_BYTES, what)


def _why_not(bundle: dict[str, Any], digest: str, key: PublicKey, what: str) -> str:
    material, envelope = bundle.get("verificationMaterial"), bundle.get("dsseEnvelope")
    if isinstance(material, dict) and not {"certificate", "x509CertificateChain"}.isdisjoint(material):
        return _KEYLESS
    if not isinstance(envelope, dict) or envelope.get("payloadType") != STATEMENT:
        return "of another kind than a DSSE envelope with an in-toto statement"
    try:
        payload = _decoded(str(envelope.get("payload", "")))
    except ValueError:
        return "damaged: its payload is not base64"
    signatures = envelope.get("signatures")
    signed = b"DSSEv1 %d %s %d %s" % (len(STATEMENT), STATEMENT.encode(), len(payload), payload)
    each = signatures[:MAX_BUNDLES] if isinstance(signatures, list) else []
    if not any(isinstance(one, dict) and is_signed(signed, one.get("sig"), key) for one in each):
        return BY_ANOTHER
    return _why_not_about(oci.parse_json(payload, BUNDLE_LIMIT_BYTES, what), digest)


def _why_not_about(statement: dict[str, Any], digest: str) -> str:
    """Whether a statement is cosign's signature, and of this artifact (in-toto Statement v1)."""
    if statement.get("predicateType") != SIGNED:
        return f"an attestation ({str(statement.get('predicateType'))[:100]}) and no signature"
    subjects = statement.get("subject")
    named = [each.get("digest") for each in subjects if isinstance(each, dict)] if isinstance(subjects, list) else []
    algorithm, _, value = digest.partition(":")
    return "" if any(isinstance(each, dict) and each.get(algorithm) == value for each in named) else FOR_ANOTHER
