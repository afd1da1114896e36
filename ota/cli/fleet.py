"""status, devices: what the boards say of themselves."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ota.cli import output, shown
from ota.errors import OtaError
from ota.formats.text import nearest
from ota.operator import acts, issued, prometheus
from ota.operator.broker import Broker, BrokerError
from ota.operator.ca import Enrolled
from ota.operator.keeping import lost
from ota.operator.ledger import Ledger
from ota.operator.ownership import check_ours
from ota.operator.reports import Device, View
from ota.operator.retire import clear, left_by
from ota.operator.roster import Roster, listed
from ota.operator.scope import Scope
from ota.operator.workspace import Workspace, WorkspaceError

FOREVER_S = 10 * 365 * 86_400.0
SHOWN_AFTER_S = 2.0  # of a reading
NAMED = 8  # names in a message


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    status = commands.add_parser(
        "status",
        help="what the boards run, and how updates go",
        description="What the boards run, and how updates go. Exit code 1 when boards may be missing from the answer.",
        epilog="example: ota status --watch",
    )
    status.add_argument("device", nargs="?", type=output.name, metavar="BOARD", help="everything about this one")
    status.add_argument("instance", nargs="?", type=output.name, metavar="INSTANCE", help="only this instance of it")
    status.add_argument("--device", dest="named_device", type=output.name, metavar="BOARD", help="the same as BOARD alone")
    status.add_argument(
        "--instance", dest="named_instance", type=output.name, metavar="INSTANCE", help="with --device: only this instance"
    )
    status.add_argument("--watch", action="store_true", help="continue until Ctrl-C, with a line for each change")
    status.add_argument("--group", type=output.name, help="only boards of this group")
    add_devices_option(status)
    status.add_argument("--chunks", action="store_true", help="look for every chunk of what is deployed, too")
    machines = status.add_mutually_exclusive_group()
    machines.add_argument("--json", action="store_true", help="machine-readable")
    machines.add_argument("--prometheus", action="store_true", help="counters of boards and instances in Prometheus' text format")
    status.set_defaults(handler=_status)

    devices = commands.add_parser(
        "devices",
        help="list the boards of the fleet: those that have a certificate or ever reported",
        epilog="example: ota devices --forget board-7",
    )
    add_devices_option(devices)
    change = devices.add_mutually_exclusive_group()
    change.add_argument(
        "--forget",
        type=output.name,
        action="append",
        metavar="NAME",
        help="remove a board that is gone from the list, and its retained messages from the broker; may be repeated",
    )
    change.add_argument(
        "--trust",
        type=output.name,
        action="append",
        metavar="NAME",
        help="believe a board with the key, counter and journal that it has now, whatever it had before; may be repeated",
    )
    devices.add_argument("--json", action="store_true", help="machine-readable; a line for each board that is forgotten or trusted")
    devices.add_argument("--passphrase-file", type=Path, help="file that holds the keys' passphrase, with --forget and --trust")
    devices.set_defaults(handler=_devices)


def add_devices_option(command: argparse._ActionsContainer) -> None:
    """The option that names the boards there should be."""
    command.add_argument(
        "--devices", type=Path, metavar="FILE", help="expected boards, one name a line, in addition to the known ones"
    )


def open_roster(workspace: Workspace, arguments: argparse.Namespace) -> Roster:
    """The boards that there should be."""
    return Roster(workspace, listed(arguments.devices) if arguments.devices else None)


@contextmanager
def shown_reading(broker: Broker) -> Iterator[None]:
    """A reading that takes long shows on a terminal how far it is."""
    with output.progress("reading", 0, after_s=SHOWN_AFTER_S) as bar:
        before, broker.progress = broker.progress, bar.at
        try:
            yield
        finally:
            broker.progress = before


# -- status


def _asked_for(arguments: argparse.Namespace) -> str | None:
    """The one board that is asked for, None for all. Raises UsageError."""
    if arguments.named_device and arguments.device:
        raise output.UsageError("name the board once: as BOARD or with --device")
    if arguments.named_instance and (arguments.instance or not arguments.named_device):
        raise output.UsageError("--instance goes with --device")
    name: str | None = arguments.device or arguments.named_device
    arguments.device = name
    arguments.instance = arguments.instance or arguments.named_instance
    if name is not None and arguments.group is not None:
        raise output.UsageError("either a board or --group, not both")
    if arguments.watch and arguments.instance is not None:
        raise output.UsageError("--watch tells of all instances of a board")
    if arguments.watch and (arguments.prometheus or arguments.chunks):
        raise output.UsageError("--watch tells of changes of boards: --prometheus and --chunks are for one reading")
    return name


def _status(arguments: argparse.Namespace) -> int:
    name = _asked_for(arguments)
    workspace = Workspace.open(arguments.folder)
    roster = open_roster(workspace, arguments)

    def wanted(device: Device) -> bool:
        group = device.report.group if device.report else roster.group_of(device.name)
        return arguments.group in (None, group) or (not group and bool(device.unknown))

    with Broker(workspace.settings) as broker, shown_reading(broker):
        view = View(broker, roster, only=None if name is None else (name,))
        if arguments.watch:
            return _watch(view, wanted, arguments)
        expected = name is None or name in roster.names
        view.read()
        found = sorted((each for each in view.devices.values() if wanted(each)), key=lambda each: each.name)
        if name is not None or arguments.prometheus:
            view.read_instances({each.name: _instances(each, arguments.instance) for each in found})
            found = [view.devices[each.name] for each in found]
        gone = _lost(workspace, broker, chunks=arguments.chunks) if name is None and not view.foreign else []
    if not expected and not _there(found[0]):
        output.note(nobody([name or ""], roster))
        return 1
    if arguments.instance and (said := _no_instance(found[0], arguments.instance)):
        output.note(said)
        return 1
    return _show(arguments, view, found, gone)


def _show(arguments: argparse.Namespace, view: View, found: Sequence[Device], gone: Sequence[str]) -> int:
    now_s, missing = time.time(), arguments.group is not None and not found
    if arguments.json:
        boards = [shown.as_json(each, now_s) for each in found]
        output.result_json(
            {"complete": view.complete, "reasons": view.gaps, "refused": view.refused, "lost": gone, "boards": boards}
        )
    elif arguments.prometheus:
        output.result(prometheus.text(found, now_s, complete=view.complete))
    elif arguments.device is not None:
        output.result(shown.details(found[0], now_s))
    elif found:
        output.result(output.table(shown.HEAD, [row for each in found for row in shown.rows(each, now_s)]))
        for each in found:
            for trouble in shown.troubles(each):
                output.result(f"{each.name}: {trouble}")
    elif not missing:
        output.note("no board has reported to this broker" + ("" if view.complete else ", as far as that is known"))
    if missing:
        output.note(_no_group(arguments.group, view))
    code = _said(view, gone)
    return 1 if missing else code


def _instances(device: Device, only: str | None) -> list[str]:
    """Those to read of a board: one that was removed is not in its report, and is read when it is asked for."""
    return [only] if only is not None else [each.name for each in device.report.instances] if device.report else []


def _there(device: Device) -> bool:
    return device.report is not None or device.online or bool(device.unknown)


def _no_instance(device: Device, instance: str) -> str:
    """What there is instead of an instance, empty when it is there, or that can't be told."""
    found = device.instances[instance]
    if found.report is not None or found.unknown or device.report is None:
        return ""
    names = [each.name for each in device.report.instances]
    return f"{device.name} has no instance {instance}; it has {_some(names) if names else 'none'}"


