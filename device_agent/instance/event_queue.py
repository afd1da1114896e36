"""Events that wait for the module, bounded in number and in bytes; the oldest go first, and are counted."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

EVENT_BYTES = 128  # that an event has beside its topic and payload, about


@dataclass
class Pending:
    """An event that has not been handled."""

    topic: str
    payload: bytes
    tries: int = 0

    @property
    def size_bytes(self) -> int:
        """What it takes of memory, about."""
        return len(self.topic) + len(self.payload) + EVENT_BYTES


class EventQueue:
    """The first event may be in hand: it was tried, and stays until it is taken."""

    def __init__(self, limit: int, limit_bytes: int, counters: Counter[str]) -> None:
        self._limit, self._limit_bytes, self._counters = limit, limit_bytes, counters
        self._events: deque[Pending] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, index: int) -> Pending:
        return self._events[index]

    def append(self, event: Pending) -> None:
        """Adds an event, if it has room at all, and drops the oldest until it has."""
        if event.size_bytes > self._limit_bytes:
            self._count(event)
            return
        self._events.append(event)
        self.size_bytes += event.size_bytes
        while len(self._events) > 1 and (len(self._events) > self._limit or self.size_bytes > self._limit_bytes):
            self._drop_oldest()

    def popleft(self) -> Pending:
        """Takes the first event."""
        event = self._events.popleft()
        self.size_bytes -= event.size_bytes
        return event

    def keep(self, wanted: Callable[[Pending], bool]) -> None:
        """Drops all events but these."""
        events, self._events, self.size_bytes = self._events, deque(), 0
        for event in events:
            if wanted(event):
                self._events.append(event)
                self.size_bytes += event.size_bytes
            else:
                self._count(event)

    def _drop_oldest(self) -> None:
        """The one in hand stays, unless there is no other but the new one."""
        index = 1 if self._events[0].tries and len(self._events) > 2 else 0
        if self._events[0].tries and index == 0:
            self._count(newest := self._events.pop())
            self.size_bytes -= newest.size_bytes
            return
        dropped = self._events[index]
        del self._events[index]
        self.size_bytes -= dropped.size_bytes
        self._count(dropped)

    def _count(self, event: Pending) -> None:
        self._counters["events_dropped"] += 1
        self._counters["events_dropped_bytes"] += len(event.topic) + len(event.payload)
