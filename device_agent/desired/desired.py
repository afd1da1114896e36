"""The desired state: the chain of roots, the documents of the group and of this device, and what each instance is to run.

The device's own document overrides its group's, entry by entry. An entry that does not include this device is none. An instance
without an entry goes on as it is.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from device_agent.desired.acceptance import NO_ROOM, keep_newer
from device_agent.desired.trust import Trust
from device_agent.desired.walk import Documents, RootWalk
from device_agent.instance import states
from device_agent.instance.services import Services
from device_agent.instance.updates import CLAIMED, HELD_BACK, RETRYABLE, Update
from device_agent.storage import floors
from ota.formats import deployment as deployments
from ota.formats import topics, trust
from ota.formats.deployment import AGENT, Deployment, Entry
from ota.formats.fields import MAX_TIME_S
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Refusal

LOOKS_LIMIT = 16
"""After so many documents a decision waits for no further one."""
RETRY_GROWTH = 60
"""An update that fails without end is tried again ever later, at last after so many times `retry_s`: each try wears the disk."""
logger = logging.getLogger(__name__)


class Updatable(Protocol):
    """What can be updated, as far as this module knows it: an instance."""

    @property
    def update(self) -> Update:
        """The update under way, or the last one."""

    def post(self, event: states.Event) -> None:
        """Something that concerns the update."""


class Updatables(Protocol):
    """All of them, by name."""

    def names(self) -> Iterable[str]:
        """Of those that are there."""

    def find(self, name: str) -> Updatable | None:
        """The one of a name, None where there is none."""

    def open(self, name: str) -> Updatable:
        """The same; it is made where there is none. Raises Refused INSTANCE_RESERVED."""

    def prune(self, wanted: Collection[str]) -> None:
        """Forgets those that have nothing, and that nobody wants."""


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
    bundled: bytes | None = None  # from a bundle last, if it was accepted
    accepted: Deployment | None = None  # the last one, if it verifies under the root in force
    due: list[_Look] = field(default_factory=list)  # of the two above: what the disk is still to be asked about

    @property
    def mark(self) -> str:
        """What its floor and its copy on disk are called."""
        return floors.DEPLOYMENT + (f"@{self.device}" if self.device else self.group)

    def verified(self, document: bytes, root: trust.Root) -> deployments.VerifiedDeployment:
        """Raises Refused."""
        return deployments.verified(document, root, group=self.group, device=self.device)


@dataclass
class _Wish:
    """What is wanted of one instance now."""

    entry: Entry | None = None
    issued_s: int = 0  # its document
    whole: bool = True  # whether all members of its set are wanted of one deployment


@dataclass(frozen=True)
class Setting:
    """Who this board is, and how long it waits, in seconds."""

    device: str
    group: str
    retry_s: float


@dataclass(frozen=True)
class EntryRefusal:
    """An entry that is no update yet, because it may not start."""

    entry: Entry
    refused: Refused = field(compare=False)

    @property
    def words(self) -> tuple[bytes, Reason, str]:
        """What tells it from another one."""
        return self.entry.deployment_id, self.refused.reason, self.refused.detail


class Desired:
    """Takes root and deployment documents, and posts to instances what they are to begin."""

    def __init__(
        self,
        setting: Setting,
        services: Services,
        held: Trust,
        link: Documents | None,
        instances: Updatables,
        changed: Callable[[], None],
        count: Callable[[str], None],
    ) -> None:
        """`held` has the root in force; `changed` reports and looks at what waits; `count` counts by name."""
        self._setting, self._services, self._trust, self._link = setting, services, held, link
        self._instances, self._changed, self._count = instances, changed, count
        self._scopes = (
            _Scope("group", topics.desired(setting.group), setting.group, ""),
            _Scope("device", topics.device_desired(setting.device), "", setting.device),
        )
        self.refusals: dict[str, Refusal] = {}  # of documents, by kind
        self.refused: dict[str, EntryRefusal] = {}  # by instance
        self._other_root = True  # nothing was tried again under it yet: the power may have gone just after it was adopted
        self._looked_too_early: set[str] = set()  # instances whose updates may have been judged by what has changed since
        self._wishes: dict[str, _Wish] = {}
        self._looks: dict[str, asyncio.TimerHandle] = {}  # that are to come, by what for
        self._growth = 1  # of the time until failed updates are tried again
        self._loop = asyncio.get_running_loop()
        self._walk = RootWalk(services, held, link, setting.retry_s, self._adopted, partial(self._refuse, "root"))
        self._busy = False  # with documents that are due
        self._owed = False  # a decision, once no document is due

    # -- documents

    def start(self) -> None:
        """Decides by what was restored, and asks for the documents from now on."""
        self._decide_all()
        self._judge_again()
        self._go_on_later()
        if self._link is not None:
            for scope in self._scopes:
                self._link.subscribe(scope.topic)
        self._walk.start()

    def received(self, topic: str, payload: bytes) -> bool:
        """Takes a message that is one of these documents; False for another."""
        for scope in self._scopes:
            if topic == scope.topic and not payload:
                return True  # it was taken away: what was accepted stays
            if topic == scope.topic:
                scope.received = payload
                self._growth = 1
                self._take_up(scope)
                return True
        return self._walk.received(topic, payload)

    async def take(self, topic: str, document: bytes) -> None:
        """Takes a document out of a bundle, by the same rules; it is in force when this returns. Raises Refused."""
        for scope in self._scopes:
            if topic == scope.topic:
                await self._take_bundled(scope, document)
                return
        await self._walk.add(document)

    async def _take_bundled(self, scope: _Scope, document: bytes) -> None:
        """The broker's last document, also one on its way to the disk, stays what it is."""
        root = None
        while root is not self._trust.root:  # it may change while the disk is waited for
            root = self._trust.root
            found = scope.verified(document, root)
            await self._services.on_writer(self._keep, scope.mark, found, document, root)
        if scope.accepted is not None and scope.accepted.epoch > found.deployment.epoch:
            raise Refused(Reason.DEPLOYMENT_REPLAYED, f"deployment epoch {scope.accepted.epoch} came meanwhile")
        scope.bundled, scope.accepted, self._growth = document, found.deployment, 1
        self._clear(scope.kind)
        self._decide_all()

    def _adopted(self) -> None:
        """Another root is in force."""
        self._other_root, self._owed, self._growth = True, True, 1
        self._clear("root")
        for scope in self._scopes:
            scope.accepted = None  # until it verifies under the new root
        self.consider()
        self._decide_if_owed()

    def _take_up(self, scope: _Scope) -> None:
        """The broker's document, and that of a bundle: the newer one is accepted. What was due of those before them is not."""
        root = self._trust.root
        scope.due = []
        for document in dict.fromkeys((scope.received, scope.bundled)):
            if document is None:
                continue
            try:
                found = scope.verified(document, root)
            except Refused as error:
                claimed = deployments.claimed(document)
                self._refuse(scope.kind, claimed.epoch if claimed else 0, error)
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
        looks = 0
        while (scope := next((each for each in self._scopes if each.due), None)) is not None:
            self._owed |= await self._accept(scope, scope.due.pop(0))
            looks += 1
            if looks % LOOKS_LIMIT == 0:
                self._decide_if_owed(busy=True)
        self._busy = False
        self._decide_if_owed()

    def _decide_if_owed(self, *, busy: bool = False) -> None:
        """Decides, unless documents are still looked at. What no root in force vouches for any more is not wanted any more."""
        if self._owed and (busy or not self._busy):
            self._decide_all()

    async def _accept(self, scope: _Scope, look: _Look) -> bool:
        """Another document, or root, may arrive while this waits for the disk: that is then looked at by itself."""
        found, document, root = look.found, look.document, look.root
        try:
            await self._services.on_writer(self._keep, scope.mark, found, document, root)
        except Refused as error:
            if document in (scope.received, scope.bundled):
                self._refuse(scope.kind, found.deployment.epoch, error)
                if error.reason in NO_ROOM:
                    self._consider_later()
            return False
        if document not in (scope.received, scope.bundled) or root is not self._trust.root:
            return False
        if scope.accepted is not None and scope.accepted.epoch > found.deployment.epoch:
            return False
        scope.accepted = found.deployment
        self._clear(scope.kind)
        return True

    def _keep(self, mark: str, found: deployments.VerifiedDeployment, document: bytes, root: trust.Root) -> None:
        """On the writer. Raises Refused."""
        keep_newer(self._services.store, mark, "deployment", found, document, root.roles["deploy"].keys)

    async def restore(self) -> None:
        """Takes up the last documents that were accepted."""
        for scope in self._scopes:
            document: bytes | None = await self._services.on_writer(self._services.store.document, scope.mark)
            if document is None:
                continue
            try:
                scope.accepted = scope.verified(document, self._trust.root).deployment
            except Refused as error:
                logger.warning("the %s's deployment that was kept is not taken up: %s", scope.kind, error)
                continue
            scope.received = document
        self._merge()

    @property
    def issued_s(self) -> int:
        """When the newest of what is accepted was issued: it is not earlier now. Seconds since 1970."""
        documents = [each.accepted.issued_s for each in self._scopes if each.accepted is not None]
        return min(max(self._trust.root.issued_s, *documents, 0), MAX_TIME_S)

    # -- what is wanted

    def consider(self) -> None:
        """Looks at everything once more: time has passed, or the root has changed."""
        for scope in self._scopes:
            self._take_up(scope)

    def keys_came(self) -> None:
        """The board can decrypt what it could not."""
        self._growth = 1
        self.consider()

    def entry(self, name: str) -> Entry | None:
        """The entry in force for an instance."""
        return self._wishes.get(name, _Wish()).entry

    def why_not(self, name: str) -> Refused | None:
        """Why the update of an instance may not start now; None also where nothing is wanted."""
        wish = self._wishes.get(name, _Wish())
        if wish.entry is None:
            return None
        try:
            if name == AGENT and (wish.entry.absent or wish.entry.config):
                raise Refused(Reason.INSTANCE_RESERVED, "the agent is neither removed nor configured by a deployment")
            if not wish.whole:
                raise Refused(Reason.SET_INCOMPLETE, f"not all of {', '.join(wish.entry.together)} are wanted together")
            floor_s = max(wish.issued_s, self._services.floor_s())
            deployments.may_start(wish.entry, floor_s, self._trust.root, int(self._services.now_s()))
        except Refused as error:
            return error
        return None

    def why_lapsed(self, name: str, update: Update) -> Refused | None:
        """Why an update that is found in the journal is not to be resumed, None if it is."""
        if update.ended or not any(each.accepted for each in self._scopes):
            return None
        return self._why_stop(name, update)

    def consider_instance(self, name: str) -> None:
        """Its update has begun or ended: is it what is wanted?"""
        update = self.update(name)
        if update.interrupted:
            self._go_on_later()
        if update.ended and update.retryable and update.reason in RETRYABLE:
            self._call_later("failed", self._setting.retry_s * self._growth, self._try_again)
            return
        retry = update.ended and name in self._looked_too_early
        if update.ended:
            self._looked_too_early.discard(name)
        self._decide(name, retry=retry)

    def room_was_made(self) -> None:
        """An instance has ended or changed: what was refused for its sake may be possible now.

        So may what is refused already, though its refusal is not yet written down: that is tried again once it is.
        """
        for name in list(self._wishes):
            update = self.update(name)
            if not update.ended:
                self._looked_too_early.add(name)
            elif update.phase is states.Phase.REJECTED and update.reason in CLAIMED:
                self._decide(name, retry=True)

    def _go_on_later(self) -> None:
        """The board was up for a while: what it went down with too often may have been there when the power was bad."""
        self._call_later("interrupted", self._services.times.forget_s, partial(self._judge_again, interrupted=True))

    def _judge_again(self, *, interrupted: bool = False) -> None:
        """What the board did not take before the agent started: its settings, its devices or its agent may be others now.

        `interrupted`: what it went down with instead, with its set.
        """
        for name, wish in list(self._wishes.items()):
            entry = wish.entry
            if entry is None or self.why_not(name) is not None:
                continue
            update, offered = self.update(name), states.Offered.of_entry(entry, again=True)
            members = [self.update(each) for each in entry.together or (name,)]
            if interrupted and not any(each.interrupted for each in members):
                continue
            others = [each for each in members if each is not update and not (interrupted and each.interrupted)]
            tried = any(_was_tried(each) for each in others)  # then its set would fail again
            fits = update.never_ran or (interrupted and update.interrupted)
            if fits and not update.retryable and not tried and _same(update, offered):
                self._instances.open(name).post(offered)

    def _is_other_root(self) -> bool:
        """Whether what an earlier root did not allow is to be tried again: once for each root, with a document that it allows."""
        if not self._other_root or not any(each.accepted for each in self._scopes):
            return False
        self._other_root = False
        self._looked_too_early |= {name for name in self._wishes if not self.update(name).ended}
        return True

    def _merge(self) -> None:
        """What is wanted of each instance, from both documents."""
        self._wishes = {}
        for scope in self._scopes:  # the device's comes last
            for name, entry in scope.accepted.entries.items() if scope.accepted is not None else ():
                if entry.includes(self._setting.device) and scope.accepted is not None:
                    self._wishes[name] = _Wish(entry, scope.accepted.issued_s)
        for wish in self._wishes.values():
            members = wish.entry.together if wish.entry is not None else ()
            found = [self.entry(each) for each in members]
            ours = wish.entry.deployment_id if wish.entry is not None else b""
            wish.whole = all(each is not None and each.deployment_id == ours for each in found)

    def _decide_all(self) -> None:
        self._owed = False
        self._merge()
        retry = self._is_other_root()
        for name in sorted({*self._wishes, *self._instances.names(), *self.refused}):
            self._decide(name, retry=retry)
        self._instances.prune(self._wishes)
        self._changed()

    def _decide(self, name: str, *, retry: bool) -> None:
        """Offers what is wanted of an instance, stops what is not wanted any more, or says why neither."""
        try:
            self._offer(name, retry=retry)
        except Refused as error:
            entry = self.entry(name)
            assert entry is not None
            self._refuse_entry(name, EntryRefusal(entry, error))
            if error.reason in deployments.CLOCK_REASONS:
                self._consider_later()
            return
        if self.refused.pop(name, None) is not None:
            self._changed()

    def _offer(self, name: str, *, retry: bool) -> None:
        """Raises Refused for an entry that this board wants and that may not start."""
        instance, entry = self._instances.find(name), self.entry(name)
        update = self.update(name)
        if instance is not None and update.phase in states.BEGUN and (stop := self._why_stop(name, update)):
            instance.post(states.Stopped(update.id, stop.reason, stop.detail))
        if entry is None:
            return
        offered = states.Offered.of_entry(entry)
        if not retry and _same(update, offered) and _waits(update):
            return
        if not update.is_news(offered):
            return
        why_not = self.why_not(name)
        if why_not is None:
            self._instances.open(name).post(offered)
        elif (update.deployment, update.reason) != (entry.deployment_id, why_not.reason):  # else its report says so
            raise why_not

    def update(self, name: str) -> Update:
        """The update of an instance that is under way, or the last one."""
        instance = self._instances.find(name)
        return instance.update if instance is not None else Update()

    def _why_stop(self, name: str, update: Update) -> Refused | None:
        """Why an update that has begun, or is found in the journal, is not to go on."""
        entry, why_not = self.entry(name), self.why_not(name)
        if entry is None:
            return Refused(Reason.DEPLOYMENT_STOPPED, "this board is not part of the deployment any more")
        if not _same(update, states.Offered.of_entry(entry)):
            if why_not is None:
                return None  # the offer takes its place
            return Refused(Reason.DEPLOYMENT_STOPPED, "another deployment has replaced it")
        return why_not if why_not is not None and why_not.reason in HELD_BACK else None

    # -- what is refused

    def _consider_later(self) -> None:
        """Looks again after the time for a retry."""
        self._call_later("refused", self._setting.retry_s, self.consider)

    def _try_again(self) -> None:
        """Updates that failed; ever later, until something new is heard."""
        self._growth = min(2 * self._growth, RETRY_GROWTH)
        self.consider()

    def _call_later(self, what: str, delay_s: float, look: Callable[[], None]) -> None:
        if what in self._looks:
            self._looks[what].cancel()
        self._looks[what] = self._loop.call_later(delay_s, look)

    def _refuse(self, kind: str, epoch: int, error: Refused) -> None:
        """A document as a whole: reported, not stored."""
        refusal = Refusal(kind, epoch, error.reason.value, error.detail)
        if self.refusals.get(kind) != refusal:
            logger.error("the %s document is refused: %s", kind, error)
            self._count("refusals")
            self.refusals[kind] = refusal
            self._changed()

    def _clear(self, kind: str) -> None:
        if self.refusals.pop(kind, None) is not None:
            self._changed()

    def _refuse_entry(self, name: str, refusal: EntryRefusal) -> None:
        known = self.refused.get(name)
        if known is None or known.words != refusal.words:
            logger.error("%s: refused: %s", name, refusal.refused)
            self._count("refusals")
            self.refused[name] = refusal
            self._changed()


def _was_tried(update: Update) -> bool:
    """Whether it ran, and failed."""
    ended_well = update.phase in (states.Phase.CONFIRMED, states.Phase.IDLE)
    return update.ended and not ended_well and not update.never_ran and not update.retryable


def _waits(update: Update) -> bool:
    """Whether it is tried again once there is room, or another root."""
    refused_for_room = update.phase is states.Phase.REJECTED and update.reason in CLAIMED
    return refused_for_room or (update.ended and update.reason in trust.ROOT_REASONS)


def _same(update: Update, offered: states.Offered) -> bool:
    mine: tuple[bytes, bytes, Mapping[str, str]] = (update.deployment, update.manifest, update.config)
    return mine == (offered.deployment, offered.manifest, offered.config)
