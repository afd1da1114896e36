"""Deployment documents: who should run which manifest, and when. One for a group, retained, signed by the `deploy` role."""

from dataclasses import dataclass
from typing import Any

from ota.formats import cbor
from ota.formats.fields import MAX_TIME_S, Fields, Unknown
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import SignedDocument
from ota.formats.trust import Root

DEPLOYMENT_LIMIT_BYTES = 8 * 1024
DEPLOYMENT_TYPE = "application/vnd.wamr-ota.deployment+cbor"
FRACTION_ALL = 1_000_000
CLOCK_REASONS = frozenset((Reason.CLOCK_NOT_SET, Reason.DEPLOYMENT_EXPIRED, Reason.ROOT_EXPIRED))
"""Refusals that may not hold any more once the clock is set, forwards or back."""
_VERSION, _GROUP, _ID, _MANIFEST, _EPOCH, _ISSUED, _EXPIRES, _FRACTION, _PAUSED = range(1, 10)


@dataclass(frozen=True)
class Deployment:
    """What a group should run. Times are seconds since 1970."""

    group: str
    deployment_id: bytes  # 16 bytes; stays the same while a roll-out is widened, paused or stopped
    manifest_digest: bytes  # SHA-256 of the SUIT envelope
    epoch: int  # rises with every document of the group
    issued_s: int
    expires_s: int  # 0: never; it is valid until another takes its place
    fraction_ppm: int = FRACTION_ALL
    paused: bool = False

    def to_payload(self) -> bytes:
        """The bytes that deploy keys sign."""
        members: dict[int, Any] = {
            _VERSION: 1,
            _GROUP: self.group,
            _ID: self.deployment_id,
            _MANIFEST: self.manifest_digest,
            _EPOCH: self.epoch,
            _ISSUED: self.issued_s,
            _FRACTION: self.fraction_ppm,
            _PAUSED: self.paused,
        }
        if self.expires_s:
            members[_EXPIRES] = self.expires_s
        return cbor.encode(members)

    @classmethod
    def from_payload(cls, payload: bytes) -> "Deployment":
        """What is signed, not verified. Raises Refused TOO_LARGE, MALFORMED, MEMBER_UNKNOWN."""
        what = "deployment"
        fields = Fields(cbor.decode(payload, what, DEPLOYMENT_LIMIT_BYTES), what, range(1, 10), Unknown.CRITICAL)
        fields.version(_VERSION)
        return cls(
            group=fields.name(_GROUP),
            deployment_id=fields.data(_ID, 16),
            manifest_digest=fields.data(_MANIFEST, 32),
            epoch=fields.number(_EPOCH),
            issued_s=fields.number(_ISSUED, 0, MAX_TIME_S),
            expires_s=fields.number(_EXPIRES, 0, MAX_TIME_S) if _EXPIRES in fields else 0,
            fraction_ppm=fields.number(_FRACTION, 0, FRACTION_ALL),
            paused=fields.flag(_PAUSED),
        )

    def includes(self, device: str) -> bool:
        """Whether this device is in the fraction: a stable draw by device and deployment."""
        draw = int.from_bytes(cbor.sha256(device.encode() + self.deployment_id)[:8])
        return draw * FRACTION_ALL < self.fraction_ppm << 64


@dataclass(frozen=True)
class VerifiedDeployment:
    """A deployment that enough deploy keys signed, for this group."""

    deployment: Deployment
    digest: bytes  # SHA-256 of what is signed
    signers: frozenset[bytes]  # the deploy keys that signed it


def verified(data: bytes, root: Root, group: str) -> VerifiedDeployment:
    """A deployment that enough deploy keys signed, for this group.

    Raises Refused TOO_LARGE, MALFORMED, MEMBER_UNKNOWN, GROUP_MISMATCH, and the SIGNATURE and SIGNER reasons.
    """
    document = SignedDocument.from_bytes(data, "deployment", DEPLOYMENT_LIMIT_BYTES)
    signers = document.verify(root.roles["deploy"], DEPLOYMENT_TYPE, "deployment")
    deployment = Deployment.from_payload(document.payload)
    if deployment.group != group:
        raise Refused(Reason.GROUP_MISMATCH, f"the deployment is for group {deployment.group}, not {group}")
    return VerifiedDeployment(deployment, cbor.sha256(document.payload), signers)


def verify(data: bytes, root: Root, group: str) -> Deployment:
    """The content of `verified`. Raises Refused likewise."""
    return verified(data, root, group).deployment


def claimed_id(data: bytes) -> bytes:
    """The identifier that a document claims, whoever made it: for telling which one was refused. Empty when it can't be read."""
    try:
        return Deployment.from_payload(SignedDocument.from_bytes(data, "deployment", DEPLOYMENT_LIMIT_BYTES).payload).deployment_id
    except Refused:
        return b""


def may_start(deployment: Deployment, root: Root, now_s: int) -> None:
    """Whether an install may *start* now; never asked for boot, confirmation or rollback.

    Raises Refused DEPLOYMENT_STOPPED, CLOCK_NOT_SET when the clock is behind what signed documents prove the time to be,
    DEPLOYMENT_EXPIRED, ROOT_EXPIRED.
    """
    if deployment.paused:
        raise Refused(Reason.DEPLOYMENT_STOPPED, "the deployment is paused")
    known_s = max(deployment.issued_s, root.issued_s)
    if now_s < known_s - 86_400:
        raise Refused(Reason.CLOCK_NOT_SET, f"the clock says {now_s}, but signed documents were issued at {known_s}")
    if deployment.expires_s and now_s >= deployment.expires_s:
        raise Refused(Reason.DEPLOYMENT_EXPIRED, f"the deployment expired at {deployment.expires_s}, it is {now_s}")
    if now_s >= root.expires_s:
        raise Refused(Reason.ROOT_EXPIRED, f"root {root.number} expired at {root.expires_s}, it is {now_s}")
