"""The two deployment documents that this board follows, its group's and its own: which of those that came are in force.

A document that was accepted stays in force until a newer one is, whatever comes meanwhile; under another root it is verified anew.
"""

import logging
from dataclasses import dataclass, field
from typing import Protocol

from device_agent.desired.acceptance import NO_ROOM, keep_newer
from device_agent.desired.trust import Trust
from device_agent.instance.services import Services
from device_agent.storage import floors
from ota.formats import deployment as deployments
from ota.formats import topics, trust
from ota.formats.deployment import Deployment
from ota.formats.fields import MAX_TIME_S
from ota.formats.reasons import Reason, Refused

__all__ = ["Judge", "Standing"]

LOOKS_LIMIT = 16
"""After so many documents a decision waits for no further one."""
logger = logging.getLogger(__name__)


class Judge(Protocol):
    """Who is told (device_agent.desired.desired)."""

    def decide(self) -> None:
        """Other documents may be in force."""

    def refuse(self, kind: str, epoch: int, error: Refused) -> None:
        """A document is refused as a whole."""

    def clear(self, kind: str) -> None:
        """The last one of its kind is not."""

    def consider_later(self) -> None:
        """What was refused for want of room may be possible in a while."""


@dataclass(frozen=True)
class _Look:
    """A document that verifies under a root, before the disk says whether it is an old one."""

    found: deployments.VerifiedDeployment
    document: bytes
    root: trust.Root = field(repr=False)


@dataclass
class _Scope:
    """One of the two documents."""

    kind: str  # "group" or "device", as reports name it
    topic: str
    group: str
    device: str  # empty: it is the group's
    received: bytes | None = None  # from the broker last, accepted or not
    kept: bytes | None = None  # that was accepted last, wherever it came from; under another root it may not be any more
    accepted: Deployment | None = None  # the same, if it verifies under the root in force
    due: list[_Look] = field(default_factory=list)  # of the first two: what the disk is still to be asked about

    @property
    def mark(self) -> str:
        """What its floor and its copy on disk are called."""
        return floors.DEPLOYMENT + (f"@{self.device}" if self.device else self.group)

    def verified(self, document: bytes, root: trust.Root) -> deployments.VerifiedDeployment:
        """Raises Refused."""
        return deployments.verified(document, root, group=self.group, device=self.device)

    def is_last(self, document: bytes) -> bool:
        """Whether it is the one that reports are about: what the broker has, where there is anything."""
        return document == (self.received if self.received is not None else self.kept)

    def take(self, found: deployments.VerifiedDeployment, document: bytes) -> None:
        """It is in force from now on."""
        self.accepted, self.kept = found.deployment, document


