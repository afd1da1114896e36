"""pack, archive: what a broker would hold, as a file for boards, or in a place that lasts; reports: what came back on a stick."""

import argparse
import time
from pathlib import Path
from typing import Any

from ota.bounded import read_bounded
from ota.cli import output, scopes
from ota.errors import OtaError
from ota.formats import topics
from ota.formats.bundle import read_reports
from ota.formats.reasons import Reason, Refused, naming
from ota.formats.report import InstanceReport, Report
from ota.operator.holdings import Archive, archive, pack
from ota.operator.ledger import Ledger
from ota.operator.roster import Roster
from ota.operator.scope import Scope
from ota.operator.workspace import Workspace

REPORTS_LIMIT_BYTES = 8 << 20


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    verb = commands.add_parser(
        "pack",
        help="write a bundle: all that boards need, as one file for a stick or `device-agent install`",
        epilog="example: ota pack --group lab -o lab.bundle",
    )
    scopes.add_several(verb)
    verb.add_argument("-o", "--out", type=Path, required=True, help="the file; boards look for names that end in .bundle")
    verb.add_argument("--json", action="store_true", help="machine-readable result")
    verb.set_defaults(handler=_pack)

    verb = commands.add_parser(
        "archive",
        help="add all that was published to an archive, which `ota republish --from` publishes again",
        epilog="example: ota archive s3://firmware/lab",
    )
    verb.add_argument("place", help="a folder, or a URL of fsspec's, such as s3://bucket/folder (pip install 'wamr-ota[archive]')")
    verb.add_argument("--json", action="store_true", help="machine-readable result")
    verb.set_defaults(handler=_archive)

    verb = commands.add_parser(
        "reports",
        help="verify and show the reports that boards wrote onto a stick",
        epilog="example: ota reports /media/stick/*.reports",
    )
    verb.add_argument("file", type=Path, nargs="+", help="a file that ends in .reports")
    verb.add_argument("--json", action="store_true", help="machine-readable, a line for each instance")
    verb.set_defaults(handler=_reports)


def write_bundle(workspace: Workspace, wanted: list[Scope], out: Path) -> int:
    """Writes a bundle; returns its size in bytes. Raises OtaError, OSError."""
    try:
        return pack(workspace, wanted, out)
    except FileNotFoundError as error:
        raise OtaError(f"{out.parent} is not a folder") from error


def _pack(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    wanted = [*map(Scope, arguments.group), *(Scope(device=name) for name in arguments.device)]
    wanted = wanted or [each.scope for each in Ledger(workspace).records()]
    if not wanted:
        raise OtaError("nothing was published from this workspace yet: `ota publish … --pack FILE` needs no broker")
    size = write_bundle(workspace, wanted, arguments.out)
    for each in wanted:
        if (record := Ledger(workspace).record(each)) and not record.releases:
            output.note(f"note: {each} has no instance: the bundle brings its boards no module")
    if arguments.json:
        output.result_json({"bundle": str(arguments.out), "bytes": size, "for": [scopes.whose(each) for each in wanted]})
    else:
        output.result(f"{arguments.out}: {size} bytes, for {', '.join(map(str, wanted))}")
    return 0


def _archive(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    with output.progress(f"archive {arguments.place}", 0) as bar:
        done = archive(workspace, Archive(arguments.place), bar.at)
    if arguments.json:
        output.result_json({"archive": arguments.place, **done._asdict()})
    else:
        repaired = f", {done.repaired} were damaged and are repaired" if done.repaired else ""
        output.result(f"{arguments.place}: {done.new} messages are new, {done.there} were there{repaired}")
    return 0


def _reports(arguments: argparse.Namespace) -> int:
    """The exit code is 1 when something is not to be believed: nothing of that is shown as the board's."""
    signers = Roster(Workspace.open(arguments.folder)).signers
    rows, refused = [], 0
    for path in arguments.file:
        data = read_bounded(path, REPORTS_LIMIT_BYTES)
        with naming(path):
            messages = read_reports(data)
        boards: dict[str, Report] = {}
        for topic, payload in messages:
            device = topic.split("/")[3]
            try:
                if topic == topics.report(device):
                    boards[device] = signers.report(device, payload, int(time.time()))
                elif device in boards:
                    instance = topic.split("/")[5]
                    least = max((each.counter for each in boards[device].instances if each.name == instance), default=0)
                    rows.append((boards[device], signers.instance_report(device, payload, least, int(time.time()))))
            except Refused as error:
                output.note(f"{path}: {topic.removeprefix(f'{topics.PREFIX}/')}: not believed: {error}")
                refused += 1
        for device in boards:
            if changed := signers.changed(device):
                output.note(f"{path}: {device}: {Reason.JOURNAL_CHANGED.value}: row {changed.row}: {changed.text}")
                refused += 1
    signers.save()
    _show(rows, as_json=arguments.json)
    return 1 if refused else 0


def _show(rows: list[tuple[Report, InstanceReport]], *, as_json: bool) -> None:
    if as_json:
        for board, each in rows:
            about = {"device": board.device, "group": board.group, "agent": board.agent, "root": board.root, "time_s": board.time_s}
            running = {"module": each.running.name, "version": each.running.version}
            attempt = {"state": each.attempt.state, "reason": each.attempt.reason or None, "detail": each.attempt.detail}
            output.result_json(about | {"instance": each.instance} | running | attempt)
        return
    cells = [
        (
            board.device,
            board.group,
            board.agent,
            each.instance,
            f"{each.running.name} {each.running.version}".strip(),
            f"{each.attempt.state} {each.attempt.reason}".strip(),
            output.age(time.time() - board.time_s),
        )
        for board, each in rows
    ]
    output.result(output.table(("board", "group", "agent", "instance", "runs", "last update", "age"), cells))
