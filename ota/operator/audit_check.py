"""Compares the audit log with what there is in the workspace.

Whoever can write to the folder can cut lines off the end, or change what the lines tell of. So each root document, deployment,
update, certificate, later authority, retired device, enrolment token and key of a group is looked for in the log: who did what has
no line removed the line, or had the key elsewhere. Where only a line can end something, what the log says is looked for, too:
revocations, tokens and keys of groups.
"""

import contextlib
import datetime
from collections.abc import Collection, Iterator, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ota.certificates import UNREADABLE
from ota.errors import OtaError
from ota.formats.audit import Row
from ota.formats.cbor import sha256
from ota.operator import enrolment, issued
from ota.operator.audit import ACTIONS, Audit, AuditError, authorities
from ota.operator.group_keys import GroupKeys, told_of
from ota.operator.ledger import Ledger
from ota.operator.signing import Signable
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["problems"]

REMOVED = "the line was removed, or"


def problems(workspace: Workspace) -> Iterator[str]:
    """What is wrong, a text each: with lines, and with what there is and has no line, or the reverse. Raises AuditError."""
    seen: list[Row] = []
    yield from Audit(workspace).problems(seen)
    told = {(row.action, row.about.get("digest", "")) for row in seen}  # a thief of one role's key tells of no other's acts
    for action, what, digest in _signed(workspace):
        if (action, digest) not in told:
            yield f"{what} ({digest[:16]}) has no line: {REMOVED} it was signed elsewhere"
    yield from _authorities(workspace, told)
    yield from _retired(workspace, seen)
    yield from _tokens(workspace, seen)
    yield from _group_keys(workspace, seen)


def _signed(workspace: Workspace) -> Iterator[tuple[str, str, str]]:
    documents = [each for number, each in workspace.root_documents().items() if number > 1]  # the first: by `ota init`
    documents += [record.document for record in Ledger(workspace).records()]
    kept = Updates(workspace)
    for each in kept.all():
        with contextlib.suppress(OtaError):  # `ota publish` says it when it needs one that is damaged
            documents.append(kept.load(each.digest).envelope)
    for found in map(Signable.from_bytes, documents):
        yield ACTIONS[found.role], found.label, sha256(found.payload).hex()
    for path in sorted((workspace.folder / "devices").glob("*.pem")):
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, *UNREADABLE) as error:
            raise AuditError(f"{path} can't be read: {error}") from error
        digest = sha256(certificate.public_bytes(Encoding.DER)).hex()
        yield "sign-certificate", f"the certificate of {path.stem}", digest


def _authorities(workspace: Workspace, told: Collection[tuple[str, str]]) -> Iterator[str]:
    """The first was made by `ota init`, without a line. Which one that is nobody can tell where there are several."""
    untold: dict[str, x509.Certificate] = {}
    for each in authorities(workspace):
        digest = sha256(each.public_bytes(Encoding.DER)).hex()
        if ("rotate-authority", digest) not in told:
            untold[digest] = each
    first = [digest for digest, each in untold.items() if issued.authority_number(each) == 1]
    for digest, each in untold.items():
        if [digest] != first:
            name = each.subject.rfc4514_string()
            yield f"the authority {name} ({digest[:16]}) has no line: {REMOVED} it was made elsewhere"


def _retired(workspace: Workspace, rows: Sequence[Row]) -> Iterator[str]:
    """Boards, and their certificates that had not ended when the last board was retired: others need no list any more."""
    ended: dict[str, bool] = {}
    serials: dict[str, list[tuple[str, int]]] = {}
    revoked: dict[str, tuple[str, int]] = {}
    last_s = 0
    for row in rows:
        device = row.about.get("device", "")
        if row.action == "sign-certificate" and device:
            serials.setdefault(device, []).append((row.about.get("serial", ""), _seconds(row.about.get("until", ""))))
        elif row.action in ("retire-device", "take-back-device"):
            ended[device] = row.action == "retire-device"
        if row.action == "retire-device":
            last_s = max(last_s, _seconds(row.time))
            revoked |= {serial: (device, until_s) for serial, until_s in serials.get(device, ()) if until_s > _seconds(row.time)}
    told, there = {name for name, is_ended in ended.items() if is_ended}, issued.retired(workspace).keys()
    for device in sorted(there - told):
        yield f"the end of device {device} has no line: {REMOVED} it was retired elsewhere"
    for device in sorted(told - there):
        way_out = f"`ota retire {device}` ends it"
        yield f"device {device} was retired, is so no longer, and no line tells that it was taken back: {way_out}"
    listed = {f"{each.serial:x}" for each in issued.revoked(workspace)}
    for serial, (device, until_s) in revoked.items():
        if until_s > last_s and serial.lstrip("0") not in listed:
            yield f"certificate {serial} of {device}, which was retired, is not on the list of those that were revoked"


def _tokens(workspace: Workspace, rows: Sequence[Row]) -> Iterator[str]:
    """Those that a retired board had must be gone; those that expired long ago may be, and those of a command that was interrupted
    before they were there, once the same was asked for again.
    """
    there = workspace.read(enrolment.FILE)
    made: dict[str, Row] = {}
    needed: set[str] = set()
    dropped: set[str] = set()
    for row in rows:
        if row.action == "make-token":
            needed -= {each for each in needed if _until_s(made[each]) + enrolment.KEPT_S < _seconds(row.time)}
            needed -= {each for each in needed - there.keys() if made[each].about.get("names") == row.about.get("names")}
            made[row.about.get("token", "")] = row
            needed.add(row.about.get("token", ""))
        elif row.action == "retire-device":
            gone = {each for each in needed if made[each].about.get("names") == row.about.get("device")}
            needed, dropped = needed - gone, dropped | gone
    for token, about in sorted(there.items()):
        what = f"enrolment token {token} for {about['names']}"
        if token not in made:
            yield f"{what} has no line: {REMOVED} it was made elsewhere"
        elif token in dropped:
            yield f"{what} is there, and that board was retired since: `ota retire {about['names']}` removes it"
        elif (about["names"], str(about["count"]), about.get("group", ""), about["expires_s"]) != _as_told(made[token]):
            yield f"{what} is for other boards, for more of them or for longer than its line tells"
    for token in sorted(needed - there.keys()):
        names = made[token].about.get("names")
        yield (
            f"enrolment token {token} for {names} is gone, and no line tells why:"
            f" if the command that made it was interrupted, a new token for {names} ends this"
        )


def _as_told(row: Row) -> tuple[str, str, str, int]:
    return row.about.get("names", ""), row.about.get("count", ""), row.about.get("group", ""), _until_s(row)


def _until_s(row: Row) -> int:
    until_s = row.about.get("until_s", "")
    return int(until_s) if until_s.isdecimal() else 0


def _group_keys(workspace: Workspace, rows: Sequence[Row]) -> Iterator[str]:
    store, there, unread = GroupKeys(workspace), set[tuple[str, str]](), set[str]()
    for group in store.groups():
        try:
            there |= {(group, each.key_id.hex()) for each in store.of(group).values()}
        except OtaError as error:
            unread.add(group)
            yield f"the keys of group {group} can't be read: {error}"
    told = told_of(rows)
    for group, key in sorted(there - told):
        yield f"key {key} of group {group} has no line: {REMOVED} it was put there by hand"
    for group, key in sorted(each for each in told - there if each[0] not in unread):
        yield f"key {key} of group {group} is gone without a line: `ota group-keys remove {group} {key}` notes that"


def _seconds(text: str) -> int:
    """Since 1970; 0 for what is no time."""
    try:
        return int(datetime.datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0
