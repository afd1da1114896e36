"""Which key speaks for which board: verifies what boards say, and remembers how far each has got.

signers.json in the workspace has, for each board, the key, the highest counter and the heads of its journal that it signed. A board
with a certificate of this workspace signs with the key of that certificate. One without is believed with the first key that it came
with: another key is not, until the operator trusts the board anew.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ota.formats import cbor, signed_report
from ota.formats.cose import KCCS, VerifyKey
from ota.formats.fields import is_name
from ota.formats.journal import Finding
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Batch, InstanceReport, JournalHead, LogRecord, Message, Report, decode_logs, decode_messages
from ota.formats.signed_report import Statement
from ota.operator.ahead import Ahead
from ota.operator.issued import retired
from ota.operator.issuers import Issuers
from ota.operator.workspace import Workspace, WorkspaceError

__all__ = ["FILE", "Signer", "Signers", "believed", "signing_key"]

FILE = "signers.json"
HEADS = 16  # of a board's journal that are remembered
MAX_BOARDS = 100_000
_KEY_LIMIT_BYTES = 256
T = TypeVar("T", Report, InstanceReport, Batch[LogRecord], Batch[Message])


@dataclass(frozen=True)
class Signer:
    """What is remembered of a board's signatures. Times in seconds since 1970."""

    key: str  # COSE_Key, in hex
    certified_s: int = 0  # when the certificate of the key begins; 0 for a key that is trusted since its first use
    expires_s: int = 0  # when it ends
    leaf: str = ""  # digest of the certificate and of the authorities that it was checked with
    counter: int = 0  # the highest
    time_s: int = 0  # of the report with it, by the board's clock
    digest: str = ""  # of that report
    heads: tuple[tuple[int, str, int], ...] = ()  # row and digest of its journal's heads, and when each was read; by row
    changed: tuple[int, str] = (0, "")  # row and digest of the first head that can't be of the same journal
    read_s: int = 0  # when it was read last, by our clock

    @functools.cached_property
    def verify_key(self) -> VerifyKey:
        """The key itself."""
        return VerifyKey.from_cose_key(cbor.decode(bytes.fromhex(self.key), "key", _KEY_LIMIT_BYTES))

    @classmethod
    def of(cls, key: VerifyKey) -> "Signer":
        """One whose key is trusted since its first use, and need not be decoded again."""
        signer = cls(_hex(key))
        signer.__dict__["verify_key"] = key  # as the property keeps it
        return signer


def believed(statement: Statement, device: str, known: Signer | None, issuers: Issuers, *, certified: bool = False) -> Signer:
    """Whose key a statement must be signed with; signature, counter and the certificate's end are not looked at here.

    `certified`: the workspace has issued a certificate for the device. Raises Refused REPORT_FORGED, KEY_CHANGED,
    CERTIFICATE_RETIRED, SIGNER_UNKNOWN.
    """
    found = _by_certificate(statement.certificate, device, known, issuers) if statement.certificate else None
    if found is not None:
        return found
    if certified and known is not None and not known.certified_s:
        known = None  # a key that was believed on first use is of no account since
    introduced = bool(statement.certificate) or KCCS in statement.sign1.unprotected
    if known is not None and not (introduced and known.certified_s) and statement.key_id == known.verify_key.key_id:
        return known  # that it is this key's is for the signature to prove
    shown = issuers.key_of(statement.certificate) if statement.certificate else statement.key
    if shown is None and known is not None:
        raise Refused(Reason.REPORT_FORGED, f"it is not signed with the key of {device}, {known.verify_key.label}")
    if certified if known is None else known.certified_s:
        raise Refused(Reason.REPORT_FORGED, f"{device} has a certificate of this workspace, and it is signed without one")
    if shown is None:
        raise Refused(Reason.SIGNER_UNKNOWN, f"the key of {device} is not known: its own report was not read")
    if known is not None:
        what = f"it is signed with key {shown.label}, and that of {device} is {known.verify_key.label}"
        raise Refused(Reason.KEY_CHANGED, f"{what}: `ota devices --trust {device}` takes the new one")
    return Signer.of(shown)


