"""Who hears what: from the broker to instances, from instances to the broker and to each other.

Modules know topics of their board. Below `local/` they stay here; `sys/` is what the board itself says; all others lie on the
broker where the policy's templates put them. What goes to another module on the board is handed over here, link or no link.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from device_agent.broker.inbox import Inbox
from device_agent.broker.link import Kind
from device_agent.broker.outcomes import Outcomes
from device_agent.broker.packets import Arrived
from device_agent.broker.retained import Handled
from device_agent.channel.frames import Done
from device_agent.channel.workers import ModuleSpec
from device_agent.storage.messages import BusMessage, Outcome, Version
from ota.formats import topics
from ota.formats.report import Message
from ota.formats.topics import Template

T = TypeVar("T")
PAGE = 500  # messages of the bus that are read at once
RESERVED_SAID = 100
TOPICS_KEPT = 256  # of an instance, for which it is known whether it hears them
TOPIC_CHARACTERS = 256  # of a topic that is remembered
logger = logging.getLogger(__name__)


class Subscriptions(Protocol):
    """What is needed of the link."""

    def subscribe(self, topic: str, kind: Kind = Kind.DOCUMENT) -> None:
        """Asks for a topic or filter."""

    def unsubscribe(self, topic: str) -> None:
        """Ends a subscription."""

    def repeat(self, filter_: str) -> None:
        """Asks for the retained messages of an input once more."""


@dataclass(frozen=True)
class Routes:
    """Where topics of modules lie on the broker, and how far they go on the board."""

    names: Mapping[str, str]  # "device", "group" and "board", for the templates
    publish: Template
    subscribe: tuple[Template, ...]
    hops: int = 8  # from instance to instance to instance, at most
    durable: bool = True  # what instances say to each other outlives a power cut

    def outward(self, instance: str) -> str:
        """What stands before the topics that an instance publishes on."""
        return self.publish.prefix({**self.names, "instance": instance})

    def inward(self, instance: str) -> tuple[str, ...]:
        """What stands before the topics that an instance hears, each once."""
        return tuple(dict.fromkeys(each.prefix({**self.names, "instance": instance}) for each in self.subscribe))


class _Place:
    """An instance, and what is known of it here."""

    def __init__(self, inbox: Inbox, routes: Routes) -> None:
        self.inbox = inbox
        self.outward, self.inward = routes.outward(inbox.name), routes.inward(inbox.name)
        self.asked: frozenset[str] = frozenset()  # filters of the broker
        self.handled = Handled()
        self._filters: tuple[str, ...] = ()  # of which the following is known
        self._wanted: dict[str, bool] = {}
        self._heard: dict[str, str | None] = {}
        self._lies: dict[str, str | None] = {}

    def lies_on(self, topic: str) -> str | None:
        """Where on the broker a topic that it publishes on lies; None where it may not lie."""
        return _remembered(self._lies, topic, lambda topic: topics.outward(self.outward, topic))

    def wants(self, topic: str) -> bool:
        return self._known(self._wanted, topic, self._covers)

    def heard(self, whole: str) -> str | None:
        """The topic under which it hears what lies on a broker's topic, by the first template that fits; None if it does not."""
        return self._known(self._heard, whole, self._find)

    def answered_on(self, response_topic: str) -> str:
        """The topic on which the instance would publish an answer; "" where it can't reach the one that was named."""
        if not 0 < len(response_topic) <= TOPIC_CHARACTERS or not topics.is_topic(response_topic):
            return ""
        return topics.inward(self.outward, response_topic) or ""

    def _known(self, found: dict[str, T], topic: str, find: Callable[[str], T]) -> T:
        """`find(topic)`, remembered while the module's filters stay what they are."""
        if (filters := self.inbox.filters) is not self._filters:
            self._filters = filters
            self._wanted.clear()
            self._heard.clear()
        return _remembered(found, topic, find)

    def _covers(self, topic: str) -> bool:
        return any(topics.covers(each, topic) for each in self.inbox.filters)

    def _find(self, whole: str) -> str | None:
        found = (topics.inward(prefix, whole) for prefix in self.inward)
        return next((each for each in found if each is not None and self._covers(each)), None)

    def of_broker(self) -> frozenset[str]:
        """The filters of the broker for what it wants now."""
        found = (topics.outward(prefix, each) for prefix in self.inward for each in self.inbox.filters)
        return frozenset(each for each in found if each is not None)


def _remembered(found: dict[str, T], topic: str, find: Callable[[str], T]) -> T:
    """`find(topic)`, kept in `found`, which stays small."""
    if topic in found:
        return found[topic]
    if len(found) >= TOPICS_KEPT:
        found.clear()
    result = find(topic)
    if len(topic) <= TOPIC_CHARACTERS:
        found[topic] = result
    return result


