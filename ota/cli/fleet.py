"""status, devices, logs: what the boards say."""

import argparse
import time
from typing import Any

from ota.cli import output
from ota.formats.report import LEVELS, LogRecord
from ota.formats.text import printable
from ota.operator import prometheus, reports
from ota.operator.broker import Broker
from ota.operator.ca import Enrolled, enrolled
from ota.operator.workspace import Workspace

FOREVER_S = 10 * 365 * 86_400.0


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    status = commands.add_parser("status", help="what the boards run, and how updates go", epilog="example: ota status --watch")
    status.add_argument("--watch", action="store_true", help="go on, a line for each change")
    status.add_argument("--group", help="only boards of this group")
    status.add_argument("--json", action="store_true", help="machine-readable")
    status.add_argument("--prometheus", action="store_true", help="counters in Prometheus' text format")
    status.set_defaults(handler=_status)

    devices = commands.add_parser(
        "devices", help="the boards that have a certificate or ever reported", epilog="example: ota devices --json"
    )
    devices.add_argument("--json", action="store_true", help="machine-readable")
    devices.set_defaults(handler=_devices)

    logs = commands.add_parser("logs", help="logs and messages of boards", epilog="example: ota logs -f --device board-1")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until interrupted")
    logs.add_argument("--device", default="+", help="only of this one")
    logs.add_argument("--level", choices=LEVELS, default="info", help="the least level to show (default %(default)s)")
    logs.add_argument(
        "--seconds", type=output.seconds, default=5.0, help="without --follow: how long to listen (default %(default)s)"
    )
    logs.add_argument("--json", action="store_true", help="machine-readable")
    logs.set_defaults(handler=_logs)


def _row(device: reports.Device) -> tuple[str, ...]:
    report = device.report
    running, attempt = report.running, report.attempt
    module = f"{running.name} {running.version}" if running.name else "-"
    update = attempt.state + (f" ({attempt.reason})" if attempt.reason else "")
    seen = "online" if device.online else f"offline, {output.age(time.time() - report.time_s)} ago"
    handled = str(report.counters.get("events_handled", 0))
    return report.device, report.group, module, running.slot, update, handled, seen


_HEAD = ("device", "group", "module", "slot", "update", "events", "seen")


def _as_json(device: reports.Device) -> dict[str, Any]:
    report = device.report
    return {
        "device": report.device,
        "group": report.group,
        "board": report.board,
        "agent": report.agent,
        "time_s": report.time_s,
        "uptime_s": report.uptime_s,
        "online": device.online,
        "running": vars(report.running),
        "attempt": vars(report.attempt),
        "counters": report.counters,
        "problems": report.problems,
    }


def _status(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    with Broker(workspace.settings) as broker:
        if arguments.watch:
            return _watch(broker, arguments)
        found = [each for each in reports.devices(broker).values() if arguments.group in (None, each.report.group)]
    if arguments.json:
        output.result_json([_as_json(each) for each in found])
    elif arguments.prometheus:
        output.result(prometheus.text(found))
    elif not found:
        output.note(f"no board{f' of group {arguments.group}' if arguments.group else ''} has reported to this broker")
    else:
        output.result(output.table(_HEAD, [_row(each) for each in sorted(found, key=lambda each: each.report.device)]))
    return 0


def _watch(broker: Broker, arguments: argparse.Namespace) -> int:
    for device in reports.follow(broker, FOREVER_S):
        if arguments.group not in (None, device.report.group):
            continue
        if arguments.json:
            output.result_json(_as_json(device))
        else:
            name, group, module, slot, update, handled, seen = _row(device)
            clock = time.strftime("%H:%M:%S")
            output.result(f"{clock}  {name} ({group})  {module} [{slot}]  {update}  {handled} events  {seen}")
    return 0


def _devices(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    certificates = enrolled(workspace.folder)
    with Broker(workspace.settings) as broker:
        found = reports.devices(broker)
    names = sorted(found.keys() | certificates.keys())
    if arguments.json:
        output.result_json([_device(name, found.get(name), certificates.get(name)) for name in names])
        return 0
    rows = [(*_about(name, found.get(name)), _until(certificates.get(name))) for name in names]
    output.result(output.table(("device", "group", "board", "agent", "up for", "link", "certificate until"), rows))
    return 0


def _about(name: str, device: reports.Device | None) -> tuple[str, ...]:
    if device is None:
        return name, "-", "-", "-", "-", "never reported"
    report = device.report
    return name, report.group, report.board, report.agent, output.age(report.uptime_s), "online" if device.online else "offline"


def _until(certificate: Enrolled | None) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(certificate.expires_s)) if certificate else "none"


def _device(name: str, device: reports.Device | None, certificate: Enrolled | None) -> dict[str, Any]:
    about = _as_json(device) if device else {"device": name, "online": False}
    return about | {"certificate": vars(certificate) if certificate else None}


def _logs(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    least = LEVELS.index(arguments.level)
    with Broker(workspace.settings) as broker:
        for device, record in reports.follow_logs(broker, FOREVER_S if arguments.follow else arguments.seconds, arguments.device):
            if isinstance(record, LogRecord) and LEVELS.index(record.level) < least:
                continue
            if arguments.json:
                output.result_json({"device": device, **vars(record)})
                continue
            clock = time.strftime("%H:%M:%S", time.localtime(record.time_s))
            if isinstance(record, LogRecord):
                output.result(f"{clock}  {device}  {record.level:5}  {record.module or 'agent'}: {printable(record.message)}")
            else:
                payload = record.payload.decode("utf-8", "backslashreplace")
                output.result(f"{clock}  {device}  event  {record.module}: {printable(f'{record.topic} {payload}')}")
    return 0