def _by_certificate(certificate: bytes, device: str, known: Signer | None, issuers: Issuers) -> Signer | None:
    """None for a certificate of nobody's. Raises Refused REPORT_FORGED, CERTIFICATE_RETIRED."""
    leaf = issuers.mark(certificate)
    if known is not None and known.leaf == leaf:
        return known
    found = issuers.check(certificate, device)
    if found is None:
        return None
    key = _hex(found.key)
    if known is not None and known.certified_s > found.begins_s and known.key != key:
        raise Refused(Reason.CERTIFICATE_RETIRED, f"{device} has a newer certificate than the one it is signed with")
    if known is not None and not known.certified_s and known.key != key:
        known = None  # whoever had the name without a certificate
    if known is not None and known.certified_s < found.begins_s and known.key != key:
        known = replace(known, counter=0, time_s=0, digest="")  # how far a thief of the old key counted is of no account
    return replace(known or Signer(key), key=key, certified_s=found.begins_s, expires_s=found.expires_s, leaf=leaf)


def signing_key(workspace: Workspace, device: str) -> str:
    """The identifier, in digits, of the key that the last report of a board was signed with; "" when none was read."""
    boards: dict[str, Any] = workspace.read(FILE).get("boards", {})
    return _parsed({"boards": {device: boards[device]}})[device].verify_key.key_id.hex() if device in boards else ""


def _hex(key: VerifyKey) -> str:
    return cbor.encode(key.to_cose_key()).hex()


@dataclass(frozen=True)
class _Ready:
    """A report that was verified with what was known of its board."""

    data: bytes
    known: Signer | None
    signer: Signer
    report: Report


@dataclass(frozen=True)
class Verification:
    """Reports that are being verified, each with its board and what was known of it. Whoever has one closes `ahead`."""

    reports: list[tuple[str, bytes, Signer | None]]
    ahead: Ahead[tuple[str, bytes, Signer | None], tuple[Signer, Report]]


def _digest(data: bytes) -> str:
    return cbor.sha256(data).hex()[:32]


