"""A cargo and a rustc that build for WebAssembly."""

import os
import re
import shutil
import subprocess
from pathlib import Path

TARGET = "wasm32-unknown-unknown"


def build(source: Path, least: tuple[int, int], target: str = TARGET) -> Path | None:
    """Builds the crate in this folder; the folder with what came out. None without a Rust of that version with the target."""
    for folder in (Path(shutil.which("rustc") or "/").parent, Path("/usr/bin")):
        cargo, rustc = folder / "cargo", folder / "rustc"
        if cargo.exists() and rustc.exists() and _version(rustc) >= least and _has(rustc, target):
            command = [str(cargo), "build", "--quiet", "--locked", "--release", "--target", target]
            subprocess.run(command, cwd=source, check=True, env=os.environ | {"RUSTC": str(rustc)})
            return source / "target" / target / "release"
    return None


def _version(rustc: Path) -> tuple[int, int]:
    said = subprocess.run([str(rustc), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"rustc (\d+)\.(\d+)\.", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _has(rustc: Path, target: str) -> bool:
    said = subprocess.run([str(rustc), "--print", "sysroot"], capture_output=True, text=True, check=False).stdout
    return (Path(said.strip()) / "lib/rustlib" / target / "lib").is_dir()
