"""Deployment documents: what each instance of a group's boards, or of one board, should run, and when.

One for a group and one for each board that differs from its group, retained, signed by the `deploy` role. A board's own document
overrides its group's, entry by entry. An instance that no entry names goes on with what it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ota.formats import cbor
from ota.formats.fields import MAX_TIME_S, Fields, Unknown, is_name, malformed
from ota.formats.module import CONFIG_LIMIT_BYTES
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import SignedDocument
from ota.formats.trust import Root
from ota.formats.window import Window

DEPLOYMENT_LIMIT_BYTES = 120 * 1024  # in a packet of 128 KiB
DEPLOYMENT_TYPE = "application/vnd.wamr-ota.deployment+cbor"
FRACTION_ALL = 1_000_000
ENTRIES, BOARDS = 64, 256  # instances of a document, named boards of an entry
CLOCK_REASONS = frozenset((Reason.CLOCK_NOT_SET, Reason.DEPLOYMENT_EXPIRED, Reason.ROOT_EXPIRED))
"""Refusals that may not hold any more once the clock is set, forwards or back."""
CLOCK_SLACK_S = 86_400
"""A clock that is behind by less than this is not taken for one that was never set."""
AGENT = "agent"
"""The instance that is the agent itself."""
_VERSION, _GROUP, _DEVICE, _EPOCH, _ISSUED, _ENTRIES = range(1, 7)
_MANIFEST, _ID, _SINCE, _FRACTION, _PAUSED, _EXPIRES, _BOARDS, _WINDOW, _CONFIG, _SET = range(1, 11)


@dataclass(frozen=True)
class Entry:
    """What one instance should run. Times are seconds since 1970."""

    manifest_digest: bytes  # SHA-256 of the SUIT envelope; empty: the instance is to be removed
    deployment_id: bytes  # 16 bytes; stays the same while a roll-out is widened, paused or stopped
    issued_s: int  # when this entry was changed last
    expires_s: int = 0  # 0: never; it is valid until another takes its place
    fraction_ppm: int = FRACTION_ALL
    boards: tuple[str, ...] = ()  # these devices whatever the fraction; sorted
    paused: bool = False
    window: Window | None = None  # None: at any time
    config: Mapping[str, str] = field(default_factory=dict)
    together: tuple[str, ...] = ()  # the set: instances that a board changes all at once or not at all, this one among them; sorted

    @property
    def absent(self) -> bool:
        """Whether the instance is to be removed."""
        return not self.manifest_digest

    @property
    def release(self) -> bytes:
        """What identifies content and configuration: see `release_id`."""
        return release_id(self.manifest_digest, self.config)

    def includes(self, device: str) -> bool:
        """Whether this device is one of the named boards, or in the fraction: a stable draw by device and deployment."""
        draw = int.from_bytes(cbor.sha256(device.encode() + self.deployment_id)[:8])
        return device in self.boards or draw * FRACTION_ALL < self.fraction_ppm << 64

    def to_value(self) -> dict[int, Any]:
        """For encoding."""
        members: dict[int, Any] = {
            _MANIFEST: self.manifest_digest or None,
            _ID: self.deployment_id,
            _SINCE: self.issued_s,
            _FRACTION: self.fraction_ppm,
            _PAUSED: self.paused,
        }
        if self.expires_s:
            members[_EXPIRES] = self.expires_s
        if self.boards:
            members[_BOARDS] = list(self.boards)
        if self.window is not None:
            members[_WINDOW] = self.window.to_value()
        if self.config:
            members[_CONFIG] = dict(self.config)
        if self.together:
            members[_SET] = list(self.together)
        return members

    @classmethod
    def parse(cls, value: Any, what: str) -> "Entry":
        """From decoded CBOR. Raises Refused MALFORMED, MEMBER_UNKNOWN, CONFIG_TOO_LARGE, WINDOW_NEVER_OPENS."""
        fields = Fields(value, what, range(1, 11), Unknown.CRITICAL)
        return cls(
            manifest_digest=b"" if fields.is_null(_MANIFEST) else fields.data(_MANIFEST, 32),
            deployment_id=fields.data(_ID, 16),
            issued_s=fields.number(_SINCE, 0, MAX_TIME_S),
            expires_s=fields.number(_EXPIRES, 0, MAX_TIME_S) if _EXPIRES in fields else 0,
            fraction_ppm=fields.number(_FRACTION, 0, FRACTION_ALL),
            boards=_names(fields.items(_BOARDS, BOARDS), f"{what}: boards") if _BOARDS in fields else (),
            paused=fields.flag(_PAUSED),
            window=Window.parse(fields.map(_WINDOW), f"{what}: window") if _WINDOW in fields else None,
            config=checked_config(fields.map(_CONFIG), what) if _CONFIG in fields else {},
            together=_names(fields.items(_SET, ENTRIES), f"{what}: set") if _SET in fields else (),
        )


@dataclass(frozen=True)
class Deployment:
    """What a group, or one device, should run, by instance."""

    group: str  # empty for a document of one device
    epoch: int  # rises with every document of the group, or of the device
    issued_s: int
    entries: Mapping[str, Entry]
    device: str = ""  # empty for a group's document

    @property
    def scope(self) -> str:
        """For people: whom it is for."""
        return f"device {self.device}" if self.device else f"group {self.group}"

    def to_payload(self) -> bytes:
        """The bytes that deploy keys sign."""
        whose = {_DEVICE: self.device} if self.device else {_GROUP: self.group}
        entries = {name: each.to_value() for name, each in self.entries.items()}
        return cbor.encode({_VERSION: 2, **whose, _EPOCH: self.epoch, _ISSUED: self.issued_s, _ENTRIES: entries})

    @classmethod
    def from_payload(cls, payload: bytes) -> "Deployment":
        """What is signed, not verified.

        Raises Refused TOO_LARGE, MALFORMED, MEMBER_UNKNOWN, CONFIG_TOO_LARGE, WINDOW_NEVER_OPENS, SET_INCOMPLETE.
        """
        what = "deployment"
        fields = Fields(cbor.decode(payload, what, DEPLOYMENT_LIMIT_BYTES), what, range(1, 7), Unknown.CRITICAL)
        fields.version(_VERSION, 2)
        if (_GROUP in fields) == (_DEVICE in fields):
            raise malformed(what, "it is for a group or for a device, and names one of them")
        found = fields.map(_ENTRIES)
        if len(found) > ENTRIES or not all(isinstance(name, str) and is_name(name) for name in found):
            raise malformed(what, f"the entries are not {ENTRIES} at most, by names of instances")
        entries = {name: Entry.parse(each, f"{what}, instance {name}") for name, each in found.items()}
        _check_sets(entries, what)
        return cls(
            group=fields.name(_GROUP) if _GROUP in fields else "",
            device=fields.name(_DEVICE) if _DEVICE in fields else "",
            epoch=fields.number(_EPOCH),
            issued_s=fields.number(_ISSUED, 0, MAX_TIME_S),
            entries=entries,
        )


@dataclass(frozen=True)
class VerifiedDeployment:
    """A deployment that enough deploy keys signed, for this group or device."""

    deployment: Deployment
    digest: bytes  # SHA-256 of what is signed
    signers: frozenset[bytes]  # the deploy keys that signed it

    @property
    def epoch(self) -> int:
        """The deployment's."""
        return self.deployment.epoch


