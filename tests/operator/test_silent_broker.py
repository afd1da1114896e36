"""Brokers that say nothing, or not all: what is waited for, how long, and what is told of it."""

import ssl
import time

import pytest

from ota.formats.broker_url import BrokerUrl
from ota.operator import pages
from ota.operator.broker import Broker, BrokerError
from ota.operator.session import Session
from ota.operator.workspace import Settings
from tests.support.fleet import settings
from tests.support.scripted_broker import CONNECT, PUBLISH, SUBSCRIBE, scripted


@pytest.mark.parametrize(
    "script", [{"puback": lambda packet: 0x87, "echoes": False}, {"suback": lambda topic: 0x87 if "check" in topic else 1}]
)
def test_without_a_marker_what_does_not_come_is_unknown(script):
    with scripted(retained={"a": b"1"}, **script) as broker, Broker(settings(broker.config.url.port)) as connection:
        answers = {each.topic: each for each in connection.retained(["a", "b"])}
    assert answers["a"].payload == b"1"
    assert "ota/v1/check" in answers["b"].unknown


@pytest.mark.parametrize("retained", [{}, {"a": b"1"}])
def test_without_a_marker_a_broker_that_is_seen_to_be_fast_is_waited_for_less(retained, monkeypatch):
    monkeypatch.setattr(pages, "UNFENCED_TIMES", 0)
    readings = []
    run = pages.Reading.run
    monkeypatch.setattr(pages.Reading, "run", lambda self, waiting: readings.append(self) or run(self, waiting))
    with (
        scripted(retained=retained, suback=lambda topic: 0x87 if "check" in topic else 1) as broker,
        Broker(settings(broker.config.url.port)) as connection,
    ):
        answers = list(connection.retained(["a", "silent"]))
    assert len([each for each in answers if each.unknown]) == 2 - len(retained)
    assert (readings[0].unfenced_s < pages.UNFENCED_S) == bool(retained)


def test_a_marker_that_is_taken_and_never_comes_back_makes_unknown(monkeypatch):
    monkeypatch.setattr("ota.operator.session.PATIENCE_MIN_S", 0.3)
    with scripted(retained={"a": b"1"}, echoes=False) as broker, Broker(settings(broker.config.url.port)) as connection:
        answers = {each.topic: each for each in connection.retained(["a", "b"])}
        made = connection.connections
        (again,) = connection.retained(["b"])
        assert connection.connections == made  # that it does not come back is known now, and not waited for once more
        monkeypatch.setattr(pages.time, "monotonic", lambda before=time.monotonic: before() + pages.UNFENCED_FOR_S)
        broker.echoes = True
        (later,) = connection.retained(["b"])
    assert answers["a"].payload == b"1"
    assert "does not come back" in answers["b"].unknown
    assert "does not come back" in again.unknown
    assert later.unknown == ""  # it is allowed by now


@pytest.mark.parametrize(
    ("kind", "done", "waiting", "ended"),
    [
        (CONNECT, lambda broker: None, "waiting to connect", "did not answer CONNECT"),
        (SUBSCRIBE, lambda broker: list(broker.retained(["a"])), "waiting for what is retained", "answered no subscription on 4"),
        (SUBSCRIBE, lambda broker: broker.subscribe("a"), "waiting for a subscription", "did not answer a subscription"),
        (PUBLISH, lambda broker: broker.publish_all([("a", b"")]), "waiting for 1 messages", "did not acknowledge a message"),
    ],
)
def test_a_broker_that_does_not_answer_is_waited_for_with_a_word_and_an_end(monkeypatch, caplog, kind, done, waiting, ended):
    monkeypatch.setattr("ota.operator.session.CONNECT_TIMEOUT_S", 2.0 if kind == CONNECT else 30.0)
    monkeypatch.setattr("ota.operator.session.PATIENCE_MIN_S", 0.5)
    monkeypatch.setattr("ota.operator.session.SAY_AFTER_S", 0.2)
    with (
        scripted(mute=lambda each: each == kind) as broker,
        pytest.raises(BrokerError, match=ended),
        Broker(settings(broker.config.url.port)) as connection,
    ):
        done(connection)
    assert waiting in caplog.text
    assert f"127.0.0.1:{broker.config.url.port} has not answered for" in caplog.text


def test_a_stalled_connection_is_made_anew(monkeypatch):
    monkeypatch.setattr("ota.operator.session.PATIENCE_MIN_S", 0.3)
    there = {f"t/{number}": b"%d" % number for number in range(80)}
    with scripted(retained=there) as broker, Broker(settings(broker.config.url.port)) as connection:
        broker.echoes = False
        monkeypatch.setattr(pages, "IDLE_S", 0.001)
        answers = connection.retained([*there, "none"])
        for _ in range(80):
            next(answers)
        broker.echoes = True  # the marker of the first connection was swallowed
        (last,) = list(answers)
    assert (last.topic, last.payload, last.unknown) == ("none", None, "")


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), ssl.SSLEOFError(8, "EOF occurred")])
def test_a_port_without_tls_is_told_from_a_broker_that_is_not_there(error, monkeypatch):
    def closed(*_, **__):
        raise error

    monkeypatch.setattr("paho.mqtt.client.Client.connect", closed)
    with pytest.raises(BrokerError, match="does it speak TLS on this port"):
        Session(Settings("test.example", BrokerUrl("127.0.0.1", 1, tls=True), "lab"))
    with pytest.raises(BrokerError, match=r"can't be reached: .*(reset|EOF)"):
        Session(settings(1))
