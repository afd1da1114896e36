"""keys: which keys may sign what. Changes go into a draft of the next root, which `ota root publish` publishes."""

import argparse
import time
from pathlib import Path
from typing import Any

from ota.bounded import read_bounded
from ota.cli import output
from ota.cli.operator import add_passphrase, open_workspace, passphrase
from ota.errors import OtaError
from ota.formats.cose import UnusableKey, VerifyKey
from ota.formats.reasons import naming
from ota.formats.trust import ROLES, Root
from ota.keyring import ALGORITHMS, SigningKey
from ota.operator import root_draft
from ota.operator.keys import short
from ota.operator.workspace import Workspace
from ota.references import from_workspace

_ABOUT_ROLES = "what its keys sign: root: roots of trust; release: modules; deploy: deployments"

PEM_LIMIT_BYTES = 16 * 1024


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    keys = commands.add_parser(
        "keys", help="show and change which keys may sign what", epilog="example: ota keys rotate deploy && ota root publish"
    )
    verbs = keys.add_subparsers(dest="verb", metavar="verb", required=True)
    shown = verbs.add_parser("list", help="keys by role, and where their private halves are", epilog="example: ota keys list")
    shown.add_argument("--json", action="store_true", help="machine-readable")
    shown.set_defaults(handler=_list)

    new = verbs.add_parser(
        "new",
        help="make a key pair: FILE, and FILE.pub for whoever has the workspace",
        epilog="example: ota keys new alice.pem",
    )
    new.add_argument("file", type=Path, help="where its private half goes")
    _add_algorithm(new)
    _add_json(new)
    _add_lock(new)
    new.set_defaults(handler=_new)

    add = verbs.add_parser("add", help="add a key to a role", epilog="example: ota keys add release --public alice.pem.pub")
    add.add_argument("role", choices=ROLES, help=_ABOUT_ROLES)
    _add_source(add)
    add.set_defaults(handler=_add)

    rotate = verbs.add_parser("rotate", help="replace a key by a new one", epilog="example: ota keys rotate deploy")
    rotate.add_argument("role", choices=ROLES, help=_ABOUT_ROLES)
    rotate.add_argument(
        "old", nargs="?", default="", metavar="KEY", help="the beginning of its identifier (default: the role's only one)"
    )
    _add_source(rotate)
    rotate.set_defaults(handler=_rotate)

    revoke = verbs.add_parser("revoke", help="remove a key from a role", epilog="example: ota keys revoke release 3f2a91c0")
    revoke.add_argument("role", choices=ROLES, help=_ABOUT_ROLES)
    revoke.add_argument("key", help="the beginning of its identifier, or the file of its public half")
    _add_json(revoke)
    revoke.set_defaults(handler=_revoke)

    threshold = verbs.add_parser(
        "threshold", help="how many of a role's keys must sign", epilog="example: ota keys threshold release 2"
    )
    threshold.add_argument("role", choices=ROLES, help=_ABOUT_ROLES)
    threshold.add_argument("number", type=int, help="so many of them")
    threshold.add_argument(
        "--mixed",
        action=argparse.BooleanOptionalAction,
        help="a classical and a post-quantum signature must be among them (default: as it is)",
    )
    _add_json(threshold)
    threshold.set_defaults(handler=_threshold)


def _add_algorithm(command: argparse.ArgumentParser) -> None:
    command.add_argument("--algorithm", choices=ALGORITHMS, default=ALGORITHMS[0], help="of the new key (default %(default)s)")


def _add_lock(command: argparse.ArgumentParser) -> None:
    command.add_argument("--passphrase-file", type=Path, help="file that holds the passphrase of keys, new ones too")


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="machine-readable result")


def _add_source(command: argparse.ArgumentParser) -> None:
    """Where the key comes from: a new one by default."""
    one = command.add_mutually_exclusive_group()
    one.add_argument("--public", type=Path, metavar="FILE", help="somebody else's: the public half, as `ota keys new` makes it")
    one.add_argument("--key", metavar="REFERENCE", help="a private key of this machine: a path")
    _add_algorithm(command)
    add_passphrase(command)
    _add_json(command)


