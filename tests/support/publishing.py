"""Workspaces and brokers for tests of publishing."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ota.author.build import Update
from ota.demo.broker import DemoBroker
from ota.formats import topics
from ota.formats.cbor import sha256
from ota.formats.deployment import Deployment, verify
from ota.formats.report import Report, Running
from ota.operator.broker import Broker
from ota.operator.publish import Done, Order, deploy, sign_draft
from ota.operator.survey import look
from ota.operator.workspace import Workspace
from tests.support.lab import Mosquitto, echo
from tests.support.operator import ota

GROUP = "lab"


class Publishing:
    """One operator and one broker, which can be emptied."""

    def __init__(self, folder: Path, kind: Callable[[Path], DemoBroker | Mosquitto]) -> None:
        self.root, self._kind = folder, kind
        self.broker = self._started()
        self.folder = folder / "operator"
        assert ota(self.folder, "init", "--vendor", "test.example", "--no-passphrase", "--broker", self.broker.url) == 0

    def _started(self) -> DemoBroker | Mosquitto:
        (place := self.root / f"broker-{time.monotonic_ns()}").mkdir()
        broker = self._kind(place)
        broker.start()
        return broker

    def close(self) -> None:
        self.broker.stop()

    def move(self, folder: Path | None = None) -> None:
        """To another broker, which has nothing."""
        settings = (folder or self.folder) / "ota.toml"
        old, self.broker = self.broker, self._started()
        settings.write_text(settings.read_text().replace(old.url, self.broker.url))
        old.stop()

    @property
    def workspace(self) -> Workspace:
        return Workspace.open(self.folder)

    def module(self, version: int, name: str = "echo", padding: int = 0) -> Path:
        """A module with its description."""
        return module(self.root, version, name, padding)

    def copy(self, name: str) -> Path:
        """A copy of the workspace, as a backup makes one."""
        shutil.copytree(self.folder, self.root / name)
        return self.root / name

    def connect(self) -> Broker:
        return Broker(self.workspace.settings)

    def retained(self, topic: str) -> bytes | None:
        with self.connect() as broker:
            return broker.retained_one(topic)

    def put(self, topic: str, payload: bytes) -> None:
        with self.connect() as broker:
            broker.publish_all([(topic, payload)])

    def deployment(self, group: str = GROUP) -> Deployment:
        """What is on the broker for a group, verified."""
        document = self.retained(topics.desired(group))
        assert document is not None
        return verify(document, self.workspace.root(), group)

    def board(self, name: str, *, group: str = GROUP, board: str = "generic", online: bool = True, **changes) -> None:
        """A board that reported, with what it runs."""
        running = Running(**changes.pop("running", {}))
        report = Report(name, group, board, "0", changes.pop("time_s", int(time.time())), 5, running)
        self.put(topics.report(name), report.to_bytes())
        self.put(topics.online(name), topics.ONLINE if online else topics.OFFLINE)


def module(folder: Path, version: int, name: str = "echo", padding: int = 0) -> Path:
    """A module with its description."""
    path = folder / f"{name}-{version}.wasm"
    path.write_bytes(echo(version) + (_padding(padding) if padding else b""))
    path.with_suffix(".toml").write_text(
        f'[module]\nname = "{name}"\nversion = "{version}.0.0"\n[limits]\nmemory_pages = 4\n[capabilities.logging]\n'
        '[capabilities.messaging]\nsubscribe = ["in/#", "sys/#"]\npublish = ["out/#"]\n'
    )
    return path


def _padding(size: int) -> bytes:
    """A custom section of this size, the same each time."""
    content = b"\x03pad" + b"".join(sha256(b"%d" % number) for number in range(size // 32))
    length, leb = len(content), bytearray()
    while True:
        leb.append((length & 0x7F) | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return b"\x00" + bytes(leb) + content


def publish(workspace: Workspace, broker: Broker, update: Update, **changes) -> Done:
    """As `ota publish` does, without what it asks and says."""
    order = Order(changes.pop("group", GROUP), **changes)
    return deploy(
        workspace, broker, update, order, int(time.time()), look(workspace, broker, order.group, take_over=order.take_over)
    )


__all__ = ["GROUP", "Publishing", "publish", "sign_draft"]
