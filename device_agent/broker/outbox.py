"""Messages of modules on their way to the broker: out of the store, each forgotten once the broker has acknowledged it.

Those of an instance are sent in order. Instances take turns, so that one that has many waiting keeps no other waiting. `Outbox`
sends each as an MQTT message of its own, several at a time. `Batches` sends many in one packet, all in order, for thin links.
"""

import asyncio
import contextlib
import functools
import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from device_agent.broker.connection import Sent
from device_agent.broker.identity import IdentityError
from device_agent.broker.limits import SUSPECT_BYTES
from device_agent.broker.packets import BOARD, UserProperties
from device_agent.storage.store import Store
from ota.formats.report import BATCH_BYTES, BATCH_LIMIT_BYTES, Message
from ota.formats.signed_report import OVERHEAD_BYTES

BATCH_MESSAGES = 200
READ_AHEAD = 64  # messages that are read from the store at once
AHEAD, AHEAD_BYTES = 256, 1 << 20  # of messages in memory that are to be sent, just written ones too
WINDOW_BYTES = 256 << 10  # of messages that are not acknowledged, and one more
RETRY_S, REFUSED_MAX_S = 2.0, 300.0
ALONE_TRIES = 5  # a message that is larger, and at which the broker closes the connection this often, is dropped
SMALL_TRIES = 20  # and one that is not
DENIED_TRIES = 5  # a message that the broker says must not be sent is dropped after this many
TOPICS_SAID = 100
_MESSAGE_BYTES = 48  # of CBOR around a message's texts, at most
logger = logging.getLogger(__name__)


class Line(Protocol):
    """What is needed of the link."""

    @property
    def online(self) -> bool:
        """Whether there is a connection."""

    @property
    def window(self) -> int:
        """How many messages may be unacknowledged."""

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, properties: UserProperties | None = None
    ) -> "asyncio.Future[Sent]":
        """Sends at QoS 1; the future tells what became of it."""

    def post(self, topic: str, payload: bytes, properties: UserProperties, settle: Callable[[Sent], None]) -> None:
        """Sends at QoS 1; `settle` is told what became of it, before this returns or later."""

    def room(self, topic: str) -> int:
        """How many bytes a batch for a topic may have."""


@dataclass(slots=True)
class _Flight:
    """A message that was sent, and what became of it; None while that is not known."""

    message: Message
    size_bytes: int
    sent: Sent | None = None


class Delivery(ABC):
    """What both ways of sending have in common: what was sent is forgotten, and what can't be sent is dropped and counted."""

    def __init__(
        self,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        link: Line,
        forget: Callable[[Mapping[str, int]], None],
        counters: Counter[str],
    ) -> None:
        """`forget`: the messages of an instance up to a number are not needed any more."""
        self._store, self._on_writer, self._link, self._forget, self._counters = store, on_writer, link, forget, counters
        self._gone: dict[str, int] = {}  # number up to which those of an instance were delivered or dropped
        self._wake, self._online = asyncio.Event(), asyncio.Event()
        self._retry_s = RETRY_S
        self._closed = 0  # times in turn that the broker closed the connection at the message that is first now
        self._said: set[str] = set()  # topics for which it was said that a message was dropped

    def poke(self) -> None:
        """The link is up again."""
        self._online.set()
        self.written()

    def written(self, messages: Sequence[Message] = ()) -> None:
        """There are new messages in the store: these, all that are newer than those before, or unknown ones."""
        self._wake.set()

    @abstractmethod
    async def deliver(self) -> None:
        """The task that sends."""

    def _delivered(self, messages: Sequence[Message]) -> None:
        last = {each.instance: each.number for each in messages}
        self._retry_s, self._closed = RETRY_S, 0
        self._counters["messages_delivered"] += len(messages)
        self._gone.update(last)
        self._forget(last)

    def _drop(self, message: Message, counter: str, why: str) -> None:
        """Drops the oldest message, which can't be sent; said once for a topic, counted each time."""
        if message.topic not in self._said and len(self._said) < TOPICS_SAID:
            self._said.add(message.topic)
            logger.error("a message of %d bytes for %s %s", len(message.payload), message.topic, why)
        self._counters[counter] += 1
        self._counters["messages_dropped"] += 1
        self._gone[message.instance], self._closed = message.number, 0
        self._forget({message.instance: message.number})

    async def _until_worth_trying(self, sent: Sent) -> None:
        """Waits after a failure: for a connection where there is none, else for a while, ever longer when the broker refuses."""
        if not self._link.online:
            self._online.clear()
            await self._online.wait()
            return
        self._online.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._retry_s):  # not wait_for, see device_agent.broker.connection
                await self._online.wait()
        refused = sent in (Sent.REFUSED, Sent.DENIED)
        self._retry_s = min(2 * self._retry_s, REFUSED_MAX_S) if refused else RETRY_S


