"""publish: builds, signs and deploys modules."""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ota.author.agent import prepare_agent
from ota.author.build import Draft, Update
from ota.cli import bundles, entries, origin, output, registry, scopes, secrecy, waiting
from ota.cli.board import class_of
from ota.cli.fleet import add_devices_option, open_roster, shown_reading
from ota.cli.operator import add_build_options, check_clock, open_workspace, prepared
from ota.errors import OtaError
from ota.formats.deployment import AGENT, Deployment
from ota.formats.oci import Reference
from ota.formats.report import Report
from ota.keyring import SigningKey
from ota.operator import signing, survey
from ota.operator.audience import check_classes, newer
from ota.operator.broker import Broker
from ota.operator.checks import check_instance
from ota.operator.edit import Edit
from ota.operator.order import Item, Order, Present, decide
from ota.operator.pending import publish_document, record_document
from ota.operator.publish import Done, deploy, deploy_unsent, present, sign_draft
from ota.operator.reports import View
from ota.operator.scope import Scope
from ota.operator.survey import Survey
from ota.operator.updates import Updates
from ota.operator.workspace import MAX_SEQUENCE, Workspace

Made = Draft | Update


def add_commands(commands: Any) -> None:
    """Adds the verb of this module."""
    publish = commands.add_parser(
        "publish",
        help="build, sign and deploy modules",
        description="Build, sign and deploy modules. Each replaces what its instance had; other instances stay.",
        epilog="example: ota publish blink.wasm --group lab --wait 60",
    )
    publish.add_argument(
        "module",
        type=registry.source,
        nargs="*",
        help="a .wasm, .js, .ts, oci://REGISTRY/NAME:TAG, a folder that `ota build` made, or a deployment that was signed as file",
    )
    publish.add_argument(
        "--agent",
        type=Path,
        metavar="FILE",
        help="instead of modules: an agent that `make tarball` made, for the boards themselves",
    )
    publish.add_argument("--instance", type=output.name, help="the instance that runs it (default: the module's name)")
    whom = publish.add_argument_group("which boards")
    scopes.add_scope(whom)
    scopes.add_phase(whom, " (default: 100, or as it is when the group has this update already)")
    publish.add_argument(
        "--together", action="store_true", help="the modules are a set: a board changes to all of them, or goes back from all"
    )
    publish.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="configuration that travels with the module; may be repeated (default: what the instance has)",
    )
    scopes.add_timing(publish)
    waiting.add_options(publish)
    secrecy.add_options(publish)
    publish.add_argument(
        "--pack",
        type=Path,
        metavar="FILE",
        help="without a broker: sign, and write a bundle; `ota republish` sends it later",
    )
    publish.add_argument("--dry-run", action="store_true", help="check and build; sign nothing, send nothing")
    add_devices_option(whom)
    whom.add_argument("--mixed-group", action="store_true", help="publish although the group has boards of another class")
    publish.add_argument("--take-over", action="store_true", help="replace what another workspace has on the broker")
    publish.add_argument("--json", action="store_true", help="machine-readable result")
    add_build_options(publish)
    publish.add_argument("--security-epoch", type=_epoch, default=0, metavar="NUMBER", help="of an agent (default %(default)s)")
    publish.set_defaults(handler=_publish)


def _publish(arguments: argparse.Namespace) -> int:
    _check_usage(arguments)
    workspace = open_workspace(arguments)
    if document := _signed_file(arguments.module):
        return _publish_document(workspace, document, arguments)
    order, wanted = scopes.order(arguments), scopes.scopes(workspace, arguments)
    config = scopes.settings(arguments.config)
    made: dict[str, Made] = _agent(arguments, workspace)
    for path in arguments.module:
        each = secrecy.applied(prepared(path, arguments, workspace), wanted, workspace, arguments)
        name = arguments.instance or each.manifest.name
        check_instance(name)
        if name in made:
            raise OtaError(f"two of the modules are for instance {name}: publish one of them with --instance")
        made[name] = each
    if arguments.dry_run:
        return _rehearse(workspace, made, order, config, wanted, arguments)
    if arguments.pack is not None:
        return _pack(workspace, made, order, config, wanted, arguments)
    with Broker(workspace.settings) as broker:
        surveys = entries.survey(workspace, broker, wanted, take_over=order.take_over)
        view = View(broker, roster := open_roster(workspace, arguments))
        with shown_reading(broker):
            view.read()
        boards = [(each.report, each.online) for each in view.devices.values() if each.report and _is_for(each.report, wanted)]
        now_s = check_clock(
            arguments, max(each.signed_s for each in surveys.values()), [report for report, online in boards if online]
        )
        if arguments.wait is None:  # else it says what becomes of them
            entries.warn_of_strangers(roster, wanted, order.boards)
        entries.warn_of_sets(workspace, broker, roster, surveys, list(made))
        items = _items(workspace, made, order, config, surveys, [report for report, _ in boards], now_s, arguments)
        label = ", ".join(each.update.label for each in items)
        with output.progress(label, 0) as bar:
            done = deploy(workspace, broker, items, order, now_s, surveys, bar.at)
    labels = {each.instance: each.update.label for each in items}
    _tell(labels, made, done, arguments)
    if arguments.wait is None:
        return 0
    return waiting.wait(workspace, [each.deployment for each in done], list(made), now_s, arguments)


