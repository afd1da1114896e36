"""Messages of modules on their way out: kept on disk, in order, until the broker has them; the oldest go when there is no room."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from device_agent.channel.frames import Done, KeyWrite
from device_agent.channel.workers import ModuleSpec
from device_agent.storage.store import Store, Version
from ota.formats.reasons import Refused
from ota.formats.report import BATCH_LIMIT_BYTES, Message, encode_messages

BATCH_MESSAGES = 200
HELD_EVENTS = 5000
RETRY_S = 2.0
logger = logging.getLogger(__name__)


class Outbox:
    """Writes outcomes of events to the store, many in one transaction, and sends what is there whenever it can."""

    def __init__(
        self,
        store: Store,
        on_writer: Callable[..., Awaitable[Any]],
        send: Callable[[bytes], Awaitable[bool]],
        counters: Counter[str],
        limit: int,
    ) -> None:
        self._store, self._on_writer, self._send = store, on_writer, send
        self._counters = counters
        self._limit = limit
        self._fresh: list[tuple[Version, list[KeyWrite], list[Message]]] = []
        self._full = False
        self._written = asyncio.Event()
        self._wake = asyncio.Event()

    async def add(self, spec: ModuleSpec, done: Done) -> None:
        """Takes what a handled event asks for; it is durable within one write of the disk, and sent after that."""
        if not done.messages and not done.writes:
            return
        now = time.time()
        messages = [Message(0, now, spec.label, topic, payload) for topic, payload in done.messages]
        self._counters["messages"] += len(messages)
        self._fresh.append((Version(spec.description.name, spec.manifest), list(done.writes), messages))
        self._wake.set()

    def poke(self) -> None:
        """The link is up again."""
        self._written.set()

    async def flush(self) -> bool:
        """Writes what is waiting to be written; False when the disk has no room for it."""
        batch, self._fresh = self._fresh, []
        if not batch:
            return True
        try:
            _, dropped = await self._on_writer(self._store.add_outcomes, batch, self._limit)
            self._counters["messages_dropped"] += dropped
        except Refused as error:
            self._fresh = batch + self._fresh  # held in memory until there is room
            self._drop_oldest()
            if not self._full:
                logger.error("results wait in memory: %s", error)
            self._full = True
            return False
        self._full = False
        self._written.set()
        return True

    def _drop_oldest(self) -> None:
        for _, _, messages in self._fresh[:-HELD_EVENTS]:
            self._counters["messages_dropped"] += len(messages)
        del self._fresh[:-HELD_EVENTS]

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
        while True:
            self._written.clear()
            batch: list[Message] = await self._on_writer(self._store.outbox, 0, BATCH_MESSAGES)
            batch = _within_limit(batch)
            if batch:
                if await self._send(encode_messages(batch)) and await self._forget(batch):
                    continue
                await asyncio.sleep(0.05)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if batch else None):  # not wait_for, see device_agent.broker.link
                    await self._written.wait()

    async def _forget(self, batch: list[Message]) -> bool:
        try:
            await self._on_writer(self._store.delivered, batch[-1].number)
        except Refused:
            return False  # no room even to delete: sent once more later, with the same numbers
        self._counters["messages_delivered"] += len(batch)
        return True


def _within_limit(batch: list[Message]) -> list[Message]:
    size = 0
    for count, message in enumerate(batch):
        size += len(message.payload) + len(message.topic) + 200
        if size > BATCH_LIMIT_BYTES and count:
            return batch[:count]
    return batch
