"""Messages of modules for the broker: kept on disk, in order, until they are acknowledged; the oldest are dropped when full."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from device_agent.broker.connection import Sent
from device_agent.broker.limits import SUSPECT_BYTES
from device_agent.channel.frames import Done, KeyWrite
from device_agent.channel.workers import ModuleSpec
from device_agent.storage.store import Added, Store, Version
from ota.formats.reasons import Refused
from ota.formats.report import BATCH_LIMIT_BYTES, Message, encode_messages

BATCH_MESSAGES = 200
HELD_EVENTS, HELD_BYTES = 5000, 8 << 20  # in memory, until they are written
RETRY_S, REFUSED_MAX_S = 2.0, 300.0
ALONE_TRIES = 5  # a message that is larger, and at which the broker closes the connection this often, is dropped
TOPICS_SAID = 100
_MESSAGE_BYTES = 48  # of CBOR around a message's texts, at most
Outcome = tuple[Version, list[KeyWrite], list[Message]]
logger = logging.getLogger(__name__)


class Outbox:
    """Writes outcomes of events to the store, many in one transaction, and sends what is there whenever it can."""

    def __init__(
        self,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        send: Callable[[bytes], Awaitable[Sent]],
        room: Callable[[], int],
        counters: Counter[str],
        limit: int,
        limit_bytes: int,
    ) -> None:
        """`send` publishes a batch; `room` tells how many bytes the broker allows it; `limit` is how many messages are kept, with
        `limit_bytes` at most.
        """
        self._store, self._on_writer, self._send, self._room = store, on_writer, send, room
        self._counters = counters
        self._limit, self._limit_bytes = limit, limit_bytes
        self._fresh: list[Outcome] = []
        self._fresh_bytes = 0
        self._full = False
        self._written = asyncio.Event()
        self._wake = asyncio.Event()
        self._online = asyncio.Event()
        self._closed = 0  # times in turn that the broker closed the connection at the message that is first now
        self._too_large: set[str] = set()  # topics for which it was said

    async def add(self, spec: ModuleSpec, done: Done) -> None:
        """Takes what a handled event asks for; it is durable within one write of the disk, and sent after that."""
        if not done.messages and not done.writes:
            return
        now = time.time()
        messages = [Message(0, now, spec.label, topic, payload) for topic, payload in done.messages]
        self._counters["messages"] += len(messages)
        outcome = Version(spec.description.name, spec.manifest), list(done.writes), messages
        self._fresh.append(outcome)
        self._fresh_bytes += _outcome_size(outcome)
        if len(self._fresh) > HELD_EVENTS or self._fresh_bytes > HELD_BYTES:
            self._hold(self._fresh)
        self._wake.set()

    def poke(self) -> None:
        """The link is up again."""
        self._online.set()
        self._written.set()

    async def flush(self) -> bool:
        """Writes what is waiting to be written; False when the disk has no room for it."""
        batch, self._fresh, self._fresh_bytes = self._fresh, [], 0
        if not batch:
            return True
        try:
            added: Added = await self._on_writer(self._store.add_outcomes, batch, self._limit, self._limit_bytes)
            self._count_dropped(added.dropped, added.dropped_bytes)
        except Refused as error:
            self._hold(batch + self._fresh)
            if not self._full:
                logger.error("results wait in memory: %s", error)
            self._full = True
            return False
        self._full = False
        self._written.set()
        return True

    def _hold(self, outcomes: list[Outcome]) -> None:
        """Keeps outcomes in memory until they are written; when there is no room the oldest lose their messages.

        Of their key writes the last of each key stays: a module would go on with keys that never were together.
        """
        size, gone, writes = sum(map(_outcome_size, outcomes)), 0, _LastWrites()
        while gone < len(outcomes) and (len(outcomes) - gone > HELD_EVENTS or size + writes.size > HELD_BYTES):
            version, of_keys, messages = outcomes[gone]
            writes.add(version, of_keys)
            size -= _outcome_size(outcomes[gone])
            self._count_dropped(len(messages), sum(map(_size, messages)))
            gone += 1
        lost = writes.drop_down_to(HELD_BYTES)
        if lost:
            logger.error("%d key writes are lost: there is no room for them in memory", lost)
            self._counters["key_writes_dropped"] += lost
        self._fresh, self._fresh_bytes = writes.outcomes() + outcomes[gone:], size + writes.size

    def _count_dropped(self, messages: int, size_bytes: int) -> None:
        if messages or size_bytes:
            self._counters["messages_dropped"] += messages
            self._counters["messages_dropped_bytes"] += size_bytes

    async def write(self) -> None:
        """The task that writes."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()
            if self._full:
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def deliver(self) -> None:
        """The task that sends. A batch is forgotten once the broker has acknowledged it: sent again after a break, never lost."""
        retry_s = RETRY_S
        while True:
            self._written.clear()
            self._online.clear()
            batch: list[Message] = await self._on_writer(self._store.outbox, 0, BATCH_MESSAGES)
            batch = _within(batch, min(BATCH_LIMIT_BYTES, self._room()) - _MESSAGE_BYTES)
            if not batch:
                await self._wait(self._written, None)
                continue
            sent = await self._send(encode_messages(batch))
            if sent is Sent.ACKNOWLEDGED and await self._forget(batch):
                retry_s, self._closed = RETRY_S, 0
                continue
            if sent is Sent.TOO_LARGE and len(batch) > 1:
                continue  # there is less room now
            if await self._unfit(sent, batch):
                continue
            await self._wait(self._online, None if sent is Sent.OFFLINE else retry_s)
            retry_s = min(2 * retry_s, REFUSED_MAX_S) if sent is Sent.REFUSED else RETRY_S

    async def _wait(self, event: asyncio.Event, timeout_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):  # not wait_for, see device_agent.broker.connection
                await event.wait()

    async def _unfit(self, sent: Sent, batch: list[Message]) -> bool:
        """Drops a message that the broker does not take at any size of batch."""
        if sent is Sent.CLOSED and len(batch) == 1 and _size(batch[0]) > SUSPECT_BYTES:
            self._closed += 1
        else:
            self._closed = 0
        if len(batch) == 1 and (sent is Sent.TOO_LARGE or self._closed >= ALONE_TRIES):
            closed = f"the broker closed the connection {self._closed} times when it came"
            await self._drop(batch[0], closed if self._closed else "the broker says so")
            return True
        return False

    async def _drop(self, message: Message, why: str) -> None:
        """Drops the oldest message, which can't be sent; said once for a topic, counted each time."""
        if message.topic not in self._too_large and len(self._too_large) < TOPICS_SAID:
            self._too_large.add(message.topic)
            logger.error("a message of %d bytes for %s is too large and dropped: %s", len(message.payload), message.topic, why)
        self._counters["messages_too_large"] += 1
        self._closed = 0
        await self._forget([message], "messages_dropped")

    async def _forget(self, batch: list[Message], counter: str = "messages_delivered") -> bool:
        try:
            await self._on_writer(self._store.delivered, batch[-1].number)
        except Refused:
            await asyncio.sleep(RETRY_S)
            return False  # no room even to delete: sent once more later, with the same numbers
        self._counters[counter] += len(batch)
        return True


