"""status, devices, logs: what the boards say."""

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ota.cli import output
from ota.formats import topics
from ota.formats.report import LEVELS, LogRecord, Message
from ota.formats.text import printable
from ota.operator import presence, prometheus, reports
from ota.operator.broker import Broker
from ota.operator.ca import Enrolled
from ota.operator.keeping import lost
from ota.operator.reports import Device, View
from ota.operator.roster import Roster, listed
from ota.operator.workspace import Workspace, WorkspaceError

FOREVER_S = 10 * 365 * 86_400.0
FRESH_S = 600  # a report of an online board is not spoken of before it is so old
NAMED = 8  # names in a message


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    status = commands.add_parser(
        "status",
        help="what the boards run, and how updates go",
        description="What the boards run, and how updates go. Exit code 1 when boards may be missing from the answer.",
        epilog="example: ota status --watch",
    )
    status.add_argument("--watch", action="store_true", help="continue until Ctrl-C, with a line for each change")
    status.add_argument("--group", type=output.name, help="only boards of this group")
    add_devices_option(status)
    status.add_argument("--chunks", action="store_true", help="look for every chunk of what is deployed, too")
    status.add_argument("--json", action="store_true", help="machine-readable")
    status.add_argument("--prometheus", action="store_true", help="counters in Prometheus' text format")
    status.set_defaults(handler=_status)

    devices = commands.add_parser(
        "devices", help="the boards that have a certificate or ever reported", epilog="example: ota devices --forget board-7"
    )
    add_devices_option(devices)
    devices.add_argument(
        "--forget",
        type=output.name,
        action="append",
        metavar="NAME",
        help="remove a board that is gone from the list, and its retained messages from the broker; may be repeated",
    )
    devices.add_argument("--json", action="store_true", help="machine-readable")
    devices.set_defaults(handler=_devices)

    logs = commands.add_parser("logs", help="logs and messages of boards", epilog="example: ota logs -f --device board-1")
    logs.add_argument("-f", "--follow", action="store_true", help="continue until Ctrl-C")
    logs.add_argument("--device", type=output.name, help="only of this one")
    logs.add_argument(
        "--level", choices=LEVELS, default="info", help="the lowest level to show (default %(default)s); events count as info"
    )
    logs.add_argument("--utc", action="store_true", help="times in UTC instead of this machine's zone")
    logs.add_argument(
        "--seconds", type=output.seconds, default=5.0, help="without --follow: how long to listen (default %(default)s)"
    )
    logs.add_argument("--json", action="store_true", help="machine-readable")
    logs.set_defaults(handler=_logs)


def add_devices_option(command: argparse.ArgumentParser) -> None:
    """The option that names the boards there should be."""
    command.add_argument(
        "--devices", type=Path, metavar="FILE", help="expected boards, one name a line, in addition to the known ones"
    )


def open_roster(workspace: Workspace, arguments: argparse.Namespace) -> Roster:
    """The boards that there should be."""
    return Roster(workspace, listed(arguments.devices) if arguments.devices else None)


# -- status


