"""What a broker announces, answers and refuses, and what the link makes of it."""

import asyncio

import pytest

from device_agent.broker.limits import Learned
from device_agent.broker.link import Kind, Link, Sent
from device_agent.broker.packets import UserProperties
from device_agent.broker.settings import BrokerConfig
from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from tests.support.lab import Mosquitto
from tests.support.links import come, connack, linked
from tests.support.scripted_broker import (
    CONNECT,
    DISCONNECT,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Packet,
    ScriptedBroker,
    packet,
)

REPORT = topics.report("board")
MARKER = topics.marker("board")


WIRE = bytes((122, 0x26)) + b"\0\5board\0\1b" + b"\x26\0\6module\0\x64" + "é".encode() * 50


def test_no_more_messages_are_unacknowledged_than_the_broker_allows():
    async def inside():
        broker = ScriptedBroker(connack=connack(b"\x21\x00\x03"), puback=lambda _: None)  # Receive Maximum 3
        async with linked(broker) as (link, online):
            await come(online)
            sent = [link.publish(f"a/{n}", b"x") for n in range(8)]
            await broker.until(lambda: len(broker.of(PUBLISH)) == 3)
            await asyncio.sleep(0.3)
            assert len(broker.of(PUBLISH)) == 3
            for each in broker.of(PUBLISH):
                broker.send(packet(4, 0, each.mid.to_bytes(2)))
            await broker.until(lambda: len(broker.of(PUBLISH)) == 6)
            for each in broker.of(PUBLISH)[3:]:
                broker.send(packet(4, 0, each.mid.to_bytes(2)))
            await broker.until(lambda: len(broker.of(PUBLISH)) == 8)
            assert [each.result() for each in sent[:6] if each.done()] == [Sent.ACKNOWLEDGED] * 6

    asyncio.run(inside())


def test_who_reads_that_the_board_is_online_is_heard_by_it():
    """Subscriptions are at the broker before whatever the board says of itself."""

    async def inside():
        broker = ScriptedBroker(connack=connack(b""))

        def online(link):
            link.publish("a/report", b"here")

        async with linked(broker, on_online=online) as (link, came):
            link.subscribe("in/+/a", Kind.INPUT)
            link.subscribe("in/b/+", Kind.INPUT)
            link.subscribe("a/document")
            await come(came)
            await broker.until(lambda: broker.of(PUBLISH))
            kinds = [each.kind for each in broker.packets if each.kind in (SUBSCRIBE, PUBLISH)]
            assert kinds.index(PUBLISH) == kinds.count(SUBSCRIBE) > 1

    asyncio.run(inside())


def test_nothing_larger_than_the_brokers_packets_is_sent(caplog):
    async def inside():
        broker = ScriptedBroker(connack=connack(b"\x27\x00\x00\x01\x00"))  # Maximum Packet Size 256
        async with linked(broker) as (link, online):
            await come(online)
            room = link.room("a/b")
            assert await link.publish("a/b", bytes(room)) is Sent.ACKNOWLEDGED
            for _ in range(3):
                assert await link.publish("a/b", bytes(room + 1)) is Sent.TOO_LARGE
            for count in range(20):
                link.subscribe(f"{'x' * 30}/{count}")
            await broker.until(lambda: sum(len(each.topics) for each in broker.of(SUBSCRIBE)) == 20)
            assert max(each.size for each in broker.packets if each.kind != CONNECT) <= 256
            assert len(broker.of(PUBLISH)) == 1
            assert link.problems == ("publish-refused: a/b (244 bytes; the broker takes packets of 256)",)

    asyncio.run(inside())
    assert caplog.text.count("the broker does not take messages for a/b") == 1


@pytest.mark.parametrize(
    ("properties", "told"),
    [(b"\x25\x00", "keeps no retained messages"), (b"\x24\x00", "acknowledges no messages (CONNACK: Maximum QoS 0)")],
)
def test_a_broker_that_cannot_do_the_job_is_refused_by_name_before_anything_is_sent(caplog, properties, told):
    async def inside():
        broker = ScriptedBroker(connack=connack(properties))
        async with linked(broker) as (link, online):
            link.subscribe("a/b")
            await broker.until(lambda: broker.of(DISCONNECT))
            await asyncio.sleep(0.1)
            assert [each.kind for each in broker.packets] == [CONNECT, DISCONNECT]
            assert not online.is_set()
            assert await link.publish("a/b", b"") is Sent.OFFLINE

    asyncio.run(inside())
    assert told in caplog.text


def test_a_reconnection_sends_the_fresh_report_and_no_old_one():
    """paho sends unacknowledged messages of the old connection again, after what is published on the new one."""

    async def inside():
        count = 0

        def online(link: Link) -> None:
            nonlocal count
            count += 1
            link.publish(REPORT, b"report-%d" % count, retain=True)

        broker = ScriptedBroker(puback=lambda sent: None if sent.connection == 1 else 0)
        async with linked(broker, on_online=online):
            await broker.until(lambda: broker.of(PUBLISH, 1))
            await broker.drop()
            await broker.until(lambda: broker.of(PUBLISH, 2))
            await asyncio.sleep(0.3)
            assert [each.payload for each in broker.of(PUBLISH, 2)] == [b"report-2"]

    asyncio.run(inside())


