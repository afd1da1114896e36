"""A payload and the signatures over it: how root and deployment documents travel.

`[payload, [COSE_Sign1, …]]`, each COSE_Sign1 detached, with algorithm, key identifier and type in its protected headers. The
type (RFC 9596) keeps a signature over one kind of document from passing for one over another.
"""

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ota.formats import cbor
from ota.formats.algorithms import FAMILIES
from ota.formats.cose import ALGORITHM, KEY_ID, TYPE, Sign1, UnusableKey, VerifyKey
from ota.formats.fields import malformed
from ota.formats.reasons import Reason, Refused

MAX_SIGNATURES = 16


@dataclass(frozen=True)
class Role:
    """Who may sign: at least `threshold` of these keys, and where `mixed` is set, keys of every family among them.

    With one classical and one post-quantum signature, a forger has to break both.
    """

    keys: Mapping[bytes, VerifyKey]  # by key identifier
    threshold: int
    unusable: Mapping[bytes, UnusableKey] = field(default_factory=dict)  # of the role, and of no use to this version
    mixed: bool = False

    @property
    def key_ids(self) -> frozenset[bytes]:
        """Of all its keys, those that can't be used too."""
        return frozenset((*self.keys, *self.unusable))

    def lacks(self, key_ids: Collection[bytes]) -> str:
        """What these keys of the role are short of when all of them sign, for people; "" when they are enough."""
        if len(key_ids) < self.threshold:
            return f"{len(key_ids)} of {self.threshold} needed signatures"
        there = {self.keys[each].algorithm.family for each in key_ids}
        missing = [each for each in FAMILIES if each not in there] if self.mixed else []
        return f"no {' and no '.join(missing)} signature" if missing else ""


@dataclass(frozen=True)
class SignedDocument:
    """A decoded envelope, not yet verified."""

    payload: bytes
    signatures: tuple[Sign1, ...]

    @classmethod
    def from_bytes(cls, data: bytes, what: str, limit_bytes: int) -> "SignedDocument":
        """Raises Refused TOO_LARGE, MALFORMED, SIGNATURE_MISSING."""
        document = cls.draft(data, what, limit_bytes)
        if not document.signatures:
            raise Refused(Reason.SIGNATURE_MISSING, f"{what} is not signed")
        return document

    @classmethod
    def draft(cls, data: bytes, what: str, limit_bytes: int) -> "SignedDocument":
        """One that nobody may have signed yet. Raises Refused TOO_LARGE, MALFORMED."""
        match cbor.decode(data, what, limit_bytes):
            case [bytes() as payload, list() as signatures]:
                pass
            case _:
                raise malformed(what, "not [payload, signatures]")
        if len(signatures) > MAX_SIGNATURES:
            raise malformed(what, f"{len(signatures)} signatures, the limit is {MAX_SIGNATURES}")
        if not all(isinstance(each, bytes) for each in signatures):
            raise malformed(what, "a signature is not bytes")
        return cls(payload, tuple(Sign1.from_bytes(each) for each in signatures))

    def verify(self, role: Role, kind: str, what: str) -> frozenset[bytes]:
        """The keys that signed it, once enough of the role have, as a document of this kind; see `check_signatures`."""
        return check_signatures(self.signatures, self.payload, role, kind, what)


def check_signatures(signatures: tuple[Sign1, ...], payload: bytes, role: Role, kind: str | None, what: str) -> frozenset[bytes]:
    """The distinct keys of the role with a right signature; `kind` is the type that the headers must name, if any.

    Raises Refused SIGNATURE_INVALID when a signature that claims a key of the role is wrong, SIGNER_UNKNOWN when no signature
    claims one, SIGNER_THRESHOLD when there are too few, or none of a family that the role asks for.
    """
    good: set[bytes] = set()
    for signature in signatures:
        key_id = signature.headers.get(KEY_ID)
        key = role.keys.get(key_id) if isinstance(key_id, bytes) else None
        if key is None or not isinstance(key_id, bytes):
            continue
        if ALGORITHM not in signature.headers or signature.headers.get(TYPE) != kind:
            raise Refused(Reason.SIGNATURE_INVALID, f"{what}: a signature does not name its algorithm and the type {kind!r}")
        signature.verify(key, payload)
        good.add(key_id)
    if not good:
        raise Refused(Reason.SIGNER_UNKNOWN, f"{what}: no signature is by a key that may sign it")
    if lack := role.lacks(good):
        raise Refused(Reason.SIGNER_THRESHOLD, f"{what}: {lack}")
    return frozenset(good)


def good_signers(signatures: tuple[Sign1, ...], payload: bytes, role: Role, kind: str | None) -> frozenset[bytes]:
    """The keys of the role with a right signature, enough or not; wrong ones don't count. For who collects signatures."""
    good = set()
    for signature in signatures:
        key = role.keys.get(signature.key_id or b"")
        if key is not None and signature.headers.get(TYPE) == kind:
            with contextlib.suppress(Refused):
                signature.verify(key, payload)
                good.add(key.key_id)
    return frozenset(good)
