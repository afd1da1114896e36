"""The cable between a board and its broker. The broker goes on while it is pulled, so that nobody else misses a message."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine

from boards.ports import free_port

LOOPBACK = "127.0.0.1"
PIECE_BYTES = 1 << 16
STEP_TIMEOUT_S = 60.0


class Cable:
    """Carries bytes from a port of its own to the broker's, on a thread. It begins plugged in."""

    def __init__(self, broker_port: int) -> None:
        self.port = free_port()
        self._broker_port = broker_port
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.plug()

    @property
    def url(self) -> str:
        """What the board takes for its broker."""
        return f"mqtt://{LOOPBACK}:{self.port}"

    def plug(self) -> None:
        """From here on the board reaches the broker."""
        self._do(self._plug())

    def pull(self) -> None:
        """Ends every connection at once; new ones are refused. Again: no effect."""
        self._do(self._pull())

    def close(self) -> None:
        """Pulls it and ends the thread."""
        self.pull()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STEP_TIMEOUT_S)
        self._loop.close()

    def _do(self, step: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(STEP_TIMEOUT_S)

    async def _plug(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)

    async def _pull(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for each in self._ends:
            each.transport.abort()
        while self._ends:
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        ends = [writer]
        try:
            away_reader, away_writer = await asyncio.open_connection(LOOPBACK, self._broker_port)
            self._ends.add(away_writer)
            ends.append(away_writer)
            if self._server is not None:  # pulled meanwhile
                await asyncio.gather(_carry(reader, away_writer), _carry(away_reader, writer))
        except OSError:
            pass  # no broker: the board sees a connection that ends
        finally:
            for each in ends:
                each.transport.abort()
                self._ends.discard(each)


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(PIECE_BYTES):
            sink.write(piece)
            await sink.drain()
    sink.close()
