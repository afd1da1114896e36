"""init, publish: what needs a workspace and its keys."""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ota.author.build import Draft, Update, prepare
from ota.cli import output
from ota.cli.board import class_of, targets_of
from ota.cli.fleet import add_devices_option, open_roster
from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.formats.chunks import DEFAULT_CHUNK_BYTES
from ota.formats.deployment import FRACTION_ALL, Deployment
from ota.formats.manifest import ANY_BOARD
from ota.formats.report import Report
from ota.formats.text import printable
from ota.keyring import ALGORITHMS
from ota.operator import clock
from ota.operator.audience import check_classes, newer
from ota.operator.broker import Broker
from ota.operator.ca import CertificateAuthority
from ota.operator.publish import Done, Order, deploy, sign_draft
from ota.operator.reports import View
from ota.operator.survey import Survey, look
from ota.operator.updates import Updates
from ota.operator.waiting import Kind, Outcome, Standing, Waiting
from ota.operator.workspace import Settings, Workspace

DAY_S = 86_400


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    init = commands.add_parser(
        "init", help="make a workspace: keys, root of trust, settings", epilog="example: ota init --vendor example.com"
    )
    init.add_argument("--vendor", default="example.com", help="a domain name of yours (default %(default)s)")
    init.add_argument("--broker", default="mqtt://localhost:1883", help="default %(default)s")
    init.add_argument("--group", type=output.name, default="lab", help="the workspace's default group (default %(default)s)")
    init.add_argument("--algorithm", choices=ALGORITHMS, default=ALGORITHMS[0], help="of the keys (default %(default)s)")
    locking = init.add_mutually_exclusive_group()
    locking.add_argument("--passphrase-file", type=Path, help="file that holds the passphrase to lock the keys with")
    locking.add_argument(
        "--no-passphrase", action="store_true", help="do not lock the keys (default: ask, where there is a terminal)"
    )
    init.set_defaults(handler=_init)

    publish = commands.add_parser(
        "publish", help="build, sign and deploy a module", epilog="example: ota publish blink.wasm --group lab --wait 60"
    )
    publish.add_argument("module", type=Path, help="a .wasm, or a folder that `ota build` made")
    publish.add_argument("--group", type=output.name, help="default: the workspace's")
    publish.add_argument(
        "--fraction",
        type=fraction,
        metavar="PERCENT",
        help="of the group's boards (default: 100, or as it is when the group has this update already)",
    )
    publish.add_argument(
        "--wait",
        type=output.seconds,
        metavar="SECONDS",
        help="wait until each board of the group that is online has ended the update, so long at most",
    )
    publish.add_argument(
        "--wait-for",
        choices=("all", "online"),
        default="all",
        help="which boards must have confirmed it for exit code 0: all of the group (default), or those that are online",
    )
    add_devices_option(publish)
    publish.add_argument("--dry-run", action="store_true", help="check and build; sign nothing, send nothing")
    publish.add_argument(
        "--days", type=_days, help="boards begin the update within so many days only (default: until another takes its place)"
    )
    publish.add_argument("--mixed-group", action="store_true", help="publish although the group has boards of another class")
    publish.add_argument("--take-over", action="store_true", help="replace what another workspace has on the broker")
    publish.add_argument("--json", action="store_true", help="machine-readable result")
    add_build_options(publish)
    publish.set_defaults(handler=_publish)


def add_build_options(command: argparse.ArgumentParser) -> None:
    """The options that `build` and `publish` share."""
    command.add_argument("--board", default=ANY_BOARD, help="class of boards that it is for (default: every board)")
    command.add_argument("--version", help="instead of the version in the .toml")
    command.add_argument(
        "--aot",
        type=_targets,
        default=(),
        metavar="TARGET[:CPU[+FEATURE…]],…",
        help="also compile ahead of time for x86_64 aarch64 armv7 riscv64; board: for what --board has",
    )
    command.add_argument(
        "--new-sequence",
        action="store_true",
        help="sign again although this content is signed: boards take it after a newer release",
    )
    command.add_argument("--clock-is-right", action="store_true", help="sign although this machine's clock looks wrong")
    command.add_argument("--chunk-bytes", type=int, default=DEFAULT_CHUNK_BYTES, help="1024 to 262144 (default %(default)s)")
    add_passphrase(command)


def add_passphrase(command: argparse.ArgumentParser) -> None:
    """The option for locked keys."""
    command.add_argument("--passphrase-file", type=Path, help="file that holds the keys' passphrase")


