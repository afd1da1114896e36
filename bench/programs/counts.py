"""python -m bench.programs.counts: instructions that the programs take on each processor, counted by a plugin of qemu-user.

gcc's native program, our interpreter and our image, for the least processor of each target. Noise can't hide a change here, but a
count is no time: vectors and misses weigh what any other instruction does. What a process takes for its start and for one turn is
subtracted. Sides that compute something else than gcc's program are told.
"""

import argparse
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.measure import Row
from bench.programs.build import DRIVERS, FOLDER, TRIPLES, BuildError, Program, build, programs
from bench.programs.measure import ROOT, geometric
from ota.author.aot import Compiler
from ota.cli.output import table
from tests.support.emulated import ARCHITECTURES

TARGETS = ("x86_64", *ARCHITECTURES)
SIDES = ("gcc", "image", "interp")
TURNS = {"gcc": 10, "image": 10, "interp": 2}


@dataclass(frozen=True)
class Count:
    """Instructions of one turn, and what it computes."""

    instructions: float
    checksum: str


def count(target: str, side: str, program: Program) -> Count:
    """One side. Raises BuildError."""
    command, environment = _command(target, side, program)
    once, checksum = _collected(command, environment, 1)
    more, _ = _collected(command, environment, 1 + TURNS[side])
    return Count((more - once) / TURNS[side], checksum)


def _command(target: str, side: str, program: Program) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    """What runs a side in an emulator, and with which environment."""
    emulator = f"qemu-{ARCHITECTURES[target].qemu if target in ARCHITECTURES else target}"
    if not shutil.which(emulator):
        raise BuildError(f"{emulator} is not installed (Debian: qemu-user)")
    folder = build(program, ("wasm", _native(target)))
    environment: Mapping[str, str] = os.environ
    python = [sys.executable]
    options: list[str | Path] = ["-plugin", _library("count.c")]
    if target in ARCHITECTURES:
        _, *python = ARCHITECTURES[target].python()
        environment = ARCHITECTURES[target].environment()
    else:
        options += ["-cpu", "max", "-E", f"LD_PRELOAD={_library('low.c')}"]
    if side == "gcc":
        return [emulator, *options, folder / _native(target)], environment
    wasm = folder / "program.wasm"
    code = wasm if side == "interp" else folder / f"{target}.image"
    if side == "image":
        code.write_bytes(Compiler().compile(wasm.read_bytes(), target).image)
    return [emulator, *options, *python, "-m", "bench.programs.peer", "ours", code], {**environment, "PYTHONHASHSEED": "0"}


def _native(target: str) -> str:
    return f"gcc-{target}" if target in TRIPLES else "gcc"


def _collected(command: Sequence[str | Path], environment: Mapping[str, str], turns: int) -> tuple[int, str]:
    """Instructions of a process, and the last checksum."""
    done = subprocess.run(command, input=f"{turns}\n", capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    found = re.search(r"instructions: (\d+)", done.stderr)
    if done.returncode or not found:
        raise BuildError(f"{' '.join(map(str, command))}: {done.stderr[-500:]}")
    return int(found[1]), done.stdout.splitlines()[-1].split()[0]


@functools.cache
def _library(source: str) -> Path:
    out = (FOLDER / source).with_suffix(".so")
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", DRIVERS / source, "-o", out], check=True)
    return out


def counts(program: Program, target: str) -> dict[str, float]:
    """Instructions of a turn, by side."""
    found = {side: count(target, side, program) for side in SIDES}
    for side, each in found.items():
        if each.checksum != found["gcc"].checksum:
            sys.stderr.write(f"{program.name}, {target}: {side} computes {each.checksum}, gcc {found['gcc'].checksum}\n")
    return {side: each.instructions for side, each in found.items()}


def rows(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Row]:
    """By target and program: instructions of an image, gcc's being 1, and beside them the interpreter's."""
    made = []
    for target, by_program in found.items():
        ratios = {name: {side: each[side] / each["gcc"] for side in SIDES} for name, each in by_program.items()}
        if ratios:
            ratios["programs"] = {side: geometric([each[side] for each in ratios.values()]) for side in SIDES}
        for name, each in ratios.items():
            made.append(Row(f"instructions_{target}_{name}", each["image"], "x", "interpreter", each["interp"], "gcc -O2", 1.0))
    return made


def tables(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """For people: a line for each program, three columns for each processor."""
    by_name = {row.name.removeprefix("instructions_"): row for row in rows(found)}
    names = list(dict.fromkeys(name for by_program in found.values() for name in by_program))
    lines = []
    for name in (*names, "programs"):
        line = ["geometric mean" if name == "programs" else name]
        for target, by_program in found.items():
            row = by_name.get(f"{target}_{name}")
            gcc = f"{by_program[name]['gcc'] / 1e6:.2f}" if name in by_program else ""
            line += [gcc, f"{row.value:.2f}", f"{row.peer_value:.1f}"] if row else ["", "", ""]
        lines.append(tuple(line))
    title = [word for target in found for word in (f"{target}: gcc", "image", "interp")]
    return table(("instructions", *title), lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.programs.counts", description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", help="names of programs.toml (default: all in C and C++)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="with commas between them (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/bench-counts.json"))
    arguments = parser.parse_args(argv)
    found: dict[str, dict[str, dict[str, float]]] = {target: {} for target in arguments.targets.split(",")}
    for each in programs():
        if "gcc" not in each.natives or (arguments.programs and each.name not in arguments.programs):
            continue
        for target, by_program in found.items():
            try:
                by_program[each.name] = counts(each, target)
            except BuildError as error:
                sys.stderr.write(f"left out: {each.name}, {target}: {str(error).splitlines()[-1]}\n")
            # After each: a run takes an hour, and may be interrupted.
            arguments.out.write_text(json.dumps([asdict(row) for row in rows(found)], indent=2) + "\n")
    sys.stdout.write(tables(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
