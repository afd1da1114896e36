"""Runs a WASI command (a module with `_start`, or with `wasi:cli/run` of WASI 0.2) in this process, for its author."""

import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.sandbox import wasi2_cli, wasi2_files, wasi2_io
from device_agent.sandbox.errors import ContractError, Exited
from device_agent.sandbox.export_types import wrong_type
from device_agent.sandbox.guest import ModuleGuest
from device_agent.sandbox.interfaces import bound
from device_agent.sandbox.wasi import MODULE, Wasi
from device_agent.sandbox.wasi_descriptors import Streams
from device_agent.tools.errors import RunError
from ota.formats.capabilities import COMMAND, FILTER_VERSIONS, capability_of, named, plain_exports, what_to_do
from ota.formats.wasm import ModuleShape
from ota.formats.worlds import CANONICAL, RUN, run_exports
from pywamr import FunctionType, Import, Instance, Module, PywamrError, Runtime, TerminatedError, Trap, ValueType

STACK_BYTES = 1 << 20  # for operands and calls of interpreted code
MAX_PAGES = 4096  # 256 MiB
FOLDERS_QUOTA_BYTES = 1 << 40
_STARTS, _RUNS = FunctionType((), ()), FunctionType((), (ValueType.I32,))


@dataclass(frozen=True)
class Given:
    """What a command is given. `folders`: "HOST" or "HOST::GUEST", which it may read and write."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    folders: tuple[str, ...] = ()


def entry_of(shape: ModuleShape, offered: Collection[str] | None = None) -> str:
    """The export that runs a command: `_start`, or that of `wasi:cli/run`. "" for what is no command: it has none, it is a module
    of the contract, or a filter.

    `offered`: what the component exports that the module is in. An engine in it may have a `wasi:cli/run` that is not used.
    """
    if plain_exports(shape.exports).functions or not set(shape.exports).isdisjoint(FILTER_VERSIONS):
        return ""
    for interface, export in run_exports(shape.exports):
        if offered is None or interface in offered or (export.startswith(CANONICAL) and any(map(_is_run, offered))):
            return export
    return COMMAND if COMMAND in shape.exports and (offered is None or any(map(_is_run, offered))) else ""


def _is_run(interface: str) -> bool:
    return interface.partition("@")[0] == RUN


def run_command(name: str, wasm: bytes, shape: ModuleShape, entry: str, given: Given, *, interpreted: bool = True) -> int:
    """Runs a command of WASI preview 1 or 0.2 to its end; returns its exit code. `interpreted`: Ctrl-C ends it at once.

    Raises RunError for one that can't be run, Trap, and KeyboardInterrupt.
    """
    foreign = [each for each in shape.imports if capability_of(*each) != "wasi"]
    if foreign:
        told = "; ".join((named(foreign), *what_to_do(foreign)))
        raise RunError(f"{name} is a command, which may import WASI only, and imports {told}")
    folders = tuple(_open_folder(each) for each in given.folders)
    try:
        with Runtime() as runtime:
            module = runtime.load(wasm, record_offsets=interpreted)
            return _Command(name, given, folders).run(module, entry, interpreted=interpreted)
    except Exited as end:
        return end.code
    except TerminatedError:
        raise KeyboardInterrupt from None
    except Trap:
        raise
    except PywamrError as error:
        raise RunError(f"{name}: {error}") from error
    finally:
        for _, descriptor, _ in folders:
            os.close(descriptor)


class _Command:
    """A command and what it is given."""

    def __init__(self, name: str, given: Given, folders: tuple[tuple[str, int, bool], ...]) -> None:
        self._name, self._folders = name, folders
        self._arguments, self._environment = (name, *given.arguments), given.environment or {}
        self._instance: Instance | None = None
        self._allocator = ""

    def run(self, module: Module, entry: str, *, interpreted: bool) -> int:
        """To its end; its exit code."""
        exports = plain_exports(each.name for each in module.exports)
        if wrong := wrong_type(module.exports, exports, is_filter=False):
            raise RunError(f"{self._name}: {wrong}")
        kind = next(each.type for each in module.exports if each.name == entry)
        if kind != (_STARTS if entry == COMMAND else _RUNS):
            raise RunError(f"{self._name}: export {entry} has type {kind}, WASI says {_STARTS if entry == COMMAND else _RUNS}")
        self._allocator = exports.allocator
        instance = self._instance = module.instantiate(self._hosts(module.imports), stack_bytes=STACK_BYTES, max_pages=MAX_PAGES)
        if interpreted:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            instance.terminate_on(signal.SIGINT)
        if entry == COMMAND:
            instance.call(COMMAND)
            return 0
        if exports.initialiser:
            instance.call(exports.initialiser)
        return int(bool(instance.call(entry)))  # a result of nothing and nothing: 0 for ok

    def _hosts(self, imports: tuple[Import, ...]) -> dict[str, dict[str, Callable[..., Any]]]:
        streams = Streams(lambda size: os.read(0, size), (_File(1), _File(2)))
        wasi = Wasi(
            self._read,
            self._write,
            lambda level, message: None,
            self._folders,
            arguments=self._arguments,
            environment=self._environment,
            quota_bytes=FOLDERS_QUOTA_BYTES,
            streams=streams,
        )
        given = self._arguments, self._environment
        answering = {
            **wasi2_io.hosts(),
            **wasi2_cli.hosts(*wasi.lines, *given, read=streams.read),
            **wasi2_files.hosts(wasi.folders, self._folders),
        }
        found: dict[str, dict[str, Callable[..., Any]]] = {MODULE: wasi.functions()}
        guest = ModuleGuest(self._read, self._write, self._reallocate)
        for (where, function), call in bound(imports, answering, guest, lambda name, call: call).items():
            found.setdefault(where, {})[function] = call
        return found

    def _live(self) -> Instance:
        if self._instance is None:
            raise RunError(f"{self._name}: its start function calls WASI, which only {COMMAND} may")
        return self._instance

    def _read(self, at: int, size: int) -> bytes:
        return self._live().memory.read(at & 0xFFFFFFFF, size)

    def _write(self, at: int, content: bytes) -> None:
        self._live().memory.write(at & 0xFFFFFFFF, content)

    def _reallocate(self, alignment: int, size: int) -> int:
        if not self._allocator:
            raise ContractError(f"{self._name} exports no cabi_realloc")
        return int(self._live().call(self._allocator, 0, 0, alignment, size))


def _open_folder(text: str) -> tuple[str, int, bool]:
    host, _, guest = text.partition("::")
    try:
        return guest or host, os.open(Path(host), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), True
    except OSError as error:
        raise RunError(f"folder {host}: {error.strerror}") from error


class _File:
    """A standard stream of this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, content: bytes) -> None:
        """All of it."""
        sys.stdout.flush()
        while content:
            content = content[os.write(self._descriptor, content) :]

    def end(self) -> None:
        """Nothing is held back."""