class _LastWrites:
    """The last write of each key, the oldest first."""

    def __init__(self) -> None:
        self._writes: dict[tuple[Version, str], KeyWrite] = {}
        self.size = 0  # bytes of memory, about

    def add(self, version: Version, writes: list[KeyWrite]) -> None:
        """Notes writes of a version, in the place of earlier ones to the same keys."""
        for write in writes:
            before = self._writes.pop((version, write.key), None)
            self.size += _write_size(write) - (_write_size(before) if before is not None else 0)
            self._writes[version, write.key] = write

    def drop_down_to(self, limit_bytes: int) -> int:
        """Drops the oldest until the others fit; how many those were."""
        dropped = 0
        while self.size > limit_bytes:
            self.size -= _write_size(self._writes.pop(next(iter(self._writes))))
            dropped += 1
        return dropped

    def outcomes(self) -> list[Outcome]:
        """The same as one outcome for each version."""
        found: dict[Version, list[KeyWrite]] = {}
        for (version, _), write in self._writes.items():
            found.setdefault(version, []).append(write)
        return [(version, writes, []) for version, writes in found.items()]


def _outcome_size(outcome: Outcome) -> int:
    """What it takes of memory, about."""
    _, writes, messages = outcome
    return sum(map(_write_size, writes)) + sum(map(_size, messages))


def _write_size(write: KeyWrite) -> int:
    return len(write.key) + len(write.value or b"") + _MESSAGE_BYTES


def _size(message: Message) -> int:
    """The most bytes that a message can have in a batch."""
    return _MESSAGE_BYTES + len(message.payload) + len(message.topic.encode()) + len(message.module.encode())


def _within(batch: list[Message], room: int) -> list[Message]:
    """As many of the first messages as fit, and one at least."""
    for count, message in enumerate(batch):
        room -= _size(message)
        if room < 0 and count:
            return batch[:count]
    return batch
