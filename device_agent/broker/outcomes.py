"""What handled events ask for, on its way to the disk: many outcomes in one transaction, held in memory while there is no room.

What an event made a module say to others on the board is handed over once it is on disk. While the disk is full it is handed over
from memory: modules go on talking to each other, and a power cut loses what they have not handled.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from device_agent.channel.frames import KeyWrite
from device_agent.storage.messages import MESSAGE_BYTES, Added, Bounds, BusMessage, Outcome, Version
from device_agent.storage.store import Store
from ota.formats.reasons import Refused
from ota.formats.report import Message

HELD_EVENTS, HELD_BYTES = 5000, 8 << 20  # in memory, until they are written
TURN_MESSAGES, TURN_BYTES = 256, 256 << 10  # of an instance in one transaction, and those of one more event
RETRY_S = 2.0
FORGET_S = 1.0  # what was delivered is deleted with the next outcomes, or after this long
_NOBODY = Version("", "", b"")
logger = logging.getLogger(__name__)


class Outcomes:
    """Writes outcomes of events to the store. `on_bus` gets what they say to other instances, `on_messages` what there is for the
    broker, with numbers, the oldest first; nothing where some of it was dropped, and is to be read from the store.
    """

    def __init__(self, store: Store, on_writer: Callable[..., Awaitable[Any]], bounds: Bounds, counters: Counter[str]) -> None:
        self._store, self._on_writer, self._bounds, self._counters = store, on_writer, bounds, counters
        self.on_bus: Callable[[Sequence[BusMessage]], None] = lambda said: None
        self.on_messages: Callable[[Sequence[Message]], None] = lambda written: None
        self._fresh: list[Outcome] = []
        self._fresh_bytes = 0
        self._turns: dict[str, tuple[int, int]] = {}  # messages and bytes of an instance among those
        self._next_turn: asyncio.Future[None] | None = None
        self._delivered: dict[str, int] = {}  # number up to which messages of an instance for the broker are to be forgotten
        self._forgetting: asyncio.TimerHandle | None = None
        self._full = False
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()  # one transaction after the other: what instances say is handed over in order

    def add(self, outcome: Outcome) -> "asyncio.Future[None] | None":
        """Takes what a handled event asks for; it is durable within one write of the disk.

        What is returned, if anything, is done when the instance may go on: it has said so much that others would wait for its
        transaction. A disk that takes nothing stops nobody.
        """
        size = size_of(outcome)
        self._fresh.append(outcome)
        self._fresh_bytes += size
        if len(self._fresh) > HELD_EVENTS or self._fresh_bytes > HELD_BYTES:
            self._hold(self._fresh)
        self._wake.set()
        return None if self._full else self._turn_of(outcome.version.instance, len(outcome.messages) + len(outcome.bus), size)

    def _turn_of(self, instance: str, messages: int, size: int) -> "asyncio.Future[None] | None":
        count, size_bytes = self._turns.get(instance, (0, 0))
        self._turns[instance] = count, size_bytes = count + messages, size_bytes + size
        if count < TURN_MESSAGES and size_bytes < TURN_BYTES:
            return None
        if self._next_turn is None:
            self._next_turn = asyncio.get_running_loop().create_future()
        return self._next_turn

    def consumed(self, bus_number: int) -> None:
        """A message of the bus that nobody is to handle any more."""
        self.add(Outcome(_NOBODY, consumed=(bus_number,)))

    def forget(self, delivered: Mapping[str, int]) -> None:
        """Messages of instances for the broker were delivered up to a number. What is sent again after a power cut has the same."""
        for instance, number in delivered.items():
            self._delivered[instance] = max(self._delivered.get(instance, 0), number)
        if self._forgetting is None:
            self._forgetting = asyncio.get_running_loop().call_later(FORGET_S, self._wake.set)

    async def flush(self) -> bool:
        """Writes what is waiting to be written; False when the disk has no room for it."""
        async with self._writing:
            return await self._flush()

    async def _flush(self) -> bool:
        batch, self._fresh, self._fresh_bytes = self._fresh, [], 0
        self._turns.clear()
        if self._next_turn is not None:
            self._next_turn.set_result(None)
            self._next_turn = None
        delivered, self._delivered = self._delivered, {}
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
        if not batch and not delivered:
            return True
        try:
            added: Added = await self._on_writer(self._store.add_outcomes, batch, self._bounds, delivered)
        except Refused as error:
            self.forget(delivered)
            self._go_on_in_memory(batch, error)
            return False
        self._full = False
        self._count_dropped(added.dropped, added.dropped_bytes)
        if added.bus_dropped:
            self._counters["bus_dropped"] += added.bus_dropped
        if added.bus:
            self.on_bus(added.bus)
        written = [message for each in batch for message in each.messages]
        if written:
            first = added.last + 1 - len(written)
            whole = not added.dropped
            self.on_messages([each._replace(number=number) for number, each in enumerate(written, first)] if whole else ())
        return True

    async def keep(self, waiting: Sequence[BusMessage]) -> None:
        """Writes what waits for instances when the agent stops: it is handed over when the agent starts again, in this order.

        What the bus has of it is put behind what only memory has had: a full disk may have come between what one of them said.
        """
        async with self._writing:
            await self._flush()
            try:
                again = [each.number for each in waiting if each.number]
                kept = Outcome(_NOBODY, bus=waiting, consumed=again)
                added: Added = await self._on_writer(self._store.add_outcomes, [kept], self._bounds)
                self._counters["bus_dropped"] += added.bus_dropped
            except Refused as error:
                logger.error("%d events that wait are lost: %s", sum(not each.number for each in waiting), error)

    async def write(self) -> None:
        """The task that writes."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()
            if self._full:
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    def _go_on_in_memory(self, batch: list[Outcome], error: Refused) -> None:
        said = [message for each in batch for message in each.bus]
        self._hold([each._replace(bus=()) for each in batch] + self._fresh)
        if not self._full:
            logger.error("results wait in memory: %s", error)
        self._full = True
        if said:
            self._counters["bus_not_kept"] += len(said)
            self.on_bus(said)

    def _hold(self, outcomes: list[Outcome]) -> None:
        """Keeps outcomes in memory until they are written. Without room, the oldest of who has the most lose their messages.

        Of their key writes the last of each key stays: a module would go on with keys that never were together.
        """
        held, writes, gone = _Held(outcomes), _LastWrites(), set[int]()
        while held.count and (held.count > HELD_EVENTS or held.size + writes.size > HELD_BYTES):
            number = held.drop(by_count=held.count > HELD_EVENTS)
            oldest = outcomes[number]
            gone.add(number)
            writes.add(oldest)
            self._count_dropped(len(oldest.messages), sum(map(_message_size, oldest.messages)))
            self._counters["bus_dropped"] += len(oldest.bus)
        lost = writes.drop_down_to(HELD_BYTES)
        if lost:
            logger.error("%d key writes are lost: there is no room for them in memory", lost)
            self._counters["key_writes_dropped"] += lost
        left = [each for number, each in enumerate(outcomes) if number not in gone]
        self._fresh, self._fresh_bytes = writes.outcomes() + left, held.size + writes.size

    def _count_dropped(self, messages: int, size_bytes: int) -> None:
        if messages or size_bytes:
            self._counters["messages_dropped"] += messages
            self._counters["messages_dropped_bytes"] += size_bytes


