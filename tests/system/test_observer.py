"""The observer of the demonstration, which keeps count of what a board sends."""

import threading
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ota.demo.broker import DemoBroker
from ota.demo.cable import LOOPBACK
from ota.demo.stage import DEVICE, Observer
from tests.support.lab import PATIENCE_S


@pytest.fixture
def broker(tmp_path):
    broker = DemoBroker(tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def observer(broker):
    observer = Observer(broker.port)
    yield observer
    observer.close()


@pytest.fixture
def say(broker):
    """Sends a message of this number, of an instance."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect(LOOPBACK, broker.port)
    client.loop_start()

    def send(number: int, instance: str) -> None:
        about = Properties(PacketTypes.PUBLISH)
        about.UserProperty = [("board", DEVICE), ("instance", instance), ("module", instance)]
        about.UserProperty += [("number", str(number)), ("time", "1.0")]
        client.publish(f"devices/{DEVICE}/readings/{instance}", b"", 1, properties=about).wait_for_publish(PATIENCE_S)

    yield send
    client.disconnect()
    client.loop_stop()


def send_until_seen(observer, send):
    """The observer's subscription may come after the first message."""
    until = time.monotonic() + PATIENCE_S
    while not observer.messages:
        assert time.monotonic() < until
        send()
        time.sleep(0.05)


def test_what_another_instance_said_later_may_come_first_and_is_no_loss(observer, say):
    send_until_seen(observer, lambda: say(3, "b"))
    assert observer.missing(0) == [1, 2]
    later = threading.Timer(0.3, lambda: [say(number, "a") for number in (1, 2)])
    later.start()
    assert observer.missing(PATIENCE_S) == []
    later.join()


def test_what_never_comes_is_missing(observer, say):
    send_until_seen(observer, lambda: say(2, "b"))
    assert observer.missing(0.2) == [1]
