"""audit: what was signed and deployed with the keys of the workspace, and whether the log of it is whole."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ota.cli import output
from ota.errors import OtaError
from ota.formats import journal
from ota.formats.audit import Row
from ota.operator import audit_check
from ota.operator.audit import Audit
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace

LINES = 50
FINDINGS = 20  # without --json


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    audit = commands.add_parser(
        "audit", help="what was signed and deployed, and whether the log of it is whole", epilog="example: ota audit verify"
    )
    verbs = audit.add_subparsers(dest="verb", metavar="verb", required=True)
    log = verbs.add_parser("log", help="what was done with the keys of this workspace", epilog="example: ota audit log --json")
    log.add_argument("--lines", type=_lines, default=LINES, metavar="N", help="the last N acts; 0: all (default %(default)s)")
    log.add_argument("--json", action="store_true", help="machine-readable, an act a line")
    log.set_defaults(handler=_log)
    verify = verbs.add_parser(
        "verify",
        help="find lines that were removed, changed or moved: of this log, or of a board's journal",
        description="Checks the chain of the log and each signature. Looks for a line for every root, deployment, update,"
        " certificate, retired board, enrolment token and key of a group of the workspace; for what is gone without a line; and"
        " for boards that have changed their journals. With FILE: checks the chains of a journal that `device-agent audit export`"
        " wrote on a board, and the heads of it that the board has signed into the reports that were read here. Exit code 1 when"
        " something is wrong, or when no head vouches for the journal.",
        epilog="example: ota audit verify; ota audit verify journal.jsonl --device board-1",
    )
    verify.add_argument("file", type=Path, nargs="?", metavar="FILE", help="the journal that a board has exported")
    verify.add_argument("--device", type=output.name, metavar="NAME", help="that board")
    verify.add_argument("--json", action="store_true", help="machine-readable")
    verify.set_defaults(handler=_verify)


def _lines(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _log(arguments: argparse.Namespace) -> int:
    rows = list(Audit(Workspace.open(arguments.folder)).rows())
    for row in rows[-arguments.lines :] if arguments.lines else rows:
        output.result(json.dumps(asdict(row)) if arguments.json else _text(row))
    return 0


def _text(row: Row) -> str:
    about = "  ".join(f"{name} {text[:16] if name == 'digest' else text}" for name, text in row.about.items() if text)
    return f"{row.number:5}  {row.time}  {row.by}  {row.action:16}  {about}"


def _verify(arguments: argparse.Namespace) -> int:
    if (arguments.file is None) != (arguments.device is None):
        raise output.UsageError("FILE and --device go together: the journal, and the board that has exported it")
    return _verify_log(arguments) if arguments.file is None else _verify_journal(arguments)


def _verify_log(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    audit, found = Audit(workspace), list(audit_check.problems(workspace))
    changed = Roster(workspace).signers.all_changed()
    found += [f"the journal of board {name}, row {each.row}: {each.text}" for name, each in changed.items()]
    rows = sum(1 for _ in audit.lines())
    if arguments.json:
        output.result(json.dumps({"file": str(audit.path), "rows": rows, "problems": found}))
    else:
        for problem in found:
            output.note(problem)
        output.result(f"{audit.path}: {rows} act{'s' * (rows != 1)}, {'whole' if not found else f'{len(found)} problems'}")
    return 1 if found else 0


def _verify_journal(arguments: argparse.Namespace) -> int:
    signers = Roster(Workspace.open(arguments.folder)).signers
    heads = signers.heads(arguments.device)
    try:
        with arguments.file.open(encoding="utf-8") as file:
            rows = journal.read(iter(lambda: file.readline(journal.LINE_LIMIT_CHARACTERS + 1), ""))
    except UnicodeDecodeError:
        raise OtaError(f"{arguments.file} is not what `device-agent audit export` writes: it is not UTF-8 text") from None
    verdict = journal.judge(rows, heads)
    if changed := signers.changed(arguments.device):
        verdict = replace(verdict, findings=(*verdict.findings, changed))
    whole = not verdict.findings and verdict.vouched > 0
    if arguments.json:
        findings = [vars(each) for each in verdict.findings]
        about = {"device": arguments.device, "key": signers.label(arguments.device), "rows": len(rows), "heads": len(heads)}
        output.result_json(about | {"vouched": verdict.vouched, "whole": whole, "findings": findings})
        return 0 if whole else 1
    for each in verdict.findings[:FINDINGS]:
        output.note(f"row {each.row}: {each.text}")
    if len(verdict.findings) > FINDINGS:
        output.note(f"and {len(verdict.findings) - FINDINGS} more")
    output.result(_verdict(arguments.device, rows, verdict, known=bool(heads)))
    return 0 if whole else 1


def _verdict(device: str, rows: list[journal.Row], verdict: journal.Verdict, *, known: bool) -> str:
    if verdict.findings:
        return f"the journal of {device} is not whole"
    if not known:
        return f"the chains fit, and no head that {device} signed is known: `ota status {device}` reads one"
    if not verdict.vouched:
        return f"the chains fit, and {device} signed no head of rows that are still kept: `ota status {device}` reads a new one"
    behind = sum(each.number > verdict.vouched for each in rows)
    newer = f"; {behind} rows are newer than the last head that was read" if behind else ""
    return f"the journal of {device} is whole: {device} signed its head at row {verdict.vouched}{newer}"
