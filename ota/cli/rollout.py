"""widen, pause, resume, abort: a deployment while it spreads; republish, clean: what the broker lost, and what it need not have."""

import argparse
import time
from collections.abc import Callable
from typing import Any

from ota.cli import output
from ota.cli.operator import add_passphrase, check_clock, fraction, open_workspace
from ota.errors import OtaError
from ota.formats.deployment import FRACTION_ALL, Deployment
from ota.operator import rollout
from ota.operator.broker import Broker
from ota.operator.clean import clean, plan
from ota.operator.keeping import republish
from ota.operator.ledger import Ledger
from ota.operator.reports import View
from ota.operator.roster import Roster
from ota.operator.survey import look
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

Change = Callable[[rollout.Standing], Deployment]


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    widen = _verb(commands, "widen", "deploy to more boards of a group", "ota widen lab --fraction 50")
    widen.add_argument("--fraction", type=fraction, required=True, metavar="PERCENT", help="of the group's boards")
    widen.set_defaults(handler=lambda arguments: _change(arguments, lambda found: rollout.widened(found, arguments.fraction)))

    pause = _verb(commands, "pause", "stop a deployment for now: boards that have not begun wait", "ota pause lab")
    pause.set_defaults(handler=lambda arguments: _change(arguments, rollout.paused))

    resume = _verb(commands, "resume", "go on with a deployment that is paused", "ota resume lab")
    resume.set_defaults(handler=lambda arguments: _change(arguments, rollout.resumed))

    abort = _verb(commands, "abort", "stop a deployment for good; boards that confirmed the update keep it", "ota abort lab --back")
    abort.add_argument("--back", action="store_true", help="deploy what the group had before, to all of its boards")
    abort.set_defaults(handler=_abort)

    back = commands.add_parser(
        "republish", help="put back what the broker lost: the same documents, nothing else", epilog="example: ota republish"
    )
    back.add_argument("--group", type=output.name, action="append", default=[], help="only of this one; may be repeated")
    back.add_argument("--json", action="store_true", help="machine-readable result")
    back.set_defaults(handler=_republish)

    clear = commands.add_parser(
        "clean",
        help="remove from the broker what no deployment names: updates of earlier deployments, finished enrolments",
        epilog="example: ota clean --dry-run",
    )
    clear.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    clear.add_argument("--json", action="store_true", help="machine-readable result")
    clear.set_defaults(handler=_clean)


def _verb(commands: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = commands.add_parser(name, help=text, epilog=f"example: {example}")
    verb.add_argument("group", type=output.name, help="the group")
    verb.add_argument("--dry-run", action="store_true", help="only say what would be published")
    verb.add_argument("--clock-is-right", action="store_true", help="sign although this machine's clock looks wrong")
    verb.add_argument("--json", action="store_true", help="machine-readable result")
    add_passphrase(verb)
    return verb


def _change(arguments: argparse.Namespace, change: Change, *, final: bool = False) -> int:
    workspace = open_workspace(arguments)
    with Broker(workspace.settings) as broker:
        found = rollout.standing(workspace, broker, arguments.group)
        wanted = change(found)
        if arguments.dry_run:
            _tell(workspace, wanted, arguments, sent=False, final=final)
            return 0
        survey = look(workspace, broker, arguments.group)
        for each in survey.notes:
            output.note(f"note: {each}")
        now_s = check_clock(arguments, survey.signed_s)
        made = rollout.change(workspace, broker, wanted, survey, now_s, final=final)
    _tell(workspace, made, arguments, sent=True, final=final)
    return 0


def _abort(arguments: argparse.Namespace) -> int:
    if not arguments.back:
        return _change(arguments, rollout.aborted, final=True)
    workspace = open_workspace(arguments)
    with Broker(workspace.settings) as broker:
        rollout.standing(workspace, broker, arguments.group)
        if arguments.dry_run:
            digest = rollout.previous(workspace, arguments.group)
            label = _label(workspace, digest)
            output.result(f"group {arguments.group} would go back to {label}, signed with a new sequence number; nothing was sent")
            return 0
        survey = look(workspace, broker, arguments.group)
        now_s = check_clock(arguments, survey.signed_s)
        done = rollout.back(workspace, broker, arguments.group, survey, now_s)
    _tell(workspace, done.deployment, arguments, sent=True, final=False)
    return 0


def _tell(workspace: Workspace, deployment: Deployment, arguments: argparse.Namespace, *, sent: bool, final: bool) -> None:
    if arguments.json:
        output.result_json(
            {
                "group": deployment.group,
                "deployment": deployment.deployment_id,
                "manifest": deployment.manifest_digest,
                "epoch": deployment.epoch,
                "fraction": deployment.fraction_ppm / FRACTION_ALL,
                "paused": deployment.paused,
                "aborted": final,
                "sent": sent,
            }
        )
        return
    state = "aborted" if final else "paused" if deployment.paused else "under way"
    where = f"read back from {workspace.settings.broker}" if sent else "nothing was sent"
    share = f"{deployment.fraction_ppm / 10_000:g} %"
    name = f"deployment {deployment.deployment_id.hex()[:12]}, epoch {deployment.epoch}"
    label = _label(workspace, deployment.manifest_digest)
    output.result(f"group {deployment.group}: {label} for {share} of its boards, {state} ({name}); {where}")


def _label(workspace: Workspace, digest: bytes) -> str:
    kept = Updates(workspace).find(digest)
    return f"{kept.module} {kept.version}" if kept else f"manifest {digest.hex()[:16]}"


def _republish(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    known = {each.group for each in Ledger(workspace).groups()}
    if stranger := set(arguments.group) - known:
        raise OtaError(f"this workspace never published to group {', '.join(sorted(stranger))}")
    with Broker(workspace.settings) as broker, output.progress("republish", 0) as bar:
        done = republish(workspace, broker, arguments.group or known, bar.at)
    for group in done.unknown:
        output.note(f"note: publish to group {group} again: its update is not kept here, or its deployment has an old signature")
    if arguments.json:
        output.result_json({"groups": done.groups, "put_back": done.put_back, "there": done.there, "unknown": done.unknown})
    else:
        groups = f"{len(done.groups)} group{'s' * (len(done.groups) != 1)}"
        output.result(f"{groups}: {done.put_back} messages were put back and read back, {done.there} were there")
    return 1 if done.unknown else 0


def _clean(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    with Broker(workspace.settings) as broker:
        view = View(broker, roster := Roster(workspace))
        view.read()
        if not view.complete:
            raise OtaError(f"the list of boards is incomplete, so nothing is removed: {view.gaps[0]}")
        planned = plan(workspace, broker, roster.groups, int(time.time()))
        if not arguments.dry_run:
            clean(workspace, broker, planned, roster.groups)
    if arguments.json:
        output.result_json({"topics": planned.topics, "bytes": planned.size_bytes, "removed": not arguments.dry_run})
        return 0
    if arguments.dry_run:
        for topic in planned.topics:
            output.result(topic)
    what = f"{len(planned.topics)} topics, {planned.size_bytes} bytes"
    output.result(f"{what}: nothing was removed" if arguments.dry_run else f"{what} were removed")
    return 0
