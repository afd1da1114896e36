"""python -m bench: measures, prints a table, writes build/bench.json.

Each row stands beside a peer (another runtime, or a raw transfer by paho) or a floor (what the machine can't do better), measured
in the same run, alternating. Absolute times depend on the machine; the ratios are what the README quotes.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from bench.measure import Row
from ota.cli.output import table


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="each side of each of the programs (default %(default)s)")
    arguments = parser.parse_args()
    from bench import air, code, components, events, fetching, fleet, guests, memory, runtime, signatures, traffic, transfer
    from bench.programs.__main__ import tables
    from bench.programs.measure import measure_all
    from bench.programs.measure import rows as rows_of
    from ota.author.aot import Compiler

    parts = (code, runtime, events, components, memory, signatures, traffic, transfer, fetching, fleet, air)
    rows: list[Row] = [row for part in parts for row in part.measure(arguments.rounds)]
    languages = guests.measure(arguments.rounds)
    programs = rows_of(list(measure_all(arguments.seconds)))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps([asdict(row) for row in (*rows, *guests.rows(languages), *programs)], indent=2) + "\n")
    print(guests.tables(languages), end="\n\n")
    print(tables(programs), end="\n\n")
    code_rows = [row for row in rows if row.others]
    peers = list(code_rows[0].others)
    lines = [(row.name, f"{row.value:.2f}", *(f"{row.others[peer]:.2f}" for peer in peers)) for row in code_rows]
    print(table((f"speed, gcc -O2 being 1; ours by {Compiler().llvm}", "ours", *peers), lines), end="\n\n")
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
    print(table(("what", "ours", "peer", "peer's", "floor", "floor's", "ours/peer"), cells))
    return 0


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ratio(row: Row) -> str:
    return f"{row.value / row.peer_value:.3f}" if row.peer_value else ""


if __name__ == "__main__":
    sys.exit(main())
