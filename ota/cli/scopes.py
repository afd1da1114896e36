"""Options of commands that change deployments: for whom, which boards, when, with which configuration."""

import argparse
from collections.abc import Sequence
from typing import Any

from ota.cli import output
from ota.formats.deployment import FRACTION_ALL
from ota.formats.window import Window
from ota.operator.order import Order
from ota.operator.scope import Scope
from ota.operator.workspace import Workspace

__all__ = ["add_phase", "add_scope", "add_several", "add_timing", "fraction", "names", "order", "scopes", "settings", "whose"]

DAY_S = 86_400


def add_scope(command: argparse._ActionsContainer) -> None:
    """Whose document it is about."""
    one = command.add_mutually_exclusive_group()
    one.add_argument("--group", type=output.name, help="default: the workspace's")
    one.add_argument(
        "--device",
        type=names,
        action="extend",
        metavar="NAME[,NAME…]",
        help="only these boards, whatever their group's deployment says; may be repeated",
    )


def add_several(command: argparse.ArgumentParser) -> None:
    """Whose documents it is about, of all of the workspace's."""
    for option in ("--group", "--device"):
        command.add_argument(
            option, type=names, action="extend", default=[], metavar="NAME[,NAME…]", help="only of these; may be repeated"
        )


def add_phase(command: argparse._ActionsContainer, about: str = "") -> None:
    """Which of the group's boards."""
    command.add_argument("--fraction", type=fraction, metavar="PERCENT", help=f"of the group's boards{about}")
    command.add_argument(
        "--boards",
        type=names,
        action="extend",
        metavar="NAME[,NAME…]",
        help="these boards of the group, too, whatever the fraction; may be repeated",
    )


def add_timing(command: argparse.ArgumentParser) -> None:
    """When boards may do it."""
    timing = command.add_argument_group("when boards change to it")
    when = timing.add_mutually_exclusive_group()
    when.add_argument(
        "--window",
        type=output.checked(Window.from_text),
        metavar="WINDOW",
        help='boards change what they run only then: days, start and length, such as "mon-fri 02:00 2h"; they download at any time'
        " (default: window of ota.toml)",
    )
    when.add_argument("--now", action="store_true", help="without a window: as soon as a board has it")
    timing.add_argument("--utc", action="store_true", help="the window is in UTC, not in each board's zone")
    timing.add_argument("--without-clock", action="store_true", help="boards that do not know the time need not wait until they do")
    timing.add_argument(
        "--days",
        type=output.days,
        metavar="N",
        help="boards begin it within so many days only (default: until another takes its place)",
    )
    command.add_argument("--apart", action="store_true", help="an instance may leave the set that it was published in")


def scopes(workspace: Workspace, arguments: argparse.Namespace) -> list[Scope]:
    """For whom the command line says it is."""
    if arguments.device:
        return [Scope(device=name) for name in arguments.device]
    return [Scope(arguments.group or workspace.settings.group)]


def order(arguments: argparse.Namespace) -> Order:
    """How the command line says it is to be deployed. Raises UsageError, Refused MALFORMED, WINDOW_NEVER_OPENS."""
    given = vars(arguments)
    boards = tuple(given.get("boards") or ())
    if arguments.device and (given.get("fraction") is not None or boards):
        raise output.UsageError("--fraction and --boards are of a group's boards: --device names the boards itself")
    window = None
    if arguments.window is not None:
        window = Window.from_text(arguments.window, utc=arguments.utc, without_clock=arguments.without_clock)
    elif arguments.utc or arguments.without_clock:
        raise output.UsageError("--utc and --without-clock are about a window: give --window")
    return Order(
        fraction_ppm=given.get("fraction"),
        boards=boards,
        lifetime_s=arguments.days and arguments.days * DAY_S,
        window=window,
        now=arguments.now,
        together=given.get("together", False),
        apart=arguments.apart,
        take_over=given.get("take_over", False),
    )


def settings(pairs: Sequence[str]) -> dict[str, str]:
    """A configuration from KEY=VALUE on the command line. Raises UsageError."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise output.UsageError(f"{pair!r} is not KEY=VALUE")
        if key in found:
            raise output.UsageError(f"{key} is given twice")
        found[key] = value
    return found


def whose(scope: Scope) -> dict[str, Any]:
    """For JSON: a group's name, or a device's."""
    return {"device": scope.device} if scope.device else {"group": scope.group}


def names(text: str) -> list[str]:
    """Names with commas between, on a command line."""
    return list(dict.fromkeys(output.name(each.strip()) for each in text.split(",")))


def fraction(text: str) -> int:
    """A share of boards on a command line, in parts of FRACTION_ALL."""
    value = output.number(text)
    if not 0 < value <= 100 or not round(value * FRACTION_ALL / 100):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage of more than 0 and at most 100")
    return round(value * FRACTION_ALL / 100)
