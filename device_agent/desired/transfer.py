"""Fetches the retained messages of many topics over one link. Each is requested once, in a window that fits the link.

A topic is asked for again only on a new connection, or when nothing at all of what was asked for has arrived for long enough and a
message to ourselves shows that the connection works. If not even that arrives, a new connection is made.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ota.formats.reasons import Reason, Refused

WINDOW_MIN_BYTES, WINDOW_MAX_BYTES = 64 << 10, 1 << 20
WINDOW_S = 8.0  # of transfer at the measured rate are asked for ahead: a lost packet holds up what is behind it for seconds
WINDOW_TOPICS = 32  # some brokers hand out one window of a client and then nothing more: no more topics than the window has
STALL_S = 10.0  # of silence, at least, before a connection is doubted
STALL_PERIODS = 4  # times what the window takes at the measured rate
TRICKLE_BYTES_PER_S = 256  # a link that brings less brings nothing


TAKEN_BYTES = 128 << 10  # at once, or one part: a turn of the writer thread for each would take longer than writing it

Take = Callable[[Sequence[tuple["Part", bytes]]], Awaitable[None]]


class Source(Protocol):
    """What a transfer needs of the link, and of who gives arriving messages on to it."""

    @property
    def online(self) -> bool:
        """Whether the broker has accepted the connection."""

    @property
    def sessions(self) -> int:
        """How many connections the broker has accepted."""

    @property
    def part_bytes(self) -> int:
        """Bytes that have arrived of parts, whole or not."""

    def begin(self, topic: str) -> None:
        """Subscribes."""

    def end(self, topic: str) -> None:
        """Ends the subscription."""

    def ask_again(self, topics: list[str]) -> None:
        """Subscribes once more, for the retained messages."""

    def denied(self, topic: str) -> str:
        """Why the broker denies the subscription; empty when it does not."""

    async def answers(self, timeout_s: float) -> bool:
        """Whether a message to ourselves arrives in time."""

    def nudge(self) -> None:
        """Sends a little: mosquitto may keep QoS 0 messages behind a full socket until the client's next packet."""

    def renew(self, reason: str) -> None:
        """Ends this connection; the next is made soon."""


@dataclass(frozen=True)
class Part:
    """One topic, and how large its message is; an upper bound where it is not known."""

    topic: str
    size: int
    limit: int = 0  # bytes that it may have, where `size` is only what is to be expected

    def bounded(self, payload: bytes) -> bytes:
        """What came, if it may have that size; of more, one byte too many shows that: a broker may send megabytes for each part."""
        return payload[: max(self.size, self.limit) + 1]


@dataclass
class Pace:
    """How fast parts arrive, by what has arrived. It goes on from one transfer to the next."""

    rate: float = 0.0  # bytes a second; 0: nothing has been measured
    _since_s: float = 0.0
    _bytes: int = 0

    def begins(self, now_s: float) -> None:
        """Something is asked for while nothing was."""
        self._since_s, self._bytes = now_s, 0

    def arrived(self, size: int, now_s: float) -> None:
        """A part has arrived."""
        self._bytes += size
        spent_s = now_s - self._since_s
        if self._bytes >= WINDOW_MIN_BYTES // 4 and spent_s > 0:
            measured = self._bytes / spent_s
            self.rate = measured if not self.rate else (self.rate + measured) / 2
            self._since_s, self._bytes = now_s, 0

    @property
    def window_bytes(self) -> int:
        """How many bytes may be on their way."""
        return int(min(max(WINDOW_S * self.rate, WINDOW_MIN_BYTES), WINDOW_MAX_BYTES))

    def patience_s(self, asked_bytes: int, most_s: float) -> float:
        """How long a silence may last before the connection is doubted."""
        expected_s = STALL_PERIODS * asked_bytes / self.rate if self.rate else 0.0
        return min(max(STALL_S, expected_s), most_s)


