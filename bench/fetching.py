"""A megabyte over a slow, long and lossy wire: the agent's fetcher beside a bare paho subscriber that takes the same messages.

All pairs run at the same time, each side over a wire of its own with the same losses; each needs little but patience.
"""

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bench.measure import Row, median
from bench.wire import Quality, Wire, has_netem, missing
from device_agent.broker.link import Link
from device_agent.broker.settings import BrokerConfig
from device_agent.desired.bundles import Bundles
from device_agent.desired.fetch import Transfers
from device_agent.desired.reading_keys import KeyFiles
from device_agent.storage.store import Store
from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.formats.chunks import ChunkIndex

SIZE_BYTES, BYTES_PER_S, ROUND_TRIP_S = 1_000_000, 32_000, 0.6
LOSSES = {0: 1, 5: 3, 20: 3}  # percent, and how many pairs: chance decides much on a lossy wire
TIMEOUT_S = 1800
PORT = 1883


def measure(rounds: int) -> list[Row]:
    """Rows of seconds and of bytes on the wire, one of each for each loss; none where there are no network namespaces."""
    why = missing()
    if why:
        print(f"transfers over a slow wire are not measured: {why}", file=sys.stderr)
        return []
    netem = has_netem()
    plan = [(loss, seed, side) for loss, pairs in LOSSES.items() for seed in range(pairs) for side in ("ours", "bare")]
    with ThreadPoolExecutor(len(plan)) as pool:
        results = list(pool.map(lambda each: _run(*each, netem=netem), plan))
    rows = []
    by = "" if netem else "_tun"
    for loss in LOSSES:
        found = {
            side: [r for (at, _, which), r in zip(plan, results, strict=True) if (at, which) == (loss, side)]
            for side in ("ours", "bare")
        }
        for what, unit in (("seconds", "s"), ("bytes", "bytes")):
            ours, bare = (median([each[what] for each in found[side]]) for side in ("ours", "bare"))
            rows.append(Row(f"fetch_1m_loss{loss}_{what}{by}", ours, unit, "bare paho subscriber", bare))
        rows.append(Row(f"fetch_1m_loss{loss}_twice{by}", sum(each["twice"] for each in found["ours"]), "chunks"))
    return rows


def _run(loss: int, seed: int, side: str, *, netem: bool) -> dict[str, float]:
    """One transfer over a wire of its own."""
    name = f"w{loss}{seed}{side[0]}"
    with (
        tempfile.TemporaryDirectory() as folder,
        Wire(name, Quality(BYTES_PER_S, ROUND_TRIP_S, loss / 100, seed), netem=netem) as wire,
    ):
        config = Path(folder) / "mosquitto.conf"
        config.write_text(f"listener {PORT}\nallow_anonymous true\nuser root\nset_tcp_nodelay true\n")
        broker = subprocess.Popen(["ip", "netns", "exec", wire.far, "mosquitto", "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            _client(wire.far, "publish", "127.0.0.1", folder)
            before = wire.sent_bytes()
            result: dict[str, float] = json.loads(_client(wire.near, side, wire.far_address, folder))
            return result | {"bytes": wire.sent_bytes() - before}
        finally:
            broker.terminate()
            broker.wait()


def _client(space: str, role: str, host: str, folder: str) -> str:
    command = ["ip", "netns", "exec", space, sys.executable, "-m", "bench.fetching", role, host, folder]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S).stdout


# -- what runs inside a namespace


def _blob() -> tuple[ChunkIndex, bytes]:
    content = b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(SIZE_BYTES // 32))
    return ChunkIndex.of(content), content


def _publish(host: str) -> None:
    index, content = _blob()
    messages = {topics.blob_index(index.digest): index.to_bytes()}
    for number in range(len(index.digests)):
        at = number * index.chunk_bytes
        messages[topics.blob_chunk(index.digest, number)] = content[at : at + index.chunk_bytes]
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    for _ in range(100):
        with contextlib.suppress(OSError):
            client.connect(host, PORT)
            break
        time.sleep(0.1)
    client.loop_start()
    for info in [client.publish(topic, payload, qos=1, retain=True) for topic, payload in messages.items()]:
        info.wait_for_publish(30)
    client.disconnect()
    client.loop_stop()


def _bare(host: str) -> dict[str, float]:
    """Takes the index and all chunks by one subscription."""
    index, _ = _blob()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    there: set[str] = set()

    def received(client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        there.add(message.topic)
        if len(there) == len(index.digests) + 1:
            client.disconnect()

    client.on_message = received
    client.on_connect = lambda *_: client.subscribe(topics.blob_index(index.digest).removesuffix("index") + "#", qos=0)
    started = time.monotonic()
    client.connect(host, PORT)
    client.loop_forever()
    return {"seconds": time.monotonic() - started, "twice": 0}


async def _ours(host: str, folder: Path) -> dict[str, float]:
    """The agent's link, fetcher and store."""
    index, content = _blob()
    arrived: list[str] = []
    store = Store(folder / "store", 0)

    async def on_writer(function: Any, *values: Any) -> Any:
        return function(*values)

    def received(topic: str, payload: bytes) -> None:
        arrived.append(topic)
        transfers.received(topic, payload)

    link = Link(BrokerConfig(BrokerUrl(host, PORT, tls=False)), "board", received, lambda: None, lambda: None, marker="marker")
    transfers = Transfers(link, Bundles(), store, on_writer, 300.0, KeyFiles(folder, folder))
    wanted: Any = SimpleNamespace(
        digest=index.digest,
        sent_digest=index.digest,
        index_digest=hashlib.sha256(index.to_bytes()).digest(),
        size=len(content),
    )
    started = time.monotonic()
    running = asyncio.create_task(link.run())
    await transfers.fetcher().blob(wanted)
    seconds = time.monotonic() - started
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return {"seconds": seconds, "twice": len(arrived) - len(set(arrived))}


if __name__ == "__main__":
    role, address, place = sys.argv[1:]
    if role == "publish":
        _publish(address)
    else:
        print(json.dumps(_bare(address) if role == "bare" else asyncio.run(_ours(address, Path(place)))))
