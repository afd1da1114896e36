"""One MQTT 5 connection of the operator, from CONNECT to its loss: what the broker announced, what it answered, what came.

It never connects again by itself, and nothing that was sent on it is sent on the next one: whoever uses it decides what to repeat.
The network is read and written inside `pump` and while something is sent. The only thread says that connecting takes long.
"""

import collections
import contextlib
import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ota.errors import OtaError
from ota.formats.topics import TOO_MANY_TOPICS
from ota.operator.workspace import Settings

CONNECT_TIMEOUT_S = 30.0
SAY_AFTER_S, SAY_AFTER_ROUND_TRIPS = 3.0, 4  # without an answer
PATIENCE_MIN_S, PATIENCE_MAX_S, PATIENCE_ROUND_TRIPS = 10.0, 60.0, 20
KEEPALIVE_S = 60
MAX_PACKET_BYTES = 4 << 20
PACKETS_AT_ONCE = 64  # read before whoever uses the session looks at them
PACKET_OVERHEAD_BYTES = 16  # fixed header, length of the topic, packet identifier, properties: 11 at most
FIRST_FAILURE = 0x80  # reason codes from here on are errors (MQTT 5, section 2.4)
UNSUPPORTED_PROTOCOL_VERSION = 0x84
# Reasons to disconnect, or to refuse a connection, that a new one may not meet.
PASSING = frozenset((0x00, 0x04, 0x88, 0x89, 0x8B, 0x8D, 0x96, 0x98, 0x9F, 0xA0))
NO_MQTT_5 = "wamr-ota needs MQTT 5"
logger = logging.getLogger(__name__)
_UNREADABLE = (MQTTException, struct.error, ValueError, IndexError, KeyError)


class BrokerError(OtaError):
    """The broker can't be reached, refused, or did not answer in time."""


class NoConnectionError(BrokerError):
    """There is no connection, or none any more.

    `final`: the reason would hold for the next one too. `packet`: the broker said that it ends it, perhaps for what was sent last.
    `cut`: it ended without a word, by the broker or on the way.
    """

    def __init__(self, text: str, *, final: bool = False, packet: bool = False, cut: bool = False) -> None:
        super().__init__(text)
        self.final, self.packet, self.cut = final, packet, cut


@dataclass(frozen=True)
class Limits:
    """What the broker announced in CONNACK (MQTT 5, section 3.2.2.3)."""

    receive_maximum: int = 65_535  # unacknowledged messages that it takes
    maximum_packet_bytes: int = 268_435_460
    maximum_qos: int = 2
    retain: bool = True
    wildcards: bool = True

    @classmethod
    def from_properties(cls, properties: Properties | None) -> "Limits":
        """What is not announced has the standard's default."""
        found = vars(properties) if properties is not None else {}
        return cls(
            receive_maximum=int(found.get("ReceiveMaximum", cls.receive_maximum)),
            maximum_packet_bytes=int(found.get("MaximumPacketSize", cls.maximum_packet_bytes)),
            maximum_qos=int(found.get("MaximumQoS", cls.maximum_qos)),
            retain=bool(found.get("RetainAvailable", 1)),
            wildcards=bool(found.get("WildcardSubscriptionAvailable", 1)),
        )

    def check(self, messages: Sequence[tuple[str, bytes]], mark: str = "") -> None:
        """Raises BrokerError for the first message that is larger than the broker takes."""
        properties = 3 + len(mark) if mark else 0
        for topic, payload in messages:
            size = len(payload) + len(topic.encode()) + PACKET_OVERHEAD_BYTES + properties
            if size > self.maximum_packet_bytes:
                raise BrokerError(
                    f"{topic}: a packet of {size} bytes; the broker announced a maximum packet size of"
                    f" {self.maximum_packet_bytes} (smaller chunks: --chunk-bytes)"
                )


@dataclass(frozen=True)
class Incoming:
    """A message that came; `retained` when it was there before it was asked for."""

    topic: str
    payload: bytes
    retained: bool = False
    at_s: float = 0.0  # when it came, by the monotonic clock
    about: tuple[tuple[str, str], ...] = ()  # its user properties
    correlation: bytes = b""  # its correlation data

    def has(self, mark: str) -> bool:
        """Whether it was published with this mark."""
        return self.correlation == mark.encode()