class Router:
    """Subscriptions and delivery of one board. `link` is None on a board that works alone."""

    def __init__(self, routes: Routes, link: Subscriptions | None, outcomes: Outcomes, counters: Counter[str]) -> None:
        self._routes, self._link, self._outcomes, self._counters = routes, link, outcomes, counters
        self._places: dict[str, _Place] = {}
        self._asked: Counter[str] = Counter()  # how many instances want a filter of the broker
        self._said: set[str] = set()  # reserved topics that were told of
        outcomes.on_bus = self._hand_over

    # -- instances come, change and go

    def add(self, inbox: Inbox) -> None:
        """Takes an instance in."""
        self._places[inbox.name] = _Place(inbox, self._routes)
        self.follow(inbox.name)

    def remove(self, name: str) -> None:
        """Lets go of an instance. Again: no effect."""
        place = self._places.pop(name, None)
        if place is not None:
            self._ask(place, frozenset())

    def follow(self, name: str) -> None:
        """What an instance subscribes to may have changed."""
        place = self._places.get(name)
        if place is not None:
            self._ask(place, place.of_broker())

    def _ask(self, place: _Place, wanted: frozenset[str]) -> None:
        before, place.asked = place.asked, wanted
        for each in wanted - before:
            place.handled.forget(each)
            self._asked[each] += 1
            if self._link is not None:
                self._link.subscribe(each, Kind.INPUT)
                self._link.repeat(each)  # an instance that is new to it wants what is retained
        for each in before - wanted:
            self._asked[each] -= 1
            if not self._asked[each]:
                del self._asked[each]
                if self._link is not None:
                    self._link.unsubscribe(each)

    # -- to instances

    def received(self, arrived: Arrived) -> None:
        """From the broker. What this board has sent itself was handed over when it was said."""
        if arrived.board == self._routes.names["device"]:
            self._counters["messages_echoed"] += 1
            return
        digest = hashlib.sha256(arrived.payload).digest()
        for place in self._places.values():
            topic = place.heard(arrived.topic)
            if topic is None:
                continue
            if place.handled.repeats(arrived, digest):
                self._counters["retained_repeats"] += 1
                continue
            place.inbox.offer(topic, arrived.payload, reply_to=place.answered_on(arrived.response_topic))

    def offer(self, topic: str, payload: bytes) -> None:
        """From the board itself: a source of events."""
        for place in self._places.values():
            place.inbox.offer(topic, payload, sender=topic)

    # -- from instances

    def deliver(self, name: str, spec: ModuleSpec, done: Done, hops: int, bus_number: int) -> "asyncio.Future[None] | None":
        """Takes what a handled event asks for. `hops`, `bus_number`: of the event, 0 for one that was no other module's.

        What is returned, if anything, is done when the instance may go on.
        """
        now_s = time.time()
        out: list[Message] = []
        bus: list[BusMessage] = []
        for place, (topic, payload) in enumerate(done.messages):
            answer = done.reply_to.get(place, "")
            self._counters["messages"] += 1
            if topic.partition("/")[0] == topics.SYSTEM:
                self._refuse(spec, topic)
                continue
            targets = self._targets(name, topic, hops)
            bus += [BusMessage(0, now_s, name, target, topic, payload, hops + 1, answer) for target in targets]
            if not topics.is_on_board(topic):
                if self.broker_topic(name, topic) is None:
                    self._refuse(spec, topic)
                else:
                    out.append(Message(0, now_s, name, spec.label, topic, payload, answer))
        if not self._routes.durable:
            self._hand_over(bus)
            bus = []
        if done.writes or out or bus or bus_number:
            version = Version(name, spec.description.name, spec.release)
            return self._outcomes.add(Outcome(version, done.writes, out, bus, (bus_number,) if bus_number else ()))
        return None

    def consumed(self, bus_number: int) -> None:
        """A message between instances was dropped or refused: it is not to come again."""
        self._outcomes.consumed(bus_number)

    def broker_topic(self, instance: str, topic: str) -> str | None:
        """Where on the broker a topic of an instance lies; None where it may not lie."""
        place = self._places.get(instance)
        return place.lies_on(topic) if place is not None else topics.outward(self._routes.outward(instance), topic)

    def response_topic(self, instance: str, topic: str) -> str:
        """Where on the broker an instance hears a topic of its own, by the first template; "" where it does not."""
        prefixes = self._routes.inward(instance)
        return (topics.outward(prefixes[0], topic) or "") if topic and prefixes else ""

    def _targets(self, source: str, topic: str, hops: int) -> Iterable[str]:
        found = [name for name, place in self._places.items() if name != source and place.wants(topic)]
        if found and hops >= self._routes.hops:
            self._counters["bus_hops_exceeded"] += len(found)
            return ()
        return found

    def _refuse(self, spec: ModuleSpec, topic: str) -> None:
        self._counters["messages_reserved"] += 1
        if topic not in self._said and len(self._said) < RESERVED_SAID:
            self._said.add(topic)
            logger.warning("%s publishes on %s, which is not for modules: dropped", spec.label, topic)

    # -- the bus

    async def restore(self, read: Callable[[int, int], Awaitable[Sequence[BusMessage]]]) -> None:
        """Hands over what was not handled before a restart, the oldest first. `read`: messages above a number, at most so many.

        Before any instance runs: what they say from now on comes behind.
        """
        number = 0
        while page := await read(number, PAGE):
            self._hand_over(page)
            number = page[-1].number

    def _hand_over(self, said: Sequence[BusMessage]) -> None:
        for each in said:
            place = self._places.get(each.target)
            if place is not None:
                place.inbox.offer(each.topic, each.payload, each.hops, each.number, each.source, each.reply_to)
            elif each.number:
                self._outcomes.consumed(each.number)