class Signers:
    """The boards of a workspace. Raises WorkspaceError when signers.json is damaged."""

    def __init__(self, workspace: Workspace, certified: Collection[str] = ()) -> None:
        """`certified`: boards that the workspace has issued a certificate for."""
        self._workspace, self._certified = workspace, certified
        self._retired = retired(workspace)
        self._issuers = Issuers.of(workspace)
        try:
            self._known = _parsed(workspace.read(FILE))
        except TypeError as error:
            raise WorkspaceError(f"{workspace.folder / FILE} is damaged ({error}): restore it from a backup") from error
        self._fresh: dict[str, Signer | None] = {}
        self._anew: set[str] = set()  # what was known of them is of no account
        self._ready: dict[str, _Ready] = {}  # reports that were verified already
        self._names: dict[str, set[str]] = {}  # by key
        for name, each in self._known.items():
            self._names.setdefault(each.key, set()).add(name)

    def begin(self, reports: Iterable[tuple[str, bytes]], now_s: int) -> "Verification":
        """Begins to verify reports of different boards, in another process where that is of use, for `use`."""
        found = [(device, data, self._known.get(device)) for device, data in reports if not self._was_read(device, data)]
        return Verification(found, Ahead(found, lambda each: self._verified_or_none(each[0], each[1], now_s)))

    def use(self, verification: "Verification") -> None:
        """Waits for what was begun; `report` is to be asked for each of those boards right after that."""
        with contextlib.closing(verification.ahead):
            results = verification.ahead.results()
        self._ready = {
            device: _Ready(data, known, *result)
            for (device, data, known), result in zip(verification.reports, results, strict=True)
            if result is not None
        }

    def _verified_or_none(self, device: str, data: bytes, now_s: int) -> "tuple[Signer, Report] | None":
        """None for what is refused: `report` says why."""
        try:
            signer, report = self._verified(device, data, signed_report.REPORT, Report.from_bytes, now_s)
        except Refused:
            return None
        return replace(signer), report  # without the key, which can't be handed from process to process

    def _was_read(self, device: str, data: bytes) -> bool:
        """Whether it is the report that was read last, and has to be verified no more."""
        known = self._known.get(device)
        if known is None or known.digest != _digest(data) or device in self._retired:
            return False
        return known.certified_s > 0 or device not in self._certified

    def report(self, device: str, data: bytes, now_s: int) -> Report:
        """A board's own report. Raises Refused: nothing of what it says is to be believed then.

        The one that was read last is not verified again: it was signed in time, whatever has become of its certificate since.
        """
        ready = self._ready.pop(device, None)
        if self._was_read(device, data):
            return Report.from_bytes(Statement.from_bytes(data, signed_report.REPORT).claimed)
        if ready is not None and ready.data == data and ready.known is self._known.get(device):
            signer, report = ready.signer, ready.report
        else:
            signer, report = self._verified(device, data, signed_report.REPORT, Report.from_bytes, now_s)
        if signer.digest:
            _check_counter(signer, report)
        signer = replace(
            signer,
            counter=report.counter,
            time_s=report.time_s,
            digest=_digest(data),
            read_s=now_s,
        )
        head = report.journal.row, report.journal.digest.hex()
        if head[0] and signer.heads and head[0] < signer.heads[-1][0]:
            signer = signer if signer.changed[0] else replace(signer, changed=head)
        else:
            signer = _with_head(signer, (*head, now_s))
        self._note(device, signer)
        return report

    def instance_report(self, device: str, data: bytes, least: int, now_s: int) -> InstanceReport:
        """A report of an instance; `least`: the counter that the board's own report names. Raises Refused."""
        _, report = self._verified(device, data, signed_report.INSTANCE_REPORT, InstanceReport.from_bytes, now_s)
        if report.counter < least:
            raise Refused(Reason.REPORT_REPLAYED, f"it has counter {report.counter}, and the board has sent {least}")
        return report

    def logs(self, device: str, data: bytes, now_s: int) -> Batch[LogRecord]:
        """Log records of a board. Raises Refused; the counter is for the caller to compare."""
        return self._verified(device, data, signed_report.LOG, decode_logs, now_s)[1]

    def messages(self, device: str, data: bytes, now_s: int) -> Batch[Message]:
        """Messages of a board's modules, in a batch. Raises Refused; the counter is for the caller to compare."""
        return self._verified(device, data, signed_report.TELEMETRY, decode_messages, now_s)[1]

    def counter(self, device: str) -> int:
        """The highest counter of a board's own reports."""
        known = self._known.get(device)
        return known.counter if known is not None else 0

    def knows(self, device: str) -> bool:
        """Whether a board's key is known."""
        return device in self._known

    def is_certified(self, device: str) -> bool:
        """Whether a board's last report was signed with the key of a certificate of this workspace."""
        known = self._known.get(device)
        return known is not None and known.certified_s > 0

    def label(self, device: str) -> str:
        """A board's key, for people; empty when it is not known."""
        known = self._known.get(device)
        return known.verify_key.label if known is not None else ""

    def heads(self, device: str) -> tuple[JournalHead, ...]:
        """The heads of a board's journal that it signed, as far as they are remembered."""
        known = self._known.get(device)
        return tuple(JournalHead(row, bytes.fromhex(digest)) for row, digest, _ in known.heads) if known is not None else ()

    def changed(self, device: str) -> Finding | None:
        """What shows that a board has changed or cut its journal, until the operator trusts it anew."""
        known = self._known.get(device)
        if known is None or not known.changed[0]:
            return None
        row, digest = known.changed
        return Finding(row, f"the board signed a head ({digest[:16]}) that is not of the journal whose heads it had signed before")

    def all_changed(self) -> dict[str, Finding]:
        """The boards that have changed or cut their journals."""
        return {name: found for name in sorted(self._known) if (found := self.changed(name)) is not None}

    def clones(self, device: str) -> list[str]:
        """Other boards that sign with the key of this one."""
        known = self._known.get(device)
        return sorted(self._names[known.key] - {device}) if known is not None else []

    def forget(self, device: str) -> None:
        """Whatever comes next as this board's is believed as that of a new one."""
        known = self._known.pop(device, None)
        if known is not None:
            self._names[known.key].discard(device)
        self._fresh[device] = None
        self._anew.add(device)

    def save(self) -> None:
        """Writes what is new. Another process may have seen more meanwhile: the newer key, or the higher counter, stays, and of the
        journal what either has seen.
        """
        if not self._fresh:
            return
        with self._workspace.record(FILE) as state:
            boards = _parsed(state)
            for name, each in self._fresh.items():
                if each is None:
                    boards.pop(name, None)
                elif name in self._anew or name not in boards:
                    boards[name] = each
                else:
                    boards[name] = _merged(each, boards[name])
            if len(boards) > MAX_BOARDS:
                boards = dict(sorted(boards.items(), key=lambda each: (each[1].certified_s > 0, each[1].read_s))[-MAX_BOARDS:])
            state.clear()
            state["boards"] = {name: _plain(each) for name, each in sorted(boards.items())}
        self._fresh = {}
        self._anew.clear()

    def _verified(self, device: str, data: bytes, kind: str, decode: Callable[[bytes], T], now_s: int) -> tuple[Signer, T]:
        statement = Statement.from_bytes(data, kind)
        if device in self._retired:
            raise Refused(Reason.DEVICE_RETIRED, f"{device} was retired")
        known = self._known.get(device)
        signer = believed(statement, device, known, self._issuers, certified=device in self._certified)
        found = decode(statement.verify(signer.verify_key))
        if found.device != device:
            raise Refused(Reason.REPORT_FORGED, f"it is that of {found.device!r}")
        if signer.certified_s and now_s > signer.expires_s and found.counter > signer.counter:
            ended_s = now_s - signer.expires_s  # what is older than what was believed in time was signed in time
            raise Refused(Reason.CERTIFICATE_EXPIRED, f"it is signed with the key of a certificate that ended {ended_s} s ago")
        return signer, found

    def _note(self, device: str, signer: Signer) -> None:
        before = self._known.get(device)
        if before is not None and before.key != signer.key:
            self._names[before.key].discard(device)
        self._names.setdefault(signer.key, set()).add(device)
        self._known[device] = self._fresh[device] = signer