def verified(data: bytes, root: Root, *, group: str = "", device: str = "") -> VerifiedDeployment:
    """A deployment that enough deploy keys signed, for this group, or for this device where one is given.

    Raises Refused TOO_LARGE, GROUP_MISMATCH, the SIGNATURE and SIGNER reasons, and as `Deployment.from_payload`.
    """
    document = SignedDocument.from_bytes(data, "deployment", DEPLOYMENT_LIMIT_BYTES)
    signers = document.verify(root.roles["deploy"], DEPLOYMENT_TYPE, "deployment")
    deployment = Deployment.from_payload(document.payload)
    if (deployment.device, "" if device else deployment.group) != (device, "" if device else group):
        wanted = f"device {device}" if device else f"group {group}"
        raise Refused(Reason.GROUP_MISMATCH, f"the deployment is for {deployment.scope}, not {wanted}")
    return VerifiedDeployment(deployment, cbor.sha256(document.payload), signers)


def verify(data: bytes, root: Root, *, group: str = "", device: str = "") -> Deployment:
    """The content of `verified`. Raises Refused likewise."""
    return verified(data, root, group=group, device=device).deployment


def claimed(data: bytes) -> Deployment | None:
    """What a document claims, whoever made it: for telling which one was refused. None when it can't be read."""
    try:
        return Deployment.from_payload(SignedDocument.from_bytes(data, "deployment", DEPLOYMENT_LIMIT_BYTES).payload)
    except Refused:
        return None


