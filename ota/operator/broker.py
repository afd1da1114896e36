"""The operator's connection to a broker: publish and wait, collect what is retained, follow what comes."""

import contextlib
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ota.errors import OtaError
from ota.operator.workspace import Settings

CONNECT_TIMEOUT_S = 10.0
PUBLISH_TIMEOUT_S = 60.0
WINDOW = 20
MAX_PACKET_BYTES = 4 << 20
WAITING_LIMIT_BYTES = 64 << 20  # of messages that nobody has taken yet; one beyond is dropped
MESSAGE_OVERHEAD_BYTES = 500
logger = logging.getLogger(__name__)


class BrokerError(OtaError):
    """The broker can't be reached, refused, or did not answer in time."""


class Broker:
    """A connection; open while inside `with`. One thread of paho's own reads the network."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._filters: set[str] = set()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._incoming: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._waiting_bytes, self._waiting_lock = 0, threading.Lock()
        self._dropped = 0
        self._connected: queue.Queue[str | None] = queue.Queue()
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_message = self._on_message
        self._client.on_socket_open = self._on_socket_open
        if settings.broker.tls:
            self._client.tls_set_context(ssl.create_default_context(cafile=settings.ca_file))
        if settings.username:
            password = settings.password_file.read_text(encoding="utf-8").strip() if settings.password_file else None
            self._client.username_pw_set(settings.username, password)

    def __enter__(self) -> Self:
        url = self._settings.broker
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_PACKET_BYTES
        try:
            self._client.connect(url.host, url.port, keepalive=30, clean_start=True, properties=properties)
        except (OSError, ValueError) as error:
            raise BrokerError(f"the broker at {url} can't be reached: {error}") from error
        self._client.loop_start()
        try:
            refusal = self._connected.get(timeout=CONNECT_TIMEOUT_S)
        except queue.Empty:
            refusal = f"no answer in {CONNECT_TIMEOUT_S:.0f} s"
        if refusal:
            self._client.loop_stop()
            raise BrokerError(f"the broker at {url} refused the connection: {refusal}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        client = self._client
        client.disconnect()
        client.loop_stop()
        # Nothing of ours in it any more: so paho closes the rest as soon as we are gone, not at some collection of cycles.
        client.on_connect = client.on_connect_fail = client.on_message = client.on_socket_open = None
        if self._dropped:
            logger.warning("%d messages came faster than they could be taken, and were dropped", self._dropped)

    def publish_all(self, messages: list[tuple[str, bytes]], progress: Callable[[int], None] = lambda _: None) -> None:
        """Publishes retained messages, in order, and waits until the broker has them all; `progress` gets bytes done."""
        waiting: list[tuple[paho.MQTTMessageInfo, int]] = []
        for topic, payload in messages:
            waiting.append((self._client.publish(topic, payload, qos=1, retain=True), len(payload)))
            if len(waiting) >= WINDOW:
                self._settle(waiting.pop(0), progress)
        for each in waiting:
            self._settle(each, progress)

    def _settle(self, sent: tuple[paho.MQTTMessageInfo, int], progress: Callable[[int], None]) -> None:
        info, size = sent
        try:
            info.wait_for_publish(PUBLISH_TIMEOUT_S)
        except (RuntimeError, ValueError) as error:
            raise BrokerError(f"the broker did not take a message: {error}") from error
        if not info.is_published():
            raise BrokerError(f"the broker did not acknowledge a message in {PUBLISH_TIMEOUT_S:.0f} s")
        progress(size)

    def subscribe(self, *filters: str) -> None:
        """Asks for messages; retained ones come first."""
        self._filters.update(filters)
        self._client.subscribe([(each, SubscribeOptions(qos=1)) for each in filters])

    def messages(self, timeout_s: float, quiet_s: float | None = None) -> Iterator[tuple[str, bytes]]:
        """Messages as they come, until `timeout_s` is over, or none has come for `quiet_s`."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            try:
                item = self._incoming.get(timeout=min(left, quiet_s) if quiet_s is not None else left)
            except queue.Empty:
                return
            with self._waiting_lock:
                self._waiting_bytes -= _weight(*item)
            yield item

    def retained(self, topic: str, timeout_s: float = 1.0) -> bytes | None:
        """The message that is retained under one topic, if there is one; others that arrive meanwhile are dropped."""
        self.subscribe(topic)
        found = None
        for name, payload in self.messages(timeout_s, quiet_s=0.3):
            if name == topic:
                found = payload
                break
        self._filters.discard(topic)
        self._client.unsubscribe(topic)
        return found

    def _on_connect(
        self, client: paho.Client, data: Any, flags: paho.ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if self._filters and not code.is_failure:  # connected once more: the broker has forgotten what was asked for
            client.subscribe([(each, SubscribeOptions(qos=1)) for each in sorted(self._filters)])
        self._connected.put(str(code) if code.is_failure else None)

    def _on_socket_open(self, client: paho.Client, data: Any, connection: Any) -> None:
        with contextlib.suppress(OSError):  # small messages wait for each other's acknowledgement: do not hold them back
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect_fail(self, client: paho.Client, data: Any) -> None:
        self._connected.put("the connection broke")

    def _on_message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        with self._waiting_lock:
            if self._waiting_bytes + _weight(topic, payload) > WAITING_LIMIT_BYTES:
                self._dropped += 1  # whoever floods the broker must not take the operator's memory
                return
            self._waiting_bytes += _weight(topic, payload)
        self._incoming.put((topic, payload))


def _weight(topic: str, payload: bytes) -> int:
    return len(topic) + len(payload) + MESSAGE_OVERHEAD_BYTES