@dataclass
class Transfer:
    """One set of parts. `arrived` is called with each message of a topic that was asked for, `run` takes what has come."""

    source: Source
    pace: Pace
    timeout_s: float  # of silence while online
    missing: Reason
    clock: Callable[[], float] = time.monotonic
    _asked: dict[str, Part] = field(default_factory=dict)
    _arrived: deque[tuple[Part, bytes]] = field(default_factory=deque)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def arrived(self, topic: str, payload: bytes) -> None:
        """Takes the message of a topic, the first time."""
        part = self._asked.pop(topic, None)
        if part is not None:
            self.source.end(topic)
            self.pace.arrived(len(payload), self.clock())
            self._arrived.append((part, part.bounded(payload)))
            self._news.set()

    async def run(self, parts: Sequence[Part], take: Take) -> None:
        """Until `take` has had each part. Raises Refused `missing` for what does not come, and what `take` raises."""
        pending = deque(parts)
        silence = _Silence(self)
        try:
            while pending or self._asked or self._arrived:
                self._ask(pending)
                if self._arrived:
                    await take(self._taken())
                    silence.broken()
                else:
                    await self._wait(silence.step_s)
                    await silence.judge()
        finally:
            for topic in self._asked:
                self.source.end(topic)

    def _taken(self) -> list[tuple[Part, bytes]]:
        """What has arrived, some of it: all that may be asked for meanwhile is not in memory twice."""
        size, taken = 0, []
        while self._arrived and size < TAKEN_BYTES:
            taken.append(self._arrived.popleft())
            size += len(taken[-1][1])
        return taken

    def _ask(self, pending: deque[Part]) -> None:
        """Fills the window when half of it has arrived, so that many topics share a packet; two parts are always on their way.

        What waits for the disk counts as if it were on its way.
        """
        asked, window = self.asked_bytes + sum(part.size for part, _ in self._arrived), self.pace.window_bytes
        full = asked > window // 2 or len(self._asked) > WINDOW_TOPICS // 2
        if not pending or (full and len(self._asked) > 1):
            return
        if not self._asked:
            self.pace.begins(self.clock())
        while pending and len(self._asked) < WINDOW_TOPICS:
            if asked + pending[0].size > window and len(self._asked) > 1:
                return
            part = pending.popleft()
            asked += part.size
            self._asked[part.topic] = part
            self.source.begin(part.topic)

    @property
    def asked_bytes(self) -> int:
        """How many bytes are on their way."""
        return sum(part.size for part in self._asked.values())

    @property
    def asked(self) -> list[str]:
        """The topics that were asked for and have not come."""
        return list(self._asked)

    async def _wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):  # not wait_for, see device_agent.broker.connection
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()


class _Silence:
    """Counts how long nothing has come while the link was up, and does what is to be done about it."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self.step_s = min(1.0, transfer.timeout_s / 4)
        self._most_s = max(self.step_s, transfer.timeout_s / 3)
        self.broken()

    def broken(self) -> None:
        """Something came."""
        self._total_s = self._since_doubt_s = 0.0
        self._renewed = False
        self._note()

    def _note(self) -> None:
        source = self._transfer.source
        self._marks = source.sessions, source.part_bytes, self._transfer.clock()

    async def judge(self) -> None:
        """Called after each wait. Raises Refused when the silence has lasted too long, or the broker denies what was asked for."""
        transfer, source = self._transfer, self._transfer.source
        sessions, part_bytes, then_s = self._marks
        self._note()
        if transfer._arrived or not transfer._asked:
            return
        for topic in transfer.asked:
            if why := source.denied(topic):
                raise Refused(transfer.missing, f"the broker denies the subscription to {topic}: {why}")
        spent_s = transfer.clock() - then_s
        if source.part_bytes - part_bytes > TRICKLE_BYTES_PER_S * spent_s:
            self._total_s = self._since_doubt_s = 0.0  # a large part is on its way
            return
        if not source.online:
            return
        if source.sessions != sessions:
            self._since_doubt_s = 0.0
            return
        if spent_s >= self.step_s:
            source.nudge()
        self._total_s += spent_s
        self._since_doubt_s += spent_s
        if self._total_s >= transfer.timeout_s:
            raise Refused(transfer.missing, f"{transfer.asked[0]} did not arrive in {transfer.timeout_s} s")
        if self._since_doubt_s >= transfer.pace.patience_s(transfer.asked_bytes, self._most_s):
            self._since_doubt_s = 0.0
            await self._doubt(transfer.pace.patience_s(transfer.asked_bytes, self._most_s))

    async def _doubt(self, timeout_s: float) -> None:
        source = self._transfer.source
        sessions = source.sessions
        alive = await source.answers(timeout_s)
        if self._transfer._arrived or source.sessions != sessions or not source.online:
            return
        if alive:
            source.ask_again(self._transfer.asked)
        elif not self._renewed:
            self._renewed = True  # once in a silence: what the broker does not have comes on no connection
            source.renew("nothing that was asked for arrived: the connection is stalled")
