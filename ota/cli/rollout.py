"""widen, pause, resume, abort: a deployment while it spreads; republish, clean: what the broker lost, and what it need not have."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ota.cli import entries, output, scopes
from ota.cli.fleet import add_devices_option, open_roster, shown_reading
from ota.cli.operator import add_passphrase, check_clock, open_workspace
from ota.errors import OtaError
from ota.formats.deployment import FRACTION_ALL, Deployment
from ota.formats.text import amount
from ota.operator import rollout
from ota.operator.broker import Broker
from ota.operator.clean import clean, plan
from ota.operator.edit import Edit
from ota.operator.holdings import open_holdings
from ota.operator.keeping import republish
from ota.operator.ledger import Ledger, Release
from ota.operator.order import phase
from ota.operator.publish import change
from ota.operator.reports import View
from ota.operator.restore import renew, take_back
from ota.operator.roster import Roster
from ota.operator.scope import Scope
from ota.operator.survey import scopes as counted
from ota.operator.workspace import Workspace

Change = Callable[[rollout.Standing, int], Edit]


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    widen = add_verb(commands, "widen", "deploy to more boards of a group", "ota widen lab --fraction 50")
    scopes.add_phase(widen)
    widen.set_defaults(handler=_widen)

    pause = add_verb(commands, "pause", "stop a deployment for now: boards that have not begun wait", "ota pause lab")
    pause.set_defaults(handler=lambda arguments: _change(arguments, rollout.paused))

    resume = add_verb(commands, "resume", "go on with a deployment that is paused", "ota resume lab --instance blink")
    resume.set_defaults(handler=lambda arguments: _change(arguments, rollout.resumed))

    abort = add_verb(
        commands, "abort", "stop a deployment for good; boards that confirmed the update keep it", "ota abort lab --back"
    )
    abort.add_argument("--back", action="store_true", help="deploy what the instance had before, to all of the boards")
    abort.set_defaults(handler=_abort)

    back = commands.add_parser(
        "republish", help="put back what the broker lost: the same documents, nothing else", epilog="example: ota republish"
    )
    scopes.add_several(back)
    back.add_argument("--from", dest="source", metavar="SOURCE", help="take back first what an archive or a bundle holds")
    back.add_argument(
        "--renew", action="store_true", help="sign all of it again with new numbers: for boards that saw newer ones which are lost"
    )
    back.add_argument("--clock-is-right", action="store_true", help="sign although this machine's clock looks wrong")
    back.add_argument("--dry-run", action="store_true", help="only say what would be put back")
    back.add_argument("--json", action="store_true", help="machine-readable result")
    add_passphrase(back)
    back.set_defaults(handler=_republish)

    clear = commands.add_parser(
        "clean",
        help="remove from the broker what no deployment names: updates of earlier deployments, finished enrolments",
        epilog="example: ota clean --dry-run",
    )
    add_devices_option(clear)
    clear.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    clear.add_argument("--json", action="store_true", help="machine-readable result")
    clear.set_defaults(handler=_clean)


def add_verb(commands: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    """A verb about the deployment of an instance, or of a set."""
    verb: argparse.ArgumentParser = commands.add_parser(name, help=text, epilog=f"example: {example}")
    verb.add_argument("name", metavar="group", type=output.name, nargs="?", help="the group")
    verb.add_argument("--group", type=output.name, help="the same")
    verb.add_argument("--device", type=output.name, help="instead of a group: the deployment of this board")
    verb.add_argument("--instance", type=output.name, help="of several; a member of a set stands for the whole set")
    verb.add_argument("--dry-run", action="store_true", help="only say what would be published")
    verb.add_argument("--clock-is-right", action="store_true", help="sign although this machine's clock looks wrong")
    verb.add_argument("--json", action="store_true", help="machine-readable result")
    add_passphrase(verb)
    return verb


def scope_of(arguments: argparse.Namespace) -> Scope:
    """Whose deployment such a verb is about. Raises UsageError."""
    given = {each for each in (arguments.name, arguments.group, arguments.device) if each is not None}
    if not given:
        raise output.UsageError("name a group, or a board with --device")
    if len(given) > 1 or (arguments.device and (arguments.name or arguments.group)):
        raise output.UsageError("name one group, or one board with --device: not several of them")
    return Scope(device=arguments.device) if arguments.device else Scope(given.pop())


def _widen(arguments: argparse.Namespace) -> int:
    if arguments.fraction is None and not arguments.boards:
        raise output.UsageError("say how far: --fraction or --boards")
    if arguments.device:
        raise output.UsageError("the deployment of one board has no more boards")
    boards = arguments.boards or ()
    return _change(arguments, lambda found, now_s: rollout.widened(found, arguments.fraction, boards, now_s), boards)


def _change(arguments: argparse.Namespace, decide: Change, boards: Sequence[str] = (), *, final: bool = False) -> int:
    workspace, scope = open_workspace(arguments), scope_of(arguments)
    with Broker(workspace.settings) as broker:
        survey = entries.survey(workspace, broker, [scope])[scope]
        found = rollout.standing(workspace, scope, survey, arguments.instance)
        if boards:
            entries.warn_of_strangers(Roster(workspace), [scope], boards)
        before = found.present.deployment
        if arguments.dry_run:
            made = decide(found, int(time.time())).applied(before)
        else:
            edit = decide(found, now_s := check_clock(arguments, survey.signed_s))
            aborted = {found.entry.deployment_id} if final else ()
            made = change(workspace, broker, found.present, edit, survey, now_s, aborted)
    _tell(workspace, made, found.instances, arguments, sent=not arguments.dry_run, final=final)
    return 0


def _abort(arguments: argparse.Namespace) -> int:
    if not arguments.back:
        return _change(arguments, rollout.aborted, final=True)
    workspace, scope = open_workspace(arguments), scope_of(arguments)
    with Broker(workspace.settings) as broker:
        survey = entries.survey(workspace, broker, [scope])[scope]
        found = rollout.standing(workspace, scope, survey, arguments.instance)
        if arguments.dry_run:
            for name, release in rollout.previous(workspace, found).items():
                if arguments.json:
                    output.result_json(_back_json(found, name, release))
                    continue
                label = entries.label(workspace, release.manifest)
                output.result(f"{scope}: instance {name} would go back to {label}, with a new sequence number; nothing was sent")
            return 0
        done = rollout.back(workspace, broker, found, survey, check_clock(arguments, survey.signed_s))
    _tell(workspace, done.deployment, found.instances, arguments, sent=True, final=False)
    return 0


def _back_json(found: rollout.Standing, name: str, release: Release) -> dict[str, Any]:
    """As `_tell` has it, of an entry that is not made: its deployment and its manifest, signed anew, are not known."""
    deployment = found.present.deployment
    entry = replace(
        deployment.entries[name], config=release.config, fraction_ppm=FRACTION_ALL, boards=(), paused=False, window=None
    )
    back_to = {"manifest": release.manifest or None, "config": dict(release.config)}
    unknown = {"deployment": None, "manifest": None, "epoch": None}
    made = entries.as_json(replace(deployment, entries={name: entry}), name)
    return {**made, **unknown, "aborted": False, "sent": False, "back_to": back_to}


def _tell(
    workspace: Workspace,
    deployment: Deployment,
    instances: tuple[str, ...],
    arguments: argparse.Namespace,
    *,
    sent: bool,
    final: bool,
) -> None:
    for name in instances:
        entry = deployment.entries[name]
        if arguments.json:
            output.result_json({**entries.as_json(deployment, name), "aborted": final, "sent": sent})
            continue
        state = "aborted" if final else "paused" if entry.paused else "under way"
        where = f"read back from {workspace.settings.broker}" if sent else "nothing was sent"
        label, id_ = entries.label(workspace, entry.manifest_digest), entry.deployment_id.hex()[:12]
        epoch = f", epoch {deployment.epoch}" if sent else ""  # it gets one when it is signed
        of = f"{Scope.of(deployment)}, instance {name}"
        output.result(f"{of}: {label} for {phase(entry)}, {state} (deployment {id_}{epoch}); {where}")


def _take_back(workspace: Workspace, source: str) -> bool:
    """Whether all of it could be taken."""
    taken = take_back(workspace, open_holdings(source), int(time.time()))
    for scope, name, why in taken.lacking:
        output.note(f"note: {scope}{f', instance {name}' if name else ''}: {why}")
    what = f"{taken.updates} updates, {taken.roots} root documents, the deployments of {counted(taken.scopes)}"
    output.note(f"taken back from {source}: {what}")
    return not taken.lacking


def _republish(arguments: argparse.Namespace) -> int:
    if arguments.dry_run and (arguments.source or arguments.renew):
        raise output.UsageError("--dry-run goes with neither --from nor --renew, which change the workspace first")
    workspace = open_workspace(arguments)
    whole = _take_back(workspace, arguments.source) if arguments.source else True
    known = {each.scope for each in Ledger(workspace).records()}
    wanted = {*map(Scope, arguments.group), *(Scope(device=name) for name in arguments.device)}
    if stranger := wanted - known:
        raise OtaError(f"this workspace never published to {', '.join(map(str, sorted(stranger)))}")
    if arguments.renew:
        renew(workspace, wanted or known, check_clock(arguments, workspace.last_signed_s()))
    with Broker(workspace.settings) as broker, output.progress("republish", 0) as bar:
        done = republish(workspace, broker, wanted or known, bar.at, dry_run=arguments.dry_run)
    for scope, instance in done.unknown:
        why = f"the update of instance {instance} is not kept here" if instance else "its deployment has an old signature"
        output.note(f"note: publish to {scope} again: {why}")
    for scope in done.foreign:
        output.note(f"note: the deployment of {scope} on the broker is not signed by this workspace's keys: it was left as it is")
    if arguments.json:
        unknown = [{**scopes.whose(scope), "instance": instance or None} for scope, instance in done.unknown]
        republished = [scopes.whose(each) for each in done.scopes]
        foreign = [scopes.whose(each) for each in done.foreign]
        counts = {"put_back": done.put_back, "there": done.there, "sent": not arguments.dry_run}
        output.result_json({"republished": republished, **counts, "unknown": unknown, "foreign": foreign})
    else:
        what = "messages would be put back" if arguments.dry_run else "messages were put back and read back"
        output.result(f"{counted(done.scopes)}: {done.put_back} {what}, {done.there} were there")
    return 1 if done.unknown or done.foreign or not whole else 0


def _clean(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    with Broker(workspace.settings) as broker, shown_reading(broker):
        view = View(broker, roster := open_roster(workspace, arguments))
        view.read()
        if unread := [each for each in view.gaps if each not in view.undiscovered]:
            raise OtaError(f"the list of boards is incomplete, so nothing is removed: {unread[0]}")
        known = {*map(Scope, roster.groups), *(Scope(device=name) for name in roster.names)}
        with workspace.cleaning():
            planned = plan(workspace, broker, known, int(time.time()))
            if not arguments.dry_run:
                clean(workspace, broker, planned, known)
    whole = roster.listed is not None and all(map(roster.group_of, roster.names))
    unseen = [] if whole else [*view.undiscovered, *planned.unseen]
    for each in unseen:
        output.note(f"incomplete: {each}")
    if unseen:
        output.note("--devices FILE names all boards there are: once each of them has reported, nothing is left to discover")
    if arguments.json:
        about = {"topics": planned.topics, "bytes": planned.size_bytes, "removed": not arguments.dry_run}
        output.result_json({**about, "complete": not unseen, "reasons": unseen})
        return 1 if unseen else 0
    if arguments.dry_run:
        for topic in planned.topics:
            output.result(topic)
    what = f"{amount(len(planned.topics), 'topic')}, {planned.size_bytes} bytes"
    output.result(f"{what}: nothing was removed" if arguments.dry_run else f"{what} were removed")
    return 1 if unseen else 0
