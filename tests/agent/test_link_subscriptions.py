"""What the link asks a broker for, in which packets, and what it makes of a refusal."""

import asyncio

import pytest

from device_agent.broker.link import REFUSED_TOPICS, Kind
from ota.formats import topics
from tests.support.links import come, connack, linked
from tests.support.scripted_broker import (
    CONNECT,
    PUBLISH,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    ScriptedBroker,
    packet,
    publish,
)

MARKER = topics.marker("board")


def test_wildcards_that_the_broker_does_not_have_are_not_asked_for():
    async def inside():
        broker = ScriptedBroker(connack=connack(b"\x28\x00"))
        async with linked(broker) as (link, _):
            link.subscribe("in/#", Kind.INPUT)
            link.subscribe("in/a", Kind.INPUT)
            await broker.until(lambda: broker.of(SUBSCRIBE))
            assert [each.topics for each in broker.of(SUBSCRIBE)] == [("in/a",)]
            assert link.problems == ("subscription-denied: in/# (the broker has no wildcard subscriptions)",)

    asyncio.run(inside())


def test_a_filter_that_another_covers_is_not_asked_for_as_long_as_that_is_granted():
    """Brokers may send a message once for each subscription that it matches."""

    async def inside():
        broker = ScriptedBroker()
        async with linked(broker) as (link, online):
            await come(online)
            link.subscribe("in/a", Kind.INPUT)
            await broker.until(lambda: broker.of(SUBSCRIBE))
            link.subscribe("in/#", Kind.INPUT)
            link.subscribe("in/b/+", Kind.INPUT)
            await broker.until(lambda: broker.of(UNSUBSCRIBE))
            asked = [(each.kind, each.topics) for each in broker.packets[1:]]
            assert asked == [(SUBSCRIBE, ("in/a",)), (SUBSCRIBE, ("in/#",)), (UNSUBSCRIBE, ("in/a",))]
            link.unsubscribe("in/#")
            await broker.until(lambda: {each for sent in broker.of(SUBSCRIBE)[2:] for each in sent.topics} == {"in/a", "in/b/+"})
            await broker.until(lambda: len(broker.of(UNSUBSCRIBE)) == 2)
            asked = len(broker.of(SUBSCRIBE))
            broker.suback = lambda topic: 0x87 if topic == "#" else 1
            link.subscribe("#", Kind.INPUT)
            await broker.until(lambda: len(broker.of(SUBSCRIBE)) > asked + 1)
            assert broker.of(SUBSCRIBE)[asked].topics == ("#",)
            assert {each for sent in broker.of(SUBSCRIBE)[asked + 1 :] for each in sent.topics} == {"in/a", "in/b/+"}

    asyncio.run(inside())


def test_a_module_that_is_new_to_an_input_gets_what_is_retained_without_a_gap_for_the_others():
    async def inside():
        broker = ScriptedBroker()
        async with linked(broker) as (link, online):
            await come(online)
            link.subscribe("in/#", Kind.INPUT)
            link.subscribe("in/a", Kind.INPUT)
            await broker.until(lambda: broker.of(SUBSCRIBE))
            link.repeat("in/a")
            await broker.until(lambda: len(broker.of(SUBSCRIBE)) == 2)
            await asyncio.sleep(0.05)
            assert [each.topics for each in broker.of(SUBSCRIBE)] == [("in/#",), ("in/#",)]
            options = [each.body[-1] for each in broker.of(SUBSCRIBE)]
            assert options == [0b01_01_01, 0b00_01_01]  # retain handling, No Local, QoS
            assert not broker.of(UNSUBSCRIBE)

    asyncio.run(inside())


def test_a_window_of_topics_is_one_packet():
    async def inside():
        broker = ScriptedBroker()
        async with linked(broker) as (link, online):
            await come(online)
            for count in range(10):
                link.subscribe(f"a/{count}", Kind.PART)
            await broker.until(lambda: broker.of(SUBSCRIBE))
            for count in range(5):
                link.unsubscribe(f"a/{count}")
            for count in range(5):
                link.subscribe(f"b/{count}", Kind.PART)
            await broker.until(lambda: len(broker.of(SUBSCRIBE)) == 2)
            assert [len(each.topics) for each in broker.of(SUBSCRIBE)] == [10, 5]
            assert [len(each.topics) for each in broker.of(UNSUBSCRIBE)] == [5]

    asyncio.run(inside())


@pytest.mark.parametrize("too_many", [b"", b"\xe0\x00", b"\xe0\x02\x97\x00", 0x97])
def test_how_many_topics_the_broker_takes_in_one_packet_is_learned(too_many):
    wanted = {f"ota/v1/blob/{number}": bytes((number,)) for number in range(30)}

    async def inside():
        broker = ScriptedBroker(retained=wanted, topics_a_packet=8, too_many=too_many)
        came: dict[str, bytes] = {}
        everything = asyncio.Event()

        def take(topic: str, payload: bytes) -> None:
            came[topic] = payload
            if came == wanted:
                everything.set()

        async with linked(broker, take, marker=MARKER) as (link, online):
            await come(online)
            for topic in wanted:
                link.subscribe(topic, Kind.PART)
            await come(everything)
            assert link.problems == ()
            before = broker.connections
            assert before <= 3
            for topic in wanted:
                link.unsubscribe(topic)
            await broker.until(lambda: sum(len(each.topics) for each in broker.of(UNSUBSCRIBE)) == 30)
            assert max(len(each.topics) for each in broker.of(UNSUBSCRIBE)) <= 8
            assert broker.connections == before

    asyncio.run(inside())