def _lost(workspace: Workspace, broker: Broker, *, chunks: bool) -> list[str]:
    """What the broker lost; that it can't be known hides no board."""
    try:
        return lost(workspace, broker, chunks=chunks)
    except (WorkspaceError, BrokerError) as error:
        return [f"what the broker lost is not known: {error}"]


def _no_group(group: str, view: View) -> str:
    groups = sorted({each.report.group for each in view.devices.values() if each.report})
    return f"no board has group {group}; " + (f"boards have {_some(groups)}" if groups else "no board has reported to this broker")


def _said(view: View, gone: Sequence[str] = ()) -> int:
    """Says what is missing from a reading, and what the broker has lost; the exit code."""
    for gap in view.gaps:
        output.note(f"incomplete: {gap}")
    for each in view.refused:
        output.note(f"not believed: {each}")
    for each in gone:
        output.note(f"lost: {each}")
    return 0 if view.complete and not view.refused and not gone else 1


def nobody(names: list[str], roster: Roster) -> str:
    """Says that no board has these names, what was perhaps meant, and how to find the boards that there are."""
    meant = nearest(names[0], roster.names) if len(names) == 1 else ""
    return f"no board has the name {_some(names)}{meant}; `ota devices` lists the boards"


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _watch(view: View, wanted: Callable[[Device], bool], arguments: argparse.Namespace) -> int:
    gaps: list[str] = []
    told: dict[str, list[str]] = {}
    for device in view.follow(FOREVER_S, wanted):
        if device is None:
            if view.gaps != gaps:
                gaps = list(view.gaps)
                _said(view)
        elif arguments.json:
            output.result_json(shown.as_json(device, time.time()))
        else:
            lines, before = shown.changes(device, time.time()), told.get(device.name, [])
            told[device.name] = lines
            for line in (each for each in lines if each not in before):
                output.result(f"{time.strftime('%H:%M:%S')}  {line}")
    return 0


