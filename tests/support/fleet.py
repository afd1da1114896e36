"""Boards that are only what they left on a broker: thousands of them."""

import time

from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.formats.report import Attempt, InstanceReport, Report, Running, Summary
from ota.operator.broker import Broker
from ota.operator.roster import Roster
from ota.operator.workspace import Settings, Workspace
from tests.support.reports import signed


def names(count: int) -> list[str]:
    return [f"board-{number}" for number in range(count)]


INSTANCE = "monitor"
RUNNING = Running("monitor", "1.0.0", bytes(32), b"", 7, "confirmed", "aot")


def report(name: str, group: str = "lab", **changes) -> Report:
    counters = {f"counter_{n}": n for n in range(12)}
    values = {"time_s": int(time.time()), "uptime_s": 60, "instances": (summary(),), "counters": counters} | changes
    return Report(name, group, "generic", "0.1.0", **values)


def summary(name: str = INSTANCE, running: Running = RUNNING, attempt: Attempt = Attempt()) -> Summary:  # noqa: B008
    return Summary(name, running.name, running.version, running.sequence, running.slot, attempt.state, attempt.reason)


def instance_report(name: str, instance: str = INSTANCE, **changes) -> InstanceReport:
    values = {"time_s": int(time.time()), "running": RUNNING, "counters": {"events_handled": 5}} | changes
    return InstanceReport(name, instance, **values)


def leave(broker: Broker, boards: list[str], *, group: str = "lab", online: bool = True, **changes) -> None:
    """Each board's report and whether it is connected."""
    broker.publish_all([(topics.report(each), signed(report(each, group, **changes))) for each in boards])
    broker.publish_all([(topics.online(each), topics.ONLINE if online else topics.OFFLINE) for each in boards])


def leave_instance(broker: Broker, boards: list[str], instance: str = INSTANCE, **changes) -> None:
    """The report of one instance of each board."""
    found = [(topics.instance_report(each, instance), instance_report(each, instance, **changes)) for each in boards]
    broker.publish_all([(topic, signed(each)) for topic, each in found])


def settings(port: int) -> Settings:
    return Settings("test.example", BrokerUrl("127.0.0.1", port, tls=False), "lab")


def made(folder, port: int) -> Workspace:
    """A workspace for the broker at a port."""
    return Workspace.create(folder, settings(port), int(time.time()), "ed25519")


def roster(workspace: Workspace, listed: list[str] | None = None) -> Roster:
    return Roster(workspace, listed)
