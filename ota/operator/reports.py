"""What the boards say: their last reports, their logs and messages, and how a deployment is going."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ota.formats import topics
from ota.formats.deployment import Deployment
from ota.formats.reasons import Refused
from ota.formats.report import LogRecord, Message, Report, decode_logs, decode_messages
from ota.operator.broker import Broker, Incoming

FINAL_STATES = ("confirmed", "rejected", "failed", "rolled-back")


@dataclass(frozen=True)
class Device:
    """A device as the broker knows it: its last report, and whether it is connected."""

    report: Report
    online: bool


def devices(broker: Broker, quiet_s: float = 0.5, timeout_s: float = 10.0) -> dict[str, Device]:
    """Every device that ever reported, by name. A report that can't be read is left out."""
    return {device.report.device: device for device in follow(broker, timeout_s, quiet_s)}


def follow(broker: Broker, timeout_s: float, quiet_s: float | None = None) -> Iterator[Device]:
    """Devices as they report, connect and disconnect, what is retained first."""
    broker.subscribe(topics.online("+"), topics.report("+"))  # in this order: who reports is known to be online by then
    reports: dict[str, Report] = {}
    online: set[str] = set()
    for message in _until_quiet(broker, timeout_s, quiet_s):
        topic, payload = message.topic, message.payload
        name, kind = topic.split("/")[-2:]
        if kind == "online":
            (online.add if payload == topics.ONLINE else online.discard)(name)
        elif (report := _report(topic, payload)) is not None:
            reports[name] = report
        if name in reports:
            yield Device(reports[name], name in online)


def _until_quiet(broker: Broker, timeout_s: float, quiet_s: float | None) -> Iterator[Incoming]:
    if quiet_s is None:
        yield from broker.messages(timeout_s)
        return
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and (came := list(broker.messages(quiet_s))):
        yield from came


def _report(topic: str, payload: bytes) -> Report | None:
    try:
        report = Report.from_bytes(payload)
    except Refused:
        return None
    return report if topic == topics.report(report.device) else None


@dataclass(frozen=True)
class Outcome:
    """What became of a deployment: reports by device, and which of them have not ended."""

    reports: dict[str, Report]
    pending: frozenset[str]

    @property
    def confirmed(self) -> bool:
        """Whether every device of the group that is part of the deployment runs it, and at least one does."""
        return bool(self.reports) and not self.pending and all(r.attempt.state == "confirmed" for r in self.reports.values())


def wait_for(
    broker: Broker, deployment: Deployment, timeout_s: float, changed: Callable[[Report], None] = lambda _: None
) -> Outcome:
    """Waits until every online device of the group has ended the deployment; `changed` gets each report about it."""
    seen: dict[str, Report] = {}
    pending: set[str] = set()
    for device in follow(broker, timeout_s):
        report = device.report
        if report.group != deployment.group or not deployment.includes(report.device):
            continue
        ours = report.attempt.deployment == deployment.deployment_id
        if ours and seen.get(report.device) != report:
            seen[report.device] = report
            changed(report)
        if device.online and not (ours and report.attempt.state in FINAL_STATES):
            pending.add(report.device)
        else:
            pending.discard(report.device)
        if seen and not pending:
            break
    return Outcome(seen, frozenset(pending))


def follow_logs(broker: Broker, timeout_s: float, device: str = "+") -> Iterator[tuple[str, LogRecord | Message]]:
    """Log records and messages of devices, as (device, record)."""
    broker.subscribe(topics.log(device), topics.telemetry(device))
    for message in broker.messages(timeout_s):
        payload = message.payload
        name, kind = message.topic.split("/")[-2:]
        try:
            records = decode_logs(payload) if kind == "log" else decode_messages(payload)
        except Refused:
            continue
        for record in records:
            yield name, record
