"""The connection to the broker: MQTT 5 by paho's external-loop calls, joined to asyncio, with reconnection.

Only looking up and connecting, which paho can't do without blocking, happens on a thread. Everything else runs on the loop.
"""

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from device_agent.node.config import BrokerConfig

RECONNECT_MIN_S, RECONNECT_MAX_S = 0.5, 60.0
CONNECT_TIMEOUT_S = 10.0
MISC_MAX_S = 5.0  # between looks at the clock for the keep-alive; an idle board should sleep
GOODBYE_S = 2.0
SESSION_TAKEN_OVER = 0x8E  # MQTT 5, section 3.14.2.1
MAX_PACKET_BYTES = 4 << 20
logger = logging.getLogger(__name__)


class Link:
    """One connection that is made again for as long as the agent runs. `on_message` gets topic and payload of what comes in,
    `on_online` and `on_offline` what their names say.
    """

    def __init__(
        self,
        config: BrokerConfig,
        device: str,
        on_message: Callable[[str, bytes], None],
        on_online: Callable[[], None],
        on_offline: Callable[[], None],
    ) -> None:
        self._config, self._device = config, device
        self._taken_over = False
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_online, self._on_offline = on_message, on_online, on_offline
        self._filters: set[str] = set()
        self._acknowledged: dict[int, asyncio.Future[bool]] = {}
        self._socket: Any = None  # plain or TLS
        self._lost = asyncio.Event()
        self.online = False
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"wamr-ota-{device}", protocol=paho.MQTTv5)
        self._client = client
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_message = lambda _client, _data, message: self._on_message(message.topic, bytes(message.payload))
        client.on_socket_close = lambda _client, _data, closing: self._let_go(closing)
        client.on_socket_register_write = lambda *_: self._from_any_thread(self._watch_writes, True)
        client.on_socket_unregister_write = lambda *_: self._from_any_thread(self._watch_writes, False)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_PACKET_BYTES
        client.connect_async(
            config.url.host, config.url.port, keepalive=config.keepalive_s, clean_start=True, properties=properties
        )
        self._secured = not config.url.tls

    def set_will(self, topic: str, payload: bytes) -> None:
        """The retained message that the broker publishes when this connection breaks; from the next connection on."""
        self._client.will_set(topic, payload, qos=1, retain=True)

    async def run(self) -> None:
        """Connects, and connects again. Cancelling it disconnects."""
        delay_s = RECONNECT_MIN_S
        try:
            while True:
                if await self._connect():
                    self._taken_over = False
                    await self._serve()
                    if not self._taken_over:
                        delay_s = RECONNECT_MIN_S
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 (spreads reconnections, no secret)
                delay_s = min(2 * delay_s, RECONNECT_MAX_S)
        finally:
            self._client.disconnect()
            self._release()
            self._client.on_socket_unregister_write = None  # paho closes its socket when it is collected, maybe after the loop

    async def say_goodbye(self, topic: str, payload: bytes) -> None:
        """A last retained message, then the end of the connection, told to the broker; waits two seconds at most."""
        if not self.online:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self.publish(topic, payload, retain=True)
        self._client.disconnect()
        await asyncio.sleep(0)  # lets the loop write it

    def subscribe(self, topic: str) -> None:
        """Asks for a topic or filter now, if online, and after each reconnection."""
        if topic not in self._filters:
            self._filters.add(topic)
            if self.online:
                self._client.subscribe(topic, qos=1)

    def unsubscribe(self, topic: str) -> None:
        """Ends a subscription."""
        if topic in self._filters:
            self._filters.discard(topic)
            if self.online:
                self._client.unsubscribe(topic)

    def ask_again(self, topic: str) -> None:
        """Subscribes once more, for its retained message."""
        if self.online and topic in self._filters:
            self._client.subscribe(topic, qos=1)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> "asyncio.Future[bool]":
        """Sends at QoS 1; the future tells whether the broker acknowledged it. False at once while offline."""
        future: asyncio.Future[bool] = self._loop.create_future()
        if not self.online:
            future.set_result(False)
            return future
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            future.set_result(False)
        else:
            self._acknowledged[info.mid] = future
        return future

    async def _connect(self) -> bool:
        try:
            self._secure()
            self._set_password()
            code = await self._loop.run_in_executor(None, self._client.reconnect)
        except (OSError, ValueError) as error:
            logger.info("broker %s: %s", self._config.url, error)
            return False
        return code == MQTTErrorCode.MQTT_ERR_SUCCESS

    def _secure(self) -> None:
        """Before the first connection, not sooner: the board's certificate may come only then."""
        if self._secured:
            return
        context = ssl.create_default_context(cafile=self._config.ca_file)
        if self._config.certificate_file is not None:
            context.load_cert_chain(self._config.certificate_file, self._config.key_file)
        self._client.tls_set_context(context)
        self._secured = True

    def _set_password(self) -> None:
        if self._config.username:
            file = self._config.password_file
            password = file.read_text(encoding="utf-8").strip() if file else None
            self._client.username_pw_set(self._config.username, password)

    async def _serve(self) -> None:
        """Runs one connection until it is lost."""
        self._lost.clear()
        connection: Any = self._client.socket()
        if connection is None:
            return
        self._socket = connection
        with contextlib.suppress(OSError):  # requests are small and wait for answers: do not hold them back
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(connection.fileno(), self._readable)
        self._watch_writes(True)
        try:
            while not self._lost.is_set():
                if self._client.loop_misc() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: on Python 3.11 it forgets that it was cancelled when what it waits for comes at the same time.
                    async with asyncio.timeout(min(self._config.keepalive_s / 6, MISC_MAX_S)):
                        await self._lost.wait()
        finally:
            self._release()

    def _let_go(self, closing: Any) -> None:
        """The loop must forget a socket before it is closed; paho says when. One that was never served is not this loop's."""
        if closing is not None and closing is self._socket:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket = None

    def _release(self) -> None:
        self._let_go(self._socket)
        was_online, self.online = self.online, False
        for future in self._acknowledged.values():
            if not future.done():
                future.set_result(False)
        self._acknowledged.clear()
        if was_online:
            self._on_offline()

    def _from_any_thread(self, function: Callable[..., None], *values: Any) -> None:
        self._loop.call_soon_threadsafe(function, *values)

    def _watch_writes(self, wanted: bool) -> None:
        if self._socket is None:
            return
        if wanted:
            self._loop.add_writer(self._socket.fileno(), self._writable)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        """Reads until nothing is left that only TLS knows of: what it has decrypted already makes no socket readable again."""
        while True:
            if self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._lost.set()
                return
            if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
                return

    def _writable(self) -> None:
        if self._client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lost.set()
        elif not self._client.want_write():
            self._watch_writes(False)

    def _connected(
        self, client: paho.Client, data: Any, flags: paho.ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.is_failure:
            logger.warning("broker %s refused the connection: %s", self._config.url, code)
            self._lost.set()
            return
        self.online = True
        if self._filters:
            client.subscribe([(each, SubscribeOptions(qos=1)) for each in sorted(self._filters)])
        self._on_online()

    def _disconnected(
        self, client: paho.Client, data: Any, flags: paho.DisconnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.value == SESSION_TAKEN_OVER:
            self._taken_over = True
            logger.warning("another client has this board's name at the broker: are there two boards called %s?", self._device)
        self._lost.set()

    def _published(self, client: paho.Client, data: Any, mid: int, code: ReasonCode, properties: Properties | None) -> None:
        future = self._acknowledged.pop(mid, None)
        if future is not None and not future.done():
            future.set_result(not code.is_failure)
