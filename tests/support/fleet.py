"""Boards that are only what they left on a broker: thousands of them."""

import time

from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.formats.report import Report, Running
from ota.operator.broker import Broker
from ota.operator.roster import Roster
from ota.operator.workspace import Settings, Workspace


def names(count: int) -> list[str]:
    return [f"board-{number}" for number in range(count)]


def report(name: str, group: str = "lab", **changes) -> Report:
    running = changes.pop("running", Running("monitor", "1.0.0", bytes(32), 7, "confirmed", "aot"))
    changes = {"time_s": int(time.time()), "uptime_s": 60, "counters": {f"counter_{n}": n for n in range(12)}} | changes
    return Report(name, group, "generic", "0.1.0", running=running, **changes)


def leave(broker: Broker, boards: list[str], *, group: str = "lab", online: bool = True, **changes) -> None:
    """Each board's report and whether it is connected."""
    broker.publish_all([(topics.report(each), report(each, group, **changes).to_bytes()) for each in boards])
    broker.publish_all([(topics.online(each), topics.ONLINE if online else topics.OFFLINE) for each in boards])


def settings(port: int) -> Settings:
    return Settings("test.example", BrokerUrl("127.0.0.1", port, tls=False), "lab")


def made(folder, port: int) -> Workspace:
    """A workspace for the broker at a port."""
    return Workspace.create(folder, settings(port), int(time.time()), "ed25519")


def roster(workspace: Workspace, listed: list[str] | None = None) -> Roster:
    return Roster(workspace, listed)
