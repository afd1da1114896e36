"""Between a board and a real broker: records packets both ways, is as slow as it is told, and breaks connections."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from boards.ports import free_port
from device_agent.broker.settings import BrokerConfig
from ota.formats.broker_url import BrokerUrl
from tests.support.scripted_broker import Packet, packet, packets, parsed

PIECE_BYTES = 1024


@dataclass
class RecordingProxy:
    """Listens on a port of its own. Connections count from 1."""

    broker_port: int
    bytes_per_s: float = 0.0  # towards the board; 0: as fast as it goes
    cut_after: Callable[[Packet], bool] = lambda packet: False  # of the broker: the connection ends behind it
    to_broker: list[Packet] = field(default_factory=list)
    to_board: list[Packet] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self.config = BrokerConfig(BrokerUrl("127.0.0.1", free_port(), tls=False))
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "RecordingProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.config.url.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.drop()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def drop(self) -> None:
        """Ends the present connections."""
        for each in self._tasks:
            each.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        self.connections += 1
        broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self.broker_port)
        ways = (
            asyncio.ensure_future(self._up(self.connections, reader, broker_writer)),
            asyncio.ensure_future(self._down(self.connections, broker_reader, writer)),
        )
        self._tasks.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(OSError, RuntimeError):  # what was sent still arrives: no reset
            writer.write_eof()
            await asyncio.sleep(0.05)
        for each in ways:
            each.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        self._tasks.difference_update(ways)
        for each in (broker_writer, writer):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()

    async def _up(self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            async for kind, flags, body in packets(reader):
                self.to_broker.append(parsed(connection, kind, flags, body))
                writer.write(packet(kind, flags, body))

    async def _down(self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            async for kind, flags, body in packets(reader):
                whole = packet(kind, flags, body)
                for at in range(0, len(whole), PIECE_BYTES):
                    piece = whole[at : at + PIECE_BYTES]
                    if self.bytes_per_s:
                        await asyncio.sleep(len(piece) / self.bytes_per_s)
                    writer.write(piece)
                    await writer.drain()
                taken = parsed(connection, kind, flags, body)
                self.to_board.append(taken)
                if self.cut_after(taken):
                    return
