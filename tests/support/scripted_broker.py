"""An MQTT 5 broker whose every answer is a test's: it records what comes and answers as it is told to."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from dataclasses import dataclass, field

from boards.ports import free_port
from device_agent.broker.settings import BrokerConfig
from ota.formats.broker_url import BrokerUrl

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, DISCONNECT = 1, 2, 3, 4, 8, 9, 10, 11, 12, 14


def number(value: int) -> bytes:
    """A variable byte integer."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def packet(kind: int, flags: int, body: bytes) -> bytes:
    """A whole control packet."""
    return bytes((kind << 4 | flags,)) + number(len(body)) + body


def publish(topic: str, payload: bytes, *, retain: bool = False, mid: int = 0) -> bytes:
    """A PUBLISH, of QoS 1 with a packet identifier, else of QoS 0."""
    body = len(topic).to_bytes(2) + topic.encode() + (mid.to_bytes(2) if mid else b"") + b"\x00" + payload
    return packet(PUBLISH, (2 if mid else 0) | retain, body)


async def packets(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, int, bytes]]:
    """Control packets of a stream: kind, flags and what follows the fixed header."""
    while True:
        (head,) = await reader.readexactly(1)
        size, shift = 0, 0
        while True:
            (byte,) = await reader.readexactly(1)
            size |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        yield head >> 4, head & 15, await reader.readexactly(size)


@dataclass
class Packet:
    """What came in."""

    connection: int
    kind: int
    topics: tuple[str, ...] = ()
    payload: bytes = b""
    mid: int = 0
    size: int = 0
    body: bytes = b""


def parsed(connection: int, kind: int, flags: int, body: bytes) -> Packet:
    """One control packet, as far as tests look into it."""
    if kind == PUBLISH:
        length = int.from_bytes(body[:2])
        at = 2 + length
        mid = int.from_bytes(body[at : at + 2]) if flags & 6 else 0
        at += 2 if flags & 6 else 0
        payload = body[at + 1 + body[at] :]
        return Packet(connection, kind, (body[2 : 2 + length].decode(),), payload, mid, len(body) + 2, body)
    if kind in (SUBSCRIBE, UNSUBSCRIBE):
        at, topics = 3 + body[2], []
        while at < len(body):
            length = int.from_bytes(body[at : at + 2])
            topics.append(body[at + 2 : at + 2 + length].decode())
            at += 2 + length + (kind == SUBSCRIBE)
        return Packet(connection, kind, tuple(topics), mid=int.from_bytes(body[:2]), size=len(body) + 2, body=body)
    return Packet(connection, kind, size=len(body) + 2, body=body)


@dataclass
class ScriptedBroker:
    """Grants and acknowledges everything, unless told otherwise. Connections count from 1."""

    connack: Callable[[int], bytes] = lambda connection: b"\x00\x00\x00"  # flags, code, properties
    suback: Callable[[str], int] = lambda topic: 1
    puback: Callable[[Packet], int | None] = lambda packet: 0  # None: no answer
    unsuback: Callable[[int], bool] = lambda connection: True  # whether UNSUBSCRIBE is answered
    retained: dict[str, bytes] = field(default_factory=dict)
    topics_a_packet: int = 1 << 16  # taken in one SUBSCRIBE or UNSUBSCRIBE packet
    too_many: bytes | int = b""  # what follows on more: a reason code for each of them, or a packet and the end of the connection
    echoes: bool = True  # whether messages come back to who subscribed to them
    mute: Callable[[int], bool] = lambda kind: False  # whether a kind of packet gets no answer
    packets: list[Packet] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = BrokerConfig(BrokerUrl("127.0.0.1", free_port(), tls=False))
        self.connections = 0
        self.changed = asyncio.Condition()
        self.writer: asyncio.StreamWriter | None = None
        self._subscribed: set[str] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "ScriptedBroker":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.config.url.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.drop()
        for each in self._writers:  # of connections that this one followed
            each.close()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def drop(self) -> None:
        """Closes the present connection without a word."""
        if self.writer is not None:
            self.writer.close()
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()

    @property
    def open(self) -> int:
        """How many connections have not ended."""
        return sum(not each.done() for each in self._serving)

    async def until(self, holds: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Waits until something holds of what came in."""
        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(holds)

    def of(self, kind: int, connection: int = 0) -> list[Packet]:
        """What came in of one kind, on one connection or all."""
        return [each for each in self.packets if each.kind == kind and connection in (0, each.connection)]

    def send(self, data: bytes) -> None:
        """Raw bytes to the board."""
        assert self.writer is not None
        self.writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        self._writers.add(writer)
        self.connections += 1
        connection, self.writer = self.connections, writer
        self._subscribed = set()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            async for kind, flags, body in packets(reader):
                taken = parsed(connection, kind, flags, body)
                self.packets.append(taken)
                many = taken.kind in (SUBSCRIBE, UNSUBSCRIBE) and len(taken.topics) > self.topics_a_packet
                if not self.mute(taken.kind):
                    (self._refuse if many else self._answer)(taken, writer)
                async with self.changed:
                    self.changed.notify_all()
        writer.close()

    def _refuse(self, taken: Packet, writer: asyncio.StreamWriter) -> None:
        if isinstance(self.too_many, int):
            codes = taken.mid.to_bytes(2) + b"\x00" + bytes((self.too_many,)) * len(taken.topics)
            writer.write(packet(SUBACK if taken.kind == SUBSCRIBE else UNSUBACK, 0, codes))
        else:
            writer.write(self.too_many)
            writer.close()

    def _answer(self, taken: Packet, writer: asyncio.StreamWriter) -> None:
        mid = taken.mid.to_bytes(2)
        if taken.kind == CONNECT:
            writer.write(packet(CONNACK, 0, self.connack(taken.connection)))
        elif taken.kind == PINGREQ:
            writer.write(packet(13, 0, b""))
        elif taken.kind == SUBSCRIBE:
            self._subscribed.update(taken.topics)
            writer.write(packet(SUBACK, 0, mid + b"\x00" + bytes(map(self.suback, taken.topics))))
            for topic in taken.topics:
                if topic in self.retained:
                    writer.write(publish(topic, self.retained[topic], retain=True))
        elif taken.kind == UNSUBSCRIBE and self.unsuback(taken.connection):
            self._subscribed.difference_update(taken.topics)
            writer.write(packet(UNSUBACK, 0, mid + b"\x00" + bytes(len(taken.topics))))
        elif taken.kind == PUBLISH:
            code = self.puback(taken)
            if code is not None and taken.mid:
                writer.write(packet(PUBACK, 0, mid + bytes((code, 0))))
            if self.echoes and taken.topics[0] in self._subscribed:
                writer.write(publish(taken.topics[0], taken.payload))


@contextmanager
def scripted(**script):
    """A broker that answers as it is told to, in a thread of its own."""
    started, stop = threading.Event(), []

    async def serve() -> None:
        async with broker:
            stop.extend((asyncio.get_running_loop(), ended := asyncio.Event()))
            started.set()
            await ended.wait()

    broker = ScriptedBroker(**script)
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(60)
    try:
        yield broker
    finally:
        stop[0].call_soon_threadsafe(stop[1].set)
        thread.join(60)
