"""Bytes as they arrive, split into records by a delimiter, and bounded."""

import asyncio
import os
import re

from device_agent.sources.source import Sink

__all__ = ["READ_BYTES", "Records", "pump", "readable"]

READ_BYTES = 4096  # at once; then the rest of the agent has its turn


class Records:
    """Splits a stream. A record that is longer than the limit is dropped, however much of it is still to come."""

    def __init__(self, delimiter: bytes, limit_bytes: int) -> None:
        """An empty delimiter: all until `finish` is one record."""
        self._delimiter, self._limit = delimiter, limit_bytes
        self._repeated = re.compile(b"(?:%b){2,}" % re.escape(delimiter)) if delimiter else None
        self._overlap = max(len(delimiter) - 1, 0)  # bytes at the end that may be a part of a delimiter
        self._rest = b""
        self._overlong = False
        self.dropped = 0

    def feed(self, content: bytes) -> list[bytes]:
        """The records that this completes, those without content left out."""
        content = self._rest + content
        if self._repeated is not None:  # between those are records without content: a line that idles sends many
            content = self._repeated.sub(lambda _: self._delimiter, content)
        *records, rest = content.split(self._delimiter) if self._delimiter else [content]
        if records and self._overlong:
            del records[0]
            self._overlong = False
        if len(rest) > self._limit + self._overlap:
            self.dropped += not self._overlong
            self._overlong = True
            rest = rest[len(rest) - self._overlap :]
        self._rest = rest
        self.dropped += sum(len(each) > self._limit for each in records)
        return [each for each in records if 0 < len(each) <= self._limit]

    def finish(self) -> list[bytes]:
        """The last record, where the stream ends without a delimiter. The next stream begins anew."""
        record, overlong = self._rest, self._overlong
        self._rest, self._overlong = b"", False
        if len(record) > self._limit:
            self.dropped += not overlong
            return []
        return [record] if record and not overlong else []

    def take_dropped(self) -> int:
        """How many were dropped since this was asked."""
        count, self.dropped = self.dropped, 0
        return count


async def readable(descriptor: int, timeout_s: float) -> bool:
    """Whether there is something to read, an end or an error included, within the time."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _wake, ready)
    try:
        async with asyncio.timeout(timeout_s):
            await ready
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def pump(descriptor: int, records: Records, topic: str, sink: Sink) -> bool:
    """Puts what one read brings. False at the end of the stream. Raises OSError."""
    try:
        content = os.read(descriptor, READ_BYTES)
    except BlockingIOError:  # another process was faster
        return True
    found = records.feed(content) if content else records.finish()
    for record in found:
        await sink.put(topic, record)
    sink.drop(records.take_dropped())
    if not found:  # empty records and parts of one that is too long keep the processor as busy as events
        await sink.pace()
    return bool(content)
