"""One connection to the broker: MQTT 5 by paho's external-loop calls, joined to asyncio. It is never made again; a new one is.

Messages and their acknowledgements are read and written here (device_agent.broker.packets), all other packets by paho.

Only what paho can't do without blocking (reading certificates, looking up, connecting, the TLS handshake) happens on a thread.
Everything else runs on the loop. paho keeps to no limit of the broker and sends old messages again after it reconnects: here the
window of unacknowledged messages is the broker's, and what was not acknowledged ends with its connection.
"""

import asyncio
import contextlib
import enum
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from device_agent.broker import packets, tls
from device_agent.broker.backoff import Ended
from device_agent.broker.buffered import BufferedSocket
from device_agent.broker.limits import Limits
from device_agent.broker.packets import Arrived, Malformed, UserProperties
from device_agent.broker.settings import BrokerConfig, Session
from device_agent.broker.words import FAILURE, errors_of, reason_of, why
from ota.formats.topics import TOO_MANY_TOPICS

T = TypeVar("T")
CONNECT_TIMEOUT_S = 10.0
CONNACK_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 600.0  # of a connection that answers no SUBSCRIBE and acknowledges no message, though it has some
MISC_MAX_S = 5.0  # between looks at the clock for the keep-alive; an idle board should sleep
SEND_MAXIMUM = 100  # to the broker, where it allows so many; AWS IoT takes no more, and does not say so
UNSENT_MAX = 256  # messages that wait for the window
_OWN_MIDS = 1 << 15  # packet identifiers from here on are for messages, those below are paho's
UNSUPPORTED_PROTOCOL_VERSION, TAKEN_OVER, TOO_LARGE = 0x84, 0x8E, 0x95
TOPIC_DENIED = frozenset((0x87, 0x90, 0x99))  # not authorized, topic name invalid, payload format invalid
UNSENT_MAX_BYTES = 16 << 20  # that the broker does not take; a full window and acknowledgements are less
_SMALL_PACKET_BYTES = 128  # at most, of an acknowledgement, TLS included


class Sent(enum.Enum):
    """What became of a message."""

    ACKNOWLEDGED = "acknowledged"
    OFFLINE = "offline"  # it was not sent: there is no connection
    LOST = "lost"  # no acknowledgement before the connection was lost
    CLOSED = "closed"  # no acknowledgement before the broker closed the connection, for this message perhaps
    REFUSED = "refused"  # a PUBACK with a failure
    DENIED = "denied"  # a PUBACK that says that this message may never be sent, others may
    TOO_LARGE = "too large"  # for the broker: sending it again is of no use


@dataclass(slots=True)
class Outgoing:
    """A message on its way. `settle` is told what became of it, once."""

    topic: str
    payload: bytes
    retain: bool
    settle: Callable[[Sent], None]
    properties: "UserProperties | None" = None


class Listener(Protocol):
    """Who a connection talks to."""

    def accepted(self, limits: Limits, session_present: bool) -> None:
        """The broker has accepted the connection."""

    def message(self, arrived: Arrived) -> bool:
        """A message; it is acknowledged when this returns. Returns whether it is a part of an update."""

    def subscribed(self, asked: list[str], codes: list[ReasonCode]) -> None:
        """The broker has answered a SUBSCRIBE packet."""

    def unsubscribed(self, ended: list[str]) -> None:
        """The broker has answered an UNSUBSCRIBE packet."""

    def refused(self, topic: str, size_bytes: int, code: ReasonCode) -> None:
        """The broker did not take a message."""

    def acknowledged(self, topic: str) -> None:
        """The broker took a message."""


@dataclass
class _State:
    limits: Limits = field(default_factory=Limits)
    accepted_s: float | None = None
    reason: str = ""
    from_broker: ReasonCode | None = None  # of a DISCONNECT
    other_bytes: int = 0  # arrived, and of no part of an update


