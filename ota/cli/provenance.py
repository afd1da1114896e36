"""sbom, rebuild: what a module is made of, and whether an update is what its source gives."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ota.author import sbom as sboms
from ota.author.build import Draft, Update, describe, is_encrypted, prepare
from ota.author.rebuild import differences, said_of, signed_again
from ota.author.source import content
from ota.cli import operator, output, registry
from ota.cli.board import targets_of
from ota.durable import write_durably
from ota.errors import KeyFileError, OtaError
from ota.formats import wasm
from ota.formats.loadable import core_module
from ota.formats.manifest import Manifest, board_of, verify_any
from ota.formats.provenance import Kind
from ota.formats.reasons import naming
from ota.keyring import Signer
from ota.operator.workspace import Workspace, WorkspaceError

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    sbom = commands.add_parser(
        "sbom", help="show the bill of materials of an update, or make a module's", epilog="example: ota sbom dist/blink-1.0.0"
    )
    sbom.add_argument(
        "file", type=registry.source, help="a .wasm, .js or .ts, oci://REGISTRY/NAME:TAG, or the folder of `ota build`"
    )
    registry.add_options(sbom)
    sbom.add_argument("-o", "--out", type=Path, help="into this file (default: standard output)")
    sbom.set_defaults(handler=_sbom)

    rebuild = commands.add_parser(
        "rebuild",
        help="build an update again and compare every byte",
        epilog="example: ota rebuild dist/blink-1.0.0 blink.wasm --check",
    )
    rebuild.add_argument("folder_of_update", type=Path, metavar="FOLDER", help="that `ota build` made")
    rebuild.add_argument(
        "module",
        type=registry.source,
        help="what it is to be built from: the .wasm, .js or .ts, with its .toml beside it, or oci://REGISTRY/NAME:TAG",
    )
    registry.add_options(rebuild)
    rebuild.add_argument(
        "--aot", type=operator.targets, default=(), metavar="TARGET,…", help="the targets that it was built with, in their order"
    )
    rebuild.add_argument("--sbom", default="", metavar=f"{sboms.AUTO}|FILE", help=f"default: {sboms.AUTO}, where it has one")
    where = rebuild.add_mutually_exclusive_group(required=True)
    where.add_argument("--check", action="store_true", help="compare, and write nothing")
    where.add_argument("-o", "--out", type=Path, help="compare, and write what was built again into this folder")
    rebuild.add_argument("--json", action="store_true", help="machine-readable result")
    operator.add_passphrase(rebuild)
    rebuild.set_defaults(handler=_rebuild)


def _sbom(arguments: argparse.Namespace) -> int:
    with registry.opened(arguments.file, arguments) as (path, _):
        bill = _bill_of(path)
    if arguments.out is None:
        output.result(bill.decode())
    else:
        write_durably(arguments.out, bill)
    return 0


def _bill_of(path: Path) -> bytes:
    if path.is_dir():
        bill = Update.load(path).sbom
        if not bill:
            raise OtaError(f"{path} names no bill of materials: `ota build --sbom auto` adds one")
        return bill
    with naming(path):
        blob = core_module(content(path))
        about = describe(path, wasm.read(blob))
    return sboms.make(path, blob, about.name, about.version)


def _rebuild(arguments: argparse.Namespace) -> int:
    workspace = operator.open_workspace(arguments)
    update = Update.load(arguments.folder_of_update)  # read once: what is compared is what was verified
    with naming(arguments.folder_of_update / "manifest.suit"):
        verify_any(update.envelope, workspace.root())
    with registry.opened(arguments.module, arguments) as (path, _):
        again = _again(workspace, update, path, arguments)
    found = differences(update, again)
    keys = _keys(workspace)
    made, otherwise = signed_again(update, keys)
    if otherwise:
        found.append(f"{otherwise} of the signatures: the same key made another")
    if arguments.out is not None:
        # What is not the same bytes gets no signature: the audit log has no line for it.
        same = not found and not is_encrypted(update.manifest)
        again.signed(update.manifest.sequence, *(keys if same else [])).write(arguments.out)
        if not same:
            output.note(f"{arguments.out} has no signature: it is another update than {arguments.folder_of_update}")
    if arguments.json:
        output.result_json({"same": not found, "manifest": update.digest, "differences": found, "signatures_made_again": made})
        return int(bool(found))
    for each in found:
        output.result(f"not the same: {each}")
    if not found:
        how = (
            f"{made} signature{'s' * (made != 1)} made again and the same" if made else "its signatures verify, none was made again"
        )
        output.result(f"the same: {update.label}, sequence {update.manifest.sequence}, manifest {update.digest.hex()}; {how}")
    return int(bool(found))


def _again(workspace: Workspace, update: Update, module: Path, arguments: argparse.Namespace) -> Draft:
    manifest, said = update.manifest, said_of(update)
    if not isinstance(manifest, Manifest):
        raise OtaError("an agent is built by `make`, not from a module")
    board = board_of(manifest)
    if not board or manifest.kind is Kind.UNKNOWN:
        raise OtaError("the update is for a class of boards or of a kind that this version can't name")
    if len(manifest.images) != len(arguments.aot):
        raise OtaError(f"the update has {len(manifest.images)} ahead-of-time images: name their targets with --aot")
    return prepare(
        module,
        workspace.settings.vendor,
        board=board,
        version=manifest.version,
        chunk_bytes=update.index.chunk_bytes,
        aot=targets_of(board, arguments.aot),
        kind=manifest.kind,
        provenance=replace(said, sbom=b""),
        sbom=arguments.sbom or (sboms.AUTO if said.sbom else ""),
        progress=output.note,
        anew=True,
    )


def _keys(workspace: Workspace) -> list[Signer]:
    try:
        return workspace.role_keys("release")
    except (KeyFileError, WorkspaceError):
        return []
