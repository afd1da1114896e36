"""Runs a WASI command (a module with `_start`) in this process, for its author."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device_agent.sandbox.errors import Exited
from device_agent.sandbox.wasi import MODULE, Wasi
from device_agent.sandbox.wasi_descriptors import Streams
from device_agent.tools.errors import RunError
from ota.formats.wasm import ModuleShape
from pywamr import Instance, PywamrError, Runtime, TerminatedError, Trap

START = "_start"
STACK_BYTES = 1 << 20  # for operands and calls of interpreted code
MAX_PAGES = 4096  # 256 MiB
FOLDERS_QUOTA_BYTES = 1 << 40


@dataclass(frozen=True)
class Given:
    """What a command is given. `folders`: "HOST" or "HOST::GUEST", which it may read and write."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    folders: tuple[str, ...] = ()


def is_command(shape: ModuleShape) -> bool:
    """Whether a module is a command: it has `_start`, and nothing of the module contract."""
    return START in shape.exports and not any(name.startswith("device:module/") for name in shape.exports)


def run_command(name: str, wasm: bytes, shape: ModuleShape, given: Given, *, interpreted: bool = True) -> int:
    """Runs a command to its end; returns its exit code. `interpreted`: Ctrl-C ends it at once.

    Raises RunError for one that can't be run, Trap, and KeyboardInterrupt.
    """
    foreign = sorted({f"{module}.{function}" for module, function in shape.imports if module != MODULE})
    if foreign:
        raise RunError(f"{name} is a command, which may import {MODULE} only, and imports {', '.join(foreign)}")
    folders = tuple(_open_folder(each) for each in given.folders)
    try:
        with Runtime() as runtime:
            return _run(runtime, name, wasm, given, folders, interpreted)
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


def _run(
    runtime: Runtime, name: str, wasm: bytes, given: Given, folders: tuple[tuple[str, int, bool], ...], interpreted: bool
) -> int:
    instance: Instance | None = None

    def memory() -> "Instance":
        if instance is None:
            raise RunError(f"{name}: its start function calls WASI, which only _start may")
        return instance

    wasi = Wasi(
        lambda at, size: memory().memory.read(at & 0xFFFFFFFF, size),
        lambda at, content: memory().memory.write(at & 0xFFFFFFFF, content),
        lambda level, message: None,
        folders,
        arguments=(name, *given.arguments),
        environment=given.environment or {},
        quota_bytes=FOLDERS_QUOTA_BYTES,
        streams=Streams(lambda size: os.read(0, size), (_File(1), _File(2))),
    )
    module = runtime.load(wasm, record_offsets=interpreted)
    instance = module.instantiate({MODULE: wasi.functions()}, stack_bytes=STACK_BYTES, max_pages=MAX_PAGES)
    if interpreted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        instance.terminate_on(signal.SIGINT)
    instance.call(START)
    return 0


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
