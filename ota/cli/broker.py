"""broker check: what the broker announces, keeps and cuts, measured."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ota.cli import output
from ota.cli.operator import add_passphrase, open_workspace
from ota.durable import write_durably
from ota.formats.broker_url import BrokerUrl, is_host
from ota.operator import acts
from ota.operator.access import ENROLMENT, OPERATOR, RESERVED
from ota.operator.broker_check import Verdict, check
from ota.operator.broker_config import BOARDS_PORT, KINDS, OPERATORS_PORT, Site, files, new_password
from ota.operator.ca import CertificateAuthority, enrolled
from ota.operator.key_stores import key_store, trust_store
from ota.operator.workspace import SETTINGS, Settings, Workspace

PASSWORDS = {OPERATOR: "broker.password", ENROLMENT: "enrolment.password"}  # in keys/
SECRET = frozenset(
    (
        "certs/broker.key",
        "certs/broker.p12",
        "enrolment.conf",
        "operators.passwd",
        "operators.csv",
        "credentials.xml",
        "definitions.json",
    )
)


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    broker = commands.add_parser(
        "broker", help="measure what a broker announces and keeps", epilog="example: ota broker check mqtt://localhost:1883"
    )
    verbs = broker.add_subparsers(metavar="verb", required=True)
    verb = verbs.add_parser(
        "check",
        help="measure what a broker announces, keeps and cuts; writes below ota/v1/check/ and cleans up",
        epilog="example: ota broker check mqtts://broker.example.com --ca-file ca.pem",
    )
    verb.add_argument("url", nargs="?", type=output.broker_url, metavar="URL", help="default: the workspace's broker")
    verb.add_argument("--ca-file", type=Path, help="for mqtts:// (default: the workspace's)")
    verb.add_argument("--username", help="default: the workspace's")
    verb.add_argument("--password-file", type=Path, help="default: the workspace's")
    verb.add_argument("--json", action="store_true", help="machine-readable result")
    verb.set_defaults(handler=_check)

    config = commands.add_parser(
        "broker-config",
        help="write a broker's configuration: TLS, users by certificate, who may read and write what",
        description="Writes a broker's configuration, its certificate and the operator's password. Again: the same passwords.",
        epilog="example: ota broker-config mosquitto --host broker.example.com -o broker",
    )
    config.add_argument("kind", choices=list(KINDS), help="the broker")
    config.add_argument("-o", dest="out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    config.add_argument("--host", type=_host, help="how boards reach it: a name or an address (default: of the workspace's broker)")
    config.add_argument("--group", type=output.name, action="append", help="a group of boards here (default: the workspace's)")
    config.add_argument("--etc", default="", metavar="PATH", help="where the files will lie on the broker's machine")
    config.add_argument("--keep-certificate", action="store_true", help="do not make another certificate for the broker")
    config.add_argument("--json", action="store_true", help="machine-readable result")
    add_passphrase(config)
    config.set_defaults(handler=_config)


def _host(text: str) -> str:
    if not is_host(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name or an address of a machine")
    return text


def _settings(arguments: argparse.Namespace) -> Settings:
    """The workspace's, with what the command line names instead; with an address no workspace is needed."""
    url: BrokerUrl | None = arguments.url
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


def _config(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    host = arguments.host or workspace.settings.broker.host
    passwords = {user: _password(workspace, user) for user in sorted(RESERVED)}
    groups = tuple(arguments.group or (workspace.settings.group,))
    site = Site(host, groups, passwords, arguments.etc, tuple(enrolled(workspace.folder)))
    arguments.out.mkdir(parents=True, exist_ok=True)
    made = {name: text.encode() for name, text in files(arguments.kind, site).items()} | _certificates(workspace, host, arguments)
    for name, content in made.items():
        path = arguments.out / name
        path.parent.mkdir(exist_ok=True)
        write_durably(path, content, 0o600 if name in SECRET else 0o644)
    password_file = f"keys/{PASSWORDS[OPERATOR]}"
    if arguments.json:
        output.result_json({"folder": str(arguments.out), "files": list(made), "password_file": password_file, "groups": groups})
        return 0
    for name in made:
        output.result(f"{arguments.out / name}{'  (secret: for the broker alone)' if name in SECRET else ''}")
    if workspace.settings.password_file is None:
        output.note(f'for this workspace\'s ota.toml: username = "{OPERATOR}", password_file = "{password_file}"')
    boards, operators = (BrokerUrl(host, port, tls=True) for port in (BOARDS_PORT, OPERATORS_PORT))
    output.note(f"boards connect to {boards}, operators to {operators}")
    return 0


def _certificates(workspace: Workspace, host: str, arguments: argparse.Namespace) -> dict[str, bytes]:
    """For certs/: the authorities, the list of certificates that were taken back, and the broker's own."""
    authority = CertificateAuthority(workspace)
    lists = authority.crl()
    for each in lists.missing:
        output.note(f"the list of certificates that were taken back is not whole: {each}")
    found = {"certs/ca.pem": authority.certificate_file.read_bytes(), "certs/crl.pem": lists.pem}
    if not arguments.keep_certificate:
        found["certs/broker.pem"], found["certs/broker.key"] = authority.server(host)
    if arguments.kind == "hivemq":
        found["certs/boards.p12"] = trust_store(found["certs/ca.pem"])
        if "certs/broker.key" in found:
            found["certs/broker.p12"] = key_store(found["certs/broker.key"], found["certs/broker.pem"])
    return found


def _password(workspace: Workspace, user: str) -> str:
    path = workspace.folder / "keys" / PASSWORDS[user]
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    made = new_password()
    acts.record(workspace, "make-password", {"user": user})
    write_durably(path, made.encode() + b"\n", 0o600)
    return made