class Connection:
    """`open`, then `serve` until it is lost."""

    def __init__(self, config: BrokerConfig, client_id: str, session: Session, listener: Listener) -> None:
        self._config, self._session, self._listener = config, session, listener
        self._loop = asyncio.get_running_loop()
        self._state = _State()
        self._unsent: deque[Outgoing] = deque()
        self._in_flight: dict[int, Outgoing] = {}
        self._subscribing: dict[int, list[str]] = {}
        self._unsubscribing: dict[int, list[str]] = {}
        self._socket: BufferedSocket | None = None
        self._lost = asyncio.Event()
        self._answered_s = self._loop.time()  # when nothing waited for an answer, or the last one came
        self._mid = _OWN_MIDS
        self._flushing: asyncio.Handle | None = None
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
        self._client = client
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._subscribed
        client.on_unsubscribe = self._unsubscribed
        client.enable_logger(errors_of(self._logged))
        client.on_socket_close = lambda _client, _data, closing: self._let_go(closing)
        client.on_socket_register_write = lambda *_: self._from_any_thread(self._watch_writes, True)
        client.on_socket_unregister_write = lambda *_: self._from_any_thread(self._watch_writes, False)

    # -- its life

    async def open(self) -> None:
        """Connects and sends CONNECT. Raises OSError, ValueError for files that can't be used, a name not found, a TLS refusal."""
        dialing = self._loop.run_in_executor(None, self._dial)
        try:
            await asyncio.shield(dialing)
        except asyncio.CancelledError:
            dialing.add_done_callback(self._hang_up)  # the thread can't be cancelled: its socket would stay open
            raise

    def _hang_up(self, dialing: "asyncio.Future[None]") -> None:
        """Closes what was connected after nobody wanted it any more."""
        if not dialing.cancelled() and dialing.exception() is None:
            self.close()

    def _dial(self) -> None:
        config, session, client = self._config, self._session, self._client
        if config.url.tls:
            tls.secure(client, config, CONNECT_TIMEOUT_S)
        if config.username:
            file = config.password_file
            client.username_pw_set(config.username, file.read_text(encoding="utf-8").strip() if file else None)
        if session.will is not None:
            client.will_set(*session.will, qos=1, retain=True)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = packets.MAX_PACKET_BYTES
        # No Receive Maximum: each message is acknowledged once it is taken, and mochi ends QoS 1 beyond twice that number.
        properties.SessionExpiryInterval = session.expiry_s
        # No Topic Alias Maximum: without it the broker may use none, and paho does not resolve them.
        client.connect_async(
            config.url.host, config.url.port, keepalive=config.keepalive_s, clean_start=session.clean, properties=properties
        )
        try:
            code = client.reconnect()
        except struct.error as error:
            raise ValueError("the user name or the password is too long for MQTT") from error
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise OSError(paho.error_string(code))
        client._sock = BufferedSocket(client._sock)  # the library has no place for a socket of ours

    async def serve(self) -> Ended:
        """Runs the connection until it is lost."""
        started_s = self._loop.time()
        connection: Any = self._client.socket()
        if connection is not None:
            self._socket = connection
            with contextlib.suppress(OSError):  # requests are small and wait for answers: do not hold them back
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._loop.add_reader(connection.fileno(), self._readable)
            self._watch_writes(True)
            while not self._lost.is_set():
                if self._state.accepted_s is None and self._loop.time() - started_s > CONNACK_TIMEOUT_S:
                    self._state.reason = f"no answer to CONNECT in {CONNACK_TIMEOUT_S:.0f} s: is there MQTT 5, is TLS expected?"
                    break
                if self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self.end(f"nothing came for {self._config.keepalive_s} s")
                self._judge_silence()
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: on Python 3.11 it forgets that it was cancelled when what it waits for comes at the same time.
                    async with asyncio.timeout(min(self._config.keepalive_s / 6, MISC_MAX_S)):
                        await self._lost.wait()
        return self._ended()

    def _judge_silence(self) -> None:
        """Ends a connection on which the broker answers PINGREQ alone: on another one it may do what it is asked for."""
        open_ones = len(self._subscribing) + len(self._in_flight)
        if not open_ones:
            self._answered_s = self._loop.time()
        elif self._loop.time() - self._answered_s > ANSWER_TIMEOUT_S:
            self.end(f"the broker has answered none of {open_ones} packets for {ANSWER_TIMEOUT_S:.0f} s")

    def _ended(self) -> Ended:
        state, code = self._state, self._state.from_broker
        accepted = state.accepted_s is not None
        reason = state.reason
        if code is not None:
            reason = f"the broker disconnected: {code}"
        elif not reason:
            reason = (
                "the broker closed the connection without a reason"
                if accepted
                else "the broker closed the connection without an answer to CONNECT: is there MQTT 5, is TLS expected?"
            )
        # paho 2.1 reads no reason from a DISCONNECT without properties, and calls it normal, which no broker says.
        unnamed = code is not None and code.value == 0
        return Ended(
            reason,
            lasted_s=self._loop.time() - state.accepted_s if state.accepted_s is not None else 0.0,
            accepted=accepted,
            closed=unnamed or (code is None and (not state.reason or "reset" in state.reason)),
            taken_over=code is not None and code.value == TAKEN_OVER,
            packet_refused=code is not None and code.value in TOO_MANY_TOPICS,
            too_large=code is not None and code.value == TOO_LARGE,
        )

    def end(self, reason: str) -> None:
        """Ends it; `serve` returns soon."""
        self._state.reason = self._state.reason or reason
        self._lost.set()

    def close(self) -> None:
        """Says DISCONNECT, which keeps the session, lets go of the socket, settles what was not acknowledged. Again: nothing."""
        if not self._lost.is_set():
            self.end("this board has closed it")
        self._client.disconnect()
        self._client.loop_write()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.flush()
        self._let_go(self._socket)
        self._client.on_socket_unregister_write = None  # paho closes its socket when it is collected, maybe after the loop
        waiting = [*self._in_flight.values(), *self._unsent]
        ended, largest = self._ended(), self.largest_bytes
        lost = Sent.CLOSED if ended.closed or ended.too_large else Sent.LOST
        blamed = [each for each in self._in_flight.values() if ended.too_large and len(each.payload) == largest]
        for each in waiting:
            each.settle(Sent.TOO_LARGE if blamed == [each] else lost)
        self._in_flight.clear()
        self._unsent.clear()

    # -- what is sent

    @property
    def limits(self) -> Limits:
        """What the broker has announced."""
        return self._state.limits

    @property
    def window(self) -> int:
        """How many messages may be unacknowledged."""
        return min(SEND_MAXIMUM, self._state.limits.receive_maximum)

    @property
    def largest_bytes(self) -> int:
        """The largest payload that waits for an acknowledgement."""
        return max((len(each.payload) for each in self._in_flight.values()), default=0)

    @property
    def unanswered_topics(self) -> int:
        """The topics in the largest SUBSCRIBE or UNSUBSCRIBE packet that the broker has not answered."""
        return max(map(len, (*self._subscribing.values(), *self._unsubscribing.values())), default=0)

    @property
    def lasted_s(self) -> float:
        """Since the broker accepted it."""
        return self._loop.time() - self._state.accepted_s if self._state.accepted_s is not None else 0.0

    @property
    def received_bytes(self) -> int:
        """Bytes that have arrived, in whole packets or not."""
        return 0 if self._socket is None else self._socket.received_bytes

    @property
    def part_bytes(self) -> int:
        """Those that belong to nothing but parts of updates."""
        return max(0, self.received_bytes - self._state.other_bytes)

    def publish(self, message: Outgoing) -> None:
        """Sends at QoS 1 as soon as the window allows. A retained message replaces an unsent one of the same topic."""
        if message.retain:
            for each in [old for old in self._unsent if old.topic == message.topic and old.retain]:
                self._unsent.remove(each)
                each.settle(Sent.LOST)
        if len(self._unsent) >= UNSENT_MAX:
            message.settle(Sent.LOST)
            return
        self._unsent.append(message)
        self._fill_window()

    def _fill_window(self) -> None:
        while self._unsent and len(self._in_flight) < self.window and not self._lost.is_set():
            message = self._unsent.popleft()
            mid = self._next_mid()
            self._in_flight[mid] = message
            self._put(packets.publish(message.topic, message.payload, mid, message.properties, retain=message.retain))

    def _next_mid(self) -> int:
        while True:
            self._mid = self._mid + 1 if self._mid < 0xFFFF else _OWN_MIDS
            if self._mid not in self._in_flight:  # which are far fewer than there are numbers
                return self._mid

    def _put(self, packet: bytes) -> None:
        """Sends a packet with all others of this turn of the loop."""
        if self._socket is not None:
            if self._client.want_write():  # before it the library's, which keeps what is asked for within a callback: subscriptions
                self._client.loop_write()
            self._socket.put(packet)
            if self._socket.unsent_bytes > UNSENT_MAX_BYTES:
                self.end(f"the broker sends, and takes nothing: {UNSENT_MAX_BYTES >> 20} MB wait for it")
            if self._flushing is None:
                self._flushing = self._loop.call_soon(self._flush)

    def subscribe(self, wanted: list[tuple[str, SubscribeOptions]], identifier: int = 0) -> None:
        """One SUBSCRIBE packet; `identifier` is that of its subscriptions, 0 for none."""
        properties = Properties(PacketTypes.SUBSCRIBE) if identifier else None  # type: ignore[no-untyped-call]
        if properties is not None:
            properties.SubscriptionIdentifier = identifier
        code, mid = self._client.subscribe(wanted, properties=properties)
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS and mid is not None:
            self._subscribing[mid] = [topic for topic, _ in wanted]
            self._check_mid(mid)

    def unsubscribe(self, topics: list[str]) -> None:
        """One UNSUBSCRIBE packet."""
        code, mid = self._client.unsubscribe(topics)
        if code == MQTTErrorCode.MQTT_ERR_SUCCESS and mid is not None:
            self._unsubscribing[mid] = topics
            self._check_mid(mid)

    def _check_mid(self, mid: int) -> None:
        if mid >= _OWN_MIDS - 1:
            self.end("its packet identifiers are used up: making a new connection")

    # -- what paho calls

    def _connected(
        self, client: paho.Client, data: Any, flags: paho.ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        self._count_small(_SMALL_PACKET_BYTES * 8)  # a TLS handshake and reason strings
        if self._state.accepted_s is not None:
            self.end("the broker answered CONNECT twice")
            return
        if code.is_failure:
            needed = "; MQTT 5 is needed" if code.value == UNSUPPORTED_PROTOCOL_VERSION else ""
            self.end(f"the broker refused the connection: {code}{why(properties)}{needed}")
            return
        self._state.accepted_s = self._loop.time()
        self._state.limits = Limits.from_connack(properties)
        self._listener.accepted(self._state.limits, bool(flags.session_present))

    def _disconnected(
        self, client: paho.Client, data: Any, flags: paho.DisconnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._state.from_broker = code
        self._lost.set()

    def _subscribed(self, client: paho.Client, data: Any, mid: int, codes: list[ReasonCode], properties: Properties | None) -> None:
        self._count_small()
        self._answered_s = self._loop.time()
        topics = self._subscribing.pop(mid, [])
        self._listener.subscribed(topics, codes)

    def _unsubscribed(
        self, client: paho.Client, data: Any, mid: int, codes: list[ReasonCode], properties: Properties | None
    ) -> None:
        self._count_small()
        self._listener.unsubscribed(self._unsubscribing.pop(mid, []))

    def _logged(self, text: str) -> None:
        """What went wrong on the socket, a TLS alert say, is told by paho in its log alone."""
        self._state.reason = self._state.reason or text.removeprefix("failed to receive on socket: ")

    def _count_small(self, size: int = _SMALL_PACKET_BYTES) -> None:
        self._state.other_bytes += size

    # -- messages

    def _take_packets(self, connection: BufferedSocket) -> None:
        """Handles the packets that are here as a whole. Raises Malformed."""
        data, at = connection.arrived, 0
        try:
            while at < len(data) and not self._lost.is_set() and (found := packets.bounds(data, at)) is not None:
                start, end = found
                first, begin, at = data[at], at, end
                if first >> 4 == packets.PUBLISH:
                    self._message(first, bytes(data[start:end]))
                elif first >> 4 == packets.PUBACK:
                    self._published(*packets.read_puback(bytes(data[start:end])))
                else:
                    self._give(connection, bytes(data[begin:end]))
        finally:
            del data[:at]

    def _give(self, connection: BufferedSocket, packet: bytes) -> None:
        connection.give(packet)
        while connection.has_given and not self._lost.is_set():
            if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                if self._state.from_broker is None:  # else that is why
                    self.end(f"the broker sent a packet that can't be read, of type {packet[0] >> 4}")
                self._lost.set()

    def _message(self, first: int, body: bytes) -> None:
        """A message is acknowledged when the listener has taken it."""
        arrived, mid, properties_bytes = packets.read_publish(first, body)
        if arrived is None:
            self._count_small(len(body) + _SMALL_PACKET_BYTES)
        elif not self._listener.message(arrived):
            size = len(arrived.topic.encode()) + len(arrived.payload) + properties_bytes
            self._count_small(size + size // 256 + _SMALL_PACKET_BYTES)
        if mid:
            self._put(packets.puback(mid))

    def _published(self, mid: int, code: int) -> None:
        self._count_small()
        message = self._in_flight.pop(mid, None)
        if message is None:
            return
        self._answered_s = self._loop.time()
        if code >= FAILURE:
            self._listener.refused(message.topic, len(message.payload), reason_of(code))
            denied = Sent.DENIED if code in TOPIC_DENIED else Sent.REFUSED
            message.settle(Sent.TOO_LARGE if code == TOO_LARGE else denied)
        else:
            self._listener.acknowledged(message.topic)
            message.settle(Sent.ACKNOWLEDGED)
        if self._unsent:
            self._fill_window()

    # -- the loop and the socket

    def _let_go(self, closing: Any) -> None:
        """The loop must forget a socket before it is closed; paho says when. One that was never served is not this loop's."""
        if closing is not None and closing is self._socket:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket = None

    def _from_any_thread(self, function: Callable[..., None], *values: Any) -> None:
        self._loop.call_soon_threadsafe(function, *values)

    def _watch_writes(self, wanted: bool) -> None:
        if self._socket is None:
            return
        if wanted or self._socket.has_unsent:  # the library also writes by itself, and knows nothing of the buffer
            self._loop.add_writer(self._socket.fileno(), self._writable)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        """Takes what has come, until nothing is left that makes no socket readable again."""
        connection = self._socket
        more = True
        while connection is not None and more and not self._lost.is_set():
            try:
                more = connection.fill() and connection.has_decrypted
            except OSError as error:
                self._logged(str(error))
                self._lost.set()
            try:
                self._take_packets(connection)
            except Malformed as error:
                self.end(str(error))
            if connection.ended:
                self._lost.set()

    def _writable(self) -> None:
        """Sends what there is, many packets at a time. A socket that takes no more is watched, until it does."""
        if self._client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lost.set()
        elif self._flush() and not self._client.want_write():
            self._watch_writes(False)

    def _flush(self) -> bool:
        """False when the socket takes no more now: it is watched then."""
        self._flushing = None
        if self._socket is None:
            return True
        try:
            sent = self._socket.flush()
        except OSError as error:
            self._logged(str(error))
            self._lost.set()
            return True
        if not sent:
            self._watch_writes(True)
        return sent
