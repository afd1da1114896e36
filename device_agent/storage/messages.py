"""What handled events ask for: key writes, messages for the broker and messages for other instances, in one transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from device_agent.channel.frames import KeyWrite
from device_agent.storage.tables import Tables, recovers
from ota.formats.report import Message

K = TypeVar("K")
MESSAGE_BYTES = 64  # that a message has on disk beside its texts and payload, about
DROP_AT_ONCE = 100  # messages of the outbox
ROWS_AT_ONCE = 32  # that one statement inserts: each statement gives Python's lock away and has to wait for it
_ROW = "(?, ?, ?, ?, ?, ?)"


def _size_in(table: str) -> str:
    texts = {"outbox": ("topic", "module", "reply_to"), "bus": ("topic", "reply_to")}[table]
    return " + ".join(("length(payload)", *(f"length(cast({each} as blob))" for each in texts), str(MESSAGE_BYTES)))


class Version(NamedTuple):
    """A version of a module in an instance. Each has keys and a state of its own, so that going back finds what was left behind."""

    instance: str
    module: str
    release: bytes  # of manifest and configuration (ota.formats.deployment.release_id)


class BusMessage(NamedTuple):
    """What one instance says to another: kept until that has handled it."""

    number: int  # 0 before it is kept
    time_s: float
    source: str
    target: str
    topic: str
    payload: bytes
    hops: int
    reply_to: str = ""  # the topic on which its source waits for an answer


class Outcome(NamedTuple):
    """What one handled event asks for."""

    version: Version
    writes: Sequence[KeyWrite] = ()
    messages: Sequence[Message] = ()  # for the broker
    bus: Sequence[BusMessage] = ()  # for other instances
    consumed: Sequence[int] = ()  # numbers of the messages of the bus that were handled by it


class Added(NamedTuple):
    """What came of keeping outcomes."""

    last: int  # number of the newest message for the broker
    dropped: int  # of the oldest of them
    dropped_bytes: int
    bus: tuple[BusMessage, ...] = ()  # what was kept for instances, with numbers, in order
    bus_dropped: int = 0  # of the oldest, of any target


@dataclass(frozen=True)
class Bounds:
    """The most that is kept."""

    messages: int = 100_000  # for the broker
    message_bytes: int = 32 << 20
    bus: int = 10_000  # for one instance
    bus_bytes: int = 8 << 20
    bus_of: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # the same two, for instances that have their own


OnBus = dict[tuple[str, str], tuple[int, int]]


class Messages(Tables):
    """The outbox and the bus."""

    # Messages and bytes, of the outbox by instance, of the bus by target and source; None where they are to be counted.
    _outbox_waiting: dict[str, tuple[int, int]] | None = None
    _bus_waiting: OnBus | None = None

    @recovers
    def add_outcomes(
        self, outcomes: Sequence[Outcome], bounds: Bounds, delivered: Mapping[str, int] = MappingProxyType({})
    ) -> Added:
        """What handled events asked for, in one transaction. `delivered`: by instance, up to which number its messages for the
        broker are forgotten.

        The oldest messages are dropped to stay within the bounds: of the instance that has the most there, in the outbox, and among
        what waits for the same instance.
        """
        waiting, self._outbox_waiting = self._waiting(), None  # unknown, should this fail
        on_bus, self._bus_waiting = self._waiting_on_bus(), None
        said: list[BusMessage] = []
        with self._transaction():
            if delivered:
                self._delete_messages(delivered, waiting)
            for each in outcomes:
                if each.writes:
                    self._write_keys(each)
                if each.consumed or each.bus:
                    self._delete_from_bus(each.consumed, on_bus)
                    said += self._add_to_bus(each.bus, on_bus)
            last = self._add_messages([message for each in outcomes for message in each.messages], waiting)
            dropped, size = self._bound_outbox(waiting, bounds)
            gone = self._bound_bus({each.target for each in said}, on_bus, bounds)
        self._outbox_waiting, self._bus_waiting = waiting, on_bus
        return Added(last, dropped, size, tuple(each for each in said if each.number not in gone), len(gone))

    # -- for the broker

    @recovers
    def outbox(self, after: int, count: int) -> list[Message]:
        """Messages not delivered yet with numbers above `after`, oldest first."""
        columns = ", ".join(Message._fields)
        rows = self._database.execute(f"select {columns} from outbox where number > ? order by number limit ?", (after, count))
        return [Message(*row) for row in rows]

    @recovers
    def outbox_by_turns(self, after: Mapping[str, int], count: int) -> list[Message]:
        """Messages not delivered yet, about `count` of them: the oldest of each instance, then the next of each, and so on.

        So who has said much keeps nobody waiting. `after`: the number above which those of an instance are, 0 where it has none.
        """
        instances = tuple(self._waiting())
        columns, most = ", ".join(Message._fields), max(1, count // max(1, len(instances)))
        query = f"select {columns} from outbox where instance = ? and number > ? order by number limit ?"
        found: list[tuple[int, Message]] = []
        for each in instances:
            rows = self._database.execute(query, (each, after.get(each, 0), most))
            found += enumerate(Message(*row) for row in rows)
        return [message for _, message in sorted(found)]

    @recovers
    def outbox_size(self) -> int:
        """How many messages wait."""
        return int(self._database.execute("select count(*) from outbox").fetchone()[0])

    # -- for other instances

    @recovers
    def bus(self, after: int, count: int) -> list[BusMessage]:
        """Messages that their targets have not handled, with numbers above `after`, oldest first."""
        columns = ", ".join(BusMessage._fields)
        rows = self._database.execute(f"select {columns} from bus where number > ? order by number limit ?", (after, count))
        return [BusMessage(*row) for row in rows]

    # -- inside

    def _write_keys(self, outcome: Outcome) -> None:
        for write in outcome.writes:
            if write.value is None:
                query = "delete from keyvalue where (instance, module, release, key) = (?, ?, ?, ?)"
                self._database.execute(query, (*outcome.version, write.key))
            else:
                query = "insert or replace into keyvalue (instance, module, release, key, value) values (?, ?, ?, ?, ?)"
                self._database.execute(query, (*outcome.version, write.key, write.value))

    def _add_messages(self, messages: Sequence[Message], waiting: dict[str, tuple[int, int]]) -> int:
        """The number of the last of them, or of the newest that is kept. Theirs follow each other: `number` is an autoincrement."""
        last = 0
        for start in range(0, len(messages), ROWS_AT_ONCE):
            part = messages[start : start + ROWS_AT_ONCE]
            query = f"insert into outbox ({', '.join(Message._fields[1:])}) values {', '.join([_ROW] * len(part))}"
            row = self._database.execute(query, [value for each in part for value in each[1:]])
            last = int(row.lastrowid or 0)
        for each in messages:
            _note(waiting, each.instance, 1, _size_of(each))
        return last or int(self._database.execute("select coalesce(max(number), 0) from outbox").fetchone()[0])

    def _add_to_bus(self, messages: Sequence[BusMessage], on_bus: OnBus) -> list[BusMessage]:
        columns, added = ", ".join(BusMessage._fields[1:]), []
        for each in messages:
            row = self._database.execute(f"insert into bus ({columns}) values (?, ?, ?, ?, ?, ?, ?)", each[1:])
            added.append(each._replace(number=int(row.lastrowid or 0)))
            _note(on_bus, (each.target, each.source), 1, _size_on_bus(each))
        return added

    def _delete_from_bus(self, numbers: Collection[int], on_bus: OnBus) -> None:
        for number in numbers:
            query = f"delete from bus where number = ? returning target, source, {_size_in('bus')}"
            for target, source, size in self._database.execute(query, (number,)).fetchall():
                _note(on_bus, (target, source), -1, -size)

    def _bound_bus(self, targets: Collection[str], on_bus: OnBus, bounds: Bounds) -> set[int]:
        """For each target that has too many, drops the oldest messages of the source with the most; their numbers."""
        gone: set[int] = set()
        for target in targets:
            most, most_bytes = bounds.bus_of.get(target, (bounds.bus, bounds.bus_bytes))
            while waiting := {source: each for (whose, source), each in on_bus.items() if whose == target}:
                over = sum(count for count, _ in waiting.values()) - most
                over_bytes = sum(size for _, size in waiting.values()) - most_bytes
                if over <= 0 and over_bytes <= 0:
                    break
                *others, (has, source) = sorted((each[over <= 0], name) for name, each in waiting.items())
                lead = has - (others[-1][0] if others else 0) if over > 0 else 1
                query = "select number from bus where target = ? and source = ? order by number limit ?"
                wanted = max(1, min(over, lead))
                oldest = [number for (number,) in self._database.execute(query, (target, source, wanted)).fetchall()]
                self._delete_from_bus(oldest, on_bus)
                gone.update(oldest)
                if not oldest:
                    del on_bus[target, source]  # there are none
        return gone

    def _waiting_on_bus(self) -> OnBus:
        if self._bus_waiting is None:
            query = f"select target, source, count(*), sum({_size_in('bus')}) from bus group by target, source"
            self._bus_waiting = {(target, source): (count, size) for target, source, count, size in self._database.execute(query)}
        return self._bus_waiting

    def _waiting(self) -> dict[str, tuple[int, int]]:
        if self._outbox_waiting is None:
            query = f"select instance, count(*), sum({_size_in('outbox')}) from outbox group by instance"
            self._outbox_waiting = {instance: (count, size) for instance, count, size in self._database.execute(query)}
        return self._outbox_waiting

    def _bound_outbox(self, waiting: dict[str, tuple[int, int]], bounds: Bounds) -> tuple[int, int]:
        """Drops the oldest messages of who has the most, so that a flood takes no room from others; how many, and their bytes."""
        dropped = dropped_bytes = 0
        while waiting:
            over = sum(count for count, _ in waiting.values()) - bounds.messages
            over_bytes = sum(size for _, size in waiting.values()) - bounds.message_bytes
            if over <= 0 and over_bytes <= 0:
                break
            *others, (most, instance) = sorted((each[over <= 0], name) for name, each in waiting.items())
            count, size = self._drop_oldest(instance, over, over_bytes, most - (others[-1][0] if others else 0))
            dropped, dropped_bytes = dropped + count, dropped_bytes + size
            if count:
                _note(waiting, instance, -count, -size)
            else:
                del waiting[instance]  # there are none
        return dropped, dropped_bytes

    def _drop_oldest(self, instance: str, over: int, over_bytes: int, lead: int) -> tuple[int, int]:
        """Drops messages of one instance: as many as are too many, but only what others have not as well, and one at least.

        `lead`: how far it is ahead of others, in messages where `over` is positive, else in bytes.
        """
        query = f"select number, {_size_in('outbox')} from outbox where instance = ? order by number limit ?"
        numbers, size = list[tuple[int]](), 0
        for number, size_bytes in self._database.execute(query, (instance, DROP_AT_ONCE)).fetchall():
            ahead = lead - (len(numbers) if over > 0 else size)
            if numbers and (ahead <= 0 or (len(numbers) >= over and size >= over_bytes)):
                break
            numbers.append((number,))
            size += size_bytes
        self._database.executemany("delete from outbox where number = ?", numbers)
        return len(numbers), size

    def _delete_messages(self, up_to: Mapping[str, int], waiting: dict[str, tuple[int, int]]) -> None:
        which = "from outbox where instance = ? and number <= ?"
        for each in up_to.items():
            count, size = self._database.execute(f"select count(*), sum({_size_in('outbox')}) {which}", each).fetchone()
            if count:
                _note(waiting, each[0], -count, -size)
                self._database.execute(f"delete {which}", each)


def _note(waiting: dict[K, tuple[int, int]], name: K, count: int, size: int) -> None:
    counted, total = waiting.get(name, (0, 0))
    if counted + count > 0:
        waiting[name] = counted + count, total + size
    else:
        waiting.pop(name, None)


def _size_of(message: Message) -> int:
    return (
        len(message.payload) + sum(len(each.encode()) for each in (message.topic, message.module, message.reply_to)) + MESSAGE_BYTES
    )


def _size_on_bus(message: BusMessage) -> int:
    return len(message.payload) + len(message.topic.encode()) + len(message.reply_to.encode()) + MESSAGE_BYTES
