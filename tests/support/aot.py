"""Images of modules, for the machine that the tests run on."""

import functools
import subprocess
import tempfile
from pathlib import Path

from ota.author.aot import find_compiler, host_target
from tests.support.cache import cached, digest_of

WITH_VECTORS = {"x86_64": "x86-64-v2"}
"""The baseline processor for vector instructions, where the target's baseline has none."""


_NEEDS = {"x86-64-v2": "sse4_1", "x86-64-v3": "avx2", "skylake": "avx2", "x86-64-v4": "avx512vl"}


def processors() -> tuple[str, ...]:
    """Processors to compile for on this machine: the target's baseline first, then those with more vector instructions."""
    if host_target() != "x86_64":
        return ("",)
    (flags, *_) = (line.split() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    return ("", *(name for name, needed in _NEEDS.items() if needed in flags))


def aotc() -> Path | None:
    """The ahead-of-time compiler, None where it was not built."""
    return find_compiler()


@functools.cache
def compiled(wasm: bytes, target: str = "", cpu: str = "") -> bytes:
    """The image of a module, for this machine when no target is named; kept below build/cache."""
    made_of = ("wamr_aotc", digest_of(str(aotc())), target or host_target(), cpu, wasm)
    return cached("aot", made_of, lambda path: compile_to(path, wasm, target, cpu))


def compiled_now(wasm: bytes, target: str = "", cpu: str = "") -> bytes:
    """The same for a module that nobody asks for twice: not kept."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "module.aot"
        compile_to(image, wasm, target, cpu)
        return image.read_bytes()


def compile_to(image: Path, wasm: bytes, target: str = "", cpu: str = "", timeout_s: float | None = None) -> None:
    """Runs the compiler. Raises CalledProcessError, with what it said in `stderr`, and TimeoutExpired."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "module.wasm"
        source.write_bytes(wasm)
        name, *more = cpu.split("+")
        features = ",".join(f"+{each}" for each in more)
        command = [str(aotc()), target or host_target(), name, features, str(source), str(image.absolute())]
        done = subprocess.run(command, cwd=source.parent, check=True, stderr=subprocess.PIPE, text=True, timeout=timeout_s)
        assert "is not a recognized" not in done.stderr, done.stderr
