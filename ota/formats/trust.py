"""The root of trust: which keys may sign what. TUF's rules (specification 1.0.33, section 5.3) over CBOR and COSE.

Root N+1 takes the place of root N when it is signed by the thresholds of N and of N+1. A key that the newest root does not
name is revoked. Expiry is returned to the caller, and prevents only the start of an installation.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ota.formats import cbor
from ota.formats.cose import UnusableKey, VerifyKey, read_key
from ota.formats.fields import MAX_TIME_S, Fields, Unknown, malformed
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role, SignedDocument

ROOT_LIMIT_BYTES = 120 * 1024  # MAX_KEYS keys and 16 signatures of ML-DSA-65, in a packet of 128 KiB
ROOT_TYPE = "application/vnd.wamr-ota.root+cbor"
ROLES = ("root", "release", "deploy")
MAX_KEYS = 32
ROOT_REASONS = frozenset(
    (Reason.SIGNER_UNKNOWN, Reason.SIGNER_THRESHOLD, Reason.VENDOR_MISMATCH, Reason.SEQUENCE_TOO_OLD, Reason.EPOCH_TOO_OLD)
)
"""Refusals that may not hold under a later root: a board that was away learns what is wanted sooner than it follows all roots."""
_VERSION, _NUMBER, _ISSUED, _EXPIRES, _VENDOR, _KEYS, _ROLES = 1, 2, 3, 4, 5, 6, 7


@dataclass(frozen=True)
class Root:
    """A root document's content. Times are seconds since 1970."""

    number: int
    issued_s: int
    expires_s: int
    vendor: str  # a domain name; manifests name its UUID
    roles: Mapping[str, Role]

    def to_payload(self) -> bytes:
        """The bytes that root keys sign."""
        members: dict[str, dict[bytes, VerifyKey | UnusableKey]]
        members = {name: {**role.keys, **role.unusable} for name, role in self.roles.items()}
        keys = {key_id: key.to_cose_key() for role in members.values() for key_id, key in role.items()}
        roles = {name: [sorted(members[name]), role.threshold, *[True] * role.mixed] for name, role in self.roles.items()}
        return cbor.encode(
            {
                _VERSION: 1,
                _NUMBER: self.number,
                _ISSUED: self.issued_s,
                _EXPIRES: self.expires_s,
                _VENDOR: self.vendor,
                _KEYS: keys,
                _ROLES: roles,
            }
        )

    @property
    def unusable(self) -> tuple[str, ...]:
        """The keys that this version can't use, each as role and key, for people."""
        return tuple(f"{name}: {key.label}" for name, role in self.roles.items() for key in role.unusable.values())

    @classmethod
    def from_payload(cls, payload: bytes) -> "Root":
        """What is signed, not verified. Raises Refused as `next_root` does for the content."""
        what = "root document"
        value = cbor.decode(payload, what, ROOT_LIMIT_BYTES)
        known = (_VERSION, _NUMBER, _ISSUED, _EXPIRES, _VENDOR, _KEYS, _ROLES)
        fields = Fields(value, what, known, Unknown.CRITICAL)
        fields.version(_VERSION)
        listed = fields.map(_KEYS)
        if len(listed) > MAX_KEYS:
            raise malformed(what, f"{len(listed)} keys, the limit is {MAX_KEYS}")
        keys = {key_id: read_key(key_id, cose_key) for key_id, cose_key in listed.items()}
        roles = Fields(fields.map(_ROLES), f"{what}, roles", ROLES, Unknown.IGNORE)
        found = {name: _role(roles.items(name, 3), keys, name) for name in ROLES}
        _check_apart(found)
        return cls(
            number=fields.number(_NUMBER, 1),
            issued_s=fields.number(_ISSUED, 0, MAX_TIME_S),
            expires_s=fields.number(_EXPIRES, 0, MAX_TIME_S),
            vendor=fields.text(_VENDOR, 253),
            roles=found,
        )


NOBODY = Root(0, 0, 0, "", {name: Role({}, 1) for name in ROLES})
"""Trusts nobody: every document is refused, for want of a key that may sign it."""


def _role(value: list[Any], keys: Mapping[bytes, VerifyKey | UnusableKey], name: str) -> Role:
    match value:
        case [list() as key_ids, int() as threshold, *mixed] if (
            not isinstance(threshold, bool) and mixed in ([], [True]) and all(each is True for each in mixed)
        ):
            pass
        case _:
            raise malformed("root document", f"role {name} is not [keys, threshold] or [keys, threshold, true]")
    if not all(isinstance(key_id, bytes) and key_id in keys for key_id in key_ids):
        raise malformed("root document", f"role {name} names a key that is not listed")
    if len(set(key_ids)) != len(key_ids) or not 1 <= threshold <= len(key_ids):
        raise malformed("root document", f"role {name} has {len(set(key_ids))} keys and threshold {threshold}")
    members = {key_id: keys[key_id] for key_id in key_ids}
    usable = {key_id: key for key_id, key in members.items() if isinstance(key, VerifyKey)}
    unusable = {key_id: key for key_id, key in members.items() if isinstance(key, UnusableKey)}
    role = Role(usable, threshold, unusable, bool(mixed))
    if lack := role.lacks(usable):
        names = ", ".join(key.label for key in unusable.values()) or "none"
        raise Refused(
            Reason.THRESHOLD_UNREACHABLE,
            f"root document: role {name}: {lack} with all {len(usable)} keys that can be used here; keys that can't: {names}",
        )
    return role


def _check_apart(roles: Mapping[str, Role]) -> None:
    """A key has one role: whoever steals one that is in daily use would else have another role with it.

    Keys that can't be used here lock nobody out: they do no harm.
    """
    for name, other in itertools.combinations(ROLES, 2):
        if both := roles[name].keys.keys() & roles[other].keys.keys():
            raise Refused(Reason.KEY_REUSED, f"root document: key {min(both).hex()[:16]} has the roles {name} and {other}")


def first_root(data: bytes) -> Root:
    """The root that a device is born with: trusted because it was put there, checked against its own keys all the same.

    Raises Refused as `next_root` does, but not ROOT_NOT_NEXT.
    """
    document = SignedDocument.from_bytes(data, "root document", ROOT_LIMIT_BYTES)
    root = Root.from_payload(document.payload)
    document.verify(root.roles["root"], ROOT_TYPE, "root document")
    return root


def next_root(current: Root, data: bytes) -> Root:
    """The root that follows `current`, signed by the thresholds of both.

    Raises Refused ROOT_NOT_NEXT when its number is not the next, TOO_LARGE, MALFORMED, MEMBER_UNKNOWN, THRESHOLD_UNREACHABLE
    when this version can't use enough of a role's keys, KEY_REUSED, and the SIGNATURE and SIGNER reasons.
    """
    document = SignedDocument.from_bytes(data, "root document", ROOT_LIMIT_BYTES)
    document.verify(current.roles["root"], ROOT_TYPE, f"root document after number {current.number}")
    root = Root.from_payload(document.payload)
    if root.number != current.number + 1:
        raise Refused(Reason.ROOT_NOT_NEXT, f"root {root.number} can't follow root {current.number}")
    document.verify(root.roles["root"], ROOT_TYPE, f"root document {root.number}")
    return root
