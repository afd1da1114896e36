"""The board's link to the broker: one connection after the other, what is subscribed on them, and what is wrong with them.

Nothing of an ended connection is sent again on the next: what must survive is kept by who sends it (the outbox, the latest report).
docs/reference/link.md describes the behaviour.
"""

import asyncio
import contextlib
import functools
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from paho.mqtt.reasoncodes import ReasonCode

from device_agent.broker.backoff import Backoff, Ended
from device_agent.broker.connection import TOO_LARGE, Connection, Outgoing, Sent
from device_agent.broker.identifiers import Identifiers, is_wild
from device_agent.broker.limits import Learned, Limits
from device_agent.broker.packets import Arrived, UserProperties
from device_agent.broker.session import KeptSession
from device_agent.broker.settings import BrokerConfig, Session
from device_agent.broker.subscription import INPUT_AGAIN, Kind
from device_agent.broker.words import FAILURE
from ota.formats import topics
from ota.formats.topics import TOO_MANY_TOPICS

__all__ = ["Kind", "Link", "Sent"]

GOODBYE_S = 2.0
MARKER_S = 30.0  # until a message to ourselves must have arrived
DENIED_RETRY_S = 300.0  # between tries of a subscription that was denied
REASONS_SAID, REFUSED_TOPICS = 16, 100  # that are remembered
UNSUBACK_S, UNSUBACK_TRIES = 5.0, 12  # then a topic is asked for again without it; while anything comes, up to so many times that
UNSUBSCRIBE_S = 1.0  # a subscription that is no longer needed is ended with the next SUBSCRIBE, or after this long
logger = logging.getLogger(__name__)


