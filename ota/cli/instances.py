"""remove, config, withdraw: instances without a new module."""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

from ota.cli import entries, output, scopes, waiting
from ota.cli.fleet import add_devices_option, open_roster
from ota.cli.operator import add_passphrase, check_clock, open_workspace
from ota.formats.deployment import Deployment, Entry
from ota.operator.broker import Broker
from ota.operator.checks import check_module
from ota.operator.edit import Edit
from ota.operator.order import Present, configured, removed, running
from ota.operator.publish import change, present
from ota.operator.rollout import older, withdrawn
from ota.operator.scope import Scope
from ota.operator.survey import look

Decide = Callable[[Present, int], Edit]


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    remove = commands.add_parser(
        "remove",
        help="remove instances from boards",
        description="Remove instances from boards, with their state. Boards remember which versions they ran.",
        epilog="example: ota remove blink --group lab --wait 60",
    )
    remove.add_argument("name", type=output.name, nargs="+", help="an instance")
    _add_options(remove)
    remove.set_defaults(handler=_remove)

    config = commands.add_parser(
        "config",
        help="show or change the configuration of an instance",
        description="Show the configuration that an instance gets with its deployment, or change it. The module goes on as it is,"
        " with its state; one that fails with a new configuration goes back to the old one.",
        epilog="example: ota config blink period_ms=500 --group lab --wait 60",
    )
    config.add_argument("name", type=output.name, help="the instance")
    config.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="what to set; with neither this nor --unset: show it")
    config.add_argument("--unset", action="append", default=[], metavar="KEY", help="take a key out; may be repeated")
    _add_options(config)
    config.set_defaults(handler=_config)

    withdraw = commands.add_parser(
        "withdraw",
        help="take instances out of a deployment: a device follows its group again",
        description="Take instances out of the deployment of a device, which follows its group again, or of a group, whose boards"
        " keep what they run.",
        epilog="example: ota withdraw blink --device roof-1 --wait 60",
    )
    withdraw.add_argument("name", type=output.name, nargs="+", help="an instance; a set is withdrawn as a whole")
    scopes.add_scope(withdraw)
    waiting.add_options(withdraw)
    add_devices_option(withdraw)
    _add_general_options(withdraw)
    withdraw.set_defaults(handler=_withdraw)


def _add_options(command: argparse.ArgumentParser) -> None:
    whom = command.add_argument_group("which boards")
    scopes.add_scope(whom)
    scopes.add_phase(whom, " (default: 100, or as it is when that is deployed already)")
    scopes.add_timing(command)
    waiting.add_options(command)
    add_devices_option(command)
    _add_general_options(command)


def _add_general_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="only say what would be published")
    command.add_argument("--clock-is-right", action="store_true", help="sign although this machine's clock looks wrong")
    command.add_argument("--json", action="store_true", help="machine-readable result")
    add_passphrase(command)


def _remove(arguments: argparse.Namespace) -> int:
    for name in arguments.name:
        check_module(name, "removed; `ota withdraw` takes an update of it back")
    order = scopes.order(arguments)
    return _change(arguments, lambda found, now_s: removed(arguments.name, order, found, now_s), arguments.name)


def _config(arguments: argparse.Namespace) -> int:
    order, wanted = scopes.order(arguments), scopes.settings(arguments.settings)
    if not wanted and not arguments.unset:
        return _show(arguments)
    check_module(arguments.name, "configured: its settings are in agent.toml")
    of_group = _of_groups(arguments) if arguments.device else {}

    def decide(found: Present, now_s: int) -> Edit:
        return configured(arguments.name, wanted, arguments.unset, order, found, now_s, of_group.get(found.scope.device))

    return _change(arguments, decide, [arguments.name])


def _of_groups(arguments: argparse.Namespace) -> dict[str, Entry]:
    """What devices have from their groups for the instance, where they report one."""
    entries_of = {device: found.deployment.entries.get(arguments.name) for device, found in _groups(arguments).items()}
    return {device: entry for device, entry in entries_of.items() if entry is not None and not entry.absent}


def _groups(arguments: argparse.Namespace) -> dict[str, Present]:
    """The deployments of the groups of devices, where these report one."""
    workspace = open_workspace(arguments)
    roster = open_roster(workspace, arguments)
    found: dict[str, Present] = {}
    with Broker(workspace.settings) as broker:
        for group in {roster.group_of(device) for device in arguments.device} - {""}:
            deployed = present(workspace, Scope(group), look(workspace, broker, Scope(group)))
            found |= {device: deployed for device in arguments.device if roster.group_of(device) == group}
    return found