class Outbox(Delivery):
    """One PUBLISH for each message. `device` is this board's name, `topic_of` tells the broker's topic of a message of a module."""

    def __init__(
        self,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        link: Line,
        forget: Callable[[Mapping[str, int]], None],
        counters: Counter[str],
        device: str,
        topic_of: Callable[[Message], str | None],
        response_of: Callable[[Message], str] = lambda message: "",
    ) -> None:
        """`response_of`: the broker's topic on which an answer to a message is waited for, "" for none."""
        super().__init__(store, on_writer, link, forget, counters)
        self._device, self._topic_of, self._response_of = device, topic_of, response_of
        self._source, self._of_source = ("", ""), b""  # instance and module of the last message, and the properties that say so
        self._ahead: deque[Message] = deque()
        self._ahead_bytes = 0
        self._more = True  # whether the store may have messages behind those
        self._reading = False
        self._read: dict[str, int] = {}  # number of the last message of an instance that was sent
        self._flying: deque[_Flight] = deque()
        self._flying_bytes = 0
        self._early: set[int] = set()  # acknowledged before one that is older
        self._alone: set[int] = set()  # messages that are sent one by one: one of them made the broker close the connection
        self._denials = 0  # of the message that is first now
        self._denied: set[str] = set()  # topics of messages that were dropped because the broker says that they must not be sent

    def written(self, messages: Sequence[Message] = ()) -> None:
        """There are new messages in the store. They need not be read again where they are the next ones, and there is room."""
        size = sum(map(_size, messages))
        if not messages:  # some of those in memory may be gone
            self._ahead.clear()
            self._ahead_bytes = 0
        full = len(self._ahead) + len(messages) > AHEAD or self._ahead_bytes + size > AHEAD_BYTES
        if self._more or self._reading or full or not messages:
            self._more = True
        else:
            self._ahead.extend(messages)
            self._ahead_bytes += size
        super().written()

    async def deliver(self) -> None:
        """The task that sends, several at a time, and forgets in order."""
        while True:
            self._wake.clear()
            failed = self._take_acknowledged()
            if failed is not None:
                await self._recover(*failed)
                continue
            await self._fill_window()
            await self._wake.wait()

    def _take_acknowledged(self) -> tuple[Message, Sent] | None:
        """Forgets what was acknowledged, in order; returns the first message that failed."""
        done, failed = list[Message](), None
        while self._flying and (sent := self._flying[0].sent) is not None:
            message = self._flying[0].message
            if sent is not Sent.ACKNOWLEDGED:
                failed = message, sent
                break
            self._flying_bytes -= self._flying.popleft().size_bytes
            self._early.discard(message.number)
            self._alone.discard(message.number)
            self._denied.discard(message.topic)
            done.append(message)
        if done:
            self._denials = 0
            self._delivered(done)
        return failed

    async def _fill_window(self) -> None:
        while self._link.online and self._flying_bytes < WINDOW_BYTES:
            if not self._ahead:
                if not self._more:
                    return
                await self._read_ahead()
                continue
            if len(self._flying) >= (1 if self._is_suspected() else self._link.window):
                return
            self._send(self._ahead.popleft())

    def _is_suspected(self) -> bool:
        """Whether one of those in flight, or the next, is to be alone."""
        next_ones = (self._ahead[0], *(each.message for each in self._flying))
        return bool(self._alone) and any(each.number in self._alone for each in next_ones)

    async def _read_ahead(self) -> None:
        self._more, self._reading = False, True
        try:
            found: list[Message] = await self._on_writer(self._store.outbox_by_turns, dict(self._read), READ_AHEAD)
        finally:
            self._reading = False
        self._more = self._more or bool(found)
        self._ahead.extend(found)
        self._ahead_bytes = sum(map(_size, found))

    def _send(self, message: Message) -> None:
        self._read[message.instance] = message.number
        size = _size(message)
        self._ahead_bytes -= size
        flight = _Flight(message, size)
        self._flying.append(flight)
        self._flying_bytes += size
        topic = self._topic_of(message)
        if message.number in self._early or topic is None:
            flight.sent = Sent.ACKNOWLEDGED if topic is not None else Sent.DENIED
            self._wake.set()
        else:
            self._link.post(topic, message.payload, self._properties(message), functools.partial(self._settle, flight))

    def _settle(self, flight: _Flight, sent: Sent) -> None:
        flight.sent = sent
        self._wake.set()

    def _properties(self, message: Message) -> UserProperties:
        source = message.instance, message.module
        if source != self._source:
            self._source = source
            pairs = (BOARD, self._device), ("instance", message.instance), ("module", message.module)
            self._of_source = UserProperties.encoded(*pairs)
        response = self._response_of(message) if message.reply_to else ""
        return UserProperties(self._of_source + UserProperties.numbered(message.number, message.time_s), response)

    async def _recover(self, message: Message, sent: Sent) -> None:
        """After a failure: those in flight behind it come to their ends, then all that were not acknowledged are sent again."""
        behind = list(self._flying)[1:]
        while any(each.sent is None for each in behind):
            self._wake.clear()
            await self._wake.wait()
        self._early.update(each.message.number for each in behind if each.sent is Sent.ACKNOWLEDGED)
        self._flying.clear()
        self._ahead.clear()
        self._flying_bytes, self._ahead_bytes, self._read, self._more = 0, 0, dict(self._gone), True
        if sent is Sent.CLOSED and behind:  # which of them was it?
            self._alone = {message.number, *(each.message.number for each in behind)}
        if self._is_hopeless(message, sent, alone=not behind):
            self._read = dict(self._gone)
            return
        await self._until_worth_trying(sent)

    def _is_hopeless(self, message: Message, sent: Sent, *, alone: bool) -> bool:
        """Drops a message that the broker will never take."""
        if sent is Sent.TOO_LARGE:
            self._drop(message, "messages_too_large", "is too large and dropped: the broker says so")
            return True
        self._denials += sent is Sent.DENIED
        self._closed += sent is Sent.CLOSED and alone
        large = _size(message) > SUSPECT_BYTES
        if self._closed >= (ALONE_TRIES if large else SMALL_TRIES):
            why = f"dropped: the broker closed the connection {self._closed} times when it came"
            self._drop(
                message, "messages_too_large" if large else "messages_denied", f"is {'too large and ' if large else ''}{why}"
            )
            return True
        known = message.topic in self._denied or self._topic_of(message) is None
        if sent is Sent.DENIED and (known or self._denials >= DENIED_TRIES):
            if len(self._denied) < TOPICS_SAID:
                self._denied.add(message.topic)
            self._denials = 0
            self._drop(message, "messages_denied", "is dropped: this board may not write there")
            return True
        return False