class Link:
    """Connects for as long as it runs. `on_message` gets topic and payload of what is asked for by an exact topic, `on_input` what
    comes for modules, `on_online` and `on_offline` what their names say. The broker keeps subscriptions and QoS 1 messages over
    breaks and restarts, as long as `session_expiry_s` says.
    """

    def __init__(
        self,
        config: BrokerConfig,
        device: str,
        on_message: Callable[[str, bytes], None],
        on_online: Callable[[], None],
        on_offline: Callable[[], None],
        *,
        on_input: Callable[[Arrived], None] = lambda arrived: None,
        marker: str = "",
        counters: Counter[str] | None = None,
        client_id: str = "",
    ) -> None:
        """`marker` is a topic of this board's own, on which it sends itself messages to learn whether the broker delivers."""
        self._config, self._device = config, device
        self._client_id = client_id or topics.client_id(device)
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_input, self._on_online, self._on_offline = on_message, on_input, on_online, on_offline
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._will: tuple[str, bytes] | None = None
        self._connection: Connection | None = None
        self._backoff = Backoff()
        self._learned = Learned()
        self._marker, self._expected = marker, b""  # its topic, and the one that is on its way
        self._echoed = asyncio.Event()
        self._wanted: dict[str, Kind] = {marker: Kind.MARKER} if marker else {}
        self._covered: frozenset[str] | None = None  # inputs that a wider one brings; None where that is to be found out
        self._identifiers = Identifiers(self._counters)
        self._held: dict[str, Kind] = {}  # what this connection was asked for
        self._renewed: set[str] = set()  # to be asked for once more on this connection
        self._repeated: set[str] = set()  # inputs whose retained messages are to come once more
        self._ends: set[str] = set()  # of which the UNSUBACK has not come: rumqttd may take a SUBSCRIBE behind it first
        self._changing: asyncio.Handle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._retrying: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._granted = self._progress = False
        self._next: asyncio.Future[bool] | None = None  # whether the next connection works
        self._proving: asyncio.Future[bool] | None = None  # whether this one does
        self._denied: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._silent = False  # the broker granted a subscription and delivers nothing
        self._said: set[str] = set()  # reasons of lost connections, since one worked
        self._sessions, self._resumes, self._resumed = 0, True, False
        self._is_known = False  # whether the broker may have a session whose subscriptions are those in `_held`
        self._stopped = False
        self._part_bytes = 0  # of earlier connections
        self.online = False

    # -- what others use

    def set_will(self, topic: str, payload: bytes) -> None:
        """The retained message that the broker publishes when a connection breaks; from the next connection on."""
        self._will = (topic, payload)

    def subscribe(self, topic: str, kind: Kind = Kind.DOCUMENT) -> None:
        """Asks for a topic or filter now, if online, and on each connection. Those of one turn of the loop share a packet."""
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
        self._denied.pop(topic, None)
        self._covered = None
        if kind is not Kind.PART:
            self._change_soon()
        elif self._ending is None or self._ending.when() <= self._loop.time():
            self._ending = self._later(UNSUBSCRIBE_S, self._change_soon)

    def ask_again(self, wanted: Iterable[str]) -> None:
        """Ends subscriptions and begins them again, for their retained messages."""
        self._renewed.update(each for each in wanted if each in self._held and each in self._wanted)
        self._change_soon()

    def repeat(self, filter_: str) -> None:
        """Asks for the retained messages of an input once more, for a module that is new to it."""
        self._repeated.add(filter_)
        self._change_soon()

    def denied(self, topic: str) -> str:
        """Why the broker denies a subscription; empty when it does not."""
        return self._denied.get(topic, "")

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, properties: UserProperties | None = None
    ) -> "asyncio.Future[Sent]":
        """Sends at QoS 1; the future tells what became of it."""
        future: asyncio.Future[Sent] = self._loop.create_future()

        def settle(sent: Sent) -> None:
            if not future.done():  # who asked may wait no more
                future.set_result(sent)

        self._send(Outgoing(topic, payload, retain, settle, properties))
        return future

    def post(self, topic: str, payload: bytes, properties: UserProperties, settle: Callable[[Sent], None]) -> None:
        """Sends at QoS 1; `settle` is told what became of it, before this returns or later."""
        self._send(Outgoing(topic, payload, False, settle, properties))

    def _send(self, message: Outgoing) -> None:
        topic, size, properties = message.topic, len(message.payload), message.properties
        if self._connection is None or not self.online:
            message.settle(Sent.OFFLINE)
        elif size > self._connection.limits.payload_bytes(topic, properties.size_bytes if properties is not None else 1):
            self._note_refusal(topic, f"{size} bytes; the broker takes packets of {self.limits.packet_bytes}")
            message.settle(Sent.TOO_LARGE)
        else:
            self._connection.publish(message)

    @property
    def limits(self) -> Limits:
        """What the broker has announced on this connection; no limits while there is none."""
        return self._connection.limits if self._connection is not None else Limits()

    def room(self, topic: str) -> int:
        """How many bytes a batch for a topic may have: what the broker announces, or what it was seen to take."""
        return min(self.limits.payload_bytes(topic), self._learned.payload_bytes(self._loop.time()))

    @property
    def window(self) -> int:
        """How many messages may be unacknowledged on this connection."""
        return self._connection.window if self._connection is not None else 1

    @property
    def part_bytes(self) -> int:
        """Bytes that have arrived of parts of updates, whole or not, on all connections. Only differences mean something."""
        return self._part_bytes + (self._connection.part_bytes if self._connection is not None else 0)

    @property
    def sessions(self) -> int:
        """How many connections the broker has accepted."""
        return self._sessions

    async def answers(self, timeout_s: float) -> bool:
        """Whether a message to ourselves arrives in time: what waits behind a stalled window does not. False without a marker."""
        if not self._marker or self._marker in self._denied:
            return False
        self._send_marker()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._echoed.wait()
        return self._echoed.is_set()

    def nudge(self) -> None:
        """Sends an empty marker: mosquitto 2.0.11 may keep QoS 0 messages behind a full socket until the client's next packet."""
        if self._marker and self._marker not in self._denied:
            self.publish(self._marker, b"")

    def renew(self, reason: str) -> None:
        """Ends this connection; the next is made soon."""
        if self._connection is not None and self.online:
            self._connection.end(reason)

    def use(self, config: BrokerConfig, reason: str = "") -> "asyncio.Future[bool]":
        """Reaches the broker so from the next connection on; a reason ends this one. Tells whether the next one works."""
        self._config, self._next = config, self._loop.create_future()
        if reason:
            self.renew(reason)
        return self._next

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the link, for the report: "code: text" each."""
        found = []
        if self._connection is not None:
            self._backoff.lasts(self._connection.lasted_s)
        if self._backoff.contended:
            found.append("session-taken-over: another client connects with this board's name")
        if self._denied:
            found.append(f"subscription-denied: {', '.join(f'{topic} ({why})' for topic, why in sorted(self._denied.items()))}")
        if self._refused:
            found.append(f"publish-refused: {', '.join(f'{topic} ({why})' for topic, why in sorted(self._refused.items()))}")
        if self._silent:
            found.append("broker-silent: the broker granted a subscription and delivered nothing")
        return tuple(found)

    def go_on(self, session: KeptSession) -> None:
        """Takes up the session that an earlier agent has left, if it is for this broker and name. Before `run`."""
        if (session.broker, session.client_id) == (str(self._config.url), self._client_id):
            self._is_known, self._held = True, dict(session.subscriptions)
            self._identifiers.go_on(session.identifiers, session.last_identifier)

    @property
    def session(self) -> KeptSession | None:
        """What this agent leaves at the broker, None for nothing. After the last connection."""
        if not self._is_known or not self._resumes or not self._config.session_expiry_s:
            return None
        held = dict.fromkeys(self._ends, Kind.PART) | self._held  # UNSUBSCRIBE may not have reached the broker
        return KeptSession(str(self._config.url), self._client_id, held, *self._identifiers.given)

    async def say_goodbye(self, topic: str, payload: bytes) -> None:
        """A last retained message, then DISCONNECT; waits two seconds at most."""
        if not self.online or self._connection is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self.publish(topic, payload, retain=True)
        self._stopped = True
        if self._connection is not None:
            self._connection.close()
        await asyncio.sleep(0)  # lets the loop write it

    # -- one connection after the other

    async def run(self) -> None:
        """Connects, and connects again, until it is cancelled, which disconnects, or `say_goodbye` was called."""
        while True:
            contended = self._backoff.contended
            ended = await self._connect_once()
            if self._stopped:
                return
            delay_s = self._backoff.after(ended, self._loop.time())
            self._say(ended)
            if self._backoff.contended and not contended:
                logger.warning(
                    "another client connects with this board's name: are there two boards called %s? Connecting ever more slowly",
                    self._device,
                )
            await asyncio.sleep(delay_s)

    async def _connect_once(self) -> Ended:
        self._granted = self._progress = False
        self._proving, self._next = self._next, None
        expiry_s = self._config.session_expiry_s if self._resumes else 0
        session = Session(not self._is_known or not expiry_s, expiry_s, self._will)  # what is not known can't be ended
        connection = Connection(self._config, self._client_id, session, self)
        self._connection = connection
        try:
            await connection.open()
            ended = await connection.serve()
            ended = self._learn(ended, connection)
        except (OSError, ValueError) as error:
            return Ended(str(error) or type(error).__name__)
        finally:
            self._release(connection)
        unusable = connection.limits.unusable()
        if unusable:
            return Ended(unusable, unusable=True)
        return replace(ended, granted=self._granted, progress=self._progress)

    def _learn(self, ended: Ended, connection: Connection) -> Ended:
        """A connection that a packet of ours ended is no sign of another client with this board's name."""
        size_bytes, asked = connection.largest_bytes, connection.unanswered_topics
        if (ended.closed or ended.packet_refused) and self._learned.too_many_topics(asked, self._loop.time()):
            logger.info("the broker closed the connection at a packet of %d topics: asking for fewer at a time", asked)
            ended = replace(ended, closed=False)
        if ended.too_large and size_bytes:
            self._learned.too_large(size_bytes, self._loop.time())
        elif ended.closed and self._learned.closed(size_bytes, self._loop.time()):
            logger.info("the broker closed the connection at %d bytes: sending less at a time", size_bytes)
            return replace(ended, closed=False)
        return ended

    def _release(self, connection: Connection) -> None:
        self._part_bytes += connection.part_bytes
        was_online, self.online = self.online, False
        connection.close()
        self._connection = None
        self._judge(works=False)
        for each in self._timers:
            each.cancel()
        self._timers.clear()
        self._ending = self._retrying = None
        if was_online:
            self._on_offline()

    def _judge(self, *, works: bool) -> None:
        if self._proving is not None and not self._proving.done():
            self._proving.set_result(works)

    def _say(self, ended: Ended) -> None:
        """Each reason is logged once, also when two take turns, until a connection has worked."""
        if ended.worked or len(self._said) >= REASONS_SAID:
            self._said.clear()
        if ended.reason not in self._said:
            self._said.add(ended.reason)
            logger.warning("broker %s: %s", self._config.url, ended.reason)

    # -- what the connection tells (device_agent.broker.connection.Listener)

    def accepted(self, limits: Limits, session_present: bool) -> None:
        """Subscribes to what is wanted; ends what a kept session holds of old windows, and requests the documents again."""
        assert self._connection is not None
        unusable = limits.unusable()
        if unusable:
            self._connection.end(unusable)
            return
        self.online = self._is_known = True
        self._sessions += 1
        self._denied.clear()
        self._covered = None
        self._refused.clear()
        held = (dict.fromkeys(self._ends, Kind.PART) | self._held).items() if session_present else ()
        self._ends.clear()
        stale = [each for each, kind in held if kind is not Kind.INPUT or not self._asked(each)]
        self._resumed = bool(stale)
        self._send_ends(stale)
        self._identifiers.begin(session_present=session_present)
        self._held.clear()
        self._renewed.clear()
        self._change()
        self._on_online()

    def message(self, arrived: Arrived) -> bool:
        """Gives a message on, unless it is the marker."""
        topic, payload = arrived.topic, arrived.payload
        kind = self._wanted.get(topic) or self._held.get(topic) or Kind.INPUT
        if topic == self._marker:
            if payload == self._expected:
                self._silent = False
                self._echoed.set()
            return False
        if kind is Kind.INPUT:
            if self._identifiers.takes(arrived):
                self._on_input(arrived)
            return False
        self._on_message(topic, payload)
        self._progress = self._progress or kind is Kind.PART
        return kind is Kind.PART

    def subscribed(self, asked: list[str], codes: list[ReasonCode]) -> None:
        """Notes what was granted and denied. What may have been too much for one packet is asked for again in smaller ones."""
        many = any(code.value in TOO_MANY_TOPICS for code in codes)
        smaller = many and self._learned.too_many_topics(len(asked), self._loop.time())
        for topic, code in zip(asked, codes, strict=False):
            if smaller and code.value in TOO_MANY_TOPICS:
                self._held.pop(topic, None)
                self._change_soon()
            elif code.value < FAILURE:
                self._granted = True
                self._judge(works=True)
                if self._denied.pop(topic, None):
                    logger.info("the broker grants the subscription to %s now", topic)
                    self._covered = None
                    self._change_soon()
                if topic == self._marker and self._connection is not None and not self._echoed.is_set():
                    self._send_marker()
                    self._later(MARKER_S, self._judge_silence)
            elif topic in self._wanted:
                if topic not in self._denied:
                    logger.warning("the broker denies the subscription to %s: %s", topic, code)
                self._denied[topic] = str(code)
                self._identifiers.drop(topic)
                if self._wanted[topic] is Kind.INPUT:
                    self._covered = None
                    self._change_soon()
        if self._denied and (self._retrying is None or self._retrying.when() <= self._loop.time()):
            self._retrying = self._later(DENIED_RETRY_S, self._retry_denied)

    def unsubscribed(self, ended: list[str]) -> None:
        """Subscribes to what was only to be asked for again."""
        self._ends.difference_update(ended)
        if not self._wanted.keys().isdisjoint(ended):
            self._change_soon()

    def refused(self, topic: str, size_bytes: int, code: ReasonCode) -> None:
        """Notes what the broker did not take."""
        if code.value == TOO_LARGE:
            self._learned.too_large(size_bytes, self._loop.time())
        self._note_refusal(topic, f"{code} ({size_bytes} bytes)" if code.value == TOO_LARGE else str(code))

    def acknowledged(self, topic: str) -> None:
        """Forgets an earlier refusal."""
        if self._refused.pop(topic, None):
            logger.info("the broker takes messages for %s now", topic)

    def _note_refusal(self, topic: str, why: str) -> None:
        if topic not in self._refused:
            logger.warning("the broker does not take messages for %s: %s", topic, why)
        if topic in self._refused or len(self._refused) < REFUSED_TOPICS:
            self._refused[topic] = why
        self._counters["publishes_refused"] += 1

    # -- subscriptions

    def _change_soon(self) -> None:
        if self._changing is None and self.online:
            self._changing = self._loop.call_soon(self._change)

    def _change(self) -> None:
        """Sends what has changed, an UNSUBSCRIBE and a SUBSCRIBE packet for all of it together."""
        self._changing = None
        if self._connection is None or not self.online:
            return
        over = [each for each in self._held if not self._asked(each) or each in self._renewed]
        inputs = {each for each in over if self._held[each] is Kind.INPUT and each not in self._renewed}
        self._send_ends([each for each in over if each not in inputs])
        self._renewed.clear()
        wildcards = self._connection.limits.wildcards
        for each in [each for each in self._wanted if not wildcards and is_wild(each)]:
            self._denied[each] = "the broker has no wildcard subscriptions"
            self._covered = None
        new = [each for each in self._wanted if self._asked(each) and each not in self._held and each not in self._ends]
        new = [each for each in new if wildcards or not is_wild(each)]
        again = self._inputs_again()
        asked = [*new, *(each for each in again if each in self._held)]
        alone = self._identifiers.needed(asked, self._held) if self._connection.limits.identifiers else {}
        for group in [[each] for each in alone] + self._packets([each for each in asked if each not in alone]):
            options = [INPUT_AGAIN if each in again else self._wanted[each].value for each in group]
            self._connection.subscribe(list(zip(group, options, strict=True)), alone.get(group[0], 0))
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
            self._covered = self._identifiers.arrange(self._wanted, self._denied)
        return topic in self._wanted and topic not in self._covered

    def _packets(self, asked: list[str]) -> list[list[str]]:
        return self.limits.packets(asked, self._learned.topics_a_packet(self._loop.time()))

    def _send_ends(self, ended: list[str]) -> None:
        assert self._connection is not None
        for group in self._packets(ended):
            self._connection.unsubscribe(group)
            self._ends.update(group)
            self._later(UNSUBACK_S, functools.partial(self._no_unsuback, group, self._connection.received_bytes))
            for each in group:
                self._held.pop(each, None)
                self._identifiers.drop(each)

    def _no_unsuback(
        self, ended: list[str], before: int, behind: "asyncio.Future[Sent] | None" = None, tries: int = UNSUBACK_TRIES
    ) -> None:
        """A broker that does not answer UNSUBSCRIBE on a kept session (rumqttd) gets a clean session from now on.

        On a slow link the answer comes after all that is under way, and before the answer to what was sent after it (`behind`).
        """
        if self._ends.isdisjoint(ended) or self._connection is None:
            return
        received, passed = self._connection.received_bytes, behind is not None and behind.done()
        if tries and received > before and not passed:
            if behind is None and self._marker and self._marker not in self._denied:
                behind = self.publish(self._marker, b"")
            self._later(UNSUBACK_S, functools.partial(self._no_unsuback, ended, received, behind, tries - 1))
        elif self._resumed:
            self._resumes = False
            self.renew("the broker does not answer UNSUBSCRIBE on a kept session: sessions are not kept any more")
        else:
            self.unsubscribed(ended)

    def _retry_denied(self) -> None:
        for each in self._denied:
            self._held.pop(each, None)
        self._change_soon()

    # -- the marker

    def _send_marker(self) -> None:
        self._echoed.clear()
        self._expected = secrets.token_bytes(8)
        self.publish(self._marker, self._expected)

    def _judge_silence(self) -> None:
        if not self._echoed.is_set() and not self._silent:
            self._silent = True
            logger.warning("the broker granted a subscription to %s and delivers nothing: may this board read it?", self._marker)

    def _later(self, delay_s: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls a function later, if this connection lasts."""
        self._timers = [each for each in self._timers if each.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(delay_s, function))
        return self._timers[-1]
