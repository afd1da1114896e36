"""init: a workspace and its keys; and the options of what builds and signs."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ota.author.build import Draft, Update, prepare
from ota.author.javascript import is_script
from ota.cli import origin, output, registry
from ota.cli.board import class_of, targets_of
from ota.errors import OtaError
from ota.formats import component, wasm
from ota.formats.agent import ARCHITECTURES
from ota.formats.chunks import CHUNK_MAX_BYTES, CHUNK_MIN_BYTES, DEFAULT_CHUNK_BYTES
from ota.formats.loadable import core_module
from ota.formats.manifest import ANY_BOARD
from ota.formats.oci import Reference
from ota.formats.reasons import Refused
from ota.formats.report import Report
from ota.formats.text import nearest
from ota.keyring import ALGORITHMS
from ota.operator import clock
from ota.operator.ca import CertificateAuthority
from ota.operator.publish import sign_draft
from ota.operator.workspace import Settings, Workspace, check_vendor
from ota.token_keys import TokenUri


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    init = commands.add_parser(
        "init", help="make a workspace: keys, root of trust, settings", epilog="example: ota init --vendor example.com"
    )
    init.add_argument(
        "--vendor",
        type=output.checked(check_vendor),
        default="example.com",
        help="a domain name of yours (default %(default)s)",
    )
    init.add_argument(
        "--broker", type=output.broker_url, default="mqtt://localhost:1883", metavar="URL", help="default %(default)s"
    )
    init.add_argument("--group", type=output.name, default="lab", help="the workspace's default group (default %(default)s)")
    init.add_argument("--algorithm", choices=ALGORITHMS, default=ALGORITHMS[0], help="of the keys (default %(default)s)")
    init.add_argument(
        "--pkcs11",
        type=output.checked(TokenUri.parse, empty=True),
        metavar="URI",
        default="",
        help="make the keys in a token: pkcs11:token=LABEL?module-path=/path/of/module.so",
    )
    locking = init.add_mutually_exclusive_group()
    locking.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="file that holds the passphrase to lock the keys with"
    )
    locking.add_argument(
        "--no-passphrase", action="store_true", help="do not lock the keys (default: ask, where there is a terminal)"
    )
    init.add_argument("--json", action="store_true", help="machine-readable result")
    init.set_defaults(handler=_init)


def add_build_options(command: argparse.ArgumentParser) -> None:
    """The options that `build` and `publish` share."""
    made = command.add_argument_group("how a module is built")
    made.add_argument("--board", default=ANY_BOARD, help="class of boards that it is for (default: every board)")
    made.add_argument("--version", type=output.name, help="instead of the version in the .toml")
    made.add_argument(
        "--aot",
        type=targets,
        default=(),
        metavar="TARGET[:CPU[+FEATURE…]],…",
        help="also compile ahead of time for x86_64 aarch64 armv7 riscv64; board: for what --board has",
    )
    made.add_argument(
        "--new-sequence",
        action="store_true",
        help="sign again although this content is signed: boards take it after a newer release",
    )
    made.add_argument("--clock-is-right", action="store_true", help="sign although this machine's clock looks wrong")
    made.add_argument(
        "--chunk-bytes",
        type=_chunk_bytes,
        default=DEFAULT_CHUNK_BYTES,
        metavar="BYTES",
        help="1024 to 262144 (default %(default)s)",
    )
    origin.add_options(command)
    registry.add_options(command)
    add_passphrase(command)


def add_passphrase(command: argparse.ArgumentParser) -> None:
    """The option for locked keys."""
    command.add_argument("--passphrase-file", type=Path, metavar="FILE", help="file that holds the keys' passphrase")


def _chunk_bytes(text: str) -> int:
    if not text.isdecimal() or not CHUNK_MIN_BYTES <= int(text[:8]) <= CHUNK_MAX_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {CHUNK_MIN_BYTES} to {CHUNK_MAX_BYTES}")
    return int(text)


def targets(text: str) -> tuple[str, ...]:
    """Targets of ahead-of-time images on a command line."""
    found = tuple(each.strip() for each in text.split(",") if each.strip())
    for each in found:
        if (target := each.partition(":")[0]) not in (*ARCHITECTURES, "board"):
            raise argparse.ArgumentTypeError(f"{target} is no target{nearest(target, ARCHITECTURES)}: {', '.join(ARCHITECTURES)}")
    return found


def passphrase(arguments: argparse.Namespace) -> bytes | None:
    """From the file that the command line names; never from the command line itself."""
    if not arguments.passphrase_file:
        return None
    try:
        text = bytes(arguments.passphrase_file.read_bytes().strip())
    except OSError as error:
        raise OtaError(f"{arguments.passphrase_file}: {error.strerror}") from error
    if not text:
        raise OtaError(f"{arguments.passphrase_file} is empty: a passphrase is expected in it")
    return text


def _new_passphrase(arguments: argparse.Namespace) -> bytes | None:
    """For new keys: from the file, or from a prompt where somebody sits at a terminal."""
    if arguments.passphrase_file or arguments.no_passphrase or not sys.stdin.isatty():
        return passphrase(arguments)
    first = output.secret("passphrase to lock the new keys with (empty: do not lock them): ", "--passphrase-file")
    if first and output.secret("once more: ", "--passphrase-file") != first:
        raise OtaError("the passphrases differ")
    return first.encode() or None


def open_workspace(arguments: argparse.Namespace) -> Workspace:
    """The workspace that the command line names. Who sits at a terminal is asked for the passphrase of locked keys."""
    workspace = Workspace.open(arguments.folder, passphrase(arguments) if "passphrase_file" in arguments else None)
    if sys.stdin.isatty():
        workspace.secrets.ask = lambda what: output.secret(f"passphrase of {what}: ", "--passphrase-file").encode()
    return workspace


def _init(arguments: argparse.Namespace) -> int:
    settings = Settings(arguments.vendor, arguments.broker, arguments.group)
    token = arguments.pkcs11
    secret = passphrase(arguments) if token else _new_passphrase(arguments)
    workspace = Workspace.create(arguments.folder, settings, int(time.time()), arguments.algorithm, secret, token)
    keys = workspace.keys.index if token else workspace.folder / "keys"
    root, authority = workspace.folder / "trust" / "root.1.cbor", CertificateAuthority(workspace, token).certificate_file
    if arguments.json:
        made = {"keys": keys, "root": root, "authority": authority, "settings": workspace.folder / "ota.toml"}
        output.result_json({**{name: str(path) for name, path in made.items()}, "locked": bool(secret or token)})
        return 0
    where = f"in the token, named by {keys}" if token else f"{keys}  ({_about_lock(secret)}; keep root.pem offline)"
    output.result(f"keys          {where}")
    output.result(f"root of trust {root}  (goes on every board)")
    output.result(f"authority     {authority}  (signs boards' certificates; goes on the broker)")
    output.result(f"settings      {workspace.folder / 'ota.toml'}")
    return 0


def _about_lock(secret: bytes | None) -> str:
    return "locked with the passphrase" if secret else "NOT locked: whoever can read them can sign"


def prepared(module: Path | Reference, arguments: argparse.Namespace, workspace: Workspace) -> Draft | Update:
    """From a .wasm, a script or an artifact in a registry, to be signed, or from a folder that was built and signed before."""
    if isinstance(module, Reference):
        if arguments.revision == origin.FROM_GIT:
            raise OtaError(f"{module} is in no folder of git: name its --revision")
        with registry.fetched(module, arguments) as (path, pinned):
            return _drafted(path, arguments, workspace, pinned)
    registry.check_unused(arguments, str(module))
    if module.is_dir():
        for name, given in (
            ("--board", arguments.board != ANY_BOARD),
            ("--version", arguments.version),
            ("--aot", arguments.aot),
            ("--new-sequence", arguments.new_sequence),
            *origin.given(arguments),
        ):
            if given:
                raise OtaError(f"{module} is built and signed already: {name} is for a .wasm")
        return Update.load(module)
    return _drafted(module, arguments, workspace)


def _tell_about(module: Path) -> None:
    if is_script(module):
        return  # what it becomes is ours
    with contextlib.suppress(OSError, Refused):  # what is wrong with the module is told when it is prepared
        given = module.read_bytes()
        core = core_module(given)
        if component.is_component(given):
            output.note(f"{module} is a component: the core module in it, {len(core)} bytes, is what boards get")
        if wasm.reconstructs(core):
            output.note(
                f"{module} runs its constructors at each event: link it with -Wl,--export=__wasm_call_ctors, or as a reactor"
            )


def _drafted(module: Path, arguments: argparse.Namespace, workspace: Workspace, pinned: str = "") -> Draft:
    if module.exists() and not module.with_suffix(".toml").exists():
        output.note(f"{pinned or module} has no .toml beside it: the module subscribes to nothing, so no event will reach it")
    _tell_about(module)
    return prepare(
        module,
        workspace.settings.vendor,
        board=class_of(arguments.board),
        version=arguments.version,
        chunk_bytes=arguments.chunk_bytes,
        aot=targets_of(arguments.board, arguments.aot),
        kind=origin.kind(arguments),
        provenance=replace(origin.provenance(arguments, module), origin=pinned),
        sbom=arguments.sbom,
        progress=output.note,
    )


def check_clock(arguments: argparse.Namespace, signed_s: int, boards: Iterable[Report] = ()) -> int:
    """The time in seconds since 1970, once it is plausible or confirmed. Raises ClockError."""
    now_s = int(time.time())
    if not arguments.clock_is_right:
        clock.check(now_s, clock.Evidence(signed_s).with_boards(boards))
    return now_s


def build_update(workspace: Workspace, arguments: argparse.Namespace) -> Update:
    """A signed update, without a look at the broker: the same content gives the same manifest, if no newer one was made since."""
    made = prepared(arguments.module, arguments, workspace)
    if isinstance(made, Update):
        return made
    return sign_draft(workspace, made, check_clock(arguments, workspace.last_signed_s()), anew=arguments.new_sequence)
