"""The connection to the broker, against one whose every byte is ours."""

import asyncio
import contextlib
import ssl

from device_agent.config import BrokerConfig
from device_agent.link import Link
from ota.demo.broker import free_port
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

    def take(topic: str, payload: bytes) -> None:
        got.append(payload)
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
    link = asyncio.ensure_future(Link(config, "board", take, lambda: None, lambda: None).run())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(all_there.wait(), 5)
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


def test_a_link_that_is_cancelled_just_when_it_loses_the_broker_ends():
    async def inside():
        served = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1000)
            writer.write(CONNACK)
            served.set()
            await reader.read(1000)
            writer.close()

        config = BrokerConfig(BrokerUrl("127.0.0.1", free_port(), tls=False))
        server = await asyncio.start_server(serve, "127.0.0.1", config.url.port)
        link = Link(config, "board", lambda *_: None, lambda: None, lambda: None)
        running = asyncio.create_task(link.run())
        await served.wait()
        await asyncio.sleep(0.1)
        link._lost.set()  # both before the loop turns again
        running.cancel()
        await asyncio.wait([running], timeout=3)
        server.close()
        return running.cancelled()

    assert asyncio.run(inside())