# -- devices


def _devices(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    if arguments.forget or arguments.trust:
        from ota.cli.operator import open_workspace  # reading needs no keys, and nothing of what this imports

        workspace = open_workspace(arguments)
    roster = open_roster(workspace, arguments)
    with Broker(workspace.settings) as broker, shown_reading(broker):
        if arguments.forget:
            names = list(dict.fromkeys(arguments.forget))
            return max([_forget(workspace, broker, roster, name, as_json=arguments.json) for name in names])
        if arguments.trust:
            return _trust(workspace, broker, roster, list(dict.fromkeys(arguments.trust)), as_json=arguments.json)
        view = View(broker, roster)
        view.read()
    found = [view.devices[name] for name in sorted(view.devices)]
    clones = issued.clones(workspace)
    if arguments.json:
        boards = [
            shown.as_json(each, time.time())
            | {"certificate": _certificate(roster, each.name), "clones": clones[each.name].keys if each.name in clones else ()}
            for each in found
        ]
        output.result_json({"complete": view.complete, "reasons": view.gaps, "refused": view.refused, "boards": boards})
        return 0 if view.complete and not view.refused else 1
    for clone in clones.values():
        output.note(
            f"{clone.device}: another key asked for its certificate ({', '.join(each[:16] for each in clone.keys)}): key-cloned"
        )
    rows = [(*_about(each), _until(roster.certificates.get(each.name))) for each in found]
    output.result(output.table(("device", "group", "board", "agent", "up for", "link", "certificate until"), rows))
    return _said(view)


def _forget(workspace: Workspace, broker: Broker, roster: Roster, name: str, *, as_json: bool) -> int:
    check_ours(workspace, broker)
    if name not in roster.names and not left_by(broker, name, deployment=True):
        if as_json:
            output.result_json({"device": name, "forgotten": False, "topics": 0})
        output.note(nobody([name], roster))
        return 1
    acts.record(workspace, "forget-device", {"device": name})
    left = clear(broker, name, deployment=True)
    roster.forget(name)
    roster.save()
    Ledger(workspace).forget(Scope(device=name))
    if as_json:
        output.result_json({"device": name, "forgotten": True, "topics": left})
    else:
        output.result(f"{name} is forgotten; it is listed again when it reports again")
    if name in roster.certificates:
        output.note(f"its certificate stays valid until {_until(roster.certificates[name])}: `ota retire {name}` ends it")
    return 0


def _trust(workspace: Workspace, broker: Broker, roster: Roster, names: list[str], *, as_json: bool) -> int:
    check_ours(workspace, broker)
    if strange := [each for each in names if each not in roster.names and not left_by(broker, each, deployment=False)]:
        raise OtaError(f"{nobody(strange, roster)}; nothing was changed")
    for name in names:
        acts.record(workspace, "trust-device", {"device": name, "instead_of": roster.signers.label(name)})
        roster.signers.forget(name)
    view = View(broker, roster, only=names)
    view.read()
    for name in names:
        device = view.devices[name]
        if as_json:
            output.result_json({"device": name, "key": roster.signers.label(name) or None, "unknown": device.unknown})
        elif device.report is None:
            output.note(f"{name}: {device.unknown or 'it has not reported: the first key that it comes with is believed'}")
        else:
            output.result(f"{name} is believed with key {roster.signers.label(name)}")
    return _said(view)


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
