"""Notices that the board's clock was set: by NTP after a start without a battery, or by hand."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

CHECK_S = 10.0
STEP_S = 5.0
"""How far wall clock and monotonic clock may drift apart before that counts as a change."""
logger = logging.getLogger(__name__)


def since_start_s() -> float:
    """Seconds since the board was started, those in which it slept too: the wall clock is not set by sleeping."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def watch(
    changed: Callable[[], None],
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = since_start_s,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Calls `changed` each time that the wall clock, in seconds since 1970, was set. Never ends."""
    apart = wall() - monotonic()
    while True:
        await sleep(CHECK_S)
        step_s = wall() - monotonic() - apart
        if abs(step_s) >= STEP_S:
            logger.info("the clock was set by %+.0f s", step_s)
            apart += step_s
            changed()
