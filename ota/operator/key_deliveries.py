"""Gives boards in the field the keys of their group: a document for each, encrypted to the board's own key, signed, retained.

Who has confirmed them is what the boards' signed reports say. Anybody who can write to the broker can report as a new board of the
group, with a key of their own; and a board of another group can report that it is in this one. So only boards get keys whose report
is signed with a certificate of this workspace and that were set up or enrolled for this group, and those that the operator names.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ota.author.encryption import sealed_for
from ota.errors import OtaError
from ota.formats import key_delivery, topics
from ota.formats.cbor import sha256
from ota.formats.encryption import EncryptionInfo, GroupKey, board_key_id, read_public_key
from ota.formats.key_delivery import DELIVERY_TYPE, KeyDelivery
from ota.formats.reasons import Refused
from ota.keyring import Signer, sign_document
from ota.operator import presence
from ota.operator.audit import ACTIONS, Audit
from ota.operator.broker import Broker
from ota.operator.group_keys import GroupKeys
from ota.operator.reports import Device, View
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace

__all__ = ["Deliveries", "Standing"]

ABOUT_BYTES = 1024  # a document
CONFIRMED, OWED, WAITS = "confirmed", "to be sent", "sent"
UNKNOWN = "no certificate: gets none unless it is named with --board"
ELSEWHERE = "belongs to group {}: gets none unless it is named with --board"
NOWHERE = "was set up for no group: gets none unless it is named with --board"


@dataclass(frozen=True)
class Standing:
    """How far a board is."""

    board: str
    state: str  # CONFIRMED, OWED, WAITS, or why it can't get any
    lacking: tuple[str, ...] = ()  # identifiers of keys that it has not confirmed
    counts: bool = True  # whether it is waited for

    @property
    def confirmed(self) -> bool:
        """Whether the board has all of them."""
        return self.state == CONFIRMED


class Deliveries:
    """The keys of one group, and its boards as a `View` has read them."""

    def __init__(self, workspace: Workspace, group: str, roster: Roster, named: Collection[str] = ()) -> None:
        """`named`: boards that get keys because the operator says so. Raises OtaError where the group has no key."""
        self._workspace, self._group, self._roster, self._named = workspace, group, roster, frozenset(named)
        self._keys: Mapping[bytes, GroupKey] = {each.key_id: each for each in GroupKeys(workspace).of(group).values()}
        if not self._keys:
            raise OtaError(f"group {group} has no key: `ota group-keys new {group}` makes one")
        self._retained: dict[str, bytes] = {}  # the documents there are, by board

    def read(self, broker: Broker, view: View) -> None:
        """Reads what is retained for the group's boards. Raises BrokerError."""
        wanted = {topics.group_keys(each.name): each.name for each in self.boards(view)}
        found = presence.read(broker, wanted, ABOUT_BYTES)
        self._retained = {wanted[topic]: payload for topic, payload in found.items() if payload}

    def boards(self, view: View) -> list[Device]:
        """Those whose last report says that they are in the group, by name."""
        found = (each for each in view.devices.values() if each.report is not None and each.report.group == self._group)
        return sorted(found, key=lambda each: each.name)

    def standings(self, view: View) -> Iterator[Standing]:
        """How far each board of the group is."""
        for board in self.boards(view):
            assert board.report is not None
            lacking = tuple(each.hex() for each in sorted(self._keys) if each not in board.report.group_keys)
            if why := self._why_not(board.name):
                yield Standing(board.name, why, lacking, counts=False)
            elif not board.report.encryption:
                yield Standing(board.name, "its agent has no key of its own to encrypt for", lacking)
            elif not _is_key(board.report.encryption):
                yield Standing(board.name, "what it reports as its own key is none", lacking)
            elif not self._is_there(board):
                yield Standing(board.name, OWED, lacking)
            else:
                yield Standing(board.name, WAITS if lacking else CONFIRMED, lacking)

    def _why_not(self, name: str) -> str:
        """Why a board gets none unless it is named; "" for one that does."""
        if name in self._named:
            return ""
        if not self._roster.signers.is_certified(name):
            return UNKNOWN
        home = self._roster.home_of(name)
        return "" if home == self._group else ELSEWHERE.format(home) if home else NOWHERE

    def _is_there(self, board: Device) -> bool:
        """Whether the right document is retained: ours, of these keys and no other, for the key that the board has now."""
        assert board.report is not None
        document = self._retained.get(board.name, b"")
        try:
            found = key_delivery.verified(document, self._workspace.root(), board.name, self._group).delivery
            recipients = [each.key_id for each in EncryptionInfo.from_bytes(found.info).recipients]
            own = board_key_id(read_public_key(board.report.encryption))
        except Refused:
            return False
        return list(found.key_ids) == sorted(self._keys) and recipients == [own]

    def send(self, broker: Broker, view: View, now_s: int) -> int:
        """Publishes what is to be sent; how many documents. Raises OtaError, BrokerError."""
        signers = self._workspace.role_keys("deploy")
        if lack := self._workspace.root().roles["deploy"].lacks({each.public.key_id for each in signers}):
            raise OtaError(f"keys are signed by the role deploy, and there are {lack}: all of its keys have to be at hand")
        for board in self.boards(view):
            if board.name in self._named:
                self._roster.assign(board.name, self._group)
        self._roster.save()
        owed = {each.board for each in self.standings(view) if each.state == OWED}
        messages = {each.name: self._document(each, signers, now_s) for each in self.boards(view) if each.name in owed}
        broker.publish_all([(topics.group_keys(name), document) for name, document in messages.items()])
        self.read(broker, view)
        if lost := sorted(name for name, document in messages.items() if self._retained.get(name) != document):
            raise presence.NotKeptError(
                f"the broker acknowledged the keys for {', '.join(lost[:4])} and does not keep them:"
                " does another operator send, too? `ota broker check` shows what it keeps"
            )
        return len(messages)

    def _document(self, board: Device, signers: list[Signer], now_s: int) -> bytes:
        assert board.report is not None
        info, sealed = sealed_for(key_delivery.plaintext(self._keys), read_public_key(board.report.encryption))
        there = key_delivery.claimed(self._retained.get(board.name, b""))
        mark = f"keys@{board.name}"  # neither a group's name nor a device's key
        epoch = self._workspace.next_epoch(mark, now_s)
        if there is not None and self._is_ours(board.name) and there.epoch >= epoch:  # by another operator
            self._workspace.adopt(epochs={mark: there.epoch})
            epoch = self._workspace.next_epoch(mark, now_s)
        made = KeyDelivery(board.name, self._group, epoch, now_s, tuple(sorted(self._keys)), info.to_bytes(), sealed)
        document = sign_document(made.to_payload(), DELIVERY_TYPE, signers)
        key_delivery.verified(document, self._workspace.root(), board.name, self._group)  # as boards will
        self._workspace.signed(now_s)
        about = {"what": f"keys of group {self._group} for device {board.name}", "digest": sha256(made.to_payload()).hex()}
        for key in signers:
            Audit(self._workspace).record(ACTIONS["deploy"], key, now_s, about)
        return document

    def _is_ours(self, name: str) -> bool:
        try:
            key_delivery.verified(self._retained[name], self._workspace.root(), name)
        except Refused:
            return False
        return True


def _is_key(data: bytes) -> bool:
    try:
        read_public_key(data)
    except Refused:
        return False
    return True