def _withdraw(arguments: argparse.Namespace) -> int:
    groups = _groups(arguments) if arguments.device else {}

    def decide(found: Present, _: int) -> Edit:
        edit = withdrawn(arguments.name, found)
        if (group := groups.get(found.scope.device)) is not None:
            for name in older(edit, found, group):
                output.note(
                    f"note: {found.scope} may refuse what {group.scope} has for instance {name} (sequence-too-old), since it was"
                    f" signed before what the board has now: publish it to {group.scope} again with --new-sequence"
                )
        return edit

    return _change(arguments, decide, arguments.name, {name: each.deployment for name, each in groups.items()})


def _show(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    with Broker(workspace.settings) as broker:
        for scope, survey in entries.survey(workspace, broker, scopes.scopes(workspace, arguments)).items():
            found = present(workspace, scope, survey)
            entry = running(arguments.name, found)
            if arguments.json:
                output.result_json({**scopes.whose(scope), "instance": arguments.name, "config": dict(entry.config)})
                continue
            for key, value in sorted(entry.config.items()):
                output.result(f"{key}={value}")
            if not entry.config:
                output.note(f"{scope} gives instance {arguments.name} no configuration")
    return 0


def _change(
    arguments: argparse.Namespace, decide: Decide, names: list[str], withdrawn_to: Mapping[str, Deployment] | None = None
) -> int:
    """Decides for each group or device, and publishes the result, or says what it would be.

    `withdrawn_to`: the instances are taken out; what devices follow again, by device.
    """
    workspace = open_workspace(arguments)
    with Broker(workspace.settings) as broker:
        surveys = entries.survey(workspace, broker, scopes.scopes(workspace, arguments))
        now_s = int(time.time()) if arguments.dry_run else check_clock(arguments, max(each.signed_s for each in surveys.values()))
        if withdrawn_to is None:
            roster = open_roster(workspace, arguments)
            if arguments.wait is None:
                entries.warn_of_strangers(roster, surveys, arguments.boards or ())
            entries.warn_of_sets(workspace, broker, roster, surveys, names)
        before = {scope: present(workspace, scope, each) for scope, each in surveys.items()}
        edits = {scope: decide(each, now_s) for scope, each in before.items()}
        done = {
            scope: edits[scope].applied(each.deployment)
            if arguments.dry_run
            else change(workspace, broker, each, edits[scope], surveys[scope], now_s)
            for scope, each in before.items()
        }
    _tell(done, edits, names, arguments)
    if arguments.dry_run or arguments.wait is None:
        return 0
    if withdrawn_to is not None:  # the rest of a set, too
        names = sorted({name for each in edits.values() for name in each.drops})
    return waiting.wait(workspace, list(done.values()), names, now_s, arguments, withdrawn_to)


def _tell(done: Mapping[Scope, Deployment], edits: Mapping[Scope, Edit], names: list[str], arguments: argparse.Namespace) -> None:
    quiet = not arguments.dry_run and arguments.wait is not None  # its result is what the boards did
    if arguments.json:
        if not quiet:
            published = [_as_json(each, name, edits[scope]) for scope, each in done.items() for name in names]
            output.result_json({"published": published, "sent": not arguments.dry_run})
        return
    sent = "; nothing was sent" if arguments.dry_run else ""
    for scope, deployment in done.items():
        for name in names:
            already = "" if name in edits[scope].instances else " already"
            output.result(f"{scope}: {_about(name, deployment.entries.get(name))}{already}{sent}")


def _as_json(deployment: Deployment, name: str, edit: Edit) -> dict[str, Any]:
    changed = {"changed": name in edit.instances}
    if name in deployment.entries:
        return entries.as_json(deployment, name) | changed
    return {**scopes.whose(Scope.of(deployment)), "instance": name, "deployment": None, "epoch": deployment.epoch, **changed}


def _about(name: str, entry: Entry | None) -> str:
    if entry is None:
        return f"instance {name} is withdrawn"
    if entry.absent:
        return f"instance {name} is to be removed ({entries.about(name, entry)})"
    config = ", ".join(f"{key}={value}" for key, value in sorted(entry.config.items())) or "no configuration"
    return f"instance {name} gets {config} ({entries.about(name, entry)})"
