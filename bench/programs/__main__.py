"""python -m bench.programs: programs that others wrote, in several runtimes, beside gcc -O2; a part of `make bench`.

Speeds, the native program being 1: gcc -O2 for C and C++, rustc and zig at their fastest for those. `±` is half of the distance
between the quartiles, in hundredths.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.measure import Row
from bench.programs.build import programs
from bench.programs.measure import measure_all, rows
from ota.cli.output import table

SIDES = ("clang", "aot_least", "wasmtime", "wasmer", "interp", "wasm3")


def tables(found: Sequence[Row]) -> str:
    """For people: a line for each program, then the means."""
    languages = {f"program_{each.name}": f"{each.language}, {each.what}" for each in programs()}
    lines = []
    for row in found:
        if row.name in languages:
            cells = [_cell(row, side) for side in SIDES]
            lines.append(
                (row.name.removeprefix("program_"), languages[row.name], row.floor, f"{row.value:.2f}{_spread(row, 'aot')}", *cells)
            )
    means = [
        (row.name, f"{row.value:.2f} {row.unit}", row.peer, "" if row.peer_value is None else f"{row.peer_value:.3f}", row.floor)
        for row in found
        if row.name not in languages
    ]
    title = ("program", "what", "1 is", "ours", *SIDES)
    return f"{table(title, lines)}\n\n{table(('geometric means', 'ours', 'peer', 'its', 'of'), means)}"


def _cell(row: Row, side: str) -> str:
    value = row.others.get(side)
    digits = 3 if side in ("interp", "wasm3") else 2
    return "" if value is None else f"{value:.{digits}f}"


def _spread(row: Row, side: str) -> str:
    return f" ±{row.others[f'{side}_spread'] * 100:.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; 1 when a side computed something else."""
    parser = argparse.ArgumentParser(prog="python -m bench.programs", description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", help="names of programs.toml (default: all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each side of each program (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/bench-programs.json"))
    arguments = parser.parse_args(argv)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    results = []
    for result in measure_all(arguments.seconds, arguments.programs):
        results.append(result)
        sys.stderr.write(f"{result.program.name}: {result.speed['aot']:.2f}\n")
        # After each: a run takes an hour, and may be interrupted.
        arguments.out.write_text(json.dumps([asdict(row) for row in rows(results)], indent=2) + "\n")
    print(tables(rows(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
