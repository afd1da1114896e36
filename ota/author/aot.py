"""Ahead-of-time images: the compiler driver `wamr_aotc` (native/aotc), which is an optional part, asked for each target."""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ota.author.kept import kept
from ota.errors import OtaError
from ota.formats.cbor import sha256

_MACHINES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "armv7l": "armv7",
    "riscv64": "riscv64",
}
COMPILE_LIMIT_S = 600
MEMORY_RATIO = 600  # what the compiler takes at most, for each byte of a module: 1.07 GB for 1.9 MB
LARGE_BYTES = 256 * 1024  # of a module that takes long


class AotError(OtaError):
    """There is no compiler, or it could not compile a module."""


@dataclass(frozen=True)
class Compiled:
    """An image, and what it was compiled for: the flags as the runtime names them, such as "3 aarch64 bounds=hardware"."""

    image: bytes
    flags: str


def host_target() -> str:
    """The target that this machine is. Raises AotError for a machine that is none."""
    machine = platform.machine().lower()
    if machine not in _MACHINES:
        raise AotError(f"there is no ahead-of-time target for a {machine}")
    return _MACHINES[machine]


def find_compiler() -> Path | None:
    """`wamr_aotc`, beside this Python or on the PATH; None where it was not built."""
    beside = Path(sys.executable).with_name("wamr_aotc")
    if beside.exists():
        return beside
    found = shutil.which("wamr_aotc")
    return Path(found) if found else None


class Compiler:
    """The compiler driver of this machine."""

    def __init__(self) -> None:
        """Raises AotError, saying how to get it, when it is not there."""
        path = find_compiler()
        if path is None:
            raise AotError(
                "the ahead-of-time compiler wamr_aotc is not installed: `make aotc`, or with LLVM 14 to 19 (Debian: llvm-19-dev) "
                "`pip install . -C cmake.define.PW_AOTC=ON`"
            )
        self._path = path
        self.llvm, self.flags = self._about()

    def _about(self) -> tuple[str, Mapping[str, str]]:
        done = subprocess.run([str(self._path), "--version"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise AotError(f"{self._path} does not run: {done.stderr.strip()}")
        llvm, *flags = done.stdout.splitlines()
        return llvm, {each.split()[1]: each for each in flags}

    def compile(self, wasm: bytes, target: str, cpu: str = "", *, name: str = "the module", anew: bool = False) -> Compiled:
        """An image of a module; `cpu` as LLVM names it, with what it has besides, such as "cortex-a53+crc" or "+neon"; "" for the
        least that boards of the target have. What was compiled before is taken from the cache, but not if `anew`.

        Raises AotError, which names the module by `name`.
        """
        if target not in self.flags:
            raise AotError(f"{target} is no target: {', '.join(sorted(self.flags))}")

        def make(folder: Path) -> bytes:
            return self._make(folder, wasm, target, cpu, name)

        made_of = (self._path.read_bytes(), self.llvm.encode(), self.flags[target].encode(), cpu.encode(), wasm)
        if not anew:
            with contextlib.suppress(OSError):  # no cache here
                return Compiled(kept("aot-" + sha256(b"".join(map(sha256, made_of))).hex(), make), self.flags[target])
        with tempfile.TemporaryDirectory() as folder:
            return Compiled(make(Path(folder)), self.flags[target])

    def _make(self, folder: Path, wasm: bytes, target: str, cpu: str, name: str) -> bytes:
        processor, *more = cpu.split("+")
        features = ",".join(f"+{each}" for each in more)
        source, out = folder / "module.wasm", folder / "image"
        source.write_bytes(wasm)
        command = [str(self._path.absolute()), target, processor, features, str(source), str(out)]
        try:  # in that folder: LLVM notes there how much stack functions take
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=COMPILE_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise AotError(f"{name}: compiling for {target} took more than {COMPILE_LIMIT_S} s") from None
        said = list(dict.fromkeys(done.stderr.strip().splitlines()))
        if wrong := next((each for each in said if "is not a recognized" in each), ""):  # LLVM may go on without
            raise AotError(f"for {target}: {wrong}")
        if done.returncode:
            raise AotError(f"{name}: for {target}: {'; '.join(said)[-500:]}")
        return out.read_bytes()


def compile_all(
    wasm: bytes, wanted: Sequence[str], *, name: str, progress: Callable[[str], None], anew: bool = False
) -> list[Compiled]:
    """An image for each target, as TARGET or TARGET:CPU, compiled side by side as far as processors and memory allow.

    `progress` is told of a large module, also from other threads. Raises AotError.
    """
    if not wanted:
        return []
    compiler, began = Compiler(), time.monotonic()
    is_large = len(wasm) >= LARGE_BYTES
    if is_large:
        progress(f"compiling {name}, {len(wasm) / 1e6:.1f} MB, ahead of time for {', '.join(wanted)}")

    def compile_for(each: str) -> Compiled:
        target, _, cpu = each.partition(":")
        made = compiler.compile(wasm, target, cpu, name=name, anew=anew)
        if is_large:
            progress(f"  {each}: there after {time.monotonic() - began:.0f} s")
        return made

    with ThreadPoolExecutor(_side_by_side(len(wasm))) as pool:
        return list(pool.map(compile_for, wanted))


def _side_by_side(size_bytes: int) -> int:
    """How many compilers run at the same moment: one a processor, and no more than half of the memory has room for."""
    half_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return max(1, min(os.cpu_count() or 1, half_bytes // (size_bytes * MEMORY_RATIO)))