def _signed_file(sources: Sequence[Path | Reference]) -> bytes:
    """A deployment document that several people signed as a file; empty where modules are to be published."""
    return signing.read_file(Path(str(sources[0]))).data if _is_document(sources) else b""


def _is_document(sources: Sequence[Path | Reference]) -> bool:
    return len(sources) == 1 and isinstance(sources[0], Path) and sources[0].suffix == ".cbor"


def _publish_document(workspace: Workspace, document: bytes, arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        raise output.UsageError("--dry-run is for modules: `ota inspect FILE` shows a document")
    if arguments.pack is not None:
        deployment = record_document(workspace, document)
        size = bundles.write_bundle(workspace, [Scope.of(deployment)], arguments.pack)
        output.result(f"{arguments.pack}: {size} bytes, for {Scope.of(deployment)}; nothing was sent")
        return 0
    with Broker(workspace.settings) as broker:
        deployment = publish_document(workspace, broker, document)
    if arguments.json:
        output.result_json({**scopes.whose(Scope.of(deployment)), "epoch": deployment.epoch, "sent": True})
    else:
        output.result(f"the deployment of {Scope.of(deployment)}, epoch {deployment.epoch}, is published")
    if arguments.wait is None:
        return 0
    return waiting.wait(workspace, [deployment], list(deployment.entries), int(time.time()), arguments)


def _pack(
    workspace: Workspace,
    made: Mapping[str, Made],
    order: Order,
    config: Mapping[str, str],
    wanted: list[Scope],
    arguments: argparse.Namespace,
) -> int:
    """Goes by what this workspace knows: a bundle is for boards without a broker."""
    surveys = {scope: survey.known(workspace, scope) for scope in wanted}
    now_s = check_clock(arguments, max(each.signed_s for each in surveys.values()))
    items = _items(workspace, made, order, config, surveys, [], now_s, arguments)
    done = deploy_unsent(workspace, items, order, now_s, surveys)
    size = bundles.write_bundle(workspace, wanted, arguments.pack)
    _tell({each.instance: each.update.label for each in items}, made, done, arguments)
    output.note(f"{arguments.pack}: {size} bytes; nothing was sent")
    return 0


def _epoch(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_SEQUENCE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _check_usage(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what does not go together."""
    if arguments.agent is not None or _is_document(arguments.module):
        registry.check_unused(arguments, str(arguments.agent or arguments.module[0]))
        if arguments.encrypt or arguments.encrypt_for:
            raise output.UsageError("--encrypt and --encrypt-for are for modules")
    if arguments.pack is not None and (arguments.wait is not None or arguments.take_over):
        raise output.UsageError("--pack sends nothing: it does not go with --wait and --take-over")
    if len(arguments.module) > 1 and (arguments.instance or arguments.config or arguments.description):
        raise output.UsageError("--instance, --config and --description are about one module: publish it alone")
    if arguments.agent is None:
        if not arguments.module:
            raise output.UsageError("nothing to publish: name a .wasm, or with --agent an agent's tarball")
        return
    if arguments.module or arguments.instance or arguments.together or arguments.config or arguments.aot or arguments.version:
        raise output.UsageError("an agent is published by itself, without --instance, --together, --config, --aot and --version")


def _agent(arguments: argparse.Namespace, workspace: Workspace) -> dict[str, Made]:
    """The agent, where one is to be published, which goes by itself."""
    if arguments.agent is None:
        return {}
    vendor, board = workspace.settings.vendor, class_of(arguments.board)
    epoch, chunk_bytes = arguments.security_epoch, arguments.chunk_bytes
    made = prepare_agent(
        arguments.agent,
        vendor,
        board=board,
        security_epoch=epoch,
        chunk_bytes=chunk_bytes,
        kind=origin.kind(arguments),
        provenance=origin.provenance(arguments, arguments.agent),
        sbom=arguments.sbom,
    )
    return {AGENT: made}


def _is_for(report: Report, wanted: Sequence[Scope]) -> bool:
    return Scope(report.group) in wanted or Scope(device=report.device) in wanted


def _items(
    workspace: Workspace,
    made: Mapping[str, Made],
    order: Order,
    config: Mapping[str, str],
    surveys: Mapping[Scope, Survey],
    reports: Sequence[Report],
    now_s: int,
    arguments: argparse.Namespace,
) -> list[Item]:
    """The updates, signed where they are not yet, once nothing stands against them: what the boards are, what they have."""
    if not arguments.mixed_group:
        for each in made.values():
            check_classes(each.manifest, reports)
    before = [present(workspace, scope, each) for scope, each in surveys.items()]
    signed = _signed_before(workspace, made, before, list(surveys.values()), arguments)
    _check(made, signed, order, config, before, now_s)
    items, waits = [], []
    for name, each in made.items():
        try:
            update = signed.get(name) or (sign_draft(workspace, each, now_s, anew=True) if isinstance(each, Draft) else each)
        except signing.PendingError as error:
            waits.append(error)
            continue
        if note := newer(update.manifest, reports):
            output.note(f"note: {note}")
        items.append(Item(update, name, config))
    if waits:
        raise waits[0] if len(waits) == 1 else OtaError("; ".join(map(str, waits)))
    return items


def _signed_before(
    workspace: Workspace,
    made: Mapping[str, Made],
    before: Sequence[Present],
    surveys: Sequence[Survey],
    arguments: argparse.Namespace,
) -> dict[str, Update]:
    """By instance, the updates that need no new signature."""
    found = {}
    for name, each in made.items():
        if isinstance(each, Update):
            found[name] = each
        elif not arguments.new_sequence:
            least = max((survey.sequences.get(each.manifest.name, 0) for survey in surveys), default=0)
            kept = Updates(workspace).reusable(each, _deployed(before, name), least)
            found |= {name: kept} if kept is not None else {}
    return found


def _check(
    made: Mapping[str, Made],
    signed: Mapping[str, Update],
    order: Order,
    config: Mapping[str, str],
    before: Sequence[Present],
    now_s: int,
) -> list[Edit]:
    """Decides as if everything were signed: a refusal must not cost a signature. Raises Refused, OtaError."""
    key = SigningKey.generate()
    items = [
        Item(signed.get(name) or (each.signed(MAX_SEQUENCE, key) if isinstance(each, Draft) else each), name, config)
        for name, each in made.items()
    ]
    return [decide(items, order, found, now_s) for found in before]


def _deployed(before: Sequence[Present], instance: str) -> bytes | None:
    """The manifest that an instance has, where it is the same for all."""
    found = {each.deployment.entries[instance].manifest_digest if instance in each.deployment.entries else b"" for each in before}
    return found.pop() or None if len(found) == 1 else None


def _size(made: Made) -> int:
    return sum(len(blob) + len(index.to_bytes()) for blob, index in made.blobs)


def _rehearse(
    workspace: Workspace,
    made: Mapping[str, Made],
    order: Order,
    config: Mapping[str, str],
    wanted: Sequence[Scope],
    arguments: argparse.Namespace,
) -> int:
    """Says what would be published. Signs nothing, uses up no number, and needs no broker: goes by what this workspace knows."""
    before = [present(workspace, scope, Survey()) for scope in wanted]
    unsigned = {"manifest": None, "deployment": None}
    updates = _signed_before(workspace, made, before, [], arguments)
    edits = _check(made, updates, order, config, before, int(time.time()))
    if arguments.json:
        published = [
            _as_json(edit.applied(found.deployment), name, each, name in edit.instances) | ({} if name in updates else unsigned)
            for found, edit in zip(before, edits, strict=True)
            for name, each in made.items()
        ]
        output.result_json({"published": published, "put_back": 0, "sent": False})
        return 0
    for name, each in made.items():
        size, chunks = _size(each), len(each.index.digests)
        for scope in wanted:
            known = "signed before" if name in updates else "not signed yet"
            what = f"{size} bytes, {chunks} chunk{'s' * (chunks != 1)}, {known}; nothing was sent"
            output.result(f"{each.label} for {scope}{_as_instance(each.label, name)}: {what}")
    return 0


def _as_json(deployment: Deployment, name: str, made: Made, changed: bool) -> dict[str, Any]:
    return {
        **entries.as_json(deployment, name),
        "changed": changed,
        "bytes": _size(made),
        "chunks": len(made.index.digests),
    }


def _tell(labels: Mapping[str, str], made: Mapping[str, Made], done: Sequence[Done], arguments: argparse.Namespace) -> None:
    if arguments.json:
        if arguments.wait is None:
            published = [
                _as_json(each.deployment, name, made[name], name in each.changed) for each in done for name in each.instances
            ]
            put_back = max(each.put_back for each in done)
            output.result_json({"published": published, "put_back": put_back, "sent": arguments.pack is None})
        return
    is_so = "is published" if arguments.pack is None else "is signed"
    for each in done:
        for name, entry in each.entries.items():
            already = "" if name in each.changed else " already"
            where = f"{Scope.of(each.deployment)}{_as_instance(labels[name], name)}{already}"
            output.result(f"{labels[name]} {is_so} for {where} ({entries.about(name, entry)})")
    if back := max(each.put_back for each in done):
        output.result(f"{back} messages that the broker had lost were put back")


def _as_instance(label: str, name: str) -> str:
    return "" if label.partition(" ")[0] == name else f" as instance {name}"
