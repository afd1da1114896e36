"""One module in Wasmtime and in each of our modes: what differs."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ota.author.aot import host_target
from ota.formats.reasons import Refused
from ota.formats.wasm import read
from tests.fuzz.cases import is_core
from tests.fuzz.forked import Done, Server
from tests.support.aot import aotc, compile_to, processors
from tests.support.emulated import ARCHITECTURES

COMPILE_TIMEOUT_S = 300
MODES = ("interpreter", "aot")


@dataclass(frozen=True)
class Verdict:
    """Of one mode, as "aot-armv7": "agrees", "differs", "crash", "hang", "refused", "accepted", or "left-out"; and why."""

    mode: str
    kind: str
    why: str = ""

    @property
    def is_fault(self) -> bool:
        return self.kind not in ("agrees", "left-out")


@dataclass
class Comparison:
    """The processes that are asked, by mode; they stay for the next module."""

    targets: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    _servers: dict[str, Server] = field(default_factory=dict)

    def verdicts(self, wasm: bytes, seed: int) -> list[Verdict]:
        """One for each target and mode."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "module.wasm"
            path.write_bytes(wasm)
            here = f"interpreter-{host_target()}"
            shape = self._ask(host_target(), {"path": str(path)})
            if shape.ended != "ok":
                return [Verdict(here, shape.ended, shape.note)]
            theirs = {"path": str(path), "seed": seed, "shape": shape.found}
            expected = self._ask("wasmtime", theirs)
            if expected.ended != "ok":
                return [Verdict("wasmtime", "left-out", f"{expected.ended} {expected.note}")]
            if early := _before_calls(here, path, shape.found, expected.found):
                return [early]
            found = [
                self._verdict(path, target, mode, seed, expected.found["seen"]) for target in self.targets for mode in self.modes
            ]
            if any(each.kind == "differs" for each in found):
                canonical = self._ask("wasmtime", theirs | {"canonical": True})
                if canonical.found and difference(canonical.found.get("seen", []), expected.found["seen"]):
                    return [Verdict(each.mode, "left-out", "it shows the bits of NaNs") for each in found]
            return found

    def close(self) -> None:
        """Ends the processes."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    def _ask(self, who: str, request: dict[str, Any]) -> Done:
        """`who`: "wasmtime", or a target."""
        if who not in self._servers:
            if who in ("wasmtime", host_target()):
                self._servers[who] = Server([sys.executable, "-m", f"tests.fuzz.{'theirs' if who == 'wasmtime' else 'ours'}"])
            else:
                there = ARCHITECTURES[who]
                self._servers[who] = Server([*there.python(), "-m", "tests.fuzz.ours"], there.environment())
        return self._servers[who].ask(request)

    def _verdict(self, path: Path, target: str, mode: str, seed: int, expected: list[Any]) -> Verdict:
        name, code = f"{mode}-{target}", path
        if mode == "aot":
            code = path.with_suffix(f".{target}")
            if failed := _compiled(code, path, target, seed):
                kind, said = failed
                return Verdict(name, "left-out" if "vectors can't" in said else kind, f"wamr_aotc: {said}")
        done = self._ask(target, {"path": str(code), "seed": seed, "calls": [call for call, *_ in expected[1:]]})
        if done.ended == "memory":
            return Verdict(name, "left-out", "out of memory")
        if done.ended != "ok":
            return Verdict(name, done.ended, done.note)
        if "refused" in done.found:
            return Verdict(name, "refused", done.found["refused"])
        if "left_out" in done.found:
            return Verdict(name, "left-out", done.found["left_out"])
        why = difference(done.found["seen"], expected)
        return Verdict(name, "differs" if why else "agrees", why)


def _before_calls(name: str, path: Path, shape: dict[str, Any], expected: dict[str, Any]) -> Verdict | None:
    """What there is to say of a module that one side does not run."""
    if "left_out" in shape or "left_out" in expected:
        return Verdict(name, "left-out", shape.get("left_out") or expected["left_out"])
    if "refused" in shape and "refused" in expected:
        return Verdict(name, "agrees", "that it is no module")
    if "refused" in shape:
        return Verdict(name, "refused" if is_core(path) and _imports_functions_only(path) else "left-out", shape["refused"])
    if "refused" in expected:
        return Verdict(name, "left-out" if is_core(path) else "accepted", expected["refused"])
    return None


def _imports_functions_only(path: Path) -> bool:
    try:
        read(path.read_bytes())
    except Refused:
        return False
    return True


def difference(found: list[Any], expected: list[Any]) -> str:
    """What differs first, up to where a stack was exhausted: there each runtime is right in its own way."""
    for left, right in zip(found, expected, strict=False):
        if right[1] == "exhausted" or left[1] in ("stack-overflow", "out-of-memory"):
            return ""
        # What core 2.0 calls an undefined element is out of bounds for Wasmtime.
        outcome = "table-out-of-bounds" if left[1] == "undefined-element" else left[1]
        if [left[0], outcome, *left[2:]] != right:
            return f"{left} instead of {right}"[:1000]
    return "" if len(found) == len(expected) else f"{len(found)} calls instead of {len(expected)}"


def _compiled(image: Path, path: Path, target: str, seed: int) -> tuple[str, str] | None:
    """None, or what went wrong: "refused", "crash" or "hang", with what the compiler said."""
    names = processors() if target == host_target() else ("",)
    wanted = names[seed % len(names)]
    for cpu in dict.fromkeys((wanted, names[-1])):  # the least processor has no vectors
        try:
            compile_to(image, path.read_bytes(), target, cpu, COMPILE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "hang", f"more than {COMPILE_TIMEOUT_S} s"
        except subprocess.CalledProcessError as error:
            said = "refused" if error.returncode > 0 else "crash", error.stderr[-500:] or f"ended by {error.returncode}"
            continue
        return None
    return said


@contextmanager
def comparing(targets: tuple[str, ...] = (), modes: tuple[str, ...] = MODES) -> Iterator[Comparison]:
    """A comparison for these targets, this machine's when none is named, that ends its processes."""
    comparison = Comparison(targets or (host_target(),), modes if aotc() is not None else MODES[:1])
    try:
        yield comparison
    finally:
        comparison.close()
