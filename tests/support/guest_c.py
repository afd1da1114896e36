"""C for modules, compiled as the SDK's README says."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.conftest import ROOT
from tests.support.cache import cached

_FLAGS = ("-target", "wasm32-freestanding", "-nostdlib", "-fno-builtin", "-O2", "-Wl,--no-entry")


def compile_c(source: Path, *flags: str) -> Path:
    """The .wasm beside a source that includes device_module.h."""
    module = source.with_suffix(".wasm")
    module.write_bytes(zig_cc(source, *_FLAGS, *flags, include=ROOT / "sdk" / "c"))
    return module


def zig_cc(source: Path, *flags: str, include: Path | None = None) -> bytes:
    """What the C compiler of `ziglang` makes of one source and the headers of one folder; kept below build/cache."""
    headers = sorted(include.glob("*.h")) if include else []
    made_of = (version("ziglang"), *flags, *(each.read_bytes() for each in (source, *headers)))
    command = [sys.executable, "-m", "ziglang", "cc", *flags, *(["-I", str(include)] if include else []), str(source), "-o"]
    return cached("zig-cc", made_of, lambda path: subprocess.run([*command, str(path)], check=True))
