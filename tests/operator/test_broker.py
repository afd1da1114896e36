"""The operator's connection, against a broker that somebody floods."""

from types import SimpleNamespace

from ota.formats.broker_url import BrokerUrl
from ota.operator.broker import MAX_PACKET_BYTES, WAITING_LIMIT_BYTES, Broker
from ota.operator.workspace import Settings


def test_a_flood_of_messages_takes_no_more_memory_than_is_allowed_and_does_not_end_the_connection(caplog):
    broker = Broker(Settings("test.example", BrokerUrl("127.0.0.1", 1, tls=False), "lab"))
    payload = bytes(MAX_PACKET_BYTES)
    for _ in range(100):
        broker._on_message(None, None, SimpleNamespace(topic="ota/v1/report/x", payload=payload))
    taken = list(broker.messages(5, quiet_s=0.01))
    assert sum(len(each) for _, each in taken) <= WAITING_LIMIT_BYTES
    assert len(taken) >= 10
    for _ in range(3):  # there is room again
        broker._on_message(None, None, SimpleNamespace(topic="t", payload=payload))
        assert [topic for topic, _ in broker.messages(5, quiet_s=0.01)] == ["t"]
    broker.__exit__(None, None, None)
    assert f"{100 - len(taken)} messages" in caplog.text


def test_a_flood_of_empty_messages_has_an_end_too():
    broker = Broker(Settings("test.example", BrokerUrl("127.0.0.1", 1, tls=False), "lab"))
    for _ in range(200_000):
        broker._on_message(None, None, SimpleNamespace(topic="t", payload=b""))
    assert sum(1 for _ in broker.messages(5, quiet_s=0.01)) < 140_000