class _Held:
    """Which outcomes each instance has, the oldest first."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.count, self.size = len(outcomes), 0  # bytes of memory, about
        self._of: dict[str, deque[tuple[int, int]]] = {}  # position and size, by instance
        self._sizes: Counter[str] = Counter()
        for number, each in enumerate(outcomes):
            size, instance = size_of(each), each.version.instance
            self._of.setdefault(instance, deque()).append((number, size))
            self._sizes[instance] += size
            self.size += size

    def drop(self, *, by_count: bool) -> int:
        """Takes out the oldest of the instance that has the most outcomes, else the most bytes; its position."""
        most = max(self._of, key=lambda each: (len(self._of[each]) if by_count else self._sizes[each], each))
        number, size = self._of[most].popleft()
        if not self._of[most]:
            del self._of[most]
        self.count, self.size = self.count - 1, self.size - size
        self._sizes[most] -= size
        return number


class _LastWrites:
    """The last write of each key, the oldest first, and what was consumed."""

    def __init__(self) -> None:
        self._writes: dict[tuple[Version, str], KeyWrite] = {}
        self._consumed: list[int] = []
        self.size = 0  # bytes of memory, about

    def add(self, outcome: Outcome) -> None:
        """Notes what an outcome changes on the disk, in the place of earlier writes to the same keys."""
        self._consumed += outcome.consumed
        for write in outcome.writes:
            before = self._writes.pop((outcome.version, write.key), None)
            self.size += _write_size(write) - (_write_size(before) if before is not None else 0)
            self._writes[outcome.version, write.key] = write

    def drop_down_to(self, limit_bytes: int) -> int:
        """Drops the oldest until the others fit; how many those were."""
        dropped = 0
        while self.size > limit_bytes:
            self.size -= _write_size(self._writes.pop(next(iter(self._writes))))
            dropped += 1
        return dropped

    def outcomes(self) -> list[Outcome]:
        """The same as one outcome for each version."""
        found: dict[Version, list[KeyWrite]] = {_NOBODY: []} if self._consumed else {}
        for (version, _), write in self._writes.items():
            found.setdefault(version, []).append(write)
        return [Outcome(each, writes, consumed=self._consumed if each == _NOBODY else ()) for each, writes in found.items()]


def size_of(outcome: Outcome) -> int:
    """What it takes of memory, about."""
    return sum(map(_write_size, outcome.writes)) + sum(map(_message_size, (*outcome.messages, *outcome.bus)))


def _write_size(write: KeyWrite) -> int:
    return len(write.key) + len(write.value or b"") + MESSAGE_BYTES


def _message_size(message: Any) -> int:
    """Of one for the broker or for an instance."""
    return len(message.payload) + len(message.topic) + len(message.reply_to) + MESSAGE_BYTES
