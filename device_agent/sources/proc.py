"""The board's own readings, from /proc and /sys."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from device_agent.sources.settings import Settings
from device_agent.sources.source import Sink

LIMIT_BYTES = 16 * 1024


@dataclass(frozen=True)
class Readings:
    """Offers all readings again and again, `period_s` apart."""

    period_s: float
    root: Path = Path("/")
    devices: frozenset[str] = frozenset()

    async def run(self, sink: Sink) -> None:
        """Never raises: a reading that this machine does not have is left out."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for topic, content in await asyncio.to_thread(readings, self.root):  # some drivers ask the hardware, and wait for it
                await sink.put(topic, content)
            due = max(due + self.period_s, loop.time())
            await asyncio.sleep(due - loop.time())


def parse(settings: Settings) -> Readings:
    """From `[sources.NAME]`."""
    return Readings(settings.number("period_s", 10.0, 0.01, 86_400.0))


def readings(root: Path = Path("/")) -> list[tuple[str, bytes]]:
    """Topic and text of each reading that this machine has: sys/loadavg, sys/meminfo, sys/thermal (thousandths of °C)."""
    fixed = (("sys/loadavg", root / "proc/loadavg"), ("sys/meminfo", root / "proc/meminfo"))
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    found: list[tuple[str, bytes]] = []
    for topic, path in (*fixed, *(("sys/thermal", zone) for zone in zones)):
        try:
            with path.open("rb") as file:
                content = file.read(LIMIT_BYTES)
        except OSError:
            continue
        if content:
            found.append((topic, content))
    return found
