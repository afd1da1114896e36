"""python -m bench.guests: the module of `ota new` in each language, interpreted and ahead of time, beside wasmtime-py; a part of
`make bench`.

Each side is a process of its own, by turns; figures are medians. `start_ms` is reading the file, loading and initialising,
`first_event_ms` that and the first event, `first_cpu_ms` the same in processor time of all threads, `event_us` one of the events
after it, `rss_mb` the whole process, `module_mb` that without what Python and its imports had before. wasmtime-py runs the same
core module: `wasmtime` compiles it when it starts, `wasmtime_cached` loads what was compiled before. Python and its imports are
there before times begin.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import wasmtime

from bench.measure import Row, median
from ota.author.aot import Compiler, host_target
from ota.author.templates import create
from ota.cli.output import table
from tests.support.languages import ToolchainLackingError, build

LANGUAGES = ("c", "c++", "rust", "zig", "assemblyscript", "go", "javascript", "typescript")
SIDES = ("interp", "aot", "wasmtime", "wasmtime_cached")
METRICS = {"start_ms": "ms", "first_event_ms": "ms", "first_cpu_ms": "ms", "event_us": "us", "rss_mb": "MB", "module_mb": "MB"}
EVENTS = 500
TARGETS = {("go", "first_event_ms"): 60.0, ("javascript", "first_event_ms"): 50.0, ("", "event_us"): 120.0}  # ahead of time
RSS_TARGET = 0.5  # of wasmtime-py's


@dataclass
class Guest:
    """A language's module: sizes in bytes, and for each side what it printed, once a round."""

    language: str
    sizes: dict[str, int]
    commands: dict[str, list[str]]
    found: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def value(self, side: str, metric: str) -> float:
        """The median."""
        return median([each[metric] for each in self.found[side]])


def prepared(language: str, folder: Path) -> Guest:
    """Builds the template's module and compiles it for both runtimes. Raises ToolchainLackingError."""
    with chdir(folder):
        module = build(create(language.replace("+", "p"), language, folder))
    content = module.read_bytes()
    files = {"interp": module, "wasmtime": module}
    images = {
        "aot": Compiler().compile(content, host_target(), name=language).image,
        "wasmtime_cached": bytes(wasmtime.Module(wasmtime.Engine(), content).serialize()),
    }
    for side, image in images.items():
        files[side] = module.with_suffix(f".{side}")
        files[side].write_bytes(image)
    runtime = {side: "ours" if side in {"interp", "aot"} else side for side in SIDES}
    description = str(module.with_suffix(".toml"))
    commands = {
        side: [sys.executable, "-m", "bench.guest_side", runtime[side], str(files[side]), description, str(EVENTS)]
        for side in SIDES
    }
    return Guest(language, {side: files[side].stat().st_size for side in SIDES}, commands)


def measure(rounds: int, languages: Sequence[str] = LANGUAGES) -> list[Guest]:
    """All sides of all languages, by turns; what can't be built here is told and left out."""
    guests = []
    with tempfile.TemporaryDirectory() as folder:
        for language in languages:
            try:
                guests.append(prepared(language, Path(folder)))
            except ToolchainLackingError as error:
                sys.stderr.write(f"left out: {language}: {error}\n")
        for _ in range(rounds):
            for guest in guests:
                for side in SIDES:
                    done = subprocess.run(guest.commands[side], stdout=subprocess.PIPE, text=True, check=True)
                    guest.found.setdefault(side, []).append(json.loads(done.stdout))
    return guests


def rows(guests: Sequence[Guest]) -> list[Row]:
    """For bench.json: the value is that of ours ahead of time, the peer wasmtime-py that compiled before."""
    made = []
    for guest in guests:
        for metric, unit in METRICS.items():
            values = {side: guest.value(side, metric) for side in SIDES}
            name = f"guest_{guest.language}_{metric}"
            made.append(Row(name, values["aot"], unit, "wasmtime-py", values["wasmtime_cached"], others=values))
        sizes = {side: size / 1000 for side, size in guest.sizes.items()}
        made.append(
            Row(f"guest_{guest.language}_size_kb", sizes["aot"], "kB", "wasmtime-py", sizes["wasmtime_cached"], others=sizes)
        )
    return made


def tables(guests: Sequence[Guest]) -> str:
    """For people: the machine, a line for each side, and whether targets are met."""
    lines = [
        (
            guest.language,
            side,
            f"{guest.sizes[side] / 1000:.1f}",
            *(f"{guest.value(side, metric):.1f}" for metric in METRICS),
        )
        for guest in guests
        for side in SIDES
    ]
    return "\n\n".join((about(guests), table(("language", "side", "kB", *METRICS), lines), "\n".join(judged(guests))))


def about(guests: Sequence[Guest]) -> str:
    """The machine and the versions."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ": unknown")
    rounds = len(guests[0].found[SIDES[0]]) if guests else 0
    return (
        f"{platform.machine()},{cpu.partition(':')[2]}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; Python "
        f"{platform.python_version()}, wasmtime-py {version('wasmtime')}, {Compiler().llvm}; {rounds} rounds of {EVENTS} events"
    )


def judged(guests: Sequence[Guest]) -> list[str]:
    """A line for each target."""
    found = []
    for guest in guests:
        for (language, metric), most in TARGETS.items():
            if language in {"", guest.language}:
                found.append(
                    _judged(f"{guest.language}, {metric} ahead of time", guest.value("aot", metric), most, METRICS[metric])
                )
        for side, peer in (("interp", "wasmtime"), ("aot", "wasmtime"), ("aot", "wasmtime_cached")):
            ratio = guest.value(side, "rss_mb") / guest.value(peer, "rss_mb")
            found.append(_judged(f"{guest.language}, rss_mb {side} / {peer}", ratio, RSS_TARGET, ""))
    return found


def _judged(what: str, value: float, most: float, unit: str) -> str:
    word = "met" if value <= most else f"{value / most:.2f} times the target"
    return f"{what}: {value:.2f} {unit}".rstrip() + f", at most {most:g}: {word}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.guests", description=__doc__.splitlines()[0])
    parser.add_argument("languages", nargs="*", metavar="LANGUAGE", help=f"of {', '.join(LANGUAGES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/bench-guests.json"))
    arguments = parser.parse_args(argv)
    guests = measure(arguments.rounds, arguments.languages or LANGUAGES)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps([asdict(row) for row in rows(guests)], indent=2) + "\n")
    print(tables(guests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
