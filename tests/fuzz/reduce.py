"""Makes a module smaller that shows a fault: `wasm-tools shrink` asks this program whether the smaller one still shows it.

`python -m tests.fuzz.reduce ABOUT MODULE` exits with 0 when it does. By hand: build/fuzz/found/CASE/predicate MODULE.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from tests.fuzz.compare import comparing
from tests.fuzz.forked import ROOT
from tests.support.tools import tool

REDUCE_TIMEOUT_S = 900
EMPTY_BYTES = 8


def reduced(module: Path, attempts: int) -> int:
    """Writes reduced.wasm, and reduced.wat for people, beside a module and its about.json. Returns its size; 0: there is none."""
    folder = module.parent
    predicate = folder / "predicate"
    words = [sys.executable, "-m", "tests.fuzz.reduce", str(folder / "about.json")]
    predicate.write_text(f'#!/bin/sh\ncd {shlex.quote(str(ROOT))} && exec {shlex.join(words)} "$1"\n', encoding="utf-8")
    predicate.chmod(0o755)
    small = folder / "reduced.wasm"
    if attempts:
        command = [tool("wasm-tools"), "shrink", str(predicate), str(module), "-a", str(attempts), "-o", str(small)]
        with_limit(command, folder / "shrink.txt")
    if not small.exists():
        return 0
    text = subprocess.run([tool("wasm-tools"), "print", str(small)], capture_output=True, check=False).stdout
    (folder / "reduced.wat").write_bytes(text)
    return small.stat().st_size


def with_limit(command: list[str], log: Path) -> None:
    """Runs a command that may fail, and may not go on for ever."""
    with log.open("wb") as out:
        try:
            subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False, timeout=REDUCE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            out.write(b"it took too long\n")


def shows(about: dict[str, str | int], wasm: bytes) -> bool:
    """Whether a module shows the same kind of fault in the same mode. An empty one never does: `wasm-tools shrink` insists."""
    if len(wasm) <= EMPTY_BYTES:
        return False
    mode, target = str(about["mode"]).split("-", 1)
    with comparing((target,), (mode,)) as comparison:
        return any(each.kind == about["kind"] for each in comparison.verdicts(wasm, int(about["seed"])))


if __name__ == "__main__":
    sys.exit(not shows(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]).read_bytes()))
