"""A board's link to a scripted broker."""

import asyncio
import contextlib
from collections import Counter

from device_agent.broker.link import Link
from tests.support.scripted_broker import (
    ScriptedBroker,
    number,
)


def connack(properties: bytes, code: int = 0, session: bool = False):
    """CONNACK with properties on every connection."""
    return lambda connection: bytes((session and connection > 1, code)) + number(len(properties)) + properties


@contextlib.asynccontextmanager
async def linked(
    broker: ScriptedBroker,
    on_message=lambda *_: None,
    on_online=lambda _link: None,
    marker: str = "",
    counters=None,
    on_input=lambda _: None,
):
    """A link that runs against a broker, online at first."""
    online = asyncio.Event()
    link = Link(
        broker.config,
        "board",
        on_message,
        lambda: (on_online(link), online.set()),
        online.clear,
        on_input=on_input,
        marker=marker,
        counters=Counter() if counters is None else counters,
    )
    async with broker:
        running = asyncio.create_task(link.run())
        try:
            yield link, online
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def come(event: asyncio.Event) -> None:
    async with asyncio.timeout(60):
        await event.wait()
