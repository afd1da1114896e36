"""root: the next root of trust, from draft to publication; sign: one signature more on a file."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ota.cli import output
from ota.cli.fleet import add_devices_option, open_roster, shown_reading
from ota.cli.keys import edited
from ota.cli.operator import add_passphrase, check_clock, open_workspace, passphrase
from ota.errors import OtaError
from ota.formats.describe import describe
from ota.formats.reasons import naming
from ota.formats.trust import Root
from ota.operator import root_draft, rotation, signing
from ota.operator.audit import Audit
from ota.operator.broker import Broker
from ota.operator.reports import View
from ota.operator.survey import chain
from ota.operator.workspace import SETTINGS, Workspace
from ota.references import Secrets, open_key

DAY_S = 86_400


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    sign = commands.add_parser(
        "sign",
        help="add a signature to a root, deployment or manifest that needs several",
        description="Add one signature, or as many as this workspace's keys can give. What the file is says whose it must be.",
        epilog="example: ota sign draft.cbor --key alice.pem",
    )
    sign.add_argument(
        "file", type=Path, help="a draft of a root, what `ota publish` wrote to be signed, or a folder of `ota build`"
    )
    _add_signing(sign)
    sign.set_defaults(handler=_sign)

    root = commands.add_parser(
        "root", help="show the root of trust; draft, sign and publish the next one", epilog="example: ota root publish"
    )
    verbs = root.add_subparsers(dest="verb", metavar="verb", required=True)
    show = verbs.add_parser("show", help="the newest root, the draft, and who has to sign it", epilog="example: ota root show")
    show.add_argument("file", type=Path, nargs="?", help="another root document")
    show.add_argument("--json", action="store_true", help="machine-readable")
    show.set_defaults(handler=_show)

    edit = verbs.add_parser("edit", help="begin a draft, or change its dates", epilog="example: ota root edit --days 3650")
    edit.add_argument(
        "--days", type=output.days, default=3650, help="boards begin nothing new after so many days (default %(default)s)"
    )
    edit.add_argument("--discard", action="store_true", help="remove the draft")
    edit.add_argument("--json", action="store_true", help="machine-readable result")
    edit.set_defaults(handler=_edit)

    sign = verbs.add_parser("sign", help="sign the draft with the keys that are here", epilog="example: ota root sign")
    _add_signing(sign)
    sign.set_defaults(handler=_sign_draft)

    rehearse = verbs.add_parser(
        "rehearse", help="what the draft would do to the boards that are known", epilog="example: ota root rehearse"
    )
    add_devices_option(rehearse)
    rehearse.add_argument("--json", action="store_true", help="machine-readable")
    rehearse.set_defaults(handler=_rehearse)

    publish = verbs.add_parser(
        "publish",
        help="publish the draft, once enough keys have signed it",
        description="The draft becomes the newest root. Deployments that it would make invalid are signed again.",
        epilog="example: ota root publish draft-alice.cbor draft-bob.cbor",
    )
    publish.add_argument("file", type=Path, nargs="*", help="copies of the draft that others signed")
    publish.add_argument(
        "--sign-again", action="store_true", help="sign deployed updates again that the new root's release keys did not sign"
    )
    publish.add_argument("--clock-is-right", action="store_true", help="sign although this machine's clock looks wrong")
    add_passphrase(publish)
    publish.add_argument("--json", action="store_true", help="machine-readable result")
    publish.set_defaults(handler=_publish)


def _add_signing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--key", metavar="REFERENCE", help="sign with this key: a path (default: those of the workspace)")
    add_passphrase(command)
    command.add_argument("--json", action="store_true", help="machine-readable result")


def _sign(arguments: argparse.Namespace) -> int:
    """Needs no workspace where the key is named: then it is not known whose signatures count."""
    is_workspace = (arguments.folder / SETTINGS).exists()
    if not is_workspace and arguments.key is None:
        Workspace.open(arguments.folder)  # says what is missing
    workspace = open_workspace(arguments) if is_workspace else None
    return _signed(arguments.file, workspace, arguments)


def _sign_draft(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    if root_draft.load(workspace) is None:
        raise OtaError("there is no draft of a root: `ota root edit` or `ota keys` begins one")
    return _signed(workspace.folder / root_draft.DRAFT, workspace, arguments)


def _signed(path: Path, workspace: Workspace | None, arguments: argparse.Namespace) -> int:
    document, root = signing.read_file(path), workspace.root() if workspace is not None else None
    if arguments.key is not None:
        here = Path()
        secrets = workspace.secrets if workspace is not None else Secrets(passphrase(arguments))
        keys = signing.chosen(document, root, open_key(arguments.key, here, secrets))
    else:
        assert workspace is not None
        keys = signing.at_hand(document, root, workspace.keys)
    if workspace is not None:
        for key in keys:
            Audit(workspace).signed(document.data, key, int(time.time()))
    document = signing.sign(path, document, keys)
    lacks = document.lacks(root)
    if arguments.json:
        signers = [each.public.key_id for each in keys]
        output.result_json({"file": str(path), "document": document.label, "signed_by": signers, "lacks": lacks})
        return 0
    by = ", ".join(each.public.label for each in keys)
    output.result(f"{path}: {document.label}: {f'signed with {by}' if keys else 'signed already: nothing to do'}")
    for each in lacks:
        output.result(f"still lacks: {each}")
    if not lacks and workspace is not None:
        output.result("has all the signatures that it needs")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    if arguments.file is not None:
        document = signing.read_file(arguments.file)
        _print_root(document.data, arguments)
        return 0
    workspace = Workspace.open(arguments.folder)
    documents, draft = workspace.root_documents(), root_draft.load(workspace)
    newest = workspace.root()
    if arguments.json:
        lacks = draft.lacks(newest) if draft is not None else []
        values = {"newest": describe(documents[newest.number]).values, "draft": describe(draft.data).values if draft else None}
        output.result_json({**values, "lacks": lacks})
        return 0
    _print_root(documents[newest.number], arguments)
    if draft is not None:
        output.result("\ndraft of the next one:")
        _print_root(draft.data, arguments)
        for each in draft.lacks(newest) or ("nothing: `ota root publish` publishes it",):
            output.result(f"lacks: {each}")
    return 0


def _print_root(data: bytes, arguments: argparse.Namespace) -> None:
    with naming(arguments.file or "root"):
        found = describe(data)
    if arguments.json:
        output.result_json(found.values)
        return
    width = max(len(label) for label, _ in found.rows)
    for label, text in found.rows:
        output.result(f"{label.ljust(width)}  {text}")


def _edit(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    if arguments.discard:
        removed = root_draft.discard(workspace)
        if arguments.json:
            output.result_json({"discarded": removed})
        else:
            output.result("the draft is removed" if removed else "there is no draft")
        return 0
    expires_s = int(time.time()) + arguments.days * DAY_S
    return edited(workspace, lambda root: replace(root, expires_s=expires_s), f"expires in {arguments.days} days", arguments)


def _publish(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    now_s = check_clock(arguments, workspace.last_signed_s())
    draft = rotation.take_in(workspace, arguments.file)
    if draft is not None:
        root_draft.publishable(workspace, draft)
    with Broker(workspace.settings) as broker:
        done = rotation.publish_root(workspace, broker, now_s, again=arguments.sign_again)
    for note in done.notes:
        output.note(f"note: {note}")
    if arguments.json:
        output.result_json(
            {
                "root": done.root.number,
                "new": done.is_new,
                "sent": done.put,
                "signed_again": [str(each) for each in done.renewed],
                "not_signed_again": [{"scope": str(scope), "why": why} for scope, why in done.left],
                "stale": [{"scope": str(each.scope), "instance": each.instance, "manifest": each.digest} for each in done.stale],
            }
        )
        return 1 if done.left else 0
    what = "is published" if done.is_new or done.put else "is on the broker already"
    output.result(
        f"root {done.root.number} {what}: boards follow it when they are connected, one by one from the root that they have"
    )
    for scope in done.renewed:
        output.result(f"the deployment of {scope} is signed again")
    for scope, why in done.left:
        output.result(f"the deployment of {scope} is not signed again, and boards refuse it: {why}")
    for each in done.stale:
        output.result(
            f"{each.label} of {each.scope}, instance {each.instance}, has too few signatures of this root's release keys:"
            " boards that do not run it yet refuse it. `ota root publish --sign-again` signs it again"
        )
    return 1 if done.left else 0


def _rehearse(arguments: argparse.Namespace) -> int:
    workspace = Workspace.open(arguments.folder)
    roots, draft = chain(workspace), root_draft.load(workspace)
    documents = [signing.Signable.from_bytes(each) for each in workspace.root_documents().values()]
    next_root = draft.content if draft is not None and isinstance(draft.content, Root) else None
    documents += [draft] if draft is not None else []
    with Broker(workspace.settings) as broker:
        view = View(broker, open_roster(workspace, arguments))
        with shown_reading(broker):
            view.read()
    boards = [rotation.outlook(name, each.report, roots, documents) for name, each in sorted(view.devices.items())]
    lacks = draft.lacks(roots[-1]) if draft is not None else ()
    stale = rotation.stale(workspace, next_root)
    if arguments.json:
        output.result_json(
            {
                "root": roots[-1].number,
                "draft": next_root.number if next_root else None,
                "lacks": lacks,
                "complete": view.complete,
                "reasons": view.gaps,
                "boards": [vars(each) for each in boards],
                "stale": [{"scope": str(each.scope), "instance": each.instance, "manifest": each.digest} for each in stale],
            }
        )
    else:
        _tell(roots[-1], draft, boards, stale)
        for gap in view.gaps:
            output.note(f"incomplete: {gap}")
    return 1 if view.gaps or any(each.verdict == "refuses" for each in boards) else 0


def _tell(
    newest: Root,
    draft: signing.Signable | None,
    boards: list[rotation.Outlook],
    stale: tuple[rotation.Stale, ...],
) -> None:
    if draft is None:
        output.result(f"there is no draft: this is about root {newest.number}, the newest")
    else:
        output.result(f"draft of root {newest.number + 1}; lacks: {'; '.join(draft.lacks(newest)) or 'nothing'}")
    for number in sorted({each.root for each in boards}):
        count = sum(each.root == number for each in boards)
        where = f"at root {number}" if number else "without a word on its root"
        output.result(f"{count} board{'s' * (count != 1)} {where}")
    told = [each for each in boards if each.verdict != "follows"]
    output.result(f"{len(boards) - len(told)} of {len(boards)} boards will follow")
    if told:
        rows = [(each.device, str(each.root or "-"), each.verdict, each.why) for each in told]
        output.result(output.table(("board", "root", "verdict", "why"), rows))
    for one in stale:
        output.result(
            f"{one.label} of {one.scope}, instance {one.instance}, is to be signed again (`ota root publish --sign-again`)"
        )
