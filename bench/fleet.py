"""`ota status` of 20,000 boards on a stock mosquitto, beside a bare paho client that subscribes to the same topics, all at once.

The bare reader knows every name, decodes nothing and reads from a broker whose limits are lifted: a stock one would give it a
part. Ours finds the boards by itself the first time, and has them in its roster from then on.
"""

import tempfile
import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bench.measure import Row, alternate, median
from ota.formats import topics
from ota.operator.broker import Broker
from ota.operator.reports import View
from tests.support import fleet
from tests.support.lab import Mosquitto

BOARDS = 20_000
BATCH = 1000  # topics in one SUBSCRIBE of the bare reader
TIMEOUT_S = 120


def measure(rounds: int) -> list[Row]:
    boards = fleet.names(BOARDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stock, unlimited = _started(folder / "stock", ""), _started(folder / "unlimited", "max_queued_messages 0\n")
        try:
            workspace = fleet.made(folder / "operator", stock.port)
            for broker in (stock, unlimited):
                with Broker(fleet.settings(broker.port)) as connection:
                    fleet.leave(connection, boards)

            def ours() -> float:
                started = time.perf_counter()
                with Broker(workspace.settings) as connection:
                    view = View(connection, fleet.roster(workspace))
                    view.read()
                spent = time.perf_counter() - started
                if not view.complete or len(view.devices) != BOARDS:
                    raise AssertionError(f"{len(view.devices)} boards, {view.gaps}")
                return spent

            first = ours()
            wanted = [topic(each) for each in boards for topic in (topics.online, topics.report)]
            mine, bare = alternate(min(rounds, 3), ours, lambda: _bare(unlimited.port, wanted))
            return [
                Row("status_20000_boards_unknown_s", first, "s", "bare paho, names known", median(bare)),
                Row("status_20000_boards_s", median(mine), "s", "bare paho, names known", median(bare)),
            ]
        finally:
            stock.stop()
            unlimited.stop()


def _started(folder: Path, extra: str) -> Mosquitto:
    folder.mkdir()
    broker = Mosquitto(folder)
    config = folder / "mosquitto.conf"
    config.write_text(config.read_text() + extra)
    broker.start()
    return broker


def _bare(port: int, wanted: list[str]) -> float:
    """Seconds until a client of paho's has the retained message of every topic."""
    found: set[str] = set()
    batches = [[(each, 0) for each in wanted[at : at + BATCH]] for at in range(0, len(wanted), BATCH)]

    def ask(client: paho.Client, *_: object) -> None:
        if batches:
            client.subscribe(batches.pop())

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _client, _data, message: found.add(message.topic)
    client.on_connect = client.on_subscribe = ask
    started = time.perf_counter()
    client.connect("127.0.0.1", port)
    while len(found) < len(wanted):
        code = client.loop(1.0)
        if code != paho.MQTT_ERR_SUCCESS or time.perf_counter() - started > TIMEOUT_S:
            raise AssertionError(f"the bare reader has {len(found)} of {len(wanted)} topics: {code!r}")
    spent = time.perf_counter() - started
    client.disconnect()
    client.on_message = client.on_connect = client.on_subscribe = None
    return spent
