"""Events that wait for the module, bounded in number and in bytes; without room who sent the most loses the oldest of its own.

What it takes to drop an event does not grow with the number of events that wait, and with the logarithm of that of senders.
"""

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

EVENT_BYTES = 128  # that an event has beside its topic and payload, about


@dataclass(slots=True)
class Pending:
    """An event that has not been handled."""

    topic: str
    payload: bytes
    hops: int = 0  # modules on this board that it has come through
    bus_number: int = 0  # of its row in the durable bus, 0 for none
    tries: int = 0
    sender: str = ""  # an instance, or the topic of a source; "" for the broker
    reply_to: str = ""  # the topic on which its sender waits for an answer
    size_bytes: int = field(init=False)  # what it takes of memory, about

    def __post_init__(self) -> None:
        self.size_bytes = len(self.topic) + len(self.payload) + len(self.reply_to) + EVENT_BYTES


@dataclass
class _Sender:
    """What one sender has in the queue: the numbers of its events, oldest first."""

    numbers: deque[int] = field(default_factory=deque)
    size_bytes: int = 0


class _Largest:
    """Who has the most, of one measure: a heap with one entry that counts for each sender. Those who have less since then are found
    out when their entry comes up.
    """

    def __init__(self, senders: dict[str, _Sender], measure: Callable[[_Sender], int]) -> None:
        self._senders, self._measure = senders, measure
        self._rebuild()

    def grown(self, name: str) -> None:
        """Tells that this sender has more than before."""
        if len(self._heap) > 2 * len(self._senders) + 64:
            self._rebuild()
            return
        now = self._measure(self._senders[name])
        if now > self._entered.get(name, 0):
            self._entered[name] = now
            heapq.heappush(self._heap, (-now, name))

    def take(self) -> str:
        """Whoever has the most, who is to be put back by `grown`."""
        while True:
            negative, name = heapq.heappop(self._heap)
            if self._entered.get(name) != -negative:
                continue  # a later one counts
            del self._entered[name]
            sender = self._senders.get(name)
            if sender is not None and self._measure(sender) == -negative:
                return name
            if sender is not None:
                self.grown(name)

    def _rebuild(self) -> None:
        self._entered = {name: self._measure(each) for name, each in self._senders.items()}
        self._heap = [(-size, name) for name, size in self._entered.items()]
        heapq.heapify(self._heap)


class EventQueue:
    """The first events may be in hand, or one that was tried: they stay until they are taken."""

    def __init__(
        self, limit: int, limit_bytes: int, counters: Counter[str], on_dropped: Callable[[Pending], None] = lambda event: None
    ) -> None:
        """`on_dropped` gets each event that nobody will handle."""
        self._limit, self._limit_bytes, self._counters, self._on_dropped = limit, limit_bytes, counters, on_dropped
        self._events: OrderedDict[int, Pending] = OrderedDict()  # by a number that rises
        self._next = 0
        self.size_bytes = 0
        self._in_hand = 0
        self._senders: dict[str, _Sender] = {}
        # Made when there first is too much of something: most queues are never full.
        self._most: _Largest | None = None
        self._heaviest: _Largest | None = None

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._events.values())

    def __getitem__(self, index: int) -> Pending:
        return next(islice(self._events.values(), index, None))

    def append(self, event: Pending) -> None:
        """Adds an event, if it has room at all, and drops others until it has: the oldest of who has the most."""
        if event.size_bytes > self._limit_bytes:
            self._count(event)
            return
        self._add(event)
        while len(self._events) > 1 and len(self._events) > self._limit:
            if self._most is None:
                self._most = _Largest(self._senders, lambda sender: len(sender.numbers))
            self._drop_one(self._most)
        while len(self._events) > 1 and self.size_bytes > self._limit_bytes:
            if self._heaviest is None:
                self._heaviest = _Largest(self._senders, lambda sender: sender.size_bytes)
            self._drop_one(self._heaviest)

    def hand_out(self, limit: int, limit_bytes: int) -> list[Pending]:
        """The first events, so many at most, and one at least: from now on they are in hand."""
        row: list[Pending] = []
        for event in self._events.values():
            limit_bytes -= event.size_bytes
            if row and (len(row) >= limit or limit_bytes < 0):
                break
            row.append(event)
        self._in_hand = len(row)
        return row

    def popleft(self) -> Pending:
        """Takes the first event."""
        number, event = self._events.popitem(last=False)
        self._in_hand = max(0, self._in_hand - 1)
        self._subtract(number, event)
        return event

    def put_back(self) -> None:
        """None is in hand any more; the first was tried."""
        self._in_hand = 0
        if self._events:
            self[0].tries += 1

    def keep(self, wanted: Callable[[Pending], bool]) -> None:
        """Drops all events but these."""
        events = list(self._events.values())
        self._events.clear()
        self._senders.clear()
        self.size_bytes = self._in_hand = 0
        self._most = self._heaviest = None
        for event in events:
            if wanted(event):
                self._add(event)
            else:
                self._count(event)

    def _add(self, event: Pending) -> None:
        self._events[self._next] = event
        sender = self._senders.get(event.sender)
        if sender is None:
            sender = self._senders[event.sender] = _Sender()
        sender.numbers.append(self._next)
        sender.size_bytes += event.size_bytes
        self.size_bytes += event.size_bytes
        self._next += 1
        for each in (self._most, self._heaviest):
            if each is not None:
                each.grown(event.sender)

    def _subtract(self, number: int, event: Pending) -> None:
        """Takes an event that is gone from what its sender has. Those before it, if any, are in hand, and few."""
        sender = self._senders[event.sender]
        if sender.numbers[0] == number:
            sender.numbers.popleft()
        else:
            sender.numbers.remove(number)
        sender.size_bytes -= event.size_bytes
        self.size_bytes -= event.size_bytes
        if not sender.numbers:
            del self._senders[event.sender]

    def _drop_one(self, largest: _Largest) -> None:
        """Those in hand stay."""
        held = max(self._in_hand, min(1, self[0].tries))
        free = next(islice(self._events, held, None))  # the number of the first that may go
        passed = []
        while True:
            name = largest.take()
            passed.append(name)
            number = next((each for each in self._senders[name].numbers if each >= free), None)
            if number is not None:
                break
        dropped = self._events.pop(number)
        self._subtract(number, dropped)
        for name in passed:
            if name in self._senders:
                largest.grown(name)
        self._count(dropped)

    def _count(self, event: Pending) -> None:
        self._counters["events_dropped"] += 1
        self._counters["events_dropped_bytes"] += len(event.topic) + len(event.payload)
        self._on_dropped(event)