def _status(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    roster = open_roster(workspace, arguments)

    def wanted(device: Device) -> bool:
        group = device.report.group if device.report else roster.group_of(device.name)
        return arguments.group in (None, group) or (not group and bool(device.unknown))

    with Broker(workspace.settings) as broker:
        view = View(broker, roster)
        if arguments.watch:
            return _watch(view, wanted, arguments)
        view.read()
        gone = _lost(workspace, broker, chunks=arguments.chunks)
    found = sorted((each for each in view.devices.values() if wanted(each)), key=lambda each: each.name)
    missing = arguments.group is not None and not found
    if arguments.json:
        output.result_json(
            {
                "complete": view.complete,
                "reasons": view.gaps,
                "lost": gone,
                "boards": [_as_json(each, time.time()) for each in found],
            }
        )
    elif arguments.prometheus:
        output.result(prometheus.text(found, time.time(), complete=view.complete))
    elif found:
        output.result(output.table(_HEAD, [_row(each, time.time()) for each in found]))
        for each in found:
            for problem in each.report.problems if each.report else ():
                output.result(f"{each.name}: {problem}")
    elif not missing:
        output.note("no board has reported to this broker" + ("" if view.complete else ", as far as that is known"))
    if missing:
        output.note(_no_group(arguments.group, view))
    code = _said(view, gone)
    return 1 if missing else code


def _lost(workspace: Workspace, broker: Broker, *, chunks: bool) -> list[str]:
    """What the broker lost; damage of our own record of it hides no board."""
    try:
        return lost(workspace, broker, chunks=chunks)
    except WorkspaceError as error:
        return [f"what the broker lost is not known: {error}"]


def _no_group(group: str, view: View) -> str:
    groups = sorted({each.report.group for each in view.devices.values() if each.report})
    return f"no board has group {group}; " + (f"boards have {_some(groups)}" if groups else "no board has reported to this broker")


def _said(view: View, gone: Sequence[str] = ()) -> int:
    """Says what is missing from a reading, and what the broker has lost; the exit code."""
    for gap in view.gaps:
        output.note(f"incomplete: {gap}")
    for each in gone:
        output.note(f"lost: {each}")
    return 0 if view.complete and not gone else 1


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


_HEAD = ("device", "group", "module", "slot", "update", "events", "seen")


def _row(device: Device, now_s: float) -> tuple[str, ...]:
    report = device.report
    if report is None:
        return device.name, "-", "-", "-", "-", "-", _seen(device, now_s)
    running, attempt = report.running, report.attempt
    module = f"{running.name} {running.version}" if running.name else "-"
    update = attempt.state + (f" ({attempt.reason})" if attempt.reason else "")
    handled = str(report.counters.get("events_handled", 0))
    return report.device, report.group, module, running.slot, update, handled, _seen(device, now_s)


def _seen(device: Device, now_s: float) -> str:
    """When the board was heard of last: the age of its report is the fact, `online` is what the broker says."""
    if device.unknown:
        return f"unknown: {device.unknown}"
    if device.report is None:
        return "online, no report yet" if device.online else "never reported"
    age_s = now_s - device.came_s
    text = "online" if device.online else f"offline, last report {output.age(age_s)} ago"
    if device.online and age_s > FRESH_S:
        text += f", but last report {output.age(age_s)} ago"
    if device.clock_ahead_s:
        text += f"; its clock is {output.age(abs(device.clock_ahead_s))} {'ahead' if device.clock_ahead_s > 0 else 'behind'}"
    return text


def _as_json(device: Device, now_s: float) -> dict[str, Any]:
    about: dict[str, Any] = {"device": device.name, "online": device.online, "unknown": device.unknown}
    report = device.report
    if report is None:
        return about | {"reported": False}
    return about | {
        "reported": True,
        "group": report.group,
        "board": report.board,
        "agent": report.agent,
        "time_s": report.time_s,
        "age_s": max(0, round(now_s - device.came_s)),
        "clock_ahead_s": device.clock_ahead_s,
        "uptime_s": report.uptime_s,
        "running": vars(report.running),
        "attempt": vars(report.attempt),
        "counters": report.counters,
        "problems": report.problems,
    }


def _watch(view: View, wanted: Any, arguments: argparse.Namespace) -> int:
    told: list[str] = []
    for device in view.follow(FOREVER_S, wanted):
        if device is None:
            if view.gaps != told:
                told = list(view.gaps)
                _said(view)
        elif arguments.json:
            output.result_json(_as_json(device, time.time()))
        else:
            name, group, module, slot, update, handled, seen = _row(device, time.time())
            clock = time.strftime("%H:%M:%S")
            output.result(f"{clock}  {name} ({group})  {module} [{slot}]  {update}  {handled} events  {seen}")
    return 0


# -- devices


def _devices(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    roster = open_roster(workspace, arguments)
    with Broker(workspace.settings) as broker:
        if arguments.forget:
            return max([_forget(broker, roster, name) for name in dict.fromkeys(arguments.forget)])
        view = View(broker, roster)
        view.read()
    found = [view.devices[name] for name in sorted(view.devices)]
    if arguments.json:
        boards = [_as_json(each, time.time()) | {"certificate": _certificate(roster, each.name)} for each in found]
        output.result_json({"complete": view.complete, "reasons": view.gaps, "boards": boards})
        return 0 if view.complete else 1
    rows = [(*_about(each), _until(roster.certificates.get(each.name))) for each in found]
    output.result(output.table(("device", "group", "board", "agent", "up for", "link", "certificate until"), rows))
    return _said(view)


def _forget(broker: Broker, roster: Roster, name: str) -> int:
    found = presence.read(broker, (topics.report(name), topics.online(name)), reports.REPORT_BYTES)
    left = [topic for topic, payload in found.items() if payload is not None]
    if name not in roster.names and not left:
        output.note(f"no board has the name {name}")
        return 1
    broker.publish_all([(topic, b"") for topic in left])
    roster.forget(name)
    roster.save()
    output.result(f"{name} is forgotten; it is listed again when it reports again")
    if name in roster.certificates:
        output.note(f"its certificate stays valid until {_until(roster.certificates[name])}")
    return 0


def _certificate(roster: Roster, name: str) -> dict[str, Any] | None:
    return vars(roster.certificates[name]) if name in roster.certificates else None


def _about(device: Device) -> tuple[str, ...]:
    report = device.report
    if report is None:
        return device.name, "-", "-", "-", "-", f"unknown: {device.unknown}" if device.unknown else "never reported"
    link = "online" if device.online else "offline"
    return device.name, report.group, report.board, report.agent, output.age(report.uptime_s), link


def _until(certificate: Enrolled | None) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(certificate.expires_s)) if certificate else "none"


# -- logs


def _logs(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    least = LEVELS.index(arguments.level)
    with Broker(workspace.settings) as broker:
        if arguments.device and not _known(broker, Roster(workspace), arguments.device):
            output.note(f"no board has the name {arguments.device}; `ota devices` lists those there are")
            return 1
        listen_s = FOREVER_S if arguments.follow else arguments.seconds
        for device, record in reports.follow_logs(broker, listen_s, arguments.device or "+"):
            level = record.level if isinstance(record, LogRecord) else "info"
            if LEVELS.index(level) < least:
                continue
            if arguments.json:
                output.result_json({"device": device, **vars(record)})
            else:
                output.result(f"{_date(record.time_s, utc=arguments.utc)}  {device}  {_line(record)}")
    return 0


def _known(broker: Broker, roster: Roster, name: str) -> bool:
    left = broker.retained((topics.report(name), topics.online(name)))
    return name in roster.names or any(each.payload is not None or each.unknown for each in left)


def _date(time_s: float, *, utc: bool) -> str:
    """ISO 8601, to the second; by the board's clock."""
    try:
        moment = datetime.fromtimestamp(time_s, UTC)
        return (moment if utc else moment.astimezone()).isoformat(sep="T" if utc else " ", timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"time {time_s!r}"  # what a board sends may be no date


def _line(record: LogRecord | Message) -> str:
    if isinstance(record, LogRecord):
        return f"{record.level:5}  {record.module or 'agent'}: {printable(record.message)}"
    payload = record.payload.decode("utf-8", "backslashreplace")
    return f"event  {record.module}: {printable(f'{record.topic} {payload}')}"
