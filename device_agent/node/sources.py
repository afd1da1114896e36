"""Local events: the board's own readings, from /proc and /sys."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

LIMIT_BYTES = 16 * 1024


def readings(root: Path = Path("/")) -> Iterator[tuple[str, bytes]]:
    """Topic and text of each reading that this machine has: sys/loadavg, sys/meminfo, sys/thermal (thousandths of °C)."""
    fixed = (("sys/loadavg", root / "proc/loadavg"), ("sys/meminfo", root / "proc/meminfo"))
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    for topic, path in (*fixed, *(("sys/thermal", zone) for zone in zones)):
        try:
            with path.open("rb") as file:
                content = file.read(LIMIT_BYTES)
        except OSError:
            continue
        if content:
            yield topic, content


async def sample(period_s: float, offer: Callable[[str, bytes], None]) -> None:
    """Offers all readings again and again, `period_s` apart."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        for topic, content in readings():
            offer(topic, content)
        due = max(due + period_s, loop.time())
        await asyncio.sleep(due - loop.time())
