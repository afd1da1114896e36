"""Times of the programs: by turns, each side in a process of its own on one core; and what comes of them for the table."""

import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Row
from bench.programs.build import BuildError, Program, build, programs
from ota.author.aot import Compiler, host_target

ROOT = Path(__file__).parents[2]
WASMER = ROOT / "build" / "wasmer" / "bin" / "python"
FEATURES = {"x86_64": "x86-64-v3"}  # as a board's owner would name it; elsewhere the least of the architecture
ROUNDS = 20
CPUS = {"aot": FEATURES.get(host_target(), ""), "aot_least": ""}
INTERPRETERS = ("interp", "wasm3")
SLOW = 20  # interpreters get this part of the work
GCC = ("c", "cpp")


class DifferentResultError(Exception):
    """A side computed something else than the native program."""


@dataclass(frozen=True)
class Result:
    """A program's speeds, its native peer being 1: the median of the rounds, and half of the distance between the quartiles."""

    program: Program
    speed: dict[str, float]
    spread: dict[str, float]
    wasm_bytes: int
    image_bytes: int
    compile_ms: float


class Side:
    """A process that runs a program as often as it is told, on the last core that this process may use."""

    def __init__(self, name: str, command: Sequence[str | Path]) -> None:
        core = max(os.sched_getaffinity(0))
        pinned = ["taskset", "-c", str(core), *map(str, command)] if shutil.which("taskset") else list(map(str, command))
        self.name = name
        self._process = subprocess.Popen(pinned, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT)
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{name} does not start")

    def run(self, times: int) -> tuple[int, float]:
        """The checksum, and the seconds."""
        self._process.stdin.write(f"{times}\n")
        answer = self._process.stdout.readline().split()
        if len(answer) != 2:
            raise RuntimeError(f"{self.name} ended")
        return int(answer[0]), int(answer[1]) / 1e9

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def sides_of(program: Program) -> dict[str, Sequence[str | Path]]:
    """Commands of all sides, the native peer that counts first. Builds what is not there; images are compiled by compile_image."""
    folder = build(program)
    peer = (sys.executable, "-m", "bench.programs.peer")
    wasm = folder / "program.wasm"
    sides: dict[str, Sequence[str | Path]] = {each: (folder / each,) for each in program.natives}
    sides |= {name: (*peer, "ours", folder / f"{name}.image") for name in CPUS}
    sides |= {"interp": (*peer, "ours", wasm)} | {name: (*peer, name, wasm) for name in ("wasmtime", "wasm3")}
    if WASMER.exists():
        sides["wasmer"] = (WASMER, Path(__file__).with_name("peer.py"), "wasmer", wasm)
    return sides


def compile_image(program: Program, side: str) -> float:
    """Writes the image of a side; returns the milliseconds that it took."""
    started = time.perf_counter()
    image = Compiler().compile((program.folder / "program.wasm").read_bytes(), host_target(), CPUS[side], anew=True).image
    spent = (time.perf_counter() - started) * 1000
    (program.folder / f"{side}.image").write_bytes(image)
    return spent


def measure_program(program: Program, seconds: float) -> Result:
    """Each side for `seconds`. Raises DifferentResultError, and BuildError."""
    commands = sides_of(program)
    compile_ms, _ = (compile_image(program, side) for side in CPUS)
    sides: list[Side] = []
    try:
        sides = [Side(name, command) for name, command in commands.items()]
        found = _turns(program, sides, seconds)
    finally:
        for side in sides:
            side.close()
    speed, spread = {}, {}
    for name, values in found.items():
        quarter, speed[name], three = statistics.quantiles(values, n=4)
        spread[name] = (three - quarter) / 2
    sizes = [path.stat().st_size for path in (program.folder / "program.wasm", program.folder / "aot.image")]
    return Result(program, speed, spread, *sizes, compile_ms)


def _turns(program: Program, sides: Sequence[Side], seconds: float) -> dict[str, list[float]]:
    """For each side, its speed of each round beside the first one's."""
    native, times = sides[0], SLOW
    while native.run(times)[1] < seconds / ROUNDS:
        times *= 2
    expected = {count: native.run(count)[0] for count in (times, times // SLOW)}
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(ROUNDS):
        base = 0.0
        for side in sides:
            count = times // SLOW if side.name in INTERPRETERS else times
            checksum, spent = side.run(count)
            if checksum != expected[count]:
                raise DifferentResultError(f"{program.name}: {side.name} computes {checksum}, {native.name} {expected[count]}")
            base = base or spent / count
            found[side.name].append(base / (spent / count))
    return found


def measure_all(seconds: float, names: Sequence[str] = ()) -> Iterator[Result]:
    """All programs, or those of `names`, one after the other; what can't be built here is told and left out."""
    for program in programs():
        if not names or program.name in names:
            try:
                yield measure_program(program, seconds)
            except BuildError as error:
                sys.stderr.write(f"left out: {program.name}: {str(error).splitlines()[-1]}\n")


def geometric(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def rows(results: Sequence[Result]) -> list[Row]:
    """What stands in bench.json."""
    by_gcc = [each for each in results if each.program.language in GCC]

    def mean(side: str, peer: str = "") -> float:
        return geometric([each.speed[side] / (each.speed[peer] if peer else 1.0) for each in (results if peer else by_gcc)])

    said = f"geometric mean of {len(results)} programs"
    gcc = f"gcc -O2, {len(by_gcc)} programs"
    found: list[Row] = []
    if by_gcc:
        found += [
            Row("aot_programs_vs_gcc", mean("aot"), "x", "clang -O2", mean("clang"), gcc, 1.0),
            Row("interp_programs_vs_gcc", mean("interp"), "x", "pywasm3", mean("wasm3"), gcc, 1.0),
        ]
    found += [
        Row("aot_programs_vs_wasmtime", mean("aot", "wasmtime"), "x", "wasmtime-py", 1.0, said),
        Row("interp_vs_wasm3", mean("interp", "wasm3"), "x", "pywasm3", 1.0, said),
        Row("image_bytes_vs_wasm", geometric([each.image_bytes / each.wasm_bytes for each in results]), "x", "", None, said),
        *(_compile_row(name, size, results) for name, size in (("aotc_100k_ms", 100_000), ("aotc_1m_ms", 1_000_000))),
    ]
    for each in results:
        native = each.program.natives[0]
        others = {side: value for side, value in each.speed.items() if side not in (native, "aot")}
        others |= {f"{side}_spread": value for side, value in each.spread.items() if side != native}
        found.append(
            Row(f"program_{each.program.name}", each.speed["aot"], "x", "wasmtime-py", each.speed["wasmtime"], native, 1.0, others)
        )
    return found


def _compile_row(name: str, size: int, results: Sequence[Result]) -> Row:
    """Milliseconds that the program took to compile whose size is nearest."""
    nearest = min(results, key=lambda each: abs(math.log(each.wasm_bytes / size)))
    return Row(name, nearest.compile_ms, "ms", "", None, f"{nearest.program.name}, {nearest.wasm_bytes} bytes")
