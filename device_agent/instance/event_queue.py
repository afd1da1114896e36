"""Events that wait for the module, bounded in number and in bytes; without room who sent the most loses the oldest of its own."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

EVENT_BYTES = 128  # that an event has beside its topic and payload, about


@dataclass
class Pending:
    """An event that has not been handled."""

    topic: str
    payload: bytes
    hops: int = 0  # modules on this board that it has come through
    bus_number: int = 0  # of its row in the durable bus, 0 for none
    tries: int = 0
    sender: str = ""  # an instance, or the topic of a source; "" for the broker

    @property
    def size_bytes(self) -> int:
        """What it takes of memory, about."""
        return len(self.topic) + len(self.payload) + EVENT_BYTES


class EventQueue:
    """The first events may be in hand, or one that was tried: they stay until they are taken."""

    def __init__(
        self, limit: int, limit_bytes: int, counters: Counter[str], on_dropped: Callable[[Pending], None] = lambda event: None
    ) -> None:
        """`on_dropped` gets each event that nobody will handle."""
        self._limit, self._limit_bytes, self._counters, self._on_dropped = limit, limit_bytes, counters, on_dropped
        self._events: deque[Pending] = deque()
        self.size_bytes = 0
        self._in_hand = 0
        self._number: Counter[str] = Counter()  # of events, by sender
        self._sizes: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, index: int) -> Pending:
        return self._events[index]

    def append(self, event: Pending) -> None:
        """Adds an event, if it has room at all, and drops others until it has: the oldest of who has the most."""
        if event.size_bytes > self._limit_bytes:
            self._count(event)
            return
        self._add(event)
        while len(self._events) > 1 and (len(self._events) > self._limit or self.size_bytes > self._limit_bytes):
            self._drop_one(self._number if len(self._events) > self._limit else self._sizes)

    def hand_out(self, limit: int, limit_bytes: int) -> list[Pending]:
        """The first events, so many at most, and one at least: from now on they are in hand."""
        row: list[Pending] = []
        for event in self._events:
            limit_bytes -= event.size_bytes
            if row and (len(row) >= limit or limit_bytes < 0):
                break
            row.append(event)
        self._in_hand = len(row)
        return row

    def popleft(self) -> Pending:
        """Takes the first event."""
        event = self._events.popleft()
        self._in_hand = max(0, self._in_hand - 1)
        self._subtract(event)
        return event

    def put_back(self) -> None:
        """None is in hand any more; the first was tried."""
        self._in_hand = 0
        if self._events:
            self._events[0].tries += 1

    def keep(self, wanted: Callable[[Pending], bool]) -> None:
        """Drops all events but these."""
        events, self._events, self.size_bytes, self._in_hand = self._events, deque(), 0, 0
        self._number.clear()
        self._sizes.clear()
        for event in events:
            if wanted(event):
                self._add(event)
            else:
                self._count(event)

    def _add(self, event: Pending) -> None:
        self._events.append(event)
        self.size_bytes += event.size_bytes
        self._number[event.sender] += 1
        self._sizes[event.sender] += event.size_bytes

    def _subtract(self, event: Pending) -> None:
        self.size_bytes -= event.size_bytes
        self._number[event.sender] -= 1
        self._sizes[event.sender] -= event.size_bytes
        if not self._number[event.sender]:
            del self._number[event.sender], self._sizes[event.sender]

    def _drop_one(self, has: Counter[str]) -> None:
        """Those in hand stay. `has`: what each sender has, of what there is too much of."""
        held = max(self._in_hand, min(1, self._events[0].tries))
        for sender, _ in has.most_common():
            index = next((at for at, each in enumerate(islice(self._events, held, None), held) if each.sender == sender), None)
            if index is not None:
                break
        else:
            raise AssertionError("the new event is in nobody's hand")
        dropped = self._events[index]
        del self._events[index]
        self._subtract(dropped)
        self._count(dropped)

    def _count(self, event: Pending) -> None:
        self._counters["events_dropped"] += 1
        self._counters["events_dropped_bytes"] += len(event.topic) + len(event.payload)
        self._on_dropped(event)
