"""A file whose content is offered when it has changed, or a FIFO (named pipe) whose bytes are split into records as they arrive."""

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from device_agent.sources.records import Records, pump, readable
from device_agent.sources.settings import Settings
from device_agent.sources.source import Sink

FILE_LIMIT_BYTES = 65536


@dataclass(frozen=True)
class FileContent:
    """What is there is looked at each time that it is run."""

    path: str
    topic: str
    delimiter: bytes  # empty: the whole content is one record; of a FIFO, what was written until its writer closed it
    record_bytes: int
    period_s: float
    devices: frozenset[str] = frozenset()

    async def run(self, sink: Sink) -> None:
        """Raises OSError when it is not there, cannot be read, has been replaced (a FIFO) or is too large (a file)."""
        mode = (await asyncio.to_thread(os.stat, self.path)).st_mode
        if stat.S_ISFIFO(mode):
            await self._follow(sink)
        elif stat.S_ISREG(mode):
            await self._watch(sink)
        else:
            raise OSError(f"{self.path} is neither a file nor a FIFO")

    async def _watch(self, sink: Sink) -> None:
        """The content is compared, not its time: files of /sys and /proc have none that says anything."""
        before: bytes | None = None
        while True:
            content = await asyncio.to_thread(self._read)
            if content != before:
                before, records = content, Records(self.delimiter, self.record_bytes)
                for record in (*records.feed(content), *records.finish()):
                    await sink.put(self.topic, record)
                sink.drop(records.take_dropped())
            await asyncio.sleep(self.period_s)

    def _read(self) -> bytes:
        with Path(self.path).open("rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
        if len(content) > FILE_LIMIT_BYTES:
            raise OSError(f"{self.path} has more than {FILE_LIMIT_BYTES} bytes")
        return content

    async def _follow(self, sink: Sink) -> None:
        records = Records(self.delimiter, self.record_bytes)
        descriptor = self._open()
        try:
            while True:
                if not await readable(descriptor, self.period_s):
                    if not os.path.samestat(os.fstat(descriptor), os.stat(self.path)):  # noqa: PTH116  (the path's, as samestat has it)
                        raise OSError(f"{self.path} was replaced")
                elif not await pump(descriptor, records, self.topic, sink):
                    ended, descriptor = descriptor, self._open()  # before the other is closed: what comes between is not lost
                    os.close(ended)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def parse(settings: Settings) -> FileContent:
    """From `[sources.NAME]`."""
    return FileContent(
        settings.path("path"),
        settings.topic(),
        settings.delimiter(may_be_empty=True),
        settings.record_bytes(),
        settings.number("period_s", 1.0, 0.05, 86_400.0),
    )
