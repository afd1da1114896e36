"""`--wait` of every command that publishes: waits for the boards, and says what became of them."""

import argparse
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ota.cli import output
from ota.cli.fleet import open_roster, shown_reading
from ota.errors import OtaError
from ota.formats.deployment import Deployment
from ota.formats.reasons import Reason
from ota.formats.text import amount, printable
from ota.operator.broker import Broker
from ota.operator.roster import Roster
from ota.operator.waiting import Kind, Outcome, Standing, Waiting
from ota.operator.withdrawing import Withdrawing
from ota.operator.workspace import Workspace

__all__ = ["STAGED", "add_options", "add_whom", "as_json", "wait", "watch"]

STAGED = 3  # exit code: nothing failed, and what has not ended waits for its window
NAMED = 8  # names in a message
MANY = 64  # boards: of more, only failures have a line each
COUNTS_S = 5.0  # between two lines with counts


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of waiting."""
    command.add_argument(
        "--wait",
        type=output.seconds,
        metavar="SECONDS",
        help="wait until each board that is online has ended the update, so long at most; exit code 3 when boards have it and wait"
        " for its window",
    )
    add_whom(command)


def add_whom(command: argparse.ArgumentParser) -> None:
    """The option that says which boards count."""
    command.add_argument(
        "--wait-for",
        choices=("all", "online"),
        default="all",
        help="which boards must have confirmed it for exit code 0: all (default), or those that are online",
    )


def wait(
    workspace: Workspace,
    published: Sequence[Deployment],
    instances: Collection[str],
    since_s: float,
    arguments: argparse.Namespace,
    groups: Mapping[str, Deployment] | None = None,
) -> int:
    """As `watch`, and says what became of it; returns the exit code."""
    try:
        outcome = watch(workspace, published, instances, since_s, arguments, groups)
    except (KeyboardInterrupt, OtaError):
        output.note("the update is published, and boards go on with it: `ota status` shows how far they are")
        raise
    if arguments.json:
        output.result_json(as_json(published, instances, outcome))
    else:
        _tell(_scope(published), outcome, arguments.wait)
    sys.stdout.flush()
    return 0 if outcome.confirmed else STAGED if outcome.staged else 1


def watch(
    workspace: Workspace,
    published: Sequence[Deployment],
    instances: Collection[str],
    since_s: float,
    arguments: argparse.Namespace,
    groups: Mapping[str, Deployment] | None = None,
    enough: Callable[[Outcome], bool] = lambda _: False,
) -> Outcome:
    """Waits for the entries of these instances in what was published at `since_s`.

    `published` is the document of one group, or documents of single devices. `arguments` has `wait` in seconds, that of `add_whom`,
    of `fleet.add_devices_option`, and `json`. `groups`: the instances were withdrawn; what devices follow again, by device.
    `enough` ends it early.
    """
    roster = open_roster(workspace, arguments)
    many = _boards(roster, published) > MANY
    if not arguments.json:
        _warn(roster, published)
    only_online = arguments.wait_for == "online"
    with Broker(workspace.settings) as broker, shown_reading(broker):
        common = broker, roster, workspace.root(), published, instances
        if groups is None:
            waiting = Waiting(*common, only_online=only_online)
        else:
            waiting = Withdrawing(*common, groups=groups, only_online=only_online)
        told = _Told(waiting.outcome, several=len(instances) > 1, many=many, quiet=arguments.json)

        def looked(outcome: Outcome) -> bool:
            told.counts()
            return enough(outcome)

        return waiting.run(arguments.wait, since_s, told.changed, looked)


class _Told:
    """What is said meanwhile: a line for each change; of many boards a line for each failure, and counts."""

    def __init__(self, outcome: Outcome, *, several: bool, many: bool, quiet: bool) -> None:
        self._outcome, self._several, self._many, self._quiet = outcome, several, many, quiet
        self._counted_s, self._before = time.monotonic(), ""

    def _counts_boards(self) -> bool:
        return self._many or len(self._outcome.standings) > MANY

    def changed(self, name: str, instance: str, standing: Standing) -> None:
        """A board's instance stands otherwise."""
        if self._quiet or (self._counts_boards() and standing.kind is not Kind.FAILED):
            return
        why = f"  {standing.reason}: {standing.detail}" if standing.reason else f"  {standing.detail}" if standing.detail else ""
        share = f"  {standing.done_chunks}/{standing.chunks} chunks" if standing.state == "fetching" and standing.chunks else ""
        who = f"{name} {instance}" if self._several and instance else name
        output.note(printable(f"  {who}: {standing.state}{share}{why}"))

    def counts(self) -> None:
        """Every board that is known has been looked at: only then can they be counted."""
        if self._quiet or not self._counts_boards() or time.monotonic() - self._counted_s < COUNTS_S:
            return
        self._counted_s, before, self._before = time.monotonic(), self._before, self._outcome.summary()
        if self._before != before:
            output.note(f"  {self._before}")


