"""ca, token, retire: who boards are, and who is none any more."""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from ota.cli import output
from ota.cli.fleet import nobody
from ota.cli.operator import add_passphrase, open_workspace
from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats.enrolment import SERIAL
from ota.formats.text import amount
from ota.operator import acts, issued
from ota.operator.broker import Broker
from ota.operator.ca import CertificateAuthority, enrolled
from ota.operator.enrolment import MAX_COUNT, new_token, standing
from ota.operator.group_keys import GroupKeys
from ota.operator.ownership import check_ours
from ota.operator.retire import CRL_FILE, clear, forget_answers, retire, unknown, write_crl
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace
from ota.token_keys import TokenUri

HOUR_S = 3600
MAX_HOURS = 24 * 366


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    ca = commands.add_parser("ca", help="the authority that signs boards' certificates", epilog="example: ota ca show")
    verbs = ca.add_subparsers(metavar="verb", required=True)
    show = verbs.add_parser(
        "show", help="the authorities, and how many boards each has signed", epilog="example: ota ca show --json"
    )
    show.set_defaults(handler=_show)
    rotate = verbs.add_parser(
        "rotate", help="make the next authority; it is believed now and signs after `switch`", epilog="example: ota ca rotate"
    )
    rotate.add_argument(
        "--pkcs11",
        type=output.checked(TokenUri.parse, empty=True),
        metavar="URI",
        default="",
        help="make its key in a token, as `ota init` does",
    )
    rotate.set_defaults(handler=_rotate)
    switch = verbs.add_parser(
        "switch",
        help="let the next authority sign from now on; every broker must have trust/ca.pem",
        epilog="example: ota ca switch",
    )
    switch.add_argument("--yes", action="store_true", help="do not ask")
    switch.set_defaults(handler=_switch)
    crl = verbs.add_parser(
        "crl", help="write the list of certificates that brokers are not to let in", epilog="example: ota ca crl"
    )
    crl.set_defaults(handler=_crl)
    for verb in (show, rotate, switch, crl):
        verb.add_argument("--json", action="store_true", help="machine-readable result")
        add_passphrase(verb)

    token = commands.add_parser(
        "token",
        help="make a token that enrols a board, or a batch of them",
        epilog=f"example: ota token 'pump-{SERIAL}' --batch 500 --hours 72 -o enrolment.token",
    )
    token.add_argument("names", metavar="NAME", type=output.names, help=f"the board's name; for a batch with {SERIAL} in it")
    token.add_argument(
        "--batch",
        "--count",
        dest="count",
        metavar="N",
        type=batch,
        default=1,
        help="how many boards may enrol with it (default %(default)s)",
    )
    add_hours(token)
    token.add_argument("--group", type=output.name, help="that the boards belong to (default: the workspace's)")
    token.add_argument("-o", "--out", type=Path, required=True, help="the file for it, which is a secret: mode 0600")
    token.add_argument("--json", action="store_true", help="machine-readable result")
    add_passphrase(token)
    token.set_defaults(handler=_token)

    gone = commands.add_parser(
        "retire",
        help="end a board: its certificates, its tokens, what the broker keeps of it, its place in the list",
        epilog="example: ota retire roof-1",
    )
    gone.add_argument("names", metavar="NAME", nargs="+", type=output.name, help="a board's name")
    gone.add_argument("--undo", action="store_true", help="make the name good for another board; what was revoked stays so")
    gone.add_argument("--offline", action="store_true", help="leave the broker alone: what it keeps of the board stays")
    gone.add_argument("--yes", action="store_true", help="do not ask")
    gone.add_argument("--dry-run", action="store_true", help="say what would be ended")
    gone.add_argument("--json", action="store_true", help="machine-readable, a line for each board")
    add_passphrase(gone)
    gone.set_defaults(handler=_retire)


def add_hours(command: argparse.ArgumentParser) -> None:
    """How long a token is good."""
    command.add_argument("--hours", type=_hours, default=24.0, help="how long the token is good (default %(default)s)")


