"""C for modules, compiled as the SDK's README says."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

_FLAGS = ("-target", "wasm32-freestanding", "-nostdlib", "-fno-builtin", "-O2", "-Wl,--no-entry")


def compile_c(source: Path, *flags: str) -> Path:
    """The .wasm beside a source that includes device_module.h."""
    module = source.with_suffix(".wasm")
    compiler = [sys.executable, "-m", "ziglang", "cc", *_FLAGS, *flags, "-I", str(ROOT / "sdk" / "c")]
    subprocess.run([*compiler, str(source), "-o", str(module)], check=True)
    return module
