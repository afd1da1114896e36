"""The board's link to the broker: one connection after the other, what is subscribed on them, and what is wrong with them.

Nothing of an ended connection is sent again on the next: what must survive is kept by who sends it (the outbox, the latest report).
docs/reference/link.md describes the behaviour.
"""

import asyncio
import contextlib
import enum
import functools
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from device_agent.broker.backoff import Backoff, Ended
from device_agent.broker.connection import FAILURE, TOO_LARGE, Connection, Outgoing, Sent, Session
from device_agent.broker.limits import Learned, Limits
from device_agent.broker.retained import Handled
from device_agent.node.config import BrokerConfig
from ota.formats.topics import TOO_MANY_TOPICS

__all__ = ["Kind", "Link", "Sent"]

GOODBYE_S = 2.0
MARKER_S = 30.0  # until a message to ourselves must have arrived
DENIED_RETRY_S = 300.0  # between tries of a subscription that was denied
UNSUBACK_S = 5.0  # then a topic is asked for again without it
UNSUBSCRIBE_S = 1.0  # a subscription that is no longer needed is ended with the next SUBSCRIBE, or after this long
logger = logging.getLogger(__name__)


class Kind(enum.Enum):
    """What a subscription is for."""

    DOCUMENT = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
    # QoS 0: a part is named by its digest and asked for again on the next connection; a broker that keeps the session
    # would send QoS 1 messages of the old connection once more.
    PART = SubscribeOptions(qos=0, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
    INPUT = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
    MARKER = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)


