"""make fuzz: compares modules made at random, for as long as told. `python -m tests.fuzz --seconds 600 --targets x86_64,armv7`.

Case N of seed S is the same each time, with the same tools and modules to mutate. What differs, crashes, hangs or is refused is
kept in build/fuzz/found, with its seed and a smaller module that does the same. The exit code is 1 when something was found.
"""

import argparse
import json
import secrets
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ota.author.aot import host_target
from tests.fuzz import cases
from tests.fuzz.compare import Comparison, Verdict, comparing
from tests.fuzz.forked import ROOT
from tests.fuzz.reduce import reduced

FOUND = ROOT / "build" / "fuzz" / "found"
MOST_FOUND = 100


class Report:
    """What was compared until now, and what was found; written to a file after each case."""

    def __init__(self, path: Path, seed: int, number: int, targets: tuple[str, ...]) -> None:
        self._path = path
        self._about = {"seed": seed, "targets": targets}
        self.next = number
        self.counts: Counter[str] = Counter()
        self.found: list[dict[str, Any]] = []
        self._begun = time.monotonic()

    def add(self, kind: str, verdicts: list[Verdict]) -> None:
        """One case."""
        self.counts.update(f"{each.mode} {kind} {each.kind}" for each in verdicts)

    def write(self) -> None:
        """All of it, as JSON."""
        spent = round(time.monotonic() - self._begun)
        content = self._about | {
            "next": self.next,
            "seconds": spent,
            "counts": dict(sorted(self.counts.items())),
            "found": self.found,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._path)


def keep(case: cases.Case, verdict: Verdict, attempts: int) -> dict[str, Any]:
    """Keeps a fault: the module, a smaller one, and a description."""
    folder = FOUND / f"{case.name.split()[0]}-{verdict.mode}"
    folder.mkdir(parents=True, exist_ok=True)
    module = folder / "module.wasm"
    module.write_bytes(case.wasm)
    about = {"case": case.name, "seed": case.seed, "mode": verdict.mode, "kind": verdict.kind, "why": verdict.why}
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    small = reduced(module, attempts)
    return about | {"kept": str(folder.relative_to(ROOT)), "bytes": len(case.wasm), "reduced_bytes": small}


def one(comparison: Comparison, report: Report, case: cases.Case, attempts: int) -> None:
    """Compares one case; of several modes that fail alike the first is kept."""
    verdicts = comparison.verdicts(case.wasm, case.seed)
    report.add(case.name.split()[1], verdicts)
    faults = [each for each in verdicts if each.is_fault]
    if faults and len(report.found) < MOST_FOUND:
        print(f"{case.name}: {faults[0]}", flush=True)
        report.found.append(keep(case, faults[0], attempts))


def main() -> int:
    """Returns 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, help="default: another each time")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first case")
    parser.add_argument("--cases", type=int, metavar="N", help="no more than so many, however long they take")
    parser.add_argument("--resume", action="store_true", help="go on behind the last case of the report")
    parser.add_argument("--targets", default=host_target(), help="with commas between them; others are emulated")
    parser.add_argument("--corpus", type=Path, action="append", default=[], metavar="FOLDER", help="more modules to mutate")
    parser.add_argument("--attempts", type=int, default=300, help="to make what was found smaller; 0: not at all")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz.json")
    arguments = parser.parse_args()
    seed, number = arguments.seed if arguments.seed is not None else secrets.randbits(32), arguments.first
    if arguments.resume and arguments.out.exists():
        last = json.loads(arguments.out.read_text(encoding="utf-8"))
        seed, number = last["seed"], last["next"]
    targets = tuple(arguments.targets.split(","))
    corpus = cases.corpus(arguments.corpus)
    print(f"seed {seed}, from case {number}; {len(corpus)} modules to mutate; {', '.join(targets)}", flush=True)
    report = Report(arguments.out, seed, number, targets)
    until = time.monotonic() + arguments.seconds
    with comparing(targets) as comparison:
        while time.monotonic() < until and (arguments.cases is None or report.next < number + arguments.cases):
            try:
                one(comparison, report, cases.made(seed, report.next, corpus), arguments.attempts)
            except cases.NoCase:
                report.counts["no module was made"] += 1
            report.next += 1
            report.write()
    print(*(f"{count:7} {what}" for what, count in sorted(report.counts.items())), sep="\n")
    print(f"cases {number} to {report.next - 1} of seed {seed}: {len(report.found)} faults; {arguments.out}")
    return int(bool(report.found))


if __name__ == "__main__":
    sys.exit(main())
