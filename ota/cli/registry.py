"""push; and the options of what takes a module out of a registry."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ota.author import artifact, cosign
from ota.author.docker_config import login
from ota.author.http import trusting
from ota.author.registry import Repository
from ota.cli import output
from ota.errors import OtaError
from ota.formats.oci import SCHEME, Reference

__all__ = ["add_commands", "add_options", "check_unused", "fetched", "opened", "source"]

Source = Path | Reference


def add_commands(commands: Any) -> None:
    """Adds the verb of this module."""
    push = commands.add_parser(
        "push",
        help="put a module into an OCI registry",
        description="Put a module, and the .toml beside it, into an OCI registry. `ota publish` takes it from there.",
        epilog="example: ota push oci://registry.example.com/blink:1.0.0 blink.wasm",
    )
    push.add_argument("reference", type=_reference, metavar=f"{SCHEME}REGISTRY/NAME:TAG", help="where to")
    push.add_argument("module", type=Path, help="the .wasm, .js or .ts")
    push.add_argument("--json", action="store_true", help="machine-readable result")
    _add_connection(push)
    push.set_defaults(handler=_push)


def add_options(command: argparse.ArgumentParser, *, reads_description: bool = True) -> None:
    """For what takes a module."""
    group = command.add_argument_group("modules in a registry")
    _add_connection(group)
    group.add_argument("--cosign-key", type=Path, metavar="FILE", help=f"with {SCHEME}: who must have signed it with cosign")
    command.set_defaults(description=None)
    if reads_description:
        group.add_argument("--description", type=Path, metavar="FILE", help=f"with {SCHEME}: the .toml to use for the module")


def _add_connection(command: argparse._ActionsContainer) -> None:
    command.add_argument("--registry-ca", type=Path, metavar="FILE", help="authorities to trust beside the system's, in PEM")
    command.add_argument("--plain-http", action="store_true", help="speak to the registry without TLS (default: on loopback only)")


def check_unused(arguments: argparse.Namespace, what: str) -> None:
    """Raises UsageError for options that mean nothing where no registry is asked: a signature would seem to be checked."""
    for name in ("registry_ca", "plain_http", "cosign_key", "description"):
        if getattr(arguments, name):
            raise output.UsageError(f"{what} is no artifact in a registry: --{name.replace('_', '-')} is for {SCHEME}")


def source(text: str) -> Source:
    """A module on the command line: a path, or an artifact in a registry."""
    if not text.startswith(SCHEME):
        return Path(text)
    return _reference(text)


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except OtaError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@contextmanager
def opened(module: Source, arguments: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """The file itself; of an artifact as `fetched`, with where it came from, which is empty for a file."""
    if isinstance(module, Reference):
        with fetched(module, arguments) as found:
            yield found
    else:
        check_unused(arguments, str(module))
        yield module, ""


@contextmanager
def fetched(reference: Reference, arguments: argparse.Namespace) -> Iterator[tuple[Path, str]]:
    """The module of an artifact as a file with its .toml beside it, and where it came from, with its digest."""
    key = cosign.load_key(arguments.cosign_key) if arguments.cosign_key else None
    found = artifact.fetch(_repository(reference, arguments), key)
    output.note(f"{found.pinned}: {len(found.blob)} bytes{', signed' * (key is not None)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{reference.name.rpartition('/')[2]}.wasm"
        path.write_bytes(found.blob)
        description = _read(arguments.description) if arguments.description else found.description
        if description:
            path.with_suffix(".toml").write_bytes(description)
        yield path, str(found.pinned)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OtaError(f"{path}: {error.strerror}") from error


def _repository(reference: Reference, arguments: argparse.Namespace, *, writes: bool = False) -> Repository:
    return Repository(reference, trusting(arguments.registry_ca), login, arguments.plain_http, writes)


def _push(arguments: argparse.Namespace) -> int:
    reference: Reference = arguments.reference
    if reference.digest or not reference.tag:
        raise output.UsageError(f"{reference}: an artifact is pushed by a tag")
    pinned = artifact.push(_repository(reference, arguments, writes=True), arguments.module)
    if arguments.json:
        output.result_json({"reference": str(reference), "digest": pinned.digest, "pinned": str(pinned)})
    else:
        output.result(f"{reference}: {arguments.module}, {pinned.digest}")
    return 0
