"""From `publish` to the first event that the new module handles, beside the same bytes sent raw by paho; and memory."""

import tempfile
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bench.measure import Row, alternate, median
from ota.formats import topics
from ota.operator.broker import Broker
from ota.operator.publish import artifacts
from tests.support.lab import GROUP, INSTANCE, Lab, Mosquitto, echo
from tests.system.test_updates import only_worker

SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}


def measure(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder))
        broker.start()
        lab = Lab(Path(folder), broker, trial=0.1, proc=0.01)
        try:
            lab.start()
            lab.install(1)
            raw = _Raw(broker.port)
            rows = [_latency(lab, raw, name, size, max(3, rounds)) for name, size in SIZES.items()]
            raw.close()
            lab.kill()
            lab.start()
            lab.install(201)
            return [*rows, *_memory(lab)]
        finally:
            lab.close()


class _Raw:
    """One message at QoS 1, from one paho client to another: the time until it has arrived."""

    def __init__(self, port: int) -> None:
        self._arrived = threading.Event()
        self._clients = [paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5) for _ in range(2)]
        subscribed = threading.Event()
        self._clients[1].on_message = lambda *_: self._arrived.set()
        self._clients[1].on_subscribe = lambda *_: subscribed.set()
        for client in self._clients:
            client.connect("127.0.0.1", port)
            client.loop_start()
        self._clients[1].subscribe("raw", qos=1)
        subscribed.wait(5)

    def send_ms(self, content: bytes) -> float:
        self._arrived.clear()
        started = time.perf_counter()
        self._clients[0].publish("raw", content, qos=1)
        if not self._arrived.wait(10):
            raise AssertionError("a raw message did not arrive")
        return (time.perf_counter() - started) * 1000

    def close(self) -> None:
        for client in self._clients:
            client.disconnect()
            client.loop_stop()


def _latency(lab: Lab, raw: _Raw, name: str, size: int, rounds: int) -> Row:
    version = 1

    def ours() -> float:
        nonlocal version
        version = version % 200 + 1
        update = lab.signer.update(echo(version, padding=size), name="echo", version=f"{version}.0.0", chunk_bytes=16_384)
        deployment, document = lab.signer.deployment(update.digest, now_s=int(time.time()))
        messages = artifacts(update)
        wanted = bytes((version,))
        with Broker(lab.operator) as broker:
            started_s = time.time()
            broker.publish_all(messages)
            broker.publish_all([(topics.desired(GROUP), document)])
            lab.observer.wait(
                lambda: any(each.payload == wanted for each in list(lab.observer.messages.values())),
                60,
                "an event that the new module handled",
            )
        handled_s = min(each.time_s for each in list(lab.observer.messages.values()) if each.payload == wanted)
        spent = (handled_s - started_s) * 1000
        lab.wait_state("confirmed", deployment=deployment.entries[INSTANCE].deployment_id)
        lab.observer.messages.clear()
        return spent

    mine, theirs = alternate(rounds, ours, lambda: raw.send_ms(bytes(size)))
    return Row(f"publish_to_handled_ms_{name}", median(mine), "ms", "raw paho transfer", median(theirs))


def _memory(lab: Lab) -> list[Row]:
    def kib(pid: int, field: str, file: str) -> float:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(field))

    worker = only_worker(lab)
    private = kib(worker, "Private_Clean:", "smaps_rollup") + kib(worker, "Private_Dirty:", "smaps_rollup")
    return [
        Row("agent_rss_mb", kib(lab.agent.pid, "VmRSS:", "status") / 1024, "MB"),
        Row("worker_private_mb", private / 1024, "MB"),
    ]
