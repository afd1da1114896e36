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

from device_agent.desired.standing import Standing
from device_agent.desired.trust import Trust
from device_agent.desired.walk import Documents, RootWalk
from device_agent.instance import states
from device_agent.instance.services import Services
from device_agent.instance.updates import CLAIMED, HELD_BACK, RETRYABLE, Update
from ota.formats import deployment as deployments
from ota.formats import trust
from ota.formats.deployment import AGENT, Entry
from ota.formats.reasons import Reason, Refused
from ota.formats.report import Refusal

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
        self._standing = Standing(setting.device, setting.group, services, held, self)
        self.refusals: dict[str, Refusal] = {}  # of documents, by kind
        self.refused: dict[str, EntryRefusal] = {}  # by instance
        self._other_root = True  # nothing was tried again under it yet: the power may have gone just after it was adopted
        self._looked_too_early: set[str] = set()  # instances whose updates may have been judged by what has changed since
        self._wishes: dict[str, _Wish] = {}
        self._looks: dict[str, asyncio.TimerHandle] = {}  # that are to come, by what for
        self._growth = 1  # of the time until failed updates are tried again
        self._loop = asyncio.get_running_loop()
        self._walk = RootWalk(services, held, link, setting.retry_s, self._adopted, partial(self.refuse, "root"))

    # -- documents

    def start(self) -> None:
        """Decides by what was restored, and asks for the documents from now on."""
        self.decide()
        self._judge_again()
        self._go_on_later()
        if self._link is not None:
            for topic in self._standing.topics:
                self._link.subscribe(topic)
        self._walk.start()

    async def restore(self) -> None:
        """Takes up the last documents that were accepted."""
        await self._standing.restore()
        self._merge()

    def received(self, topic: str, payload: bytes) -> bool:
        """Takes a message that is one of these documents; False for another."""
        if not self._standing.received(topic, payload):
            return self._walk.received(topic, payload)
        if payload:
            self._growth = 1
        return True

    async def take(self, topic: str, document: bytes) -> None:
        """Takes a document out of a bundle, by the same rules; it is in force when this returns. Raises Refused."""
        if await self._standing.take(topic, document):
            self._growth = 1
        else:
            await self._walk.add(document)

    def _adopted(self) -> None:
        """Another root is in force."""
        self._other_root, self._growth = True, 1
        self.clear("root")
        self._standing.adopt()

    @property
    def issued_s(self) -> int:
        """When the newest of what is accepted was issued: it is not earlier now. Seconds since 1970."""
        return self._standing.issued_s

    @property
    def epochs(self) -> dict[str, int]:
        """Those of the documents in force, by kind."""
        return self._standing.epochs

    # -- what is wanted

    def consider(self) -> None:
        """Looks at everything once more: time has passed, or the root has changed."""
        self._standing.consider()

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
        if update.ended or not self._standing.in_force:
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
        if not self._other_root or not self._standing.in_force:
            return False
        self._other_root = False
        self._looked_too_early |= {name for name in self._wishes if not self.update(name).ended}
        return True

    def _merge(self) -> None:
        """What is wanted of each instance, from both documents."""
        self._wishes = {}
        for document in self._standing.in_force:  # the device's comes last
            for name, entry in document.entries.items():
                if entry.includes(self._setting.device):
                    self._wishes[name] = _Wish(entry, document.issued_s)
        for wish in self._wishes.values():
            members = wish.entry.together if wish.entry is not None else ()
            found = [self.entry(each) for each in members]
            ours = wish.entry.deployment_id if wish.entry is not None else b""
            wish.whole = all(each is not None and each.deployment_id == ours for each in found)

    def decide(self) -> None:
        """What is wanted may be another by now: each instance gets its offer, or is told why not."""
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
                self.consider_later()
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

    def consider_later(self) -> None:
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

    def refuse(self, kind: str, epoch: int, error: Refused) -> None:
        """A document as a whole: reported, not stored."""
        refusal = Refusal(kind, epoch, error.reason.value, error.detail)
        if self.refusals.get(kind) != refusal:
            logger.error("the %s document is refused: %s", kind, error)
            self._count("refusals")
            self.refusals[kind] = refusal
            self._changed()

    def clear(self, kind: str) -> None:
        """A document that was refused is not any more."""
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
