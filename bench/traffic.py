"""Events through a board: from one module to another, and from the broker through a module and back, all of it durable.

The peer of the way from broker to broker is a client that does nothing but echo, written with paho-mqtt as its manual shows.
"""

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.measure import Row, alternate, median
from device_agent.broker.outcomes import Outcomes
from device_agent.broker.router import Router, Routes
from device_agent.channel.workers import ModuleSpec, Worker, zygote
from device_agent.instance.supervisor import Supervisor
from device_agent.storage.store import Bounds, Store
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import Limits, ModuleDescription
from ota.formats.topics import Template
from tests.support.lab import DEVICE, Mosquitto
from tests.support.relay import Board, relay
from tests.support.scripted_broker import CONNECT, SUBSCRIBE, packet, publish

HOPS, EVENTS, WARM = 300, 3000, 200
PAYLOAD = b"21.5 degrees"
ECHO = """
import sys
import paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
client.on_connect = lambda client, *_: client.subscribe("devices/peer/cmd", qos=1)
client.on_message = lambda client, _, message: client.publish("devices/peer/readings/echo", message.payload, qos=1)
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
"""


def measure(rounds: int) -> list[Row]:
    rows = [Row("local_hop_us", _hop(durable=False), "us", "through the database", _hop(durable=True))]
    if Mosquitto.command() is not None:
        rows.append(_events_per_s(rounds))
    return rows


# -- from one module to another


def _hop(*, durable: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure_hop(Path(folder), durable))


async def _measure_hop(folder: Path, durable: bool) -> float:
    """Microseconds from what a module says, as the agent hears it, until another has handled it, without a link."""
    zygote.start()
    loop, writer, counters = asyncio.get_running_loop(), ThreadPoolExecutor(1), Counter[str]()

    async def on_writer(function, *values):
        return await loop.run_in_executor(writer, function, *values)

    store = Store(folder)
    outcomes = Outcomes(store, on_writer, Bounds(), counters)
    template = Template("{topic}")
    names = {"device": "b", "group": "g", "board": "x"}
    router = Router(Routes(names, template, (template,), durable=durable), None, outcomes, counters)
    first, second = _Module("first", "cmd", "local/x", folder, router), _Module("second", "local/x", "out", folder, router)
    tasks = [asyncio.ensure_future(work) for work in (outcomes.write(), first.supervisor.pump(), second.supervisor.pump())]
    for each in (first, second):
        router.add(each)
        await each.start()
    for count in range(1, HOPS + 1):
        router.offer("cmd", PAYLOAD)
        async with asyncio.timeout(10):
            while len(second.spoke_s) < count:
                await asyncio.sleep(0.001)
    for each in (first, second):
        each.supervisor.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    writer.shutdown()
    store.close()
    return median([(after - before) * 1e6 for before, after in zip(first.spoke_s, second.spoke_s, strict=True)])


class _Module:
    """An instance, as far as the router and the supervisor are concerned."""

    def __init__(self, name: str, hears: str, says: str, folder: Path, router: Router) -> None:
        self.name, self._router, self.spoke_s = name, router, list[float]()
        self.supervisor = Supervisor(self._outcome, lambda *_: None, lambda _: router.follow(name), on_consumed=router.consumed)
        wasm = relay(says)
        path = folder / f"{name}.wasm"
        path.write_bytes(wasm)
        capabilities = Capabilities.parse({"messaging": {"publish": [says], "subscribe": [hears]}}, "bench")
        limits = Limits(memory_pages=2, messages_per_s=1_000_000)
        self._spec = ModuleSpec(ModuleDescription(name, "1", capabilities, limits), path, sha256(wasm), {}, release=b"1")

    @property
    def filters(self) -> tuple[str, ...]:
        return self.supervisor.filters

    def offer(self, topic: str, payload: bytes, hops: int = 0, bus_number: int = 0, sender: str = "", reply_to: str = "") -> None:
        self.supervisor.offer(topic, payload, hops, bus_number, sender, reply_to)

    async def start(self) -> None:
        worker = Worker(self._spec, lambda *_: None)
        await worker.start()
        await self.supervisor.run(worker, b"", {})
        self.spoke_s.clear()

    def _outcome(self, spec, done, hops, bus_number):
        self.spoke_s.append(time.perf_counter())
        return self._router.deliver(self.name, spec, done, hops, bus_number)


# -- from the broker through a module and back


def _events_per_s(rounds: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder))
        with broker._config.open("a") as config:
            config.write("max_queued_messages 0\n")  # what waits for a client that is slower than the other
        broker.start()
        board = Board(Path(folder), broker, proc=0, trial=0.1)
        board.start()
        limits = Limits(memory_pages=2, messages_per_s=1_000_000)
        board.run("echo", relay("readings/echo"), ["cmd"], ["readings/#"], limits=limits)
        board.observer.close()
        client = subprocess.Popen([sys.executable, "-c", ECHO, str(broker.port)])
        try:
            ours, theirs = alternate(rounds, *(_Load(broker.port, each).run for each in (DEVICE, "peer")))
        finally:
            client.terminate()
            client.wait()
            board.close()
    return Row("events_per_s", median(ours), "1/s", "naive paho echo client", median(theirs))


class _Load:
    """Sends events as fast as the broker takes them and counts what comes back, at the price of a few bytes each."""

    def __init__(self, port: int, device: str) -> None:
        self._topic = f"devices/{device}/cmd"
        self._mid = 0
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.settimeout(60)
        client = b"bench-" + device.encode()
        self._socket.sendall(packet(CONNECT, 0, b"\x00\x04MQTT\x05\x02\x00\x00\x00" + len(client).to_bytes(2) + client))
        self._socket.recv(1000)
        filter_ = f"devices/{device}/readings/echo".encode()
        self._socket.sendall(packet(SUBSCRIBE, 2, b"\x00\x01\x00" + len(filter_).to_bytes(2) + filter_ + b"\x00"))
        self._socket.recv(1000)

    def run(self) -> float:
        self._pass(WARM)
        started = time.perf_counter()
        self._pass(EVENTS)
        return EVENTS / (time.perf_counter() - started)

    def _pass(self, count: int) -> None:
        """All there and back again; the acknowledgements of QoS 1 come between."""
        window, sent, back, rest = 200, 0, 0, b""
        while back < count:
            if sent - back <= window // 2 and sent < count:
                burst = min(window, count - sent)
                self._socket.sendall(b"".join(publish(self._topic, PAYLOAD, mid=self._next()) for _ in range(burst)))
                sent += burst
            rest += self._socket.recv(1 << 16)
            found, rest = _count_messages(rest)
            back += found

    def _next(self) -> int:
        self._mid = self._mid % 65_535 + 1
        return self._mid


def _count_messages(data: bytes) -> tuple[int, bytes]:
    """How many whole PUBLISH packets there are, and what is left over."""
    at = found = 0
    while at + 2 <= len(data):
        size, shift, head = 0, 0, at + 1
        while head < len(data):
            size |= (data[head] & 0x7F) << shift
            shift += 7
            head += 1
            if not data[head - 1] & 0x80:
                break
        else:
            break
        if head + size > len(data):
            break
        found += data[at] >> 4 == 3
        at = head + size
    return found, data[at:]
