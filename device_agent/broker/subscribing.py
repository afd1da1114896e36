"""What a board asks the broker for, topics and filters, on one connection after the other.

What changes in one turn of the loop shares packets. A subscription that is to be made anew is ended first, and made once the broker
has answered: some brokers take a SUBSCRIBE behind it first, and then nothing retained comes.
"""

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from paho.mqtt.reasoncodes import ReasonCode

from device_agent.broker.connection import Connection, Sent
from device_agent.broker.identifiers import Identifiers, is_wild
from device_agent.broker.limits import Learned
from device_agent.broker.packets import Arrived
from device_agent.broker.session import KeptSession
from device_agent.broker.subscription import INPUT_AGAIN, Kind
from device_agent.broker.words import FAILURE
from ota.formats import topics
from ota.formats.topics import TOO_MANY_TOPICS

__all__ = ["Line", "Subscribing"]

DENIED_RETRY_S = 300.0  # between tries of a subscription that was denied
UNSUBACK_S, UNSUBACK_TRIES = 5.0, 12  # then a topic is asked for again without it; while anything comes, up to so many times that
UNSUBSCRIBE_S = 1.0  # a subscription that is no longer needed is ended with the next SUBSCRIBE, or after this long
logger = logging.getLogger(__name__)


class Line(Protocol):
    """What is needed of the link (device_agent.broker.link)."""

    @property
    def accepted_connection(self) -> Connection | None:
        """The one that the broker has accepted, while there is one."""

    @property
    def learned(self) -> Learned:
        """The limits that the broker has and does not announce."""

    def publish(self, topic: str, payload: bytes) -> "asyncio.Future[Sent]":
        """Sends at QoS 1; the future tells what became of it."""

    def granted(self, topic: str) -> None:
        """The broker has granted a subscription."""

    def keep_no_session(self, reason: str) -> None:
        """From the next connection on, which is made soon, the broker keeps none."""

    def later(self, delay_s: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls a function later, if this connection lasts."""


class Subscribing:
    """Knows what is wanted, what this connection was asked for, and what the broker answered."""

    def __init__(self, line: Line, marker: str, counters: Counter[str]) -> None:
        """`marker`: the topic on which the board sends itself messages, "" for none."""
        self._line, self._marker = line, marker
        self._loop = asyncio.get_running_loop()
        self._wanted: dict[str, Kind] = {marker: Kind.MARKER} if marker else {}
        self._covered: frozenset[str] | None = None  # inputs that a wider one brings; None where that is to be found out
        self._identifiers = Identifiers(counters)
        self._held: dict[str, Kind] = {}  # what this connection was asked for
        self._renewed: set[str] = set()  # to be asked for once more on this connection
        self._repeated: set[str] = set()  # inputs whose retained messages are to come once more
        self._ends: set[str] = set()  # of which the UNSUBACK has not come: rumqttd may take a SUBSCRIBE behind it first
        self._changing: asyncio.Handle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._retrying: asyncio.TimerHandle | None = None
        self._resumed = False  # whether the session had something of an earlier connection
        self.denied: dict[str, str] = {}  # why, by topic

    # -- what is wanted

    def subscribe(self, topic: str, kind: Kind) -> None:
        """Asks for a topic or filter now, if online, and on each connection."""
        if self._wanted.get(topic) is kind:
            return
        if topic in self._held:
            self._renewed.add(topic)  # its end was not sent yet: without it nothing retained would come
        self._wanted[topic] = kind
        self._covered = None
        self._change_soon()

    def unsubscribe(self, topic: str) -> None:
        """Ends a subscription."""
        kind = self._wanted.pop(topic, None)
        self.denied.pop(topic, None)
        self._covered = None
        if kind is not Kind.PART:
            self._change_soon()
        elif self._ending is None or self._ending.when() <= self._loop.time():
            self._ending = self._line.later(UNSUBSCRIBE_S, self._change_soon)

    def ask_again(self, wanted: Iterable[str]) -> None:
        """Ends subscriptions and begins them again, for their retained messages."""
        self._renewed.update(each for each in wanted if each in self._held and each in self._wanted)
        self._change_soon()

    def repeat(self, filter_: str) -> None:
        """Asks for the retained messages of an input once more, for a module that is new to it."""
        self._repeated.add(filter_)
        self._change_soon()

    # -- one connection after the other

    def go_on(self, session: KeptSession) -> None:
        """The broker has what an earlier agent has left there."""
        self._held = dict(session.subscriptions)
        self._identifiers.go_on(session.identifiers, session.last_identifier)

    @property
    def left(self) -> tuple[Mapping[str, Kind], Mapping[str, int], int]:
        """What the session at the broker may have: subscriptions, their identifiers, and the last one that was given."""
        held = dict.fromkeys(self._ends, Kind.PART) | self._held  # UNSUBSCRIBE may not have reached the broker
        return held, *self._identifiers.given

    def begin(self, *, session_present: bool) -> None:
        """A connection was accepted: ends what its session has of old windows, and asks for all that is wanted."""
        self.denied.clear()
        self._covered = None
        held = self.left[0].items() if session_present else ()
        self._ends.clear()
        stale = [each for each, kind in held if kind is not Kind.INPUT or not self._asked(each)]
        self._resumed = bool(stale)
        self._send_ends(stale)
        self._identifiers.begin(session_present=session_present)
        self._held.clear()
        self._renewed.clear()
        self._change()

    def end(self) -> None:
        """The connection has ended, and its timers with it."""
        self._ending = self._retrying = None

    # -- what comes

    def kind_of(self, topic: str) -> Kind:
        """What a message on a topic is; what nobody asked for by its name came by a filter of inputs."""
        return self._wanted.get(topic) or self._held.get(topic) or Kind.INPUT

    def takes(self, arrived: Arrived) -> bool:
        """Whether this copy of an input is the one to take."""
        return self._identifiers.takes(arrived)

    def subscribed(self, asked: list[str], codes: list[ReasonCode]) -> None:
        """Notes what was granted and denied. What may have been too much for one packet is asked for again in smaller ones."""
        many = any(code.value in TOO_MANY_TOPICS for code in codes)
        smaller = many and self._line.learned.too_many_topics(len(asked), self._loop.time())
        for topic, code in zip(asked, codes, strict=False):
            if smaller and code.value in TOO_MANY_TOPICS:
                self._held.pop(topic, None)
                self._change_soon()
            elif code.value < FAILURE:
                if self.denied.pop(topic, None):
                    logger.info("the broker grants the subscription to %s now", topic)
                    self._covered = None
                    self._change_soon()
                self._line.granted(topic)
            elif topic in self._wanted:
                self._note_denial(topic, str(code))
        if self.denied and (self._retrying is None or self._retrying.when() <= self._loop.time()):
            self._retrying = self._line.later(DENIED_RETRY_S, self._retry_denied)

    def unsubscribed(self, ended: list[str]) -> None:
        """Subscribes to what was only to be asked for again."""
        self._ends.difference_update(ended)
        if not self._wanted.keys().isdisjoint(ended):
            self._change_soon()

    def _note_denial(self, topic: str, why: str) -> None:
        if topic not in self.denied:
            logger.warning("the broker denies the subscription to %s: %s", topic, why)
        self.denied[topic] = why
        self._identifiers.drop(topic)
        if self._wanted[topic] is Kind.INPUT:
            self._covered = None
            self._change_soon()

    def _retry_denied(self) -> None:
        for each in self.denied:
            self._held.pop(each, None)
        self._change_soon()

    # -- what is sent

    def _change_soon(self) -> None:
        if self._changing is None and self._line.accepted_connection is not None:
            self._changing = self._loop.call_soon(self._change)

    def _change(self) -> None:
        """Sends what has changed, an UNSUBSCRIBE and a SUBSCRIBE packet for all of it together."""
        self._changing = None
        connection = self._line.accepted_connection
        if connection is None:
            return
        over = [each for each in self._held if not self._asked(each) or each in self._renewed]
        inputs = {each for each in over if self._held[each] is Kind.INPUT and each not in self._renewed}
        self._send_ends([each for each in over if each not in inputs])
        self._renewed.clear()
        wildcards = connection.limits.wildcards
        for each in [each for each in self._wanted if not wildcards and is_wild(each)]:
            self.denied[each] = "the broker has no wildcard subscriptions"
            self._covered = None
        new = [each for each in self._wanted if self._asked(each) and each not in self._held and each not in self._ends]
        new = [each for each in new if wildcards or not is_wild(each)]
        again = self._inputs_again()
        asked = [*new, *(each for each in again if each in self._held)]
        alone = self._identifiers.needed(asked, self._held) if connection.limits.identifiers else {}
        for group in [[each] for each in alone] + self._packets(connection, [each for each in asked if each not in alone]):
            options = [INPUT_AGAIN if each in again else self._wanted[each].value for each in group]
            connection.subscribe(list(zip(group, options, strict=True)), alone.get(group[0], 0))
            self._held.update((each, self._wanted[each]) for each in group)
        self._send_ends([each for each in self._held if each in inputs])  # last: a wider one may have taken its place

    def _inputs_again(self) -> set[str]:
        """The inputs whose retained messages are to come, though the broker may hold a subscription to them."""
        repeated, self._repeated = self._repeated, set()
        inputs = (each for each, kind in self._wanted.items() if kind is Kind.INPUT and repeated and self._asked(each))
        return {each for each in inputs if any(topics.covers(each, other) for other in repeated)}

    def _asked(self, topic: str) -> bool:
        """Whether a subscription is wanted, and not an input that a wider one brings: some brokers would send it twice."""
        if self._covered is None:
            self._covered = self._identifiers.arrange(self._wanted, self.denied)
        return topic in self._wanted and topic not in self._covered

    def _packets(self, connection: Connection, asked: list[str]) -> list[list[str]]:
        return connection.limits.packets(asked, self._line.learned.topics_a_packet(self._loop.time()))

    def _send_ends(self, ended: list[str]) -> None:
        connection = self._line.accepted_connection
        assert connection is not None, "what is ended was asked for on it, or by its session"
        for group in self._packets(connection, ended):
            connection.unsubscribe(group)
            self._ends.update(group)
            self._line.later(UNSUBACK_S, functools.partial(self._no_unsuback, group, connection.received_bytes))
            for each in group:
                self._held.pop(each, None)
                self._identifiers.drop(each)

    def _no_unsuback(
        self, ended: list[str], before: int, behind: "asyncio.Future[Sent] | None" = None, tries: int = UNSUBACK_TRIES
    ) -> None:
        """A broker that does not answer UNSUBSCRIBE on a kept session (rumqttd) gets a clean session from now on.

        On a slow link the answer comes after all that is under way, and before the answer to what was sent after it (`behind`).
        """
        connection = self._line.accepted_connection
        if self._ends.isdisjoint(ended) or connection is None:
            return
        received, passed = connection.received_bytes, behind is not None and behind.done()
        if tries and received > before and not passed:
            if behind is None and self._marker and self._marker not in self.denied:
                behind = self._line.publish(self._marker, b"")
            self._line.later(UNSUBACK_S, functools.partial(self._no_unsuback, ended, received, behind, tries - 1))
        elif self._resumed:
            self._line.keep_no_session("the broker does not answer UNSUBSCRIBE on a kept session: sessions are not kept any more")
        else:
            self.unsubscribed(ended)
