"""An outbox in memory and a link that a test holds."""

import asyncio

from device_agent.channel.frames import KeyWrite
from device_agent.storage.messages import Outcome, Version
from ota.formats.report import Message

VERSION = Version("m", "m", b"1")


async def on_writer(function, *values):
    await asyncio.sleep(0)
    return function(*values)


def of(size: int, *writes: KeyWrite) -> Outcome:
    return Outcome(VERSION, writes, [Message(0, 0.5, "m", "m 1", "out", bytes(size))])