class Session:
    """An open connection. `answers` has the reason codes of what was acknowledged, by packet identifier; `arrived` what came."""

    def __init__(self, settings: Settings) -> None:
        """Connects. Raises BrokerError when there is no broker, it refuses, or can't do what we need."""
        self.answers: dict[int, list[ReasonCode]] = {}
        self.arrived: collections.deque[Incoming] = collections.deque()
        self.limits = Limits()
        self.round_trip_s = 0.0
        self._url = settings.broker
        self._connack: ReasonCode | None = None
        self._lost: NoConnectionError | None = None
        self._trouble = ""
        self._received = 0
        self._said = False  # that it is waited for
        self._client = self._made(settings)
        # What connects blocks, in looking up a name, TCP and TLS.
        slow = threading.Timer(SAY_AFTER_S, self._say_waiting, (SAY_AFTER_S, CONNECT_TIMEOUT_S, "to connect"))
        slow.daemon = True
        slow.start()
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        finally:
            slow.cancel()
            slow.join()  # whoever forks next has no thread

    def _made(self, settings: Settings) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # whoever publishes keeps a window
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_answers
        client.on_unsubscribe = self._on_unsubscribed
        client.on_log = self._on_log
        if settings.broker.tls:
            client.tls_set_context(ssl.create_default_context(cafile=settings.ca_file))
        if settings.username:
            password = settings.password_file.read_text(encoding="utf-8").strip() if settings.password_file else None
            client.username_pw_set(settings.username, password)
        return client

    def _connect(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_PACKET_BYTES  # and no Topic Alias Maximum: paho does not resolve aliases
        try:
            self._client.connect(self._url.host, self._url.port, KEEPALIVE_S, clean_start=True, properties=properties)
        except (OSError, ValueError) as error:
            raise NoConnectionError(f"the broker at {self._url} can't be reached: {_plainly(error, tls=self._url.tls)}") from error
        with contextlib.suppress(OSError, AttributeError):  # small messages wait for each other's acknowledgement
            self._client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[union-attr]
        started = time.monotonic()
        while self._connack is None:
            left_s = started + CONNECT_TIMEOUT_S - time.monotonic()
            if left_s <= 0:
                raise NoConnectionError(
                    f"the broker at {self._url} did not answer CONNECT in {CONNECT_TIMEOUT_S:.0f} s; some brokers without MQTT 5"
                    f" do that, and {NO_MQTT_5}"
                )
            self.pump(left_s)
        self._client.on_log = None
        self.round_trip_s = time.monotonic() - started
        self._check()

    def _check(self) -> None:
        assert self._connack is not None
        if self._connack.value == UNSUPPORTED_PROTOCOL_VERSION:
            raise BrokerError(f"the broker at {self._url} refused the connection: {self._connack}; {NO_MQTT_5}")
        if self._connack.is_failure:
            text = f"the broker at {self._url} refused the connection: {named(self._connack)}"
            raise NoConnectionError(text, final=self._connack.value not in PASSING)
        if not self.limits.retain:
            raise BrokerError(f"the broker at {self._url} keeps no retained messages (Retain Available is 0): wamr-ota needs them")
        if self.limits.maximum_qos < 1:
            raise BrokerError(f"the broker at {self._url} has no QoS 1 (Maximum QoS is 0): wamr-ota needs it")

    def close(self) -> None:
        """Says goodbye and lets go of the socket."""
        client = self._client
        client.disconnect()
        # Nothing of ours is in it any more: paho closes the rest as soon as it is unreferenced, not at some collection of cycles.
        client.on_connect = client.on_disconnect = client.on_message = client.on_publish = None
        client.on_subscribe = client.on_unsubscribe = client.on_log = None
        self._lost = self._lost or NoConnectionError("the connection was closed")

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._lost is not None

    @property
    def patience_s(self) -> float:
        """How long an answer may take on this link."""
        return min(max(PATIENCE_MIN_S, PATIENCE_ROUND_TRIPS * self.round_trip_s), PATIENCE_MAX_S)

    def is_overdue(self, quiet_s: float, what: str, limit_s: float = 0.0) -> bool:
        """Whether nothing came for longer than `limit_s`, or our patience; says once, well before, what is waited for."""
        limit_s = limit_s or self.patience_s
        if not self._said and quiet_s > max(SAY_AFTER_S, SAY_AFTER_ROUND_TRIPS * self.round_trip_s):
            self._say_waiting(quiet_s, limit_s, what)
        return quiet_s > limit_s

    def _say_waiting(self, quiet_s: float, limit_s: float, what: str) -> None:
        self._said = True
        logger.warning(
            "waiting %s: the broker at %s has not answered for %.0f s, at most %.0f s are waited", what, self._url, quiet_s, limit_s
        )

    def answered_after(self, seconds: float) -> None:
        """Takes a measured round trip into account."""
        self.round_trip_s = (self.round_trip_s + seconds) / 2

    def publish(self, topic: str, payload: bytes, *, retain: bool, mark: str = "") -> int:
        """Sends a message at QoS 1; returns its packet identifier. `mark` tells it from others. Raises NoConnectionError.

        The mark is correlation data: mochi 2.7.9 sends user properties back in a PUBACK that paho can't read.
        """
        properties = None
        if mark:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = mark.encode()
        info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        return self._sent(info.rc, info.mid)

    def subscribe(self, filters: Sequence[str], qos: int = 1) -> int:
        """Asks for messages, in one packet; returns its identifier. Raises NoConnectionError."""
        code, mid = self._client.subscribe([(each, SubscribeOptions(qos=qos)) for each in filters])
        return self._sent(code, mid)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Ends subscriptions, in one packet; nobody asks for its answer. Raises NoConnectionError."""
        self._sent(*self._client.unsubscribe(list(filters)))

    def _sent(self, code: MQTTErrorCode, mid: int | None) -> int:
        """The packet's identifier. It may have been that of an earlier packet, whose answer is not that of this one."""
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or self._lost:
            raise self._loss()
        assert mid is not None
        self.answers.pop(mid, None)
        return mid

    def pump(self, timeout_s: float) -> bool:
        """Writes what waits, reads what came, waits `timeout_s` at most for the first of it; whether something came.

        Raises NoConnectionError.
        """
        connection: Any = self._client.socket()
        if self._lost or connection is None:
            raise self._loss()
        pending = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
        poll = select.poll()
        poll.register(connection, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        ready = poll.poll(0 if pending else int(min(timeout_s, KEEPALIVE_S / 4) * 1000 + 0.999))
        events = ready[0][1] if ready else 0
        before = self._received
        if events & select.POLLOUT:
            self._client.loop_write()
        if pending or events & ~select.POLLOUT:
            self._read()
        if not self._lost:
            self._client.loop_misc()
        if self._lost and self._received == before:
            raise self._loss()
        return self._received > before

    def _read(self) -> None:
        for _ in range(PACKETS_AT_ONCE):
            before = self._received
            try:
                self._client.loop_read()
            except _UNREADABLE as error:
                raise BrokerError(f"the broker at {self._url} sent what is not MQTT 5: {error}") from error
            if self._received == before or self._lost:
                return

    def _loss(self) -> NoConnectionError:
        if self._lost is None:
            self._lost = NoConnectionError(f"the connection to the broker at {self._url} broke", cut=True)
        return self._lost

    # -- what paho calls

    def _on_connect(
        self, client: paho.Client, data: Any, flags: paho.ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        self._received += 1
        self._connack, self.limits = code, Limits.from_properties(properties)

    def _on_disconnect(
        self, client: paho.Client, data: Any, flags: paho.DisconnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if self._connack is None:
            why = f": {self._trouble}" if self._trouble else f"; brokers without MQTT 5 do that, and {NO_MQTT_5}"
            self._lost = NoConnectionError(
                f"the broker at {self._url} closed the connection without an answer{why}", final=True, cut=True
            )
        elif flags.is_disconnect_packet_from_server:
            # paho 2.1 reads no reason from a DISCONNECT without properties, and calls it normal, which no broker says.
            why = f": {named(code)}" if code.value else " without a reason"
            text = f"the broker at {self._url} ended the connection{why}"
            packet = code.value in TOO_MANY_TOPICS or not code.value
            self._lost = NoConnectionError(text, final=code.value not in PASSING, packet=packet)
        else:
            self._lost = NoConnectionError(f"the connection to the broker at {self._url} broke", cut=True)

    def _on_message(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        self._received += 1
        with contextlib.suppress(UnicodeDecodeError):  # a topic that is no text is none of ours
            about = tuple(getattr(message.properties, "UserProperty", ()))
            correlation = bytes(getattr(message.properties, "CorrelationData", b""))
            arrived = Incoming(message.topic, bytes(message.payload), message.retain, time.monotonic(), about, correlation)
            self.arrived.append(arrived)

    def _on_publish(self, client: paho.Client, data: Any, mid: int, code: ReasonCode, properties: Properties | None) -> None:
        self._received += 1
        self.answers[mid] = [code]

    def _on_answers(self, client: paho.Client, data: Any, mid: int, codes: list[ReasonCode], properties: Properties | None) -> None:
        self._received += 1
        self.answers[mid] = codes

    def _on_unsubscribed(self, client: paho.Client, data: Any, *_: object) -> None:
        self._received += 1

    def _on_log(self, client: paho.Client, data: Any, level: int, text: str) -> None:
        if level == paho.MQTT_LOG_ERR:  # why TLS failed after its handshake, for one
            self._trouble = text


def named(code: ReasonCode) -> str:
    """A reason code for a person: its name and its number."""
    return f"{str(code).lower()} (0x{code.value:02x})"


def _plainly(error: Exception, *, tls: bool) -> str:
    """Without a number for what the system says itself, and with what to look at."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: is it running, and is this its address?"
    if isinstance(error, socket.gaierror):
        return f"no such host: {error.strerror}"
    if tls and isinstance(error, ConnectionResetError | ssl.SSLEOFError):
        return "it closed the connection during the TLS handshake: does it speak TLS on this port?"
    return str(error)
