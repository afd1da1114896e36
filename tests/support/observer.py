"""Sees what a board says on the broker: its reports, those of its instances, and its modules' messages by number."""

import secrets
import threading
import time
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from device_agent.broker.statements import STATEMENT_BITS
from ota.errors import OtaError
from ota.formats import topics
from ota.formats.report import Attempt, InstanceReport, Message, Refusal, Report, Running, Summary
from tests.support.reports import board_report, instance_report, messages

SESSION_EXPIRY_S = 600
SUBSCRIBED = ("out/#", "readings/#", "alerts/#", "devices/+/readings/#", "devices/+/advice/#")  # modules' topics in tests


@dataclass(frozen=True)
class Seen:
    """A board's report, and that of one of its instances."""

    device: str
    group: str
    board: str
    agent: str
    time_s: int
    uptime_s: int
    running: Running
    attempt: Attempt
    instances: tuple[Summary, ...]
    refusals: tuple[Refusal, ...]
    counters: dict[str, int]
    problems: tuple[str, ...]


class Observer:
    """Follows one device. `report` is of the board and of `instance`."""

    def __init__(self, port: int, device: str, instance: str) -> None:
        self.device, self.instance = device, instance
        self.messages: dict[int, Message] = {}
        self.board: Report | None = None
        self.instances: dict[str, InstanceReport] = {}
        self._newest = self._forgotten = 0  # counters of reports
        self._changed = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, f"observer-{secrets.token_hex(8)}", protocol=paho.MQTTv5)
        self._client.on_connect = self._subscribe
        self._client.on_message = self._received
        self._port = port
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def report(self) -> Seen | None:
        """What was reported last; None before the board's first report."""
        return self.of(self.instance)

    def of(self, instance: str) -> Seen | None:
        """The board's report with that of an instance."""
        board, own = self.board, self.instances.get(instance)
        if board is None:
            return None
        return Seen(
            board.device,
            board.group,
            board.board,
            board.agent,
            board.time_s,
            board.uptime_s,
            own.running if own else Running(),
            own.attempt if own else Attempt(),
            board.instances,
            board.refusals,
            board.counters | (own.counters if own else {}),
            board.problems,
        )

    def forget_reports(self, *, restarts: bool = True) -> None:
        """What is seen next is of the agent's next start, if it `restarts`: what the last one sent may still be on its way."""
        with self._changed:
            self.board = None
            self.instances.clear()
            self._forgotten = self._newest if restarts else 0

    def _is_new(self, report: Report | InstanceReport) -> bool:
        late = report.counter > self._forgotten and report.counter >> STATEMENT_BITS == self._forgotten >> STATEMENT_BITS
        self._newest = max(self._newest, report.counter)
        return not late

    def publish(self, topic: str, payload: bytes, *, response_topic: str = "") -> None:
        """Sends an event to the board, QoS 1."""
        properties = None
        if response_topic:
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic = response_topic
        self._client.publish(topic, payload, qos=1, properties=properties)

    def close(self) -> None:
        """Ends the connection."""
        self._stopped = True
        self._client.disconnect()
        self._thread.join(5)
        self._client.on_connect = self._client.on_message = None  # so paho closes the rest as soon as we are gone

    def wait(self, holds, timeout_s: float, what: str) -> None:
        """Waits until `holds()`; raises OtaError naming `what` when it does not come."""
        with self._changed:
            if not self._changed.wait_for(holds, timeout_s):
                raise OtaError(f"waited {timeout_s:.0f} s for: {what}; the board's last report: {self.report}")

    def _run(self) -> None:
        """mosquitto keeps a session that did not begin clean over its own restart: a board that is back before us is heard too."""
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = SESSION_EXPIRY_S
        while not self._stopped:
            try:
                self._client.connect("127.0.0.1", self._port, keepalive=5, clean_start=False, properties=kept)
            except OSError:
                time.sleep(0.01)
                continue
            while not self._stopped and self._client.loop(0.2) == paho.MQTT_ERR_SUCCESS:
                pass
        for _ in range(10):  # the goodbye of `close`, and the end of the socket
            if self._client.loop(0.1) != paho.MQTT_ERR_SUCCESS:
                return

    def _subscribe(self, client: paho.Client, *_) -> None:
        wanted = (
            topics.report(self.device),
            topics.instance_report(self.device, "+"),
            topics.telemetry(self.device),
            *SUBSCRIBED,
        )
        client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in wanted])

    def _received(self, client: paho.Client, data, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        with self._changed:
            if message.topic == topics.report(self.device):
                report = board_report(payload)
                self.board = report if self._is_new(report) else self.board
            elif message.topic.startswith(topics.PREFIX) and message.topic.endswith("/report"):
                report = instance_report(payload)
                if self._is_new(report):
                    self.instances[report.instance] = report
            elif message.topic == topics.telemetry(self.device):
                self.messages.update({each.number: each for each in messages(payload)})
            elif (found := _message(message.topic, payload, message.properties)) is not None:
                self.messages[found.number] = found
            self._changed.notify_all()


def _message(topic: str, payload: bytes, properties) -> Message | None:
    """A module's message on its real topic; None for one that comes from no module."""
    said = dict(getattr(properties, "UserProperty", ()))
    if "number" not in said:
        return None
    return Message(int(said["number"]), float(said["time"]), said["instance"], said["module"], topic, payload)