class Standing:
    """Takes documents and says which are in force."""

    def __init__(self, device: str, group: str, services: Services, held: Trust, judge: Judge) -> None:
        """`held` has the root in force."""
        self._services, self._trust, self._judge = services, held, judge
        self._scopes = (
            _Scope("group", topics.desired(group), group, ""),
            _Scope("device", topics.device_desired(device), "", device),
        )
        self._busy = False  # with documents that are due
        self._owed = False  # a decision, once no document is due

    @property
    def topics(self) -> tuple[str, ...]:
        """Where the broker has them."""
        return tuple(each.topic for each in self._scopes)

    @property
    def in_force(self) -> tuple[Deployment, ...]:
        """Those that are, the device's own last."""
        return tuple(each.accepted for each in self._scopes if each.accepted is not None)

    @property
    def epochs(self) -> dict[str, int]:
        """Those of the documents in force, by kind."""
        return {each.kind: each.accepted.epoch for each in self._scopes if each.accepted is not None}

    @property
    def issued_s(self) -> int:
        """When the newest of what is accepted was issued: it is not earlier now. Seconds since 1970."""
        return min(max(self._trust.root.issued_s, *(each.issued_s for each in self.in_force), 0), MAX_TIME_S)

    async def restore(self) -> None:
        """Takes up the last documents that were accepted."""
        for scope in self._scopes:
            document: bytes | None = await self._services.on_writer(self._services.store.document, scope.mark)
            if document is None:
                continue
            try:
                scope.take(scope.verified(document, self._trust.root), document)
            except Refused as error:
                logger.warning("the %s's deployment that was kept is not taken up: %s", scope.kind, error)
                continue
            scope.received = document

    def received(self, topic: str, payload: bytes) -> bool:
        """Takes a message that is one of these documents; False for another. An empty one: what was accepted stays."""
        for scope in self._scopes:
            if topic == scope.topic:
                if payload:
                    scope.received = payload
                    self._take_up(scope)
                return True
        return False

    async def take(self, topic: str, document: bytes) -> bool:
        """Takes a document out of a bundle, by the same rules; it is in force when this returns. False for another one.

        The broker's last document, also one on its way to the disk, stays what it is. Raises Refused.
        """
        scope = next((each for each in self._scopes if each.topic == topic), None)
        if scope is None:
            return False
        root = None
        while root is not self._trust.root:  # it may change while the disk is waited for
            root = self._trust.root
            found = scope.verified(document, root)
            await self._services.on_writer(self._keep, scope.mark, found, document, root)
        if scope.accepted is not None and scope.accepted.epoch > found.deployment.epoch:
            raise Refused(Reason.DEPLOYMENT_REPLAYED, f"deployment epoch {scope.accepted.epoch} came meanwhile")
        scope.take(found, document)
        if scope.is_last(document):
            self._judge.clear(scope.kind)
        self._decide()
        return True

    def adopt(self) -> None:
        """Another root is in force."""
        self._owed = True
        for scope in self._scopes:
            scope.accepted = None  # until it verifies under the new root
        self.consider()
        self._decide_if_owed()

    def consider(self) -> None:
        """Looks at everything once more: time has passed, or the root has changed."""
        for scope in self._scopes:
            self._take_up(scope)

    def _take_up(self, scope: _Scope) -> None:
        """What the broker has, and what was accepted: the newer one is in force. What was due of those before them is not."""
        root = self._trust.root
        scope.due = []
        for document in dict.fromkeys((scope.received, scope.kept)):
            if document is None:
                continue
            try:
                found = scope.verified(document, root)
            except Refused as error:
                claimed = deployments.claimed(document)
                self._refuse(scope, document, claimed.epoch if claimed else 0, error)
                continue
            scope.due.append(_Look(found, document, root))
        if scope.due and not self._busy:
            self._busy = True
            self._services.spawn_supervised(self._look())

    async def _look(self) -> None:
        """One document at a time, however many come while the disk is slow.

        Decides once both scopes have been looked at, for the group's document without the device's would be another wish; and
        now and then where documents come without end.
        """
        try:
            await self._look_at_all()
        finally:  # whatever ended it, the next one is looked at
            self._busy = False
        self._decide_if_owed()

    async def _look_at_all(self) -> None:
        looks = 0
        while (scope := next((each for each in self._scopes if each.due), None)) is not None:
            self._owed |= await self._accept(scope, scope.due.pop(0))
            looks += 1
            if looks % LOOKS_LIMIT == 0:
                self._decide_if_owed(busy=True)

    def _decide_if_owed(self, *, busy: bool = False) -> None:
        """Decides, unless documents are still looked at. What no root in force vouches for any more is not wanted any more."""
        if self._owed and (busy or not self._busy):
            self._decide()

    def _decide(self) -> None:
        self._owed = False
        self._judge.decide()

    async def _accept(self, scope: _Scope, look: _Look) -> bool:
        """Another document, or root, may arrive while this waits for the disk: that is then looked at by itself."""
        found, document, root = look.found, look.document, look.root
        try:
            await self._services.on_writer(self._keep, scope.mark, found, document, root)
        except Refused as error:
            if document in (scope.received, scope.kept):
                self._refuse(scope, document, found.deployment.epoch, error)
                if error.reason in NO_ROOM:
                    self._judge.consider_later()
            return False
        if document not in (scope.received, scope.kept) or root is not self._trust.root:
            return False
        if scope.accepted is not None and scope.accepted.epoch > found.deployment.epoch:
            return False
        scope.take(found, document)
        if scope.is_last(document):
            self._judge.clear(scope.kind)
        return True

    def _refuse(self, scope: _Scope, document: bytes, epoch: int, error: Refused) -> None:
        """One that was accepted before and gives way to what the broker has is no refusal that anybody has to know of."""
        if scope.is_last(document):
            self._judge.refuse(scope.kind, epoch, error)

    def _keep(self, mark: str, found: deployments.VerifiedDeployment, document: bytes, root: trust.Root) -> None:
        """On the writer. Raises Refused."""
        keep_newer(self._services.store, mark, "deployment", found, document, root.roles["deploy"].keys)
