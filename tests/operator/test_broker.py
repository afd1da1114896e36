"""The operator's connection: what brokers announce and answer, links that break, somebody who floods."""

import pytest

from ota.demo.broker import DemoBroker
from ota.formats.broker_url import BrokerUrl
from ota.operator.broker import WAITING_LIMIT_BYTES, Broker
from ota.operator.session import MAX_PACKET_BYTES, Incoming
from ota.operator.workspace import Settings
from tests.support.lab import Mosquitto


def settings(port: int) -> Settings:
    return Settings("test.example", BrokerUrl("127.0.0.1", port, tls=False), "lab")


@pytest.fixture(params=("mosquitto", "rumqttd"))
def port(request, tmp_path):
    """A real broker on the loopback."""
    if request.param == "mosquitto" and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path) if request.param == "mosquitto" else DemoBroker(tmp_path)
    broker.start()
    yield broker.port
    broker.stop()


def test_a_flood_of_messages_takes_no_more_memory_than_is_allowed(caplog):
    payload = bytes(MAX_PACKET_BYTES)
    broker = Broker(settings(1))
    for _ in range(100):
        broker._keep(Incoming("ota/v1/report/x", payload))
    taken = list(broker.messages(0))
    assert sum(len(each.payload) for each in taken) <= WAITING_LIMIT_BYTES
    assert len(taken) >= 10
    for _ in range(3):  # there is room again
        broker._keep(Incoming("t", payload))
        assert [each.topic for each in broker.messages(0)] == ["t"]
    broker.__exit__(None, None, None)
    assert f"{100 - len(taken)} messages" in caplog.text


def test_a_flood_of_empty_messages_has_an_end_too():
    broker = Broker(settings(1))
    for _ in range(200_000):
        broker._keep(Incoming("t", b""))
    assert sum(1 for _ in broker.messages(0)) < 140_000


def test_what_is_retained_and_what_is_not_is_told_apart(port):
    there = {f"ota/v1/device/b{number}/report": b"%d" % number for number in range(500)}
    with Broker(settings(port)) as broker:
        broker.publish_all(list(there.items()))
        wanted = [*there, *(f"ota/v1/device/none{number}/report" for number in range(100))]
        answers = {each.topic: each for each in broker.retained(wanted)}
        assert [each.topic for each in answers.values() if each.unknown] == []
        assert {topic: each.payload for topic, each in answers.items() if each.payload is not None} == there
        assert set(answers) == set(wanted)
        assert broker.retained_one("ota/v1/device/b7/report") == b"7"
        assert broker.retained_one("ota/v1/device/none7/report") is None


def test_the_same_topic_is_read_again_on_one_broker_object(port):
    with Broker(settings(port)) as broker:
        for number in range(5):
            broker.publish_all([("ota/v1/group/lab/desired", b"%d" % number)])
            assert broker.retained_one("ota/v1/group/lab/desired") == b"%d" % number
