"""Workspaces and brokers for tests of publishing."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ota.author.build import Update
from ota.formats import topics
from ota.formats.cbor import sha256
from ota.formats.deployment import Deployment, Entry
from ota.formats.report import Report, Summary
from ota.operator.broker import Broker
from ota.operator.order import Item, Order
from ota.operator.publish import Done, deploy, sign_draft
from ota.operator.scope import Scope
from ota.operator.survey import look
from ota.operator.workspace import Workspace
from tests.support.lab import Mosquitto, echo
from tests.support.operator import ota
from tests.support.reports import signed
from tests.support.rumqttd import Rumqttd

GROUP = "lab"
LAB = Scope(GROUP)


class Publishing:
    """One operator and one broker, which can be emptied."""

    def __init__(self, folder: Path, kind: Callable[[Path], Rumqttd | Mosquitto]) -> None:
        self.root, self._kind = folder, kind
        self.broker = self._started()
        self.folder = folder / "operator"
        assert ota(self.folder, "init", "--vendor", "test.example", "--no-passphrase", "--broker", self.broker.url) == 0

    def _started(self) -> Rumqttd | Mosquitto:
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

    def deployment(self, group: str = GROUP, device: str = "") -> Deployment:
        """What is on the broker for a group, or for a device, verified."""
        scope = Scope(device=device) if device else Scope(group)
        document = self.retained(scope.topic)
        assert document is not None
        return scope.verify(document, self.workspace.root())

    def entry(self, instance: str = "echo", group: str = GROUP, device: str = "") -> Entry:
        """What it says of one instance."""
        return self.deployment(group, device).entries[instance]

    def board(self, name: str, *, group: str = GROUP, board: str = "generic", online: bool = True, **changes) -> None:
        """A board that reported, with what it runs."""
        instances = tuple(Summary(each.pop("instance", each["module"]), **each) for each in changes.pop("instances", ()))
        report = Report(name, group, board, "0", changes.pop("time_s", int(time.time())), 5, instances)
        self.put(topics.report(name), signed(replace(report, **changes)))
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


def publish(workspace: Workspace, broker: Broker, *updates: Update, scope: Scope = LAB, **changes) -> Done:
    """As `ota publish` does, without what it asks and says. Each update is for the instance of its module's name."""
    order = Order(**changes)
    items = [Item(each, each.manifest.name) for each in updates]
    survey = look(workspace, broker, scope, take_over=order.take_over)
    (done,) = deploy(workspace, broker, items, order, int(time.time()), {scope: survey})
    return done


__all__ = ["GROUP", "LAB", "Publishing", "publish", "sign_draft"]