def _warn(roster: Roster, published: Sequence[Deployment]) -> None:
    group = published[0].group
    if group and roster.groups and group not in roster.groups:
        groups = ", ".join(sorted(roster.groups)[:NAMED])
        output.note(f"no board has reported group {group} (groups that boards have: {groups}): waiting for one")


def _boards(roster: Roster, published: Sequence[Deployment]) -> int:
    """How many boards are waited for, as far as they are known."""
    group = published[0].group
    return sum(roster.group_of(name) == group for name in roster.names) if group else len(published)


def _scope(published: Sequence[Deployment]) -> str:
    names = [each.device for each in published]
    if len(names) == 1:
        return published[0].scope
    return f"devices {', '.join(names[:NAMED])}" + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _tell(scope: str, outcome: Outcome, waited_s: float) -> None:
    if outcome.superseded:
        output.result(f"{scope} has another deployment now: {outcome.superseded}")
    if not outcome.standings and outcome.left_out:
        output.result(f"none of the {amount(len(outcome.left_out), 'board')} of {scope} is part of it: `ota widen` takes more")
        return
    if not outcome.standings:
        output.result(f"no board of {scope} reported in {waited_s:.0f} s; `ota status` shows the boards there are")
        return
    output.result(outcome.summary())
    if outcome.staged:
        output.result("nothing failed: what has not ended is on the boards and waits for its window")
    if outcome.counts[Kind.FAILED]:
        failed = [each for found in outcome.standings.values() for each in found.values() if each.kind is Kind.FAILED]
        if any(each.reason == Reason.CAPABILITY_DENIED.value for each in failed):
            output.note("[policy.grants] of a board's agent.toml says what modules may use")
        if any(each.state == "rejected" for each in failed):
            output.note("a board checks an update that it refused again when its agent restarts")
        output.note("a board tries an update that failed again after `ota publish --new-sequence`")
    for gap in outcome.gaps:
        output.note(f"incomplete: {gap}")


def as_json(published: Sequence[Deployment], instances: Collection[str], outcome: Outcome) -> dict[str, Any]:
    """What became of it, for machines."""
    return {
        "published": [_entry_json(each, name) for each in published for name in sorted(instances)],
        "confirmed": outcome.confirmed,
        "staged": outcome.staged,
        "superseded": outcome.superseded,
        "complete": not outcome.gaps,
        "gaps": outcome.gaps,
        "left_out": sorted(outcome.left_out),
        "counts": {kind.name.lower(): outcome.counts[kind] for kind in Kind},
        "boards": {name: _board_json(outcome, name) for name in outcome.standings},
    }


def _entry_json(deployment: Deployment, instance: str) -> dict[str, Any]:
    whose = {"device": deployment.device} if deployment.device else {"group": deployment.group}
    entry = deployment.entries.get(instance)
    if entry is None:
        return {**whose, "instance": instance, "deployment": None, "manifest": None}
    return {**whose, "instance": instance, "deployment": entry.deployment_id, "manifest": entry.manifest_digest or None}


def _board_json(outcome: Outcome, name: str) -> dict[str, Any]:
    found = outcome.standings[name].items()
    return {
        "standing": outcome.boards[name].name.lower(),
        "instances": {
            each: {"standing": it.kind.name.lower(), "state": it.state, "reason": it.reason, "detail": it.detail}
            for each, it in found
        },
    }
