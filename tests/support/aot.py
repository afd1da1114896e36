"""Images of modules, for the machine that the tests run on."""

import functools
import subprocess
import tempfile
from pathlib import Path

from ota.aot import find_compiler, host_target


def aotc() -> Path | None:
    """The ahead-of-time compiler, None where it was not built."""
    return find_compiler()


@functools.cache
def compiled(wasm: bytes, target: str = "", cpu: str = "") -> bytes:
    """The image of a module; for this machine when no target is named."""
    with tempfile.TemporaryDirectory() as folder:
        source, image = Path(folder) / "module.wasm", Path(folder) / "module.aot"
        source.write_bytes(wasm)
        subprocess.run([str(aotc()), target or host_target(), cpu, "", str(source), str(image)], check=True)
        return image.read_bytes()