def _targets(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def fraction(text: str) -> int:
    """A share of boards on a command line, in parts of FRACTION_ALL."""
    value = output.number(text)
    if not 0 < value <= 100 or not round(value * FRACTION_ALL / 100):
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage of more than 0 and at most 100")
    return round(value * FRACTION_ALL / 100)


def _days(text: str) -> int:
    value = output.number(text)
    if not 1 <= value <= 36_500 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of days from 1 to 36500")
    return int(value)


def passphrase(arguments: argparse.Namespace) -> bytes | None:
    """From the file that the command line names; never from the command line itself."""
    if not arguments.passphrase_file:
        return None
    try:
        text = bytes(arguments.passphrase_file.read_bytes().strip())
    except OSError as error:
        raise OtaError(f"{arguments.passphrase_file}: {error.strerror}") from error
    if not text:
        raise OtaError(f"{arguments.passphrase_file} is empty: a passphrase is expected in it")
    return text


def _new_passphrase(arguments: argparse.Namespace) -> bytes | None:
    """For new keys: from the file, or from a prompt where somebody sits at a terminal."""
    if arguments.passphrase_file or arguments.no_passphrase or not sys.stdin.isatty():
        return passphrase(arguments)
    first = output.secret("passphrase to lock the new keys with (empty: do not lock them): ", "--passphrase-file")
    if first and output.secret("once more: ", "--passphrase-file") != first:
        raise OtaError("the passphrases differ")
    return first.encode() or None


def open_workspace(arguments: argparse.Namespace) -> Workspace:
    """The workspace that the command line names. Who sits at a terminal is asked for the passphrase of locked keys."""
    workspace = Workspace.open(arguments.folder, passphrase(arguments) if "passphrase_file" in arguments else None)
    if sys.stdin.isatty():
        workspace.ask_passphrase = lambda path: output.secret(f"passphrase of {path}: ", "--passphrase-file").encode()
    return workspace


def _init(arguments: argparse.Namespace) -> int:
    try:
        broker = BrokerUrl.parse(arguments.broker)
    except ValueError as error:
        raise OtaError(str(error)) from None
    settings = Settings(arguments.vendor, broker, arguments.group)
    secret = _new_passphrase(arguments)
    workspace = Workspace.create(arguments.folder, settings, int(time.time()), arguments.algorithm, secret)
    output.result(f"keys          {workspace.folder / 'keys'}  ({_about_lock(secret)}; keep root.pem offline)")
    output.result(f"root of trust {workspace.folder / 'trust' / 'root.1.cbor'}  (goes on every board)")
    authority = CertificateAuthority(workspace).certificate_file
    output.result(f"authority     {authority}  (signs boards' certificates; goes on the broker)")
    output.result(f"settings      {workspace.folder / 'ota.toml'}")
    return 0


def _about_lock(secret: bytes | None) -> str:
    return "locked with the passphrase" if secret else "NOT locked: whoever can read them can sign"


def prepared(arguments: argparse.Namespace, workspace: Workspace) -> Draft | Update:
    """From a .wasm, to be signed, or from a folder that was built and signed before."""
    if arguments.module.is_dir():
        for name, given in (
            ("--board", arguments.board != ANY_BOARD),
            ("--version", arguments.version),
            ("--aot", arguments.aot),
            ("--new-sequence", arguments.new_sequence),
        ):
            if given:
                raise OtaError(f"{arguments.module} is built and signed already: {name} is for a .wasm")
        return Update.load(arguments.module)
    if arguments.module.exists() and not arguments.module.with_suffix(".toml").exists():
        output.note(f"{arguments.module} has no .toml beside it: the module subscribes to nothing, so no event will reach it")
    return prepare(
        arguments.module,
        workspace.settings.vendor,
        board=class_of(arguments.board),
        version=arguments.version,
        chunk_bytes=arguments.chunk_bytes,
        aot=targets_of(arguments.board, arguments.aot),
    )


def check_clock(arguments: argparse.Namespace, signed_s: int, boards: Iterable[Report] = ()) -> int:
    """The time in seconds since 1970, once it is plausible or confirmed. Raises ClockError."""
    now_s = int(time.time())
    if not arguments.clock_is_right:
        clock.check(now_s, clock.Evidence(signed_s).with_boards(boards))
    return now_s


def build_update(workspace: Workspace, arguments: argparse.Namespace) -> Update:
    """A signed update, without a look at the broker: the same content gives the same manifest, if no newer one was made since."""
    made = prepared(arguments, workspace)
    if isinstance(made, Update):
        return made
    return sign_draft(workspace, made, check_clock(arguments, workspace.last_signed_s()), anew=arguments.new_sequence)


def _publish(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    group = arguments.group or workspace.settings.group
    made = prepared(arguments, workspace)
    if arguments.dry_run:
        return _rehearse(workspace, made, group, arguments)
    order = Order(group, arguments.fraction, arguments.days and arguments.days * DAY_S, take_over=arguments.take_over)
    with Broker(workspace.settings) as broker:
        survey = look(workspace, broker, group, take_over=arguments.take_over)
        for note in survey.notes:
            output.note(f"note: {note}")
        view = View(broker, open_roster(workspace, arguments))
        view.read()
        boards = [(each.report, each.online) for each in view.devices.values() if each.report and each.report.group == group]
        now_s = check_clock(arguments, survey.signed_s, [report for report, online in boards if online])
        if not arguments.mixed_group:
            check_classes(made.manifest, [report for report, _ in boards])
        update = made if isinstance(made, Update) else _signed(workspace, made, survey, now_s, arguments)
        if note := newer(update.manifest, [report for report, _ in boards]):
            output.note(f"note: {note}")
        with output.progress(update.label, 2 * _size(update)) as advance:  # sent, and read back
            done = deploy(workspace, broker, update, order, now_s, survey, advance)
    _tell(update.label, done, arguments)
    return 0 if arguments.wait is None else _wait(workspace, done.deployment, now_s, arguments)


def _signed(workspace: Workspace, draft: Draft, survey: Survey, now_s: int, arguments: argparse.Namespace) -> Update:
    deployed = survey.present.manifest_digest if survey.present is not None else None
    return sign_draft(workspace, draft, now_s, deployed=deployed, at_least=survey.sequence, anew=arguments.new_sequence)


def _size(made: Draft | Update) -> int:
    return sum(len(blob) + len(index.to_bytes()) for blob, index in made.blobs)


def _rehearse(workspace: Workspace, made: Draft | Update, group: str, arguments: argparse.Namespace) -> int:
    """Says what would be published. Signs nothing, uses up no number, and needs no broker."""
    update = made if isinstance(made, Update) else None if arguments.new_sequence else Updates(workspace).reusable(made, None)
    size, chunks = _size(made), len(made.index.digests)
    if arguments.json:
        digest = update.digest if update else None
        output.result_json({"manifest": digest, "group": group, "bytes": size, "chunks": chunks, "sent": False})
    else:
        known = "signed before" if update else "not signed yet"
        output.result(
            f"{made.label} for group {group}: {size} bytes, {chunks} chunk{'s' * (chunks != 1)}, {known}; nothing was sent"
        )
    return 0


def _tell(label: str, done: Done, arguments: argparse.Namespace) -> None:
    deployment = done.deployment
    if arguments.json:
        if arguments.wait is None:
            output.result_json(
                {
                    "deployment": deployment.deployment_id,
                    "manifest": deployment.manifest_digest,
                    "group": deployment.group,
                    "epoch": deployment.epoch,
                    "changed": done.changed,
                    "put_back": done.put_back,
                }
            )
        return
    share = "" if deployment.fraction_ppm == FRACTION_ALL else f", for {deployment.fraction_ppm / 10_000:g} % of its boards"
    already = "" if done.changed else " already"
    back = f"; {done.put_back} messages that the broker had lost were put back" if done.put_back else ""
    name = deployment.deployment_id.hex()[:12]
    output.result(f"{label} is published for group {deployment.group}{already} (deployment {name}{share}){back}")


def _wait(workspace: Workspace, deployment: Deployment, since_s: float, arguments: argparse.Namespace) -> int:
    def changed(name: str, standing: Standing) -> None:
        why = f"  {standing.reason}: {standing.detail}" if standing.reason else f"  {standing.detail}" if standing.detail else ""
        share = f"  {standing.done_chunks}/{standing.chunks} chunks" if standing.state == "fetching" and standing.chunks else ""
        if not arguments.json:
            output.note(printable(f"  {name}: {standing.state}{share}{why}"))

    roster = open_roster(workspace, arguments)
    if not arguments.json and roster.groups and deployment.group not in roster.groups:
        groups = ", ".join(sorted(roster.groups)[:8])
        output.note(f"no board has reported group {deployment.group} (groups that boards have: {groups}): waiting for one")
    with Broker(workspace.settings) as broker:
        waiting = Waiting(broker, roster, workspace.root(), deployment, only_online=arguments.wait_for == "online")
        outcome = waiting.run(arguments.wait, since_s, changed)
    if arguments.json:
        output.result_json(_outcome_json(deployment, outcome))
    else:
        _tell_outcome(deployment, outcome, arguments)
    sys.stdout.flush()
    return 0 if outcome.confirmed else 1


def _tell_outcome(deployment: Deployment, outcome: Outcome, arguments: argparse.Namespace) -> None:
    if outcome.superseded:
        output.result(f"group {deployment.group} has another deployment now: {outcome.superseded}")
    if not outcome.standings:
        output.result(
            f"no board of group {deployment.group} reported in {arguments.wait:.0f} s; `ota status` shows the boards there are"
        )
        return
    output.result(outcome.summary())
    for gap in outcome.gaps:
        output.note(f"incomplete: {gap}")


def _outcome_json(deployment: Deployment, outcome: Outcome) -> dict[str, Any]:
    standings = outcome.standings.items()
    return {
        "deployment": deployment.deployment_id,
        "group": deployment.group,
        "confirmed": outcome.confirmed,
        "superseded": outcome.superseded,
        "complete": not outcome.gaps,
        "gaps": outcome.gaps,
        "counts": {kind.name.lower(): outcome.counts[kind] for kind in Kind},
        "states": {name: each.state for name, each in standings},
        "reasons": {name: each.reason for name, each in standings if each.reason},
        "details": {name: each.detail for name, each in standings if each.detail},
        "pending": sorted(name for name, each in standings if each.kind is Kind.PENDING),
    }
