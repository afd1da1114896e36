"""rollout: widens a deployment step by step, while the boards of each step confirm it; pauses it when they fail."""

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ota.cli import entries, output, scopes, waiting
from ota.cli.fleet import add_devices_option, open_roster
from ota.cli.operator import check_clock, open_workspace
from ota.cli.rollout import add_verb, scope_of
from ota.errors import OtaError
from ota.formats.deployment import FRACTION_ALL
from ota.formats.text import amount
from ota.operator.broker import Broker
from ota.operator.order import phase
from ota.operator.publish import change
from ota.operator.rollout import Standing, paused, standing, widened
from ota.operator.scope import Scope
from ota.operator.steps import MAX_STEPS, Limit, Verdict, following, members, verdict
from ota.operator.survey import Survey
from ota.operator.waiting import Kind, Outcome
from ota.operator.workspace import Workspace

WAIT_S = 900.0
CODES = {Verdict.PASSED: 0, Verdict.WAITING: waiting.STAGED}  # of the others: 1


def add_commands(commands: Any) -> None:
    """Adds the verb of this module."""
    verb = add_verb(
        commands,
        "rollout",
        "widen a deployment step by step, as long as boards confirm it; pause it when they fail",
        "ota rollout lab --steps 1,10,50,100 --max-failed 2%",
    )
    verb.add_argument(
        "--steps",
        type=_steps,
        required=True,
        metavar="PERCENT[,PERCENT…]",
        help="of the group's boards, each wider than the one before; it begins with what the deployment has, so the command can be"
        " given again after it was stopped",
    )
    verb.add_argument(
        "--wait", type=output.seconds, default=WAIT_S, metavar="SECONDS", help="so long at most for each step (default %(default)g)"
    )
    waiting.add_whom(verb)
    verb.add_argument(
        "--max-failed",
        type=_limit,
        default=Limit(),
        metavar="N|PERCENT%",
        help="on how many boards of a step it may fail; one more, and the deployment is paused (default %(default)s)",
    )
    verb.add_argument(
        "--soak",
        type=output.seconds,
        metavar="SECONDS",
        help="before each wider step wait so long, and look again: boards may step down from what they confirmed",
    )
    add_devices_option(verb)
    verb.set_defaults(handler=_rollout)


def _steps(text: str) -> tuple[int, ...]:
    steps = tuple(scopes.fraction(each) for each in text.split(","))
    if len(steps) > MAX_STEPS or any(after <= before for before, after in itertools.pairwise(steps)):
        raise argparse.ArgumentTypeError(f"{text!r}: each step is wider than the one before, and there are {MAX_STEPS} at most")
    return steps


def _limit(text: str) -> Limit:
    if text.endswith("%"):
        return Limit(share_ppm=scopes.fraction(text[:-1])) if text[:-1].strip("0.") else Limit()
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of boards nor a percentage, such as 3 or 2%")
    return Limit(int(text))


class Rollout:
    """The way from step to step. How far it is stands in the deployment itself, which is read again each time."""

    def __init__(self, workspace: Workspace, scope: Scope, arguments: argparse.Namespace) -> None:
        self._workspace, self._scope, self._arguments = workspace, scope, arguments
        self._id = b""  # of the deployment that it began with

    def look(self) -> Standing:
        """The deployment. Raises OtaError where it is paused, aborted or another one."""
        with Broker(self._workspace.settings) as broker:
            return self._read(broker)[0]

    def widen(self) -> tuple[Standing, int] | None:
        """Publishes the next step; returns it, and when. None when there is none. Raises as `look`."""
        with Broker(self._workspace.settings) as broker:
            found, survey = self._read(broker)
            share = following(found.entry, self._arguments.steps)
            if share is None:
                return None
            now_s = check_clock(self._arguments, survey.signed_s)
            change(self._workspace, broker, found.present, widened(found, share, (), now_s), survey, now_s)
        return self.look(), now_s  # on a connection of its own: some brokers hand out what is retained once on each

    def pause(self) -> None:
        """Boards that have not begun wait. Raises OtaError where there is another deployment."""
        with Broker(self._workspace.settings) as broker:
            found, survey = self._read(broker, also_paused=True)
            if not found.entry.paused:
                now_s = check_clock(self._arguments, survey.signed_s)
                change(self._workspace, broker, found.present, paused(found, now_s), survey, now_s)

    def judge(self, found: Standing, since_s: float) -> tuple[Outcome, Verdict]:
        """Waits until the boards of a step have ended, or too many have failed."""
        limit: Limit = self._arguments.max_failed
        common = self._workspace, [found.present.deployment], found.instances, since_s, self._arguments
        outcome = waiting.watch(*common, enough=limit.exceeded)
        return outcome, verdict(outcome, limit)

    def boards(self) -> list[str]:
        """Those of the group, as far as they are known."""
        roster = open_roster(self._workspace, self._arguments)
        return [name for name in roster.names if roster.group_of(name) == self._scope.group]

    def _read(self, broker: Broker, *, also_paused: bool = False) -> tuple[Standing, Survey]:
        survey = entries.survey(self._workspace, broker, [self._scope])[self._scope]
        found = standing(self._workspace, self._scope, survey, self._arguments.instance)
        entry = found.entry
        self._id = self._id or entry.deployment_id
        if entry.deployment_id != self._id:
            raise OtaError(f"{found.label} has another deployment now: {entry.deployment_id.hex()[:12]}")
        if entry.paused and not also_paused:
            aborted = found.present.is_aborted(entry)
            raise OtaError(f"{found.label} {'was aborted' if aborted else 'is paused: `ota resume` goes on with it'}")
        return found, survey