class Link:
    """Connects for as long as it runs. `on_message` gets topic and payload of what comes in, `on_online` and `on_offline` what
    their names say. The broker keeps subscriptions and QoS 1 messages over short breaks, as long as `session_expiry_s` says.
    """

    def __init__(
        self,
        config: BrokerConfig,
        device: str,
        on_message: Callable[[str, bytes], None],
        on_online: Callable[[], None],
        on_offline: Callable[[], None],
        *,
        marker: str = "",
        counters: Counter[str] | None = None,
    ) -> None:
        """`marker` is a topic of this board's own, on which it sends itself messages to learn whether the broker delivers."""
        self._config, self._device = config, device
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_online, self._on_offline = on_message, on_online, on_offline
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._will: tuple[str, bytes] | None = None
        self._connection: Connection | None = None
        self._backoff = Backoff()
        self._learned = Learned()
        self._handled = Handled()
        self._marker = marker
        self._expected = b""  # the marker that is on its way
        self._echoed = asyncio.Event()
        self._wanted: dict[str, Kind] = {marker: Kind.MARKER} if marker else {}
        self._held: dict[str, Kind] = {}  # what this connection was asked for
        self._renewed: set[str] = set()  # to be asked for once more on this connection
        self._ends: set[str] = set()  # of which the UNSUBACK has not come: rumqttd may take a SUBSCRIBE behind it first
        self._changing: asyncio.Handle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._retrying: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._granted = self._progress = False
        self._denied: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._silent = False  # the broker granted a subscription and delivers nothing
        self._said = ""
        self._sessions = 0
        self._resumes, self._resumed = True, False
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
        if kind is Kind.INPUT:
            self._handled.forget(topic)
        self._wanted[topic] = kind
        self._change_soon()

    def unsubscribe(self, topic: str) -> None:
        """Ends a subscription."""
        kind = self._wanted.pop(topic, None)
        self._denied.pop(topic, None)
        if kind is not Kind.PART:
            self._change_soon()
        elif self._ending is None or self._ending.when() <= self._loop.time():
            self._ending = self._later(UNSUBSCRIBE_S, self._change_soon)

    def ask_again(self, wanted: Iterable[str]) -> None:
        """Ends subscriptions and begins them again, for their retained messages."""
        self._renewed.update(each for each in wanted if each in self._held and each in self._wanted)
        self._change_soon()

    def denied(self, topic: str) -> str:
        """Why the broker denies a subscription; empty when it does not."""
        return self._denied.get(topic, "")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> "asyncio.Future[Sent]":
        """Sends at QoS 1; the future tells what became of it."""
        future: asyncio.Future[Sent] = self._loop.create_future()
        if self._connection is None or not self.online:
            future.set_result(Sent.OFFLINE)
        elif len(payload) > self._connection.limits.payload_bytes(topic):
            self._note_refusal(topic, f"{len(payload)} bytes; the broker takes packets of {self.limits.packet_bytes}")
            future.set_result(Sent.TOO_LARGE)
        else:
            self._connection.publish(Outgoing(topic, payload, retain, future))
        return future

    @property
    def limits(self) -> Limits:
        """What the broker has announced on this connection; no limits while there is none."""
        return self._connection.limits if self._connection is not None else Limits()

    def room(self, topic: str) -> int:
        """How many bytes a batch for a topic may have: what the broker announces, or what it was seen to take."""
        return min(self.limits.payload_bytes(topic), self._learned.payload_bytes(self._loop.time()))

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

    async def say_goodbye(self, topic: str, payload: bytes) -> None:
        """A last retained message, then DISCONNECT; waits two seconds at most."""
        if not self.online or self._connection is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self.publish(topic, payload, retain=True)
        self._stopped = True
        if self._connection is not None:
            self._connection.close(for_good=True)
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
        # The first session of a process is clean: what an earlier process subscribed to is not known any more.
        expiry_s = self._config.session_expiry_s if self._resumes else 0
        session = Session(self._sessions == 0 or not expiry_s, expiry_s, self._will)
        connection = Connection(self._config, f"wamr-ota-{self._device}", session, self)
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
        size_bytes, topics = connection.largest_bytes, connection.unanswered_topics
        if (ended.closed or ended.packet_refused) and self._learned.too_many_topics(topics, self._loop.time()):
            logger.info("the broker closed the connection at a packet of %d topics: asking for fewer at a time", topics)
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
        for each in self._timers:
            each.cancel()
        self._timers.clear()
        self._ending = self._retrying = None
        if was_online:
            self._on_offline()

    def _say(self, ended: Ended) -> None:
        """A reason is logged when it is another than the last."""
        if ended.worked:
            self._said = ""
        if ended.reason != self._said:
            self._said = ended.reason
            logger.warning("broker %s: %s", self._config.url, ended.reason)

    # -- what the connection tells (device_agent.broker.connection.Listener)

    def accepted(self, limits: Limits, session_present: bool) -> None:
        """Subscribes to what is wanted; ends what a kept session holds of old windows, and requests the documents again."""
        assert self._connection is not None
        unusable = limits.unusable()
        if unusable:
            self._connection.end(unusable)
            return
        self.online = True
        self._sessions += 1
        self._denied.clear()
        self._refused.clear()
        self._ends.clear()
        self._resumed = False
        if session_present:
            stale = [each for each, kind in self._held.items() if kind is not Kind.INPUT or each not in self._wanted]
            self._resumed = bool(stale)
            self._send_ends(stale)
        self._held.clear()
        self._renewed.clear()
        self._change()
        self._on_online()

    def message(self, topic: str, payload: bytes, retained: bool) -> bool:
        """Gives a message on, unless it is the marker, or a retained input that was handled before."""
        kind = self._wanted.get(topic) or self._held.get(topic) or Kind.INPUT
        if topic == self._marker:
            if payload == self._expected:
                self._silent = False
                self._echoed.set()
            return False
        if kind is Kind.INPUT and self._handled.repeats(topic, payload, retained):
            self._counters["retained_repeats"] += 1
            return False
        self._on_message(topic, payload)
        self._progress = self._progress or kind is Kind.PART
        return kind is Kind.PART

    def subscribed(self, topics: list[str], codes: list[ReasonCode]) -> None:
        """Notes what was granted and denied. What may have been too much for one packet is asked for again in smaller ones."""
        many = any(code.value in TOO_MANY_TOPICS for code in codes)
        smaller = many and self._learned.too_many_topics(len(topics), self._loop.time())
        for topic, code in zip(topics, codes, strict=False):
            if smaller and code.value in TOO_MANY_TOPICS:
                self._held.pop(topic, None)
                self._change_soon()
            elif code.value < FAILURE:
                self._granted = True
                if self._denied.pop(topic, None):
                    logger.info("the broker grants the subscription to %s now", topic)
                if topic == self._marker and self._connection is not None and not self._echoed.is_set():
                    self._send_marker()
                    self._later(MARKER_S, self._judge_silence)
            elif topic in self._wanted:
                if topic not in self._denied:
                    logger.warning("the broker denies the subscription to %s: %s", topic, code)
                self._denied[topic] = str(code)
        if self._denied and (self._retrying is None or self._retrying.when() <= self._loop.time()):
            self._retrying = self._later(DENIED_RETRY_S, self._retry_denied)

    def unsubscribed(self, topics: list[str]) -> None:
        """Subscribes to what was only to be asked for again."""
        self._ends.difference_update(topics)
        if not self._wanted.keys().isdisjoint(topics):
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
        self._send_ends([each for each in self._held if each not in self._wanted or each in self._renewed])
        self._renewed.clear()
        wildcards = self._connection.limits.wildcards
        new = [each for each in self._wanted if each not in self._held and each not in self._ends]
        for each in [each for each in new if not wildcards and ("+" in each or "#" in each)]:
            new.remove(each)
            self._denied[each] = "the broker has no wildcard subscriptions"
        for group in self._packets(new):
            self._connection.subscribe([(each, self._wanted[each].value) for each in group])
            self._held.update((each, self._wanted[each]) for each in group)

    def _packets(self, topics: list[str]) -> list[list[str]]:
        return self.limits.packets(topics, self._learned.topics_a_packet(self._loop.time()))

    def _send_ends(self, ended: list[str]) -> None:
        assert self._connection is not None
        for group in self._packets(ended):
            self._connection.unsubscribe(group)
            self._ends.update(group)
            self._later(UNSUBACK_S, functools.partial(self._no_unsuback, group))
            for each in group:
                self._held.pop(each, None)

    def _no_unsuback(self, topics: list[str]) -> None:
        """A broker that does not answer UNSUBSCRIBE on a kept session (rumqttd) gets a clean session from now on."""
        if self._ends.isdisjoint(topics):
            return
        if self._resumed:
            self._resumes = False
            self.renew("the broker does not answer UNSUBSCRIBE on a kept session: sessions are not kept any more")
        else:
            self.unsubscribed(topics)

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
