"""The connection to the broker, against one whose every byte is ours."""

import asyncio
import contextlib
import os
import socket
import ssl

import pytest

from boards.ports import free_port
from device_agent.broker.buffered import BufferedSocket
from device_agent.broker.link import Link
from device_agent.broker.packets import Arrived
from device_agent.broker.settings import BrokerConfig
from ota.formats.broker_url import BrokerUrl
from tests.support.tls import server_certificate

CONNACK = bytes((0x20, 3, 0, 0, 0))


def publish(topic: str, payload: bytes) -> bytes:
    """A PUBLISH of QoS 0 and MQTT 5, shorter than 128 bytes."""
    content = len(topic).to_bytes(2) + topic.encode() + b"\x00" + payload
    return bytes((0x30, len(content))) + content


async def received(messages: bytes, count: int, tls: ssl.SSLContext, config: BrokerConfig) -> list[bytes]:
    """What comes out of a link within five seconds of one write by the broker."""
    got, all_there, ended = [], asyncio.Event(), asyncio.Event()

    def take(arrived: Arrived) -> None:
        got.append(arrived.payload)
        if len(got) == count:
            all_there.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(CONNACK)
        await asyncio.sleep(0.2)
        writer.write(messages)
        await all_there.wait()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", config.url.port, ssl=tls)
    link = asyncio.ensure_future(Link(config, "board", lambda *_: None, lambda: None, lambda: None, on_input=take).run())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(all_there.wait(), 60)
    link.cancel()
    all_there.set()
    await ended.wait()
    server.close()
    return got


def test_messages_that_share_a_record_of_tls_do_not_wait_for_the_next(tmp_path):
    server_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    payloads = [bytes((number,)) for number in range(5)]
    config = BrokerConfig(BrokerUrl("127.0.0.1", free_port(), tls=True), ca_file=tmp_path / "server.pem")
    together = b"".join(publish("a/b", each) for each in payloads)
    assert asyncio.run(received(together, len(payloads), tls, config)) == payloads


async def close(server: asyncio.Server, writers: list[asyncio.StreamWriter]) -> None:
    server.close()
    for each in writers:
        each.close()
        with contextlib.suppress(OSError):
            await each.wait_closed()


def test_a_link_that_is_cancelled_just_when_it_loses_the_broker_ends():
    async def inside():
        served, writers = asyncio.Event(), []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1000)
            writer.write(CONNACK)
            writers.append(writer)
            served.set()

        config = BrokerConfig(BrokerUrl("127.0.0.1", free_port(), tls=False))
        server = await asyncio.start_server(serve, "127.0.0.1", config.url.port)
        online = asyncio.Event()
        link = Link(config, "board", lambda *_: None, online.set, lambda: None)
        running = asyncio.create_task(link.run())
        await served.wait()
        await online.wait()
        await asyncio.sleep(0.1)  # until it waits again
        link._connection._lost.set()  # both before the loop turns again
        running.cancel()
        await asyncio.wait([running], timeout=60)
        await close(server, writers)
        return running.cancelled()

    assert asyncio.run(inside())


def test_two_boards_of_one_name_say_so_and_come_back_ever_more_slowly(caplog):
    async def inside():
        times, writers = [], []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            times.append(asyncio.get_running_loop().time())
            await reader.read(1000)
            writer.write(CONNACK)
            await asyncio.sleep(0.05)
            writer.write(bytes((0xE0, 2, 0x8E, 0)))  # DISCONNECT: session taken over
            writers.append(writer)

        config = BrokerConfig(BrokerUrl("127.0.0.1", free_port(), tls=False))
        server = await asyncio.start_server(serve, "127.0.0.1", config.url.port)
        running = asyncio.create_task(Link(config, "twin", lambda *_: None, lambda: None, lambda: None).run())
        async with asyncio.timeout(60):
            while len(times) < 4:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)  # until that connection was ended too
        running.cancel()
        await close(server, writers)
        return times

    times = asyncio.run(inside())
    assert times[3] - times[2] > 1.0  # half of two seconds at least; the first time half a second at most
    assert "are there two boards called twin?" in caplog.text


def test_packets_are_read_and_written_many_at_a_time_and_none_is_lost_in_between():
    """The library asks for a head, a length and a body of each; the socket takes only so much."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    buffered = BufferedSocket(ours)
    assert not buffered.fill()
    theirs.sendall(bytes(range(10)))
    assert buffered.fill()
    assert buffered.arrived == bytes(range(10))
    buffered.give(b"\0\1\2\3")
    assert (buffered.recv(1), buffered.recv(1), buffered.has_given) == (b"\0", b"\1", True)
    assert buffered.recv(100) == b"\2\3"
    assert not buffered.has_given
    with pytest.raises(BlockingIOError):
        buffered.recv(1)
    sent, taken = bytearray(), bytearray()
    with pytest.raises(BlockingIOError):  # nobody reads: there is an end to what is kept
        while True:
            piece = os.urandom(10_000)
            buffered.send(piece)
            sent += piece
    theirs.setblocking(False)
    done = False
    while not done:
        done = buffered.flush()
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += theirs.recv(1 << 16)
    assert taken == sent
    buffered.send(b"last")
    buffered.close()
    assert theirs.recv(10) == b"last"
    assert theirs.recv(10) == b""
    theirs.close()