def _rollout(arguments: argparse.Namespace) -> int:
    if arguments.device:
        raise output.UsageError("the deployment of one board has no steps")
    workspace, scope = open_workspace(arguments), scope_of(arguments)
    way = Rollout(workspace, scope, arguments)
    found = way.look()
    if arguments.dry_run:
        return _rehearse(found, way.boards(), arguments)
    try:
        return _climb(way, found, arguments)
    except (KeyboardInterrupt, OtaError):
        output.note("the deployment stays as wide as it is: the same command goes on with it, `ota pause` stops it")
        raise


def _climb(way: Rollout, found: Standing, arguments: argparse.Namespace) -> int:
    since_s, soaked = float(found.entry.issued_s), arguments.soak is None
    while True:
        known = way.boards()
        if known and not members(found.entry, found.entry.fraction_ppm, known):
            _tell_of_none(found, arguments)
        else:
            outcome, stands = way.judge(found, since_s)
            if stands is Verdict.FAILED:
                way.pause()
            _tell(found, outcome, stands, arguments)
            if stands is not Verdict.PASSED:
                return CODES.get(stands, 1)
            if not soaked and following(found.entry, arguments.steps) is not None:
                time.sleep(arguments.soak)
                soaked = True
                continue
        wider = way.widen()
        if wider is None:
            return 0
        (found, since_s), soaked = wider, arguments.soak is None


def _rehearse(found: Standing, known: Sequence[str], arguments: argparse.Namespace) -> int:
    entry = found.entry
    for share in (entry.fraction_ppm, *(each for each in arguments.steps if each > entry.fraction_ppm)):
        step = replace(entry, fraction_ppm=share)
        boards = members(step, share, known)
        if arguments.json:
            output.result_json({**_about(found), "fraction": share / FRACTION_ALL, "boards": boards, "sent": False})
        else:
            output.result(f"{found.label}: {phase(step)}: {len(boards)} of the {len(known)} that are known; nothing was sent")
    return 0


def _about(found: Standing) -> dict[str, Any]:
    deployment = found.present.deployment
    return {
        "group": deployment.group,
        "instances": found.instances,
        "deployment": found.entry.deployment_id,
        "epoch": deployment.epoch,
        "fraction": found.entry.fraction_ppm / FRACTION_ALL,
    }


def _tell_of_none(found: Standing, arguments: argparse.Namespace) -> None:
    if arguments.json:
        output.result_json({**_about(found), "verdict": Verdict.PASSED.value, "boards": {}, "paused": False})
    else:
        output.result(f"{phase(found.entry)}: none of the boards that are known")


def _tell(found: Standing, outcome: Outcome, stands: Verdict, arguments: argparse.Namespace) -> None:
    if arguments.json:
        told = waiting.as_json([found.present.deployment], found.instances, outcome)
        output.result_json({**_about(found), **told, "verdict": stands.value, "paused": stands is Verdict.FAILED})
        return
    output.result(f"{phase(found.entry)}: {outcome.summary()}")
    if stands is Verdict.SUPERSEDED:
        output.result(f"{found.present.scope} has another deployment now: {outcome.superseded}")
    elif stands is Verdict.FAILED:
        failed = amount(outcome.counts[Kind.FAILED], "board")
        output.result(f"paused: it failed on {failed}, and may on {arguments.max_failed}")
        output.note(
            f"`ota abort {found.present.scope.group} --back` deploys what was there before; `ota resume` goes on all the same"
        )
    elif stands is Verdict.WAITING:
        output.result("nothing failed: what has not ended is on the boards and waits for its window; the same command goes on then")
    elif stands is Verdict.OPEN:
        output.result("not wider: the step has not ended on every board; the same command goes on with it")
        if outcome.counts[Kind.OFFLINE] + outcome.counts[Kind.SILENT] and not outcome.only_online:
            output.note("--wait-for online goes on without boards that are offline")
    for gap in outcome.gaps:
        output.note(f"incomplete: {gap}")
