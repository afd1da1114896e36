"""python -m bench.programs.counts: instructions that the programs take on x86-64, counted by a plugin of qemu-user.

Noise can't hide a change here, but a count is no time: vectors and misses weigh what any other instruction does. What a process
takes for its start and for one turn is subtracted. Images compiled ahead of time are not counted: qemu-user gives no memory
in the low 2 GB, where they want to be on x86-64.
"""

import argparse
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.programs.build import DRIVERS, FOLDER, BuildError, Program, programs
from bench.programs.measure import ROOT, geometric, sides_of
from ota.cli.output import table

SIDES = ("gcc", "clang", "interp")
TURNS = 3


def count(command: Sequence[str | Path], turns: int = TURNS) -> float:
    """Instructions of one turn."""
    return (_collected(command, f"{turns + 1}\n") - _collected(command, "1\n")) / turns


def _collected(command: Sequence[str | Path], said: str) -> int:
    emulated = ["qemu-x86_64", "-cpu", "max", "-plugin", _plugin(), *command]
    done = subprocess.run(emulated, input=said, capture_output=True, text=True, check=False, cwd=ROOT)
    found = re.search(r"instructions: (\d+)", done.stderr)
    if done.returncode or not found:
        raise BuildError(f"{command[0]}: {done.stderr[-500:]}")
    return int(found[1])


@functools.cache
def _plugin() -> Path:
    out = FOLDER / "count.so"
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", DRIVERS / "count.c", "-o", out], check=True)
    return out


def counts(program: Program, sides: Sequence[str] = SIDES) -> dict[str, float]:
    """Instructions of a turn, by side. Raises BuildError."""
    if not shutil.which("qemu-x86_64"):
        raise BuildError("qemu-x86_64 is not installed (Debian: qemu-user)")
    commands = sides_of(program)
    return {side: count(commands[side]) for side in sides if side in commands}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.programs.counts", description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", help="names of programs.toml (default: all in C and C++)")
    arguments = parser.parse_args(argv)
    found = {
        each.name: counts(each)
        for each in programs()
        if (each.name in arguments.programs if arguments.programs else "gcc" in each.natives)
    }
    lines = [
        (name, f"{row['gcc'] / 1e6:.2f}", *(f"{row[side] / row['gcc']:.2f}" for side in SIDES[1:])) for name, row in found.items()
    ]
    means = [f"{geometric([row[side] / row['gcc'] for row in found.values()]):.2f}" for side in SIDES[1:]]
    sys.stdout.write(table(("instructions", "gcc, millions", *SIDES[1:]), [*lines, ("geometric mean", "", *means)]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
