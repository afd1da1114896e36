"""A loopback proxy that delays everything by half a round trip in each direction, and can cut its connections."""

import asyncio
import contextlib
import threading

from boards.ports import free_port


class Delay:
    """Runs in a thread of its own between `with` and its end."""

    def __init__(self, port: int, round_trip_s: float) -> None:
        self.port, self._target, self._half_s = free_port(), port, round_trip_s / 2
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Delay":
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)

    def cut(self) -> None:
        """Breaks every connection."""
        self._loop.call_soon_threadsafe(lambda: [each.transport.abort() for each in list(self._writers)])

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self._ready.set()
        await self._stop.wait()
        server.close()
        for each in list(self._writers):
            each.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                at, data = await waiting.get()
                await asyncio.sleep(max(0.0, at - self._loop.time()))
                writer.write(data)
                if not data:
                    writer.close()
                    self._writers.discard(writer)
                    return

        writing = asyncio.ensure_future(write())
        data = b"x"
        while data:
            data = b""
            with contextlib.suppress(OSError):
                data = await reader.read(65_536)
            waiting.put_nowait((self._loop.time() + self._half_s, data))
        await writing
