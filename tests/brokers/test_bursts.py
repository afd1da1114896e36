"""More retained inputs at once than any window, on each broker: all of them come, and so does what is sent afterwards."""

import asyncio

import pytest

from device_agent.broker.link import Kind, Link
from device_agent.broker.settings import BrokerConfig
from ota.formats.broker_url import BrokerUrl
from ota.operator.broker import Broker
from ota.operator.workspace import Settings
from tests.support.brokers import KINDS
from tests.support.lab import PATIENCE_S, Mosquitto

MESSAGES = 90  # rumqttd sends at most 100 that are retained
LATE = ("in/late", b"late")


@pytest.fixture(
    params=[pytest.param(kind, marks=[] if kind is Mosquitto else pytest.mark.full) for kind in KINDS.values()],
    ids=list(KINDS),
)
def broker(request, tmp_path):
    if request.param is Mosquitto and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    opened = request.param(tmp_path)
    opened.start()
    yield opened
    opened.stop()


def test_every_retained_input_arrives_and_what_is_sent_later(broker):
    """mochi 2.7.9 loses what is more than twice the board's Receive Maximum, and sends it nothing at QoS 1 any more."""
    url = BrokerUrl("127.0.0.1", broker.port, tls=False)
    filled = [(f"in/{number}", b"%d" % number) for number in range(MESSAGES)]

    async def inside(operator: Broker) -> list[tuple[str, bytes]]:
        arrived, online, all_there, late_there = [], asyncio.Event(), asyncio.Event(), asyncio.Event()

        def on_input(message) -> None:
            arrived.append((message.topic, message.payload))
            if len(arrived) == MESSAGES:
                all_there.set()
            if message.topic == LATE[0]:
                late_there.set()

        link = Link(BrokerConfig(url), "board", lambda *_: None, online.set, online.clear, on_input=on_input)
        running = asyncio.create_task(link.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                await online.wait()
                link.subscribe("in/+", Kind.INPUT)
                await all_there.wait()
                operator.publish_all([LATE])
                await late_there.wait()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return arrived

    with Broker(Settings("example.com", url, "lab")) as operator:
        operator.publish_all(filled)
        arrived = asyncio.run(inside(operator))
    assert sorted(arrived) == sorted([*filled, LATE])