class Batches(Delivery):
    """Many messages in one packet on a topic of ours, as a list in CBOR, signed by `encode`."""

    def __init__(
        self,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        link: Line,
        forget: Callable[[Mapping[str, int]], None],
        counters: Counter[str],
        topic: str,
        encode: Callable[[list[Message]], Awaitable[bytes]],
    ) -> None:
        super().__init__(store, on_writer, link, forget, counters)
        self._topic, self._encode = topic, encode
        self._last = 0  # number up to which all were delivered or dropped

    async def deliver(self) -> None:
        """The task that sends one batch after the other."""
        while True:
            self._wake.clear()
            found: list[Message] = await self._on_writer(self._store.outbox, self._last, BATCH_MESSAGES)
            room = min(BATCH_LIMIT_BYTES, self._link.room(self._topic) - OVERHEAD_BYTES) - BATCH_BYTES
            batch = _within(found, room)
            if not batch:
                await self._wake.wait()
                continue
            try:
                sent = await self._link.publish(self._topic, await self._encode(batch))
            except IdentityError:  # the token with the board's key does not sign now, and has said so
                sent = Sent.LOST
            if sent is Sent.ACKNOWLEDGED:
                self._last = batch[-1].number
                self._delivered(batch)
            elif sent is Sent.TOO_LARGE and len(batch) > 1:
                continue  # there is less room now
            elif not self._is_unfit(sent, batch):
                await self._until_worth_trying(sent)

    def _is_unfit(self, sent: Sent, batch: list[Message]) -> bool:
        """Drops a message that the broker does not take at any size of batch."""
        suspect = sent is Sent.CLOSED and len(batch) == 1 and _size(batch[0]) > SUSPECT_BYTES
        self._closed = self._closed + 1 if suspect else 0
        if len(batch) == 1 and (sent is Sent.TOO_LARGE or self._closed >= ALONE_TRIES):
            closed = f"the broker closed the connection {self._closed} times when it came"
            self._last = batch[0].number
            self._drop(
                batch[0], "messages_too_large", f"is too large and dropped: {closed if self._closed else 'the broker says so'}"
            )
            return True
        return False


def _size(message: Message) -> int:
    """The most bytes that a message can have in a batch."""
    return _MESSAGE_BYTES + len(message.payload) + len(f"{message.topic}{message.instance}{message.module}".encode())


def _within(batch: list[Message], room: int) -> list[Message]:
    """As many of the first messages as fit, and one at least."""
    for count, message in enumerate(batch):
        room -= _size(message)
        if room < 0 and count:
            return batch[:count]
    return batch
