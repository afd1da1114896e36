"""The board's link to the broker: one connection after the other, what is subscribed on them, and what is wrong with them.

Nothing of an ended connection is sent again on the next: what must survive is kept by who sends it (the outbox, the latest report).
docs/reference/link.md describes the behaviour.
"""

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from paho.mqtt.reasoncodes import ReasonCode

from device_agent.broker.backoff import Backoff, Ended
from device_agent.broker.connection import TOO_LARGE, Connection, Outgoing, Sent
from device_agent.broker.limits import Learned, Limits
from device_agent.broker.packets import Arrived, UserProperties
from device_agent.broker.session import KeptSession
from device_agent.broker.settings import BrokerConfig, Session
from device_agent.broker.subscribing import Subscribing
from device_agent.broker.subscription import Kind
from ota.formats import topics

__all__ = ["Kind", "Link", "Sent"]

GOODBYE_S = 2.0
MARKER_S = 30.0  # until a message to ourselves must have arrived
REASONS_SAID, REFUSED_TOPICS = 16, 100  # that are remembered
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
        self.learned = Learned()  # of limits that the broker has and does not announce
        self._marker, self._expected = marker, b""  # its topic, and the one that is on its way
        self._echoed = asyncio.Event()
        self._subscribing = Subscribing(self, marker, self._counters)
        self._timers: list[asyncio.TimerHandle] = []
        self._granted = self._progress = False
        self._next: asyncio.Future[bool] | None = None  # whether the next connection works
        self._proving: asyncio.Future[bool] | None = None  # whether this one does
        self._refused: dict[str, str] = {}
        self._silent = False  # the broker granted a subscription and delivers nothing
        self._said: set[str] = set()  # reasons of lost connections, since one worked
        self._sessions, self._resumes = 0, True
        self._is_known = False  # whether the broker may have a session whose subscriptions are known
        self._stopped = False
        self._part_bytes = 0  # of earlier connections
        self.online = False

    # -- what others use

    def set_will(self, topic: str, payload: bytes) -> None:
        """The retained message that the broker publishes when a connection breaks; from the next connection on."""
        self._will = (topic, payload)

    def subscribe(self, topic: str, kind: Kind = Kind.DOCUMENT) -> None:
        """Asks for a topic or filter now, if online, and on each connection. Those of one turn of the loop share a packet."""
        self._subscribing.subscribe(topic, kind)

    def unsubscribe(self, topic: str) -> None:
        """Ends a subscription."""
        self._subscribing.unsubscribe(topic)

    def ask_again(self, wanted: Iterable[str]) -> None:
        """Ends subscriptions and begins them again, for their retained messages."""
        self._subscribing.ask_again(wanted)

    def repeat(self, filter_: str) -> None:
        """Asks for the retained messages of an input once more, for a module that is new to it."""
        self._subscribing.repeat(filter_)

    def denied(self, topic: str) -> str:
        """Why the broker denies a subscription; empty when it does not."""
        return self._subscribing.denied.get(topic, "")

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
        return min(self.limits.payload_bytes(topic), self.learned.payload_bytes(self._loop.time()))

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
        if not self._marker or self.denied(self._marker):
            return False
        self._send_marker()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._echoed.wait()
        return self._echoed.is_set()

    def nudge(self) -> None:
        """Sends an empty marker: mosquitto 2.0.11 may keep QoS 0 messages behind a full socket until the client's next packet."""
        if self._marker and not self.denied(self._marker):
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
        if denied := self._subscribing.denied:
            found.append(f"subscription-denied: {', '.join(f'{topic} ({why})' for topic, why in sorted(denied.items()))}")
        if self._refused:
            found.append(f"publish-refused: {', '.join(f'{topic} ({why})' for topic, why in sorted(self._refused.items()))}")
        if self._silent:
            found.append("broker-silent: the broker granted a subscription and delivered nothing")
        return tuple(found)

    def go_on(self, session: KeptSession) -> None:
        """Takes up the session that an earlier agent has left, if it is for this broker and name. Before `run`."""
        if (session.broker, session.client_id) == (str(self._config.url), self._client_id):
            self._is_known = True
            self._subscribing.go_on(session)

    @property
    def session(self) -> KeptSession | None:
        """What this agent leaves at the broker, None for nothing. After the last connection."""
        if not self._is_known or not self._resumes or not self._config.session_expiry_s:
            return None
        return KeptSession(str(self._config.url), self._client_id, *self._subscribing.left)

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
        if (ended.closed or ended.packet_refused) and self.learned.too_many_topics(asked, self._loop.time()):
            logger.info("the broker closed the connection at a packet of %d topics: asking for fewer at a time", asked)
            ended = replace(ended, closed=False)
        if ended.too_large and size_bytes:
            self.learned.too_large(size_bytes, self._loop.time())
        elif ended.closed and self.learned.closed(size_bytes, self._loop.time()):
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
        self._subscribing.end()
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
        self._refused.clear()
        self._subscribing.begin(session_present=session_present)
        self._on_online()

    def message(self, arrived: Arrived) -> bool:
        """Gives a message on, unless it is the marker."""
        topic, payload = arrived.topic, arrived.payload
        kind = self._subscribing.kind_of(topic)
        if topic == self._marker:
            if payload == self._expected:
                self._silent = False
                self._echoed.set()
            return False
        if kind is Kind.INPUT:
            if self._subscribing.takes(arrived):
                self._on_input(arrived)
            return False
        self._on_message(topic, payload)
        self._progress = self._progress or kind is Kind.PART
        return kind is Kind.PART

    def subscribed(self, asked: list[str], codes: list[ReasonCode]) -> None:
        """The broker has answered a SUBSCRIBE packet."""
        self._subscribing.subscribed(asked, codes)

    def unsubscribed(self, ended: list[str]) -> None:
        """The broker has answered an UNSUBSCRIBE packet."""
        self._subscribing.unsubscribed(ended)

    def refused(self, topic: str, size_bytes: int, code: ReasonCode) -> None:
        """Notes what the broker did not take."""
        if code.value == TOO_LARGE:
            self.learned.too_large(size_bytes, self._loop.time())
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

    # -- what subscriptions need (device_agent.broker.subscribing.Line)

    @property
    def accepted_connection(self) -> Connection | None:
        """The one that the broker has accepted, while there is one."""
        return self._connection if self.online else None

    def granted(self, topic: str) -> None:
        """The connection does what it is for; the first time, whether it also delivers is to be seen."""
        self._granted = True
        self._judge(works=True)
        if topic == self._marker and self._connection is not None and not self._echoed.is_set():
            self._send_marker()
            self.later(MARKER_S, self._judge_silence)

    def keep_no_session(self, reason: str) -> None:
        """From the next connection on, which is made soon, the broker keeps none."""
        self._resumes = False
        self.renew(reason)

    # -- the marker

    def _send_marker(self) -> None:
        self._echoed.clear()
        self._expected = secrets.token_bytes(8)
        self.publish(self._marker, self._expected)

    def _judge_silence(self) -> None:
        if not self._echoed.is_set() and not self._silent:
            self._silent = True
            logger.warning("the broker granted a subscription to %s and delivers nothing: may this board read it?", self._marker)

    def later(self, delay_s: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls a function later, if this connection lasts."""
        self._timers = [each for each in self._timers if each.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(delay_s, function))
        return self._timers[-1]
