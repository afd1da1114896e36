"""broker check: what the broker announces, keeps and cuts, measured."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ota.cli import output
from ota.errors import OtaError
from ota.formats.broker_url import BrokerUrl
from ota.operator.broker_check import Verdict, check
from ota.operator.workspace import SETTINGS, Settings, Workspace


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    broker = commands.add_parser("broker", help="look at a broker", epilog="example: ota broker check mqtt://localhost:1883")
    verbs = broker.add_subparsers(metavar="verb", required=True)
    verb = verbs.add_parser(
        "check",
        help="measure what a broker announces, keeps and cuts; writes below ota/v1/check/ and cleans up",
        epilog="example: ota broker check mqtts://broker.example.com --ca-file ca.pem",
    )
    verb.add_argument("url", nargs="?", metavar="URL", help="default: the workspace's broker")
    verb.add_argument("--ca-file", type=Path, help="for mqtts:// (default: the workspace's)")
    verb.add_argument("--username", help="default: the workspace's")
    verb.add_argument("--password-file", type=Path, help="default: the workspace's")
    verb.add_argument("--json", action="store_true", help="machine-readable result")
    verb.set_defaults(handler=_check)


def _settings(arguments: argparse.Namespace) -> Settings:
    """The workspace's, with what the command line names instead; with an address no workspace is needed."""
    try:
        url = BrokerUrl.parse(arguments.url) if arguments.url else None
    except ValueError as error:
        raise OtaError(str(error)) from None
    if url is None or (arguments.folder / SETTINGS).exists():
        settings = Workspace.open(arguments.folder).settings
    else:
        settings = Settings("example.com", url, "lab")
    changes = {
        "broker": url,
        "ca_file": arguments.ca_file,
        "username": arguments.username,
        "password_file": arguments.password_file,
    }
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})


def _check(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    findings = list(check(settings, lambda step: output.note(f"measuring: {step}")))
    if arguments.json:
        found = [asdict(each) | {"verdict": each.verdict.value} for each in findings]
        output.result_json({"broker": str(settings.broker), "findings": found})
    else:
        rows = [(each.what, each.found, each.verdict.value) for each in findings]
        output.result(output.table(("check", "found", "verdict"), rows))
        if advice := [f"- {each.what}: {each.advice}" for each in findings if each.advice]:
            output.result("\n".join(["what to change:", *advice]))
    return 1 if any(each.verdict is Verdict.BAD for each in findings) else 0