def release_id(manifest_digest: bytes, config: Mapping[str, str]) -> bytes:
    """What identifies a module with its configuration: the manifest's digest, or with a configuration a hash of both."""
    return cbor.sha256(manifest_digest + cbor.encode(dict(config))) if config else manifest_digest


def config_digest(config: Mapping[str, str]) -> bytes:
    """The SHA-256 of a configuration, as reports name it; empty for none."""
    return cbor.sha256(cbor.encode(dict(config))) if config else b""


def checked_config(value: Any, what: str) -> dict[str, str]:
    """A configuration out of CBOR or from the command line. Raises Refused MALFORMED, CONFIG_TOO_LARGE."""
    if not isinstance(value, Mapping):
        raise malformed(what, "the configuration is not a map of keys to texts")
    for key, each in value.items():
        shown = repr(key[:64] if isinstance(key, str) else type(key).__name__)
        if not isinstance(key, str) or not is_name(key):
            raise malformed(what, f"configuration key {shown} is no name: 1 to 64 letters, digits, '-', '_' and '.' are expected")
        if not isinstance(each, str):
            raise malformed(what, f"configuration key {shown} has {type(each).__name__} as its value, a text is expected")
    size = len(cbor.encode(dict(value)))
    if size > CONFIG_LIMIT_BYTES:
        raise Refused(Reason.CONFIG_TOO_LARGE, f"{what}: the configuration has {size} bytes, the limit is {CONFIG_LIMIT_BYTES}")
    return dict(value)


def may_start(entry: Entry, floor_s: int, root: Root, now_s: int) -> None:
    """Whether an install may *start* now; never asked for boot, confirmation or rollback.

    `floor_s`: it is not earlier than this, whatever the clock says: signed documents and what was kept of the time prove it. A
    clock behind it can't tell whether an entry has expired, so one with an expiry waits. What does not expire need not: the root
    is judged at the floor.

    Raises Refused DEPLOYMENT_STOPPED, DEPLOYMENT_EXPIRED, CLOCK_NOT_SET, ROOT_EXPIRED.
    """
    if entry.paused:
        raise Refused(Reason.DEPLOYMENT_STOPPED, "the deployment is paused")
    floor_s = max(floor_s, root.issued_s)
    time_s = max(now_s, floor_s)
    if 0 < entry.expires_s <= time_s:
        raise Refused(Reason.DEPLOYMENT_EXPIRED, f"the deployment expired at {entry.expires_s}, it is {time_s}")
    if entry.expires_s and now_s < floor_s - CLOCK_SLACK_S:
        raise Refused(Reason.CLOCK_NOT_SET, f"the clock says {now_s}, and it is {floor_s} at least: has the deployment expired?")
    if time_s >= root.expires_s:
        raise Refused(Reason.ROOT_EXPIRED, f"root {root.number} expired at {root.expires_s}, it is {time_s}")


def _names(values: list[Any], what: str) -> tuple[str, ...]:
    if not values or not all(isinstance(each, str) and is_name(each) for each in values) or values != sorted(set(values)):
        raise malformed(what, "not different names in order")
    return tuple(values)


def _check_sets(entries: Mapping[str, Entry], what: str) -> None:
    for name, entry in entries.items():
        if AGENT in entry.together:
            raise Refused(
                Reason.INSTANCE_RESERVED,
                f"{what}: the agent can't be a member of a set, as that of {name}: it changes alone, in a restart",
            )
        if entry.together and name not in entry.together:
            raise Refused(Reason.SET_INCOMPLETE, f"{what}: instance {name} is not a member of the set that it names")
        for member in entry.together:
            other = entries.get(member)
            if other is None or replace(other, manifest_digest=b"", config={}) != replace(entry, manifest_digest=b"", config={}):
                raise Refused(Reason.SET_INCOMPLETE, f"{what}: {member}, of the set of {name}, has no entry of the same deployment")
