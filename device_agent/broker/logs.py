"""Log lines on their way to the operator, in memory: the newest are kept, and a line says how many older ones were dropped.

Without room whoever has the most loses the oldest of its own: a module that logs without end takes no line of another's.
"""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

from device_agent.broker.connection import Sent
from device_agent.broker.identity import IdentityError
from ota.formats.report import BATCH_BYTES, BATCH_LIMIT_BYTES, BATCH_LIMIT_RECORDS, LogRecord
from ota.formats.signed_report import OVERHEAD_BYTES

LINES_KEPT, BYTES_KEPT = 1000, 1 << 20
PERIOD_S = 0.5  # what comes together is sent together
RETRY_MIN_S, RETRY_MAX_S = 2.0, 300.0
_RECORD_BYTES = 32  # of CBOR around a record's texts, at most


class LogQueue:
    """`send` publishes a batch, `encode` makes and signs it; `room` tells how many bytes one may have."""

    def __init__(
        self,
        send: Callable[[bytes], Awaitable[Sent]],
        room: Callable[[], int],
        encode: Callable[[list[LogRecord]], Awaitable[bytes]],
    ) -> None:
        self._send, self._room, self._encode = send, room, encode
        self._lines: dict[str, deque[tuple[int, LogRecord]]] = {}  # by instance, "" for the agent; with their places among all
        self._sizes: Counter[str] = Counter()  # bytes, likewise
        self._next = 0
        self._dropped = 0  # lines, not reported yet
        self._wake = asyncio.Event()
        self._online = asyncio.Event()

    def add(self, record: LogRecord) -> None:
        """Keeps a line; the oldest goes when there is no room."""
        self._lines.setdefault(record.instance, deque()).append((self._next, record))
        self._sizes[record.instance] += _size(record)
        self._next += 1
        self._trim()
        self._wake.set()

    def poke(self) -> None:
        """The link is up again."""
        self._online.set()
        self._wake.set()

    async def deliver(self) -> None:
        """The task that sends."""
        retry_s = RETRY_MIN_S
        while True:
            await self._wake.wait()
            await asyncio.sleep(PERIOD_S)
            self._wake.clear()
            self._online.clear()
            batch, dropped = self._take()
            if not batch:
                continue
            try:
                sent = await self._send(await self._encode([record for _, record in batch]))
            except IdentityError:  # the token with the board's key does not sign now, and has said so
                sent = Sent.LOST
            if sent is Sent.ACKNOWLEDGED:
                self._dropped -= dropped
                retry_s = RETRY_MIN_S
                if self._lines:
                    self._wake.set()
                continue
            self._put_back(batch[1 if dropped else 0 :])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    None if sent is Sent.OFFLINE else retry_s
                ):  # not wait_for, see device_agent.broker.connection
                    await self._online.wait()
            retry_s = RETRY_MIN_S if self._online.is_set() else min(2 * retry_s, RETRY_MAX_S)
            self._wake.set()

    def _take(self) -> tuple[list[tuple[int, LogRecord]], int]:
        """The oldest lines that fit into a batch, after one that tells of those that were dropped; and how many those are."""
        room = min(BATCH_LIMIT_BYTES, self._room() - OVERHEAD_BYTES) - BATCH_BYTES
        batch: list[tuple[int, LogRecord]] = []
        if self._dropped:
            said = LogRecord(time.time(), "warn", "", "", f"{self._dropped} older log lines were dropped")
            batch.append((-1, said))
            room -= _size(said)
        while self._lines and len(batch) < BATCH_LIMIT_RECORDS:
            oldest = min(self._lines, key=lambda each: self._lines[each][0][0])
            number, record = self._lines[oldest][0]
            if _size(record) > room:
                if len(batch) > (1 if self._dropped else 0):
                    break
                record = _shortened(record, room)
            room -= _size(record)
            self._pop(oldest)
            batch.append((number, record))
        return batch, self._dropped

    def _put_back(self, batch: list[tuple[int, LogRecord]]) -> None:
        for number, record in reversed(batch):
            self._lines.setdefault(record.instance, deque()).appendleft((number, record))
            self._sizes[record.instance] += _size(record)
        self._trim()

    def _pop(self, instance: str) -> None:
        _, record = self._lines[instance].popleft()
        self._sizes[instance] -= _size(record)
        if not self._lines[instance]:
            del self._lines[instance], self._sizes[instance]

    def _trim(self) -> None:
        while (count := sum(map(len, self._lines.values()))) > LINES_KEPT or (self._sizes.total() > BYTES_KEPT and count > 1):
            by_count = count > LINES_KEPT
            self._pop(max(self._lines, key=lambda each: len(self._lines[each]) if by_count else self._sizes[each]))
            self._dropped += 1


def _size(record: LogRecord) -> int:
    return _RECORD_BYTES + sum(len(each.encode()) for each in (record.message, record.instance, record.module))


def _shortened(record: LogRecord, room: int) -> LogRecord:
    """One line that fits, as far as that is possible."""
    rest = max(0, room - _size(replace(record, message="")))
    return replace(record, message=record.message.encode()[:rest].decode(errors="ignore"))
