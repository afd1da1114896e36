"""Builds the example modules with the C and Zig compiler of the Python package `ziglang`.

    python sdk/build.py --out build/modules

Each examples/*/*.toml names its source and becomes one .wasm, with the .toml beside it for `ota build` and `ota publish`.
"""

import argparse
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

SDK = Path(__file__).parent
C_FLAGS = ["-O2", "-std=c17", "-nostdlib", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-Wl,--no-entry", "-g0"]
STACK_FLAGS = ["-Wl,-z,stack-size=8192"]


def compile_command(description: Path, target: Path) -> list[str]:
    """The compiler call for one description."""
    module = tomllib.loads(description.read_text(encoding="utf-8"))["module"]
    source = description.parent / module["source"]
    zig = [sys.executable, "-m", "ziglang"]
    if source.suffix == ".c":
        defines = [f"-D{define}" for define in module.get("defines", [])]
        flags = [*C_FLAGS, *STACK_FLAGS, "-I", str(SDK / "c"), "-I", str(SDK / "examples"), *defines]
        return [*zig, "cc", "-target", "wasm32-freestanding", *flags, str(source), "-o", str(target)]
    return [
        *zig, "build-exe", "-target", "wasm32-freestanding", "-fno-entry", "-rdynamic", "-O", "ReleaseSmall", "--stack", "8192",
        "-femit-bin=" + str(target), str(source),
    ]  # fmt: skip


def build(description: Path, out: Path) -> Path:
    """Builds one module when it is older than anything in its folder or a shared header; returns the .wasm."""
    target = out / f"{description.stem}.wasm"
    inputs = [*description.parent.iterdir(), SDK / "c" / "device_module.h", SDK / "examples" / "readings.h", Path(__file__)]
    if not target.exists() or target.stat().st_mtime < max(path.stat().st_mtime for path in inputs):
        partial = target.with_suffix(".partial.wasm")
        subprocess.run(compile_command(description, partial), check=True)
        partial.replace(target)
    _copy(description, target.with_suffix(".toml"))
    return target


def _copy(source: Path, target: Path) -> None:
    """Whole at any moment: others may be reading it."""
    if not target.exists() or target.read_bytes() != source.read_bytes():
        partial = target.with_suffix(".partial")
        shutil.copyfile(source, partial)
        partial.replace(target)


def main() -> int:
    """Builds every example."""
    parser = argparse.ArgumentParser(description="Build the example modules.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the .wasm files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for description in sorted(SDK.glob("examples/*/*.toml")):
        target = build(description, out)
        print(f"{target} {target.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