def test_only_the_latest_of_unsent_reports_is_sent():
    async def inside():
        broker = ScriptedBroker(connack=connack(b"\x21\x00\x01"), puback=lambda _: None)  # Receive Maximum 1
        async with linked(broker) as (link, online):
            await come(online)
            link.publish("x", b"first in the window")
            reports = [link.publish(REPORT, b"%d" % n, retain=True) for n in range(5)]
            await broker.until(lambda: broker.of(PUBLISH))
            broker.puback = lambda _: 0
            broker.send(packet(4, 0, broker.of(PUBLISH)[0].mid.to_bytes(2)))
            assert await reports[-1] is Sent.ACKNOWLEDGED
            assert [each.payload for each in broker.of(PUBLISH)[1:]] == [b"4"]

    asyncio.run(inside())


def test_a_message_that_the_broker_refuses_is_not_taken_for_delivered(caplog):
    async def inside():
        broker = ScriptedBroker(puback=lambda _: 0x97)
        async with linked(broker) as (link, online):
            await come(online)
            assert await link.publish("a/b", b"x") is Sent.REFUSED
            broker.puback = lambda _: 0x87
            for _ in range(3):
                assert await link.publish("a/b", b"x") is Sent.DENIED
            assert link.problems == ("publish-refused: a/b (Not authorized)",)
            broker.puback = lambda _: 0x10  # no subscriber is no failure
            assert await link.publish("a/b", b"x") is Sent.ACKNOWLEDGED
            assert link.problems == ()

    asyncio.run(inside())
    assert caplog.text.count("the broker does not take messages for a/b: ") == 1


def test_user_properties_are_on_the_wire_and_count_for_the_size_of_a_packet():
    async def inside():
        limit = b"\x27" + (200).to_bytes(4)
        async with ScriptedBroker(connack=connack(limit)) as broker:
            online = asyncio.Event()
            link = Link(broker.config, "board", lambda *_: None, online.set, online.clear)
            running = asyncio.create_task(link.run())
            await come(online)
            properties = UserProperties(UserProperties.encoded(("board", "b"), ("module", "é" * 50)))
            assert await link.publish("a", bytes(40), properties=properties) is Sent.ACKNOWLEDGED
            assert await link.publish("a", bytes(80), properties=properties) is Sent.TOO_LARGE
            assert await link.publish("a", bytes(80)) is Sent.ACKNOWLEDGED
            first = broker.of(PUBLISH)[0]
            assert first.size <= 200
            assert first.body[5 : 5 + len(WIRE)] == WIRE
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(inside())


def test_the_board_never_allows_topic_aliases_and_announces_no_receive_maximum():
    async def inside():
        broker = ScriptedBroker()
        async with linked(broker):
            await broker.until(lambda: broker.of(CONNECT))
            body = broker.of(CONNECT)[0].body
            # Session Expiry Interval, Maximum Packet Size, in any order; no Receive Maximum (0x21), no Topic Alias Maximum (0x22)
            properties, sizes, named = body[11 : 11 + body[10]], {0x11: 5, 0x21: 3, 0x22: 3, 0x27: 5}, set()
            while properties:
                named.add(properties[0])
                properties = properties[sizes[properties[0]] :]
            assert named == {0x11, 0x27}

    asyncio.run(inside())


def test_a_limit_that_the_broker_does_not_announce_is_learned():
    async def inside():
        broker = ScriptedBroker()
        limit = 10_000

        def puback(sent: Packet) -> int | None:
            if len(sent.payload) <= limit:
                return 0
            broker.writer.close()
            return None

        broker.puback = puback
        async with linked(broker) as (link, online):
            results = []
            while link.room("log") > limit:
                await come(online)
                results.append(await link.publish("log", bytes(min(link.room("log"), 30_000))))
                assert len(results) < 10
            await come(online)
            assert await link.publish("log", bytes(link.room("log"))) is Sent.ACKNOWLEDGED
            return results

    assert set(asyncio.run(inside())) <= {Sent.CLOSED, Sent.ACKNOWLEDGED}


def test_mosquittos_limit_on_messages_is_learned_and_batches_pass(tmp_path):
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path)
    broker._config.write_text(broker._config.read_text() + "message_size_limit 10000\n")
    broker.start()

    async def inside():
        online = asyncio.Event()
        config = BrokerConfig(BrokerUrl("127.0.0.1", broker.port, tls=False))
        link = Link(config, "board", lambda *_: None, online.set, online.clear)
        running = asyncio.create_task(link.run())
        results = []
        while not results or results[-1] is not Sent.ACKNOWLEDGED:
            await come(online)
            results.append(await link.publish("a/b", bytes(min(60_000, link.room("a/b")))))
            assert len(results) < 12
            assert not any("session-taken-over" in each for each in link.problems)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return results

    try:
        results = asyncio.run(inside())
    finally:
        broker.stop()
    assert set(results[:-1]) <= {Sent.CLOSED, Sent.TOO_LARGE, Sent.REFUSED, Sent.OFFLINE}


def test_a_board_that_ends_its_connection_blames_no_packet_for_it(caplog):
    """The broker had just not answered yet."""

    async def inside():
        broker = ScriptedBroker(unsuback=lambda _: False, puback=lambda each: None if each.topics == (REPORT,) else 0)
        async with linked(broker) as (link, online):
            await come(online)
            for each in "abc":
                link.subscribe(each, Kind.INPUT)
            await broker.until(lambda: broker.of(SUBSCRIBE))
            for each in "abc":
                link.unsubscribe(each)
            report = link.publish(REPORT, b"x" * 50_000)
            await broker.until(lambda: broker.of(UNSUBSCRIBE) and broker.of(PUBLISH))
            await link.say_goodbye("a/online", b"0")
            assert await report is Sent.LOST
            while link.online:
                await asyncio.sleep(0.01)
            assert vars(link.learned) == vars(Learned())

    asyncio.run(inside())
    assert not caplog.records
