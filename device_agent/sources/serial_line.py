"""A serial port, whose bytes are split into records. Read only: a module that answers on the port has it by its grant instead."""

import asyncio
import os
from dataclasses import dataclass
from typing import Any

from device_agent.sources.records import Records, pump, readable
from device_agent.sources.settings import Settings
from device_agent.sources.source import Sink
from ota.formats.capabilities import Capabilities, split_port
from ota.formats.reasons import Refused

QUIET_S = 60.0  # without a byte the port is waited for again


@dataclass(frozen=True)
class SerialLine:
    """Opened again, by whoever keeps it running, when the port has vanished."""

    port: str  # path and baud rate, as in grants
    topic: str
    delimiter: bytes
    record_bytes: int

    @property
    def devices(self) -> frozenset[str]:
        """The port, where a link to it leads now."""
        return frozenset({os.path.realpath(split_port(self.port)[0])})

    async def run(self, sink: Sink) -> None:
        """Raises OSError when the port cannot be opened or has gone."""
        records = Records(self.delimiter, self.record_bytes)
        opened = await asyncio.to_thread(_open, self.port)  # some drivers wait for the hardware
        try:
            while not await readable(opened.fileno(), QUIET_S) or await pump(opened.fileno(), records, self.topic, sink):
                pass
        finally:
            opened.close()
        raise OSError(f"serial port {self.port} has gone")


def parse(settings: Settings) -> SerialLine:
    """From `[sources.NAME]`."""
    port = settings.text("port", expected="a port with its baud rate such as /dev/ttyUSB0:115200")
    try:
        Capabilities.parse({"serial": {"ports": [port]}}, "")
    except Refused:
        raise settings.wrong("port", "a port with its baud rate such as /dev/ttyUSB0:115200") from None
    return SerialLine(port, settings.topic(), settings.delimiter(may_be_empty=False), settings.record_bytes())


def _open(name: str) -> Any:
    try:
        import serial
    except ImportError:
        raise OSError(f"serial port {name}: pyserial is not installed on this board") from None
    path, baud_rate = split_port(name)
    return serial.Serial(path, baud_rate, timeout=0, exclusive=True)
