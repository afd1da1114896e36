"""What the workspace knows of the certificates that it issued: devices/NAME.json has those of one device, the newest last.

retired.json has the devices that were retired and the certificates that are not to be accepted any more. clones.json has the names
under which two keys asked for certificates.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from ota.formats.fields import is_name
from ota.operator.workspace import Workspace

__all__ = [
    "Clone",
    "Issued",
    "Revoked",
    "add",
    "again",
    "clones",
    "history",
    "lineage",
    "note_clone",
    "retire",
    "retired",
    "revoked",
    "take_back",
]

KEPT = 64  # certificates of one device: more than ten years of renewals every 60 days; those that have not ended stay, however many
CLONES, KEYS_OF_A_CLONE = 1000, 8
RETIRED, CLONE_FILE = "retired.json", "clones.json"
DAY_S = 86_400
YEAR_S = 365 * DAY_S


def authority_number(certificate: x509.Certificate) -> int:
    """Which of the workspace's authorities it is: it stands at the end of its name, except for the first."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    last = str(names[0].value).rpartition(" ")[2] if names else ""
    return int(last) if last.isdecimal() else 1


@dataclass(frozen=True)
class Issued:
    """One certificate. Serials are hexadecimal digits, times seconds since 1970."""

    serial: str
    key: str  # identifier (RFC 9679)
    from_s: int
    until_s: int
    certificate: str  # PEM
    mark: str = ""  # of the request that it answers
    parent: str = ""  # serial of the certificate whose key signed the request; "" where a token or a console proved the board


@dataclass(frozen=True)
class Revoked:
    """A certificate that is not to be accepted any more."""

    serial: int
    device: str
    revoked_s: int
    until_s: int


@dataclass(frozen=True)
class Clone:
    """A name under which another key asked for a certificate than the one that has it."""

    device: str
    keys: tuple[str, ...]  # identifiers of those that asked in vain
    seen_s: int  # the last time


_MEMBERS = [each.name for each in fields(Issued)]


def _file(device: str) -> str:
    return f"devices/{device}.json"


def history(workspace: Workspace, device: str) -> list[Issued]:
    """The certificates of a device, the newest last. Raises WorkspaceError."""
    rows = workspace.read(_file(device)).get("certificates", []) if is_name(device) else []
    return [Issued(**{name: each[name] for name in _MEMBERS}) for each in rows]


def add(workspace: Workspace, device: str, issued: Issued, *, known_before: bool = False) -> None:
    """Records a certificate, as the newest; one that was `known_before` goes where its time puts it."""
    (workspace.folder / "devices").mkdir(exist_ok=True)
    with workspace.record(_file(device)) as record:
        rows = [each for each in record.get("certificates", []) if each["serial"] != issued.serial]
        older = sum(1 for each in rows if each["from_s"] <= issued.from_s) if known_before else len(rows)
        rows = [*rows[:older], asdict(issued), *rows[older:]]
        ended = [each["serial"] for each in rows if each["until_s"] < issued.from_s][: max(len(rows) - KEPT, 0)]
        record["certificates"] = [each for each in rows if each["serial"] not in ended]


def again(rows: list[Issued], serial: str) -> set[str]:
    """The serials of the certificates for the same request as that of this one, which is among them: they have one key."""
    marks = {each.mark for each in rows if each.serial == serial and each.mark}
    return {serial, *(each.serial for each in rows if each.mark in marks)}


def lineage(rows: list[Issued]) -> set[str]:
    """The serials of the newest certificate and those that it was renewed from."""
    parents = {each.serial: each.parent for each in rows}
    found: set[str] = set()
    waiting = {rows[-1].serial} if rows else set()
    while waiting:
        found |= waiting
        same = {each for serial in waiting for each in again(rows, serial)}
        waiting = (same | {parents.get(each, "") for each in same}) - found - {""}
    return found


def note_clone(workspace: Workspace, device: str, key: str, now_s: int) -> None:
    """Remembers that another key asked for a certificate of this name."""
    with workspace.record(CLONE_FILE) as found:
        known = found.get(device, {"keys": []})["keys"]
        found[device] = {"keys": [*(each for each in known if each != key), key][-KEYS_OF_A_CLONE:], "seen_s": now_s}
        if len(found) > CLONES:
            del found[min(found, key=lambda name: int(found[name]["seen_s"]))]


def clones(workspace: Workspace) -> dict[str, Clone]:
    """The names that two keys asked for."""
    return {name: Clone(name, tuple(each["keys"]), each["seen_s"]) for name, each in workspace.read(CLONE_FILE).items()}


def retire(workspace: Workspace, device: str, now_s: int) -> list[Revoked]:
    """Revokes what a device has, and marks its name; those that are revoked by it. Again: nothing changes.

    Those that have ended too, for as long as their keys could renew them: the name may be good for another board meanwhile.
    """
    rows = history(workspace, device)
    after_s = now_s - max(YEAR_S, workspace.settings.renewal_grace_days * DAY_S)
    with workspace.record(RETIRED) as state:
        devices, serials = state.setdefault("devices", {}), state.setdefault("serials", {})
        devices.setdefault(device, now_s)
        made = [each for each in rows if each.until_s >= after_s and each.serial not in serials]
        serials |= {each.serial: [device, now_s, each.until_s] for each in made}
        for old in [serial for serial, (_, _, until_s) in serials.items() if until_s < after_s]:
            del serials[old]
    for each in (workspace.folder / _file(device), workspace.folder / "devices" / f"{device}.pem"):
        each.unlink(missing_ok=True)
    with workspace.record(CLONE_FILE) as found:
        found.pop(device, None)
    return [Revoked(int(each.serial, 16), device, now_s, each.until_s) for each in made]


def take_back(workspace: Workspace, device: str) -> bool:
    """Makes a retired name good for another board; what it had stays revoked. Returns whether it was retired.

    The caller has recorded it (ota.operator.acts).
    """
    with workspace.record(RETIRED) as state:
        return state.setdefault("devices", {}).pop(device, None) is not None


def retired(workspace: Workspace) -> dict[str, int]:
    """When each retired device was retired."""
    found: dict[str, Any] = workspace.read(RETIRED).get("devices", {})
    return {name: int(when_s) for name, when_s in found.items()}


def revoked(workspace: Workspace) -> list[Revoked]:
    """The certificates that are not to be accepted any more."""
    found: dict[str, Any] = workspace.read(RETIRED).get("serials", {})
    return [Revoked(int(serial, 16), *about) for serial, about in found.items()]