def _takes_over(new: Signer, kept: Signer) -> bool:
    if new.key != kept.key and new.certified_s != kept.certified_s:
        return new.certified_s > kept.certified_s
    return new.counter >= kept.counter


def _check_counter(known: Signer, report: Report) -> None:
    if report.counter > known.counter:
        return
    if report.counter == known.counter or report.time_s > known.time_s:
        raise Refused(
            Reason.DEVICE_CLONED,
            f"two boards sign as {report.device}, with the same key, or its storage was put back from a copy: counter"
            f" {report.counter} at {report.time_s} s, after {known.counter} at {known.time_s} s",
        )
    raise Refused(Reason.REPORT_REPLAYED, f"it is an old one: it has counter {report.counter}, and {known.counter} was seen")


def _merged(new: Signer, kept: Signer) -> Signer:
    stays, goes = (new, kept) if _takes_over(new, kept) else (kept, new)
    if stays.key != goes.key and not (stays.certified_s and goes.certified_s):
        return stays  # whoever had the name without a certificate
    if goes.changed[0] and not stays.changed[0]:
        stays = replace(stays, changed=goes.changed)
    return functools.reduce(_with_head, stays.heads, replace(stays, heads=goes.heads))


def _with_head(signer: Signer, head: tuple[int, str, int]) -> Signer:
    """With one more head of its journal. One that is known is never replaced: another of the same row is of a changed journal.

    Should there be too many, the one goes that was read in the shortest time between two others: many at once displace each other.
    """
    row, digest, _ = head
    known = {each[0]: each[1] for each in signer.heads}
    if not row or known.get(row) == digest:
        return signer
    if row in known:
        return signer if signer.changed[0] else replace(signer, changed=(row, digest))
    kept = sorted([*signer.heads, head])
    if len(kept) > HEADS:
        del kept[min(range(1, len(kept) - 1), key=lambda at: kept[at + 1][2] - kept[at - 1][2])]
    return replace(signer, heads=tuple(kept))


def _plain(signer: Signer) -> dict[str, Any]:
    return {name: value for name, value in vars(signer).items() if name in Signer.__dataclass_fields__}


def _parsed(state: dict[str, Any]) -> dict[str, Signer]:
    boards: Iterable[tuple[str, dict[str, Any]]] = state.get("boards", {}).items()
    return {
        name: Signer(**each | {"heads": tuple(map(tuple, each.get("heads", ()))), "changed": tuple(each.get("changed", (0, "")))})
        for name, each in boards
        if is_name(name)
    }
