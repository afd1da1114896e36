"""What a source is, where it puts its events, and how one is kept running.

A new kind is one file with a class, and one row of `kinds.KINDS`.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from ota.errors import OtaError

__all__ = ["Offer", "Sink", "Source", "SourceError", "keep_running"]

Offer = Callable[[str, bytes], None]
EVENTS_PER_S = 1000.0  # of one source, and a second's worth at once; then it is read more slowly, and its writer waits
EVENT_BYTES = 4096  # a larger event counts as several: what a source brings is bounded in bytes as well
PACE_S = 0.02  # shorter waits are made up for later
RETRY_MIN_S, RETRY_MAX_S = 0.5, 10.0
SAY_AGAIN_S = 3600.0
TEXTS_KEPT = 8  # of failures that were said
logger = logging.getLogger(__name__)


class SourceError(OtaError):
    """The settings of a source say something that is not possible."""


class Sink:
    """Where one run of a source puts its events: offers them at a bounded rate and counts what is lost."""

    def __init__(self, offer: Offer, counters: Counter[str]) -> None:
        self._offer, self._counters = offer, counters
        self._due_s = 0.0  # of the loop's clock: when the next event may come at the rate
        self.count = 0

    async def put(self, topic: str, payload: bytes) -> None:
        """Offers an event, and waits where events come too fast."""
        self._offer(topic, payload)
        self.count += 1
        await self.pace(len(payload))

    async def pace(self, size_bytes: int = 0) -> None:
        """Waits where too much comes. To be called for each reading, also for one that brought no event."""
        now_s = asyncio.get_running_loop().time()
        cost = max(1, -(-size_bytes // EVENT_BYTES)) / EVENTS_PER_S
        self._due_s = max(self._due_s, now_s - 1.0) + cost
        if self._due_s - now_s > PACE_S:
            await asyncio.sleep(self._due_s - now_s)

    def drop(self, count: int = 1) -> None:
        """Counts records that could not become events."""
        if count:
            self._counters["source_records_dropped"] += count


class Source(Protocol):
    """One source of events."""

    @property
    def devices(self) -> frozenset[str]:
        """Paths of the devices that it holds alone, as `Capabilities.exclusive` names them: no module can have them."""

    async def run(self, sink: Sink) -> None:
        """Puts its events until it is cancelled. Raises OSError when it cannot go on: it is then run again after a while."""


async def keep_running(name: str, source: Source, offer: Offer, counters: Counter[str]) -> None:
    """Runs a source for ever. Its failures are counted, said once each, and tried again after a time that doubles."""
    loop = asyncio.get_running_loop()
    wait_s = RETRY_MIN_S
    said: dict[str, float] = {}  # when, by the loop's clock
    while True:
        sink = Sink(offer, counters)
        try:
            await source.run(sink)
            text = "it has ended"
        except Exception as error:  # noqa: BLE001  (a source, whatever its driver raises, never ends the agent)
            text = str(error) or type(error).__name__
        counters["source_failures"] += 1
        if loop.time() - said.get(text, -SAY_AGAIN_S) >= SAY_AGAIN_S:
            logger.warning("source %s: %s: tried again until it works", name, text)
            said = {text: loop.time(), **dict(list(said.items())[: TEXTS_KEPT - 1])}
        wait_s = RETRY_MIN_S if sink.count else min(wait_s * 2, RETRY_MAX_S)
        await asyncio.sleep(wait_s)