def test_a_topic_that_is_refused_alone_is_denied_and_not_asked_for_without_end():
    async def inside():
        broker = ScriptedBroker(topics_a_packet=0, too_many=0x97)
        async with linked(broker) as (link, online):
            await come(online)
            for number in range(40):
                link.subscribe(f"t/{number}", Kind.PART)
            async with asyncio.timeout(60):
                while not all(link.denied(f"t/{number}") for number in range(40)):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
            assert len(broker.of(SUBSCRIBE)) < 100
            assert broker.connections == 1

    asyncio.run(inside())


def test_the_topics_that_a_broker_refuses_are_not_remembered_without_end():
    async def inside():
        broker = ScriptedBroker(puback=lambda _: 0x87)
        async with linked(broker) as (link, online):
            await come(online)
            for index in range(REFUSED_TOPICS + 5):
                await link.publish(f"a/{index}", b"x")
            assert len(link._refused) == REFUSED_TOPICS

    asyncio.run(inside())


def test_a_denied_subscription_is_a_problem_of_the_board():
    async def inside():
        desired = topics.desired("lab")
        broker = ScriptedBroker(suback=lambda topic: 0x87 if topic == desired else 1)
        async with linked(broker) as (link, _):
            link.subscribe(desired)
            link.subscribe("a/b")
            await broker.until(lambda: broker.of(SUBSCRIBE))
            async with asyncio.timeout(60):
                while not link.problems:
                    await asyncio.sleep(0.02)
            assert link.problems == (f"subscription-denied: {desired} (Not authorized)",)

    asyncio.run(inside())


def test_a_broker_that_grants_a_subscription_and_delivers_nothing_is_told(monkeypatch):
    async def inside(echoes: bool):
        monkeypatch.setattr("device_agent.broker.link.MARKER_S", 0.3)
        broker = ScriptedBroker(echoes=echoes)
        async with linked(broker, marker=MARKER) as (link, online):
            await come(online)
            await broker.until(lambda: broker.of(PUBLISH))
            await asyncio.sleep(0.6)
            return link.problems

    assert asyncio.run(inside(echoes=True)) == ()
    assert asyncio.run(inside(echoes=False)) == ("broker-silent: the broker granted a subscription and delivered nothing",)


def test_a_session_is_resumed_without_what_an_old_window_subscribed_to():
    async def inside():
        broker = ScriptedBroker(connack=connack(b"", session=True))
        async with linked(broker) as (link, online):
            await come(online)
            link.subscribe("in/#", Kind.INPUT)
            link.subscribe("doc")
            link.subscribe("part/1", Kind.PART)
            link.subscribe("part/2", Kind.PART)
            await broker.until(lambda: broker.of(SUBSCRIBE))
            link.unsubscribe("part/1")
            await broker.drop()
            await broker.until(lambda: len(broker.of(SUBSCRIBE, 2)) == 2)
            assert set(broker.of(UNSUBSCRIBE, 2)[0].topics) == {"doc", "part/1", "part/2"}
            assert broker.of(SUBSCRIBE, 2)[0].topics == ("in/#",)
            assert set(broker.of(SUBSCRIBE, 2)[1].topics) == {"doc", "part/2"}  # after UNSUBACK
            first, second = (each.body[7] & 2 for each in broker.of(CONNECT))  # Clean Start
            assert (first, second) == (2, 0)

    asyncio.run(inside())


@pytest.mark.parametrize("comes", ["all in order", "all but the answer", "nothing"])
def test_an_answer_behind_what_is_under_way_on_a_slow_link_is_waited_for(monkeypatch, comes):
    """A broker that sends nothing, or answers what was sent later, does not answer: sessions are not kept any more."""
    monkeypatch.setattr("device_agent.broker.subscribing.UNSUBACK_S", 0.6)

    async def inside():
        broker = ScriptedBroker(connack=connack(b"", session=True), unsuback=lambda connection: connection != 2)
        broker.puback = lambda packet: 0 if comes == "all but the answer" else None
        async with linked(broker, marker="marker") as (link, online):
            await come(online)
            link.subscribe("doc")
            await broker.until(lambda: [each for each in broker.of(SUBSCRIBE) if "doc" in each.topics])
            await broker.drop()
            await broker.until(lambda: broker.of(UNSUBSCRIBE, 2))
            for _ in range(15 if comes != "nothing" else 0):
                if broker.connections == 2:
                    broker.send(publish("part/1", bytes(100)))
                await asyncio.sleep(0.1)
            if comes == "all in order":
                assert broker.connections == 2
                ended = broker.of(UNSUBSCRIBE, 2)[0]
                broker.send(packet(UNSUBACK, 0, ended.mid.to_bytes(2) + b"\0" + bytes(len(ended.topics))))
                await broker.until(lambda: [each for each in broker.of(SUBSCRIBE, 2) if "doc" in each.topics])
                await broker.drop()
            await broker.until(lambda: broker.of(CONNECT, 3))
            assert broker.of(CONNECT, 3)[0].body[7] & 2 == (0 if comes == "all in order" else 2)  # Clean Start

    asyncio.run(inside())
