"""group-keys: the keys that modules are encrypted with for whole groups."""

import argparse
import time
from dataclasses import asdict
from typing import Any

from ota.cli import output
from ota.cli.fleet import shown_reading
from ota.cli.operator import add_passphrase, open_workspace
from ota.formats.encryption import board_key_id, read_public_key
from ota.formats.reasons import Refused
from ota.operator.broker import Broker
from ota.operator.group_keys import GroupKeys
from ota.operator.key_deliveries import Deliveries, Standing
from ota.operator.ownership import ForeignError
from ota.operator.reports import View
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    keys = commands.add_parser(
        "group-keys",
        help="keys that a group's boards share, to encrypt modules for them",
        epilog="example: ota group-keys new lab && ota publish blink.wasm --group lab --encrypt",
    )
    verbs = keys.add_subparsers(dest="verb", metavar="verb", required=True)
    new = verbs.add_parser(
        "new",
        help="make a key for a group; `ota settings` and `ota flash` give it to boards",
        epilog="example: ota group-keys new lab",
    )
    new.add_argument("group", type=output.name, help="the group")
    _add_json(new)
    add_passphrase(new)
    new.set_defaults(handler=_new)

    shown = verbs.add_parser("list", help="the keys of groups, and boards' own", epilog="example: ota group-keys list")
    _add_json(shown)
    shown.set_defaults(handler=_list)

    deliver = verbs.add_parser(
        "deliver",
        help="give a group's keys to its boards over the air, and say which have confirmed them",
        epilog="example: ota group-keys deliver lab --wait 60",
    )
    deliver.add_argument("group", type=output.name, help="the group")
    deliver.add_argument(
        "--wait", type=output.seconds, metavar="SECONDS", help="until all boards have confirmed; exit code 1 if not"
    )
    deliver.add_argument(
        "--board",
        action="append",
        default=[],
        type=output.name,
        metavar="NAME",
        help="also this board, which has no certificate of this workspace or was in another group; may be repeated",
    )
    deliver.add_argument("--dry-run", action="store_true", help="say how far each board is, and send nothing")
    _add_json(deliver)
    add_passphrase(deliver)
    deliver.set_defaults(handler=_deliver)

    remove = verbs.add_parser(
        "remove",
        help="delete a key: nothing is encrypted with it any more, what boards run stays",
        epilog="example: ota group-keys remove lab 3f2a91c0",
    )
    remove.add_argument("group", type=output.name, help="the group")
    remove.add_argument("key", help="the beginning of its identifier")
    _add_json(remove)
    add_passphrase(remove)
    remove.set_defaults(handler=_remove)


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="machine-readable result")


def _new(arguments: argparse.Namespace) -> int:
    keys = GroupKeys(open_workspace(arguments))
    path = keys.make(arguments.group)
    found = keys.of(arguments.group)
    if arguments.json:
        output.result_json({"group": arguments.group, "key": found[path].key_id.hex(), "file": str(path), "keys": len(found)})
        return 0
    output.result(f"key {found[path].key_id.hex()} of group {arguments.group}: {path}")
    output.note(f"boards need it, too: `ota group-keys deliver {arguments.group}`, or this file beside their agent.toml")
    if len(found) > 1:
        output.note(f"group {arguments.group} has {len(found)} keys: what is published can be read with each of them")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    keys, roster = GroupKeys(workspace), Roster(workspace)
    found = [(group, each.key_id.hex(), str(path)) for group in keys.groups() for path, each in keys.of(group).items()]
    known = {name: roster.encryption_key(name) for name in sorted(roster.names)}
    boards = [(name, _own_key(key)) for name, key in known.items() if key]
    if arguments.json:
        groups = [dict(zip(("group", "key", "file"), each, strict=True)) for each in found]
        output.result_json({"groups": groups, "boards": [{"board": name, "key": key} for name, key in boards]})
        return 0
    rows = [*((f"group {group}", key, path) for group, key, path in found), *((f"board {name}", key, "") for name, key in boards)]
    if not rows:
        output.note("no group has a key, and no board has said its own")
        return 0
    output.result(output.table(("who", "key", "file"), rows))
    return 0


def _own_key(reported: bytes) -> str:
    try:
        return board_key_id(read_public_key(reported)).hex()
    except Refused:
        return "none that can be used"


def _deliver(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    roster = Roster(workspace)
    deliveries = Deliveries(workspace, arguments.group, roster, arguments.board)
    with Broker(workspace.settings) as broker, shown_reading(broker):
        view = View(broker, roster)
        view.read()
        if view.foreign:
            raise ForeignError(view.foreign)
        deliveries.read(broker, view)
        sent = 0 if arguments.dry_run else deliveries.send(broker, view, int(time.time()))
        found = list(deliveries.standings(view))
        if arguments.wait is not None:
            for _ in view.follow(arguments.wait, lambda each: each.report is not None and each.report.group == arguments.group):
                found = list(deliveries.standings(view))
                if _all_confirmed(found):
                    break
    _say_delivered(arguments, found, sent, view.gaps)
    for name in sorted({*arguments.board} - {each.board for each in found}):
        output.note(f"{name} has not reported that it is in group {arguments.group}: it gets no key")
    for gap in view.gaps:
        output.note(f"incomplete: {gap}")
    return 1 if view.gaps or (arguments.wait is not None and not _all_confirmed(found)) else 0


def _all_confirmed(found: list[Standing]) -> bool:
    counted = [each for each in found if each.counts]
    return bool(counted) and all(each.confirmed for each in counted)


def _say_delivered(arguments: argparse.Namespace, found: list[Standing], sent: int, gaps: list[str]) -> None:
    confirmed, counted = sum(each.confirmed for each in found), sum(each.counts for each in found)
    if arguments.json:
        output.result_json(
            {
                "group": arguments.group,
                "sent": sent,
                "confirmed": confirmed,
                "complete": not gaps,
                "reasons": gaps,
                "boards": [asdict(each) for each in found],
            }
        )
        return
    if not found:
        output.note(f"no board has reported that it is in group {arguments.group}")
        return
    rows = [(each.board, each.state, ", ".join(each.lacking) or "-") for each in found]
    output.result(output.table(("BOARD", "STATE", "LACKS"), rows))
    output.note(f"{sent} sent; {confirmed} of {counted} boards have confirmed the keys of group {arguments.group}")


def _remove(arguments: argparse.Namespace) -> int:
    keys = GroupKeys(open_workspace(arguments))
    path = keys.remove(arguments.group, arguments.key)
    if arguments.json:
        output.result_json(
            {"group": arguments.group, "removed": path.stem.removeprefix("group-"), "keys": len(keys.of(arguments.group))}
        )
    else:
        output.result(f"{path} is deleted: what is published from now on can't be read with it")
    return 0
