"""python -m bench: measures, prints a table, writes build/bench.json.

Each row stands beside a peer (another runtime, or a raw transfer by paho) or a floor (what the machine can't do better), measured
in the same run, alternating. Absolute times depend on the machine; the ratios are what the README quotes.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from bench import guests
from bench.measure import Row
from bench.programs.__main__ import tables
from bench.programs.measure import measure_all
from bench.programs.measure import rows as rows_of
from ota.author.aot import Compiler
from ota.cli.output import table

PARTS = ("code", "runtime", "events", "components", "memory", "signatures", "traffic", "transfer", "fetching", "fleet", "air")
OTHERS = ("guests", "programs")  # with tables of their own, and commands: python -m bench.guests, python -m bench.programs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join((*PARTS, *OTHERS))} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="each side of each of the programs (default %(default)s)")
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.parts} - {*PARTS, *OTHERS}):
        parser.error(f"no such part: {', '.join(unknown)}")
    chosen = [each for each in PARTS if not arguments.parts or each in arguments.parts]
    rows: list[Row] = [row for name in chosen for row in import_module(f"bench.{name}").measure(arguments.rounds)]
    more, said = [], []
    if not arguments.parts or "guests" in arguments.parts:
        languages = guests.measure(arguments.rounds)
        more += guests.rows(languages)
        said.append(guests.tables(languages))
    if not arguments.parts or "programs" in arguments.parts:
        programs = rows_of(list(measure_all(arguments.seconds)))
        more += programs
        said.append(tables(programs))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps([asdict(row) for row in (*rows, *more)], indent=2) + "\n")
    print("\n\n".join([*said, *_tables(rows)]))
    return 0


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    """For people: the speed of code, then everything else."""
    if code_rows := [row for row in rows if row.others]:
        peers = list(code_rows[0].others)
        lines = [(row.name, f"{row.value:.2f}", *(f"{row.others[peer]:.2f}" for peer in peers)) for row in code_rows]
        yield table((f"speed, gcc -O2 being 1; ours by {Compiler().llvm}", "ours", *peers), lines)
    cells = [
        (
            row.name,
            f"{row.value:.2f} {row.unit}",
            row.peer,
            _number(row.peer_value),
            row.floor,
            _number(row.floor_value),
            _ratio(row),
        )
        for row in rows
        if not row.others
    ]
    if cells:
        yield table(("what", "ours", "peer", "peer's", "floor", "floor's", "ours/peer"), cells)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ratio(row: Row) -> str:
    return f"{row.value / row.peer_value:.3f}" if row.peer_value else ""


if __name__ == "__main__":
    sys.exit(main())