def batch(text: str) -> int:
    """How many boards a token is for, on a command line."""
    if not text.isdecimal() or len(text) > 6 or not 1 <= int(text) <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of boards from 1 to {MAX_COUNT}")
    return int(text)


def _hours(text: str) -> float:
    value = output.number(text)
    if not 0 < value <= MAX_HOURS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours of more than 0 and at most {MAX_HOURS}")
    return value


def make_token(workspace: Workspace, names: str, hours: float, count: int, group: str) -> str:
    """A token, with a word about certificates and tokens that there are already. Raises OtaError."""
    now_s = int(time.time())
    for each in standing(workspace, names, now_s):
        output.note(f"note: {each}")
    return new_token(workspace, names, now_s, int(hours * HOUR_S), count, group).to_text()


def _token(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    if not arguments.out.parent.is_dir():  # else there would be a token that nobody has
        raise OtaError(f"{arguments.out.parent} is not a folder")
    group = arguments.group or workspace.settings.group
    try:
        arguments.out.touch(0o600, exist_ok=False)  # now: else two commands could make a token for one file
    except FileExistsError as error:
        raise OtaError(f"{arguments.out} is there already") from error
    try:
        made = make_token(workspace, arguments.names, arguments.hours, arguments.count, group)
        write_durably(arguments.out, made.encode() + b"\n", 0o600)
    except BaseException:
        arguments.out.unlink(missing_ok=True)
        raise
    if arguments.json:
        output.result_json({"file": str(arguments.out), "names": arguments.names, "count": arguments.count, "group": group})
    else:
        many = f"{arguments.count} boards" if arguments.count > 1 else "one enrolment"
        output.result(f"{arguments.out}: a token of {arguments.names} for {many} in the next {arguments.hours:g} hours")
        output.note("it goes into the file that [enrolment] token_file names; `ota enrol` answers")
    return 0


# -- the authority


def _name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.rfc4514_string().removeprefix("CN="))


