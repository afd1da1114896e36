"""Options of publish: for whom a module is encrypted."""

import argparse
from collections.abc import Sequence

from ota.author.build import Draft, Update, is_encrypted
from ota.author.encryption import encrypted
from ota.cli import output, scopes
from ota.errors import OtaError
from ota.operator.group_keys import of_scopes
from ota.operator.scope import Scope
from ota.operator.updates import Updates
from ota.operator.workspace import Workspace

__all__ = ["add_options", "applied"]


def add_options(command: argparse.ArgumentParser) -> None:
    """Whether a module is encrypted, and for whom."""
    group = command.add_argument_group("encryption")
    group.add_argument(
        "--encrypt",
        action="store_true",
        help="encrypt the modules: for the key of the group (`ota group-keys`), with --device for the boards' own keys",
    )
    group.add_argument(
        "--encrypt-for",
        type=scopes.names,
        action="extend",
        default=[],
        metavar="NAME[,NAME…]",
        help="encrypt them for these boards' own keys; may be repeated",
    )
    group.add_argument("--plain", action="store_true", help="do not encrypt, although the module was encrypted before")


def applied(made: Draft | Update, wanted: Sequence[Scope], workspace: Workspace, arguments: argparse.Namespace) -> Draft | Update:
    """The update as it is to travel. Raises OtaError where it can't be encrypted as asked, and for a secret that would get out."""
    asked = arguments.encrypt or bool(arguments.encrypt_for)
    if asked and arguments.plain:
        raise output.UsageError("either --plain or --encrypt and --encrypt-for")
    if not asked:
        if not arguments.plain and not is_encrypted(made.manifest) and _was_encrypted(workspace, made.manifest.name):
            raise OtaError(f"{made.manifest.name} was encrypted before: give --encrypt, or --plain to publish it for all to read")
        return made
    if isinstance(made, Update):
        raise OtaError(f"{made.label} is built and signed already: --encrypt is for a .wasm")
    return encrypted(made, of_scopes(workspace, wanted, groups=arguments.encrypt, boards=arguments.encrypt_for))


def _was_encrypted(workspace: Workspace, module: str) -> bool:
    updates = Updates(workspace)
    newest = updates.newest(module)
    manifest = updates.manifest(newest.digest) if newest is not None else None
    return manifest is not None and is_encrypted(manifest)