def _list(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    newest, draft = workspace.root(), root_draft.load(workspace)
    after = draft.content if draft is not None and isinstance(draft.content, Root) else None
    found = [each for role in ROLES for each in _of_role(workspace, role, newest, after)]
    if arguments.json:
        roles = {name: {"threshold": role.threshold, "mixed": role.mixed} for name, role in newest.roles.items()}
        output.result_json({"root": newest.number, "draft": after.number if after else None, "roles": roles, "keys": found})
        return 0
    rows = [(each["role"], each["key"][:16], each["algorithm"], each["where"] or "elsewhere", each["state"]) for each in found]
    output.result(output.table(("role", "key", "algorithm", "private half", "state"), rows))
    for name, role in newest.roles.items():
        then = "" if after is None or _rule(after, name) == _rule(newest, name) else f"; in the draft {_rule(after, name)}"
        output.result(f"{name}: {_rule(newest, name)}{then}" + (" (unusable keys count for nothing)" if role.unusable else ""))
    return 0


def _rule(root: Root, name: str) -> str:
    role = root.roles[name]
    return f"{role.threshold} of {len(role.key_ids)} sign" + (", of both families" if role.mixed else "")


def _of_role(workspace: Workspace, name: str, newest: Root, after: Root | None) -> list[dict[str, Any]]:
    roles = [newest.roles[name], *([after.roles[name]] if after else [])]
    keys: dict[bytes, VerifyKey | UnusableKey] = {}
    for role in roles:
        keys |= {**role.keys, **role.unusable}
    found: list[dict[str, Any]] = []
    for key_id, key in keys.items():
        now, then = key_id in newest.roles[name].key_ids, after is None or key_id in after.roles[name].key_ids
        state = f"root {newest.number}" if now and then else "goes with the draft" if now else "comes with the draft"
        algorithm = key.algorithm.name if isinstance(key, VerifyKey) else f"not usable here: {key.label}"
        where = workspace.keys.where(key_id)
        found.append({"role": name, "key": key_id.hex(), "algorithm": algorithm, "where": where, "state": state})
    return found


def _new(arguments: argparse.Namespace) -> int:
    if arguments.file.is_dir():
        raise OtaError(f"{arguments.file} is a folder: name the file")
    public = arguments.file.with_name(f"{arguments.file.name}.pub")
    if public.exists():
        raise OtaError(f"{public} is there already")
    key = SigningKey.generate(arguments.algorithm)
    key.save(arguments.file, passphrase(arguments))
    public.write_bytes(key.public.to_pem())
    if arguments.json:
        output.result_json({"key": key.public.key_id, "private": str(arguments.file), "public": str(public)})
    else:
        output.result(f"key {key.public.label}: {arguments.file} signs, {public} is for whoever adds it to a root")
    return 0


def _public(path: Path) -> VerifyKey:
    try:
        pem = read_bounded(path, PEM_LIMIT_BYTES)
    except OSError as error:
        raise OtaError(f"{path}: {error.strerror}") from error
    with naming(path):
        return VerifyKey.from_pem(pem)


def _named(text: str) -> str:
    """The identifier of the key that the command line names, or its beginning."""
    return _public(Path(text)).key_id.hex() if text.endswith(".pub") else text


def _source(workspace: Workspace, arguments: argparse.Namespace) -> VerifyKey:
    if arguments.public is not None:
        return _public(arguments.public)
    if arguments.key is not None:
        reference = from_workspace(arguments.key, workspace.folder)
        key = workspace.keys.open(reference)
        workspace.keys.note(key.public.key_id, reference)
        return key.public
    return workspace.keys.make(arguments.role, arguments.algorithm).public


def _add(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    _probe(workspace, arguments)
    key = _source(workspace, arguments)
    return edited(workspace, root_draft.added(arguments.role, key), f"key {key.label} is added to {arguments.role}", arguments)


def _rotate(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    draft = root_draft.load(workspace)
    root = draft.content if draft is not None and isinstance(draft.content, Root) else workspace.root()
    old = root_draft.find_key(root, arguments.role, _named(arguments.old))
    _probe(workspace, arguments)
    key = _source(workspace, arguments)
    what = f"key {key.label} takes the place of {short(old)} in {arguments.role}"
    return edited(workspace, root_draft.rotated(arguments.role, old, key), what, arguments)


def _probe(workspace: Workspace, arguments: argparse.Namespace) -> None:
    """Before a key file is made: the draft can be changed, and what locks the other keys is known."""
    root_draft.load(workspace)
    if arguments.public is None and arguments.key is None and workspace.secrets.given is None:
        for key_id in workspace.root().roles[arguments.role].keys:
            if (reference := workspace.keys.where(key_id)) and not reference.endswith("(not there)"):
                workspace.keys.find(key_id)  # what locks that one is asked for, and locks the new one
                return


def _revoke(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    draft = root_draft.load(workspace)
    root = draft.content if draft is not None and isinstance(draft.content, Root) else workspace.root()
    key_id = root_draft.find_key(root, arguments.role, _named(arguments.key))
    what = f"key {short(key_id)} is taken from {arguments.role}"
    return edited(workspace, root_draft.revoked(arguments.role, key_id), what, arguments)


def _threshold(arguments: argparse.Namespace) -> int:
    change = root_draft.threshold(arguments.role, arguments.number, arguments.mixed)
    return edited(open_workspace(arguments), change, f"{arguments.number} {arguments.role} keys must sign", arguments)


def edited(workspace: Workspace, change: root_draft.Change, what: str, arguments: argparse.Namespace) -> int:
    """Changes the draft and says so."""
    root, dropped = root_draft.edit(workspace, change, int(time.time()))
    if arguments.json:
        output.result_json({"root": root.number, "changed": what, "dropped_signatures": dropped})
        return 0
    output.result(f"draft of root {root.number}: {what}")
    if dropped:
        output.note(f"the draft lost its {dropped} signature{'s' * (dropped != 1)}: have it signed again")
    output.note("next: `ota root rehearse` shows what it does to boards, `ota root sign`, `ota root publish`")
    return 0