def _show(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    authority = CertificateAuthority(workspace)
    counts: Counter[bytes] = Counter()
    for name in enrolled(workspace.folder):
        pem = (workspace.folder / "devices" / f"{name}.pem").read_bytes()
        counts[x509.load_pem_x509_certificate(pem).issuer.public_bytes()] += 1
    first, found = authority.certificates[0], []
    for each in authority.certificates:
        use = "signs" if each == first else "next" if each in authority.successors() else "believed"
        found.append((_name(each), use, f"{each.not_valid_after_utc:%Y-%m-%d}", counts[each.subject.public_bytes()]))
    if arguments.json:
        output.result_json([dict(zip(("authority", "use", "until", "boards"), each, strict=True)) for each in found])
        return 0
    rows = [(name, use, until, str(count)) for name, use, until, count in found]
    output.result(output.table(("authority", "use", "until", "boards"), rows))
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    authority = CertificateAuthority(open_workspace(arguments))
    made = authority.rotate(arguments.pkcs11)
    if arguments.json:
        output.result_json({"authority": _name(made), "until": f"{made.not_valid_after_utc:%Y-%m-%d}"})
        return 0
    output.result(f"{authority.certificate_file}: {_name(made)} is believed until {made.not_valid_after_utc:%Y-%m-%d}")
    output.note("copy this file to every broker that boards come to, then `ota ca switch`")
    return 0


def _switch(arguments: argparse.Namespace) -> int:
    authority = CertificateAuthority(open_workspace(arguments))
    if not arguments.yes and not output.confirm(
        f"Does every broker that boards come to have {authority.certificate_file} with the next authority in it?"
    ):
        raise OtaError("nothing was changed: copy the file to the brokers, then say yes, or give --yes")
    signs = authority.switch()
    if arguments.json:
        output.result_json({"authority": _name(signs)})
    else:
        output.result(f"{_name(signs)} signs from now on; boards get its certificates when they renew")
    return 0


def _crl(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    missing = write_crl(workspace, CertificateAuthority(workspace))
    file, count = workspace.folder / "trust" / CRL_FILE, len(issued.revoked(workspace))
    if arguments.json:
        output.result_json({"file": str(file), "certificates": count, "missing": missing})
    else:
        output.result(f"{file}: {count} certificates that are not to be let in")
    return _told(missing)


def _told(missing: Sequence[str]) -> int:
    """Says which lists of authorities could not be made anew."""
    for each in missing:
        output.note(f"the list of certificates that were taken back is not whole: {each}")
    return 1 if missing else 0


# -- boards that are gone


def _retire(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    names = list(dict.fromkeys(arguments.names))
    if arguments.undo:
        return max([_take_back(workspace, name, arguments) for name in names])
    authority, roster = CertificateAuthority(workspace), Roster(workspace)
    if strange := unknown(workspace, roster, names):
        raise OtaError(f"{nobody(strange, roster)}; nothing was changed")
    if arguments.dry_run:
        return _say_what_would_end(workspace, names, as_json=arguments.json)
    if not arguments.yes and not output.confirm(f"{', '.join(names)} will be locked out for good. Go on?"):
        raise OtaError("nothing was changed: say yes, or give --yes")
    shared = sorted({roster.group_of(name) for name in names} & set(GroupKeys(workspace).groups()))
    ended = [retire(workspace, authority, roster, name) for name in names]
    removed = {}
    if not arguments.offline:
        removed = _cleared(workspace, names)
    for each in ended:
        if arguments.json:
            about = {"device": each.device, "certificates": each.certificates, "tokens": each.tokens}
            about |= {"topics": removed.get(each.device), "missing": each.missing}
            output.result_json(about)
            continue
        topics = f", {amount(removed[each.device], 'topic')}" if each.device in removed else ""
        output.result(f"{each.device} is retired: {each.certificates} certificates, {each.tokens} tokens{topics} ended")
    if _revoked(workspace, names):
        output.note(f"copy {workspace.folder / 'trust' / CRL_FILE} to the brokers: they let the boards in until they have it")
    for group in shared:
        output.note(
            f"who has the boards can read what is encrypted for group {group}: replace its key, `ota group-keys new {group}`"
        )
    return _told(ended[-1].missing)


def _say_what_would_end(workspace: Workspace, names: Sequence[str], *, as_json: bool) -> int:
    until = {name: each.expires_s for name, each in enrolled(workspace.folder).items()}
    for name in names:
        if as_json:
            output.result_json({"device": name, "retired": False, "certificate_until": until.get(name)})
            continue
        has = time.strftime("a certificate until %Y-%m-%d", time.gmtime(until[name])) if name in until else "no certificate"
        output.result(f"{name} has {has}; nothing was changed")
    return 0


def _cleared(workspace: Workspace, names: Sequence[str]) -> dict[str, int]:
    """How many topics of each board were removed from the broker. Raises OtaError, which says that the boards are retired."""
    try:
        with Broker(workspace.settings) as broker:
            check_ours(workspace, broker)
            return {name: clear(broker, name, deployment=True) for name in names}
    except OtaError as error:
        told = f", and {workspace.folder / 'trust' / CRL_FILE} says so to brokers" if _revoked(workspace, names) else ""
        raise OtaError(
            f"{', '.join(names)}: retired here{told}, but what the broker keeps of it may still be there: {error}. The same command"
            " again removes that"
        ) from error


def _revoked(workspace: Workspace, names: Sequence[str]) -> bool:
    """Whether a certificate of these boards is on the list for brokers."""
    return any(each.device in names for each in issued.revoked(workspace))


def _take_back(workspace: Workspace, name: str, arguments: argparse.Namespace) -> int:
    if name in issued.retired(workspace):
        acts.record(workspace, "take-back-device", {"device": name})
    done = issued.take_back(workspace, name)
    if done and not arguments.offline:  # else the next board of the name would read its predecessor's refusal
        with Broker(workspace.settings) as broker:
            forget_answers(broker, name)
    if arguments.json:
        output.result_json({"device": name, "retired": False, "changed": done})
    elif done:
        output.result(f"the name {name} is good for another board")
    else:
        output.note(f"{name} was not retired")
    return 0 if done else 1
