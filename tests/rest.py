"""Runs as much of what `make test` leaves out as a budget of time holds: `python -m tests.rest --until SECONDS_SINCE_1970`.

What changed lately comes first, everything else in an order that begins elsewhere each day; beside that, the shortest parts run
one after the other. A part begins only when it will be done
in time, by what its tests took before (tests/durations.json, and build/tests/durations.json where they ran), and by how much slower
than that this machine is today. What ran and what did not is printed. Exit code 1 when a test failed.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

from tests.support.tiers import ARCHITECTURES, KNOWN, ROOT

LANES = 2
UNKNOWN_S = 90.0  # a test that was never measured, nor with other parameters
BIG_S = 100.0  # from here on a test is a part of its own
SPARE_S = 20.0
AREAS = {
    "tests/pywamr": ("native/", "wamr_bindings/"),
    "tests/spec": ("native/", "wamr_bindings/"),
    "tests/oracle": ("native/", "wamr_bindings/"),
    "tests/boards": ("boards/", "qemu/", "native/", "device_agent/node/"),
    "tests/system": ("device_agent/", "ota/"),
    "tests/agent": ("device_agent/",),
    "tests/operator": ("ota/",),
    "tests/test_documents.py": ("docs/", "README.md", "ota/cli/"),
}
OUT = ROOT / "build" / "tests"


@dataclass(frozen=True)
class Part:
    """Tests that one pytest runs."""

    name: str
    tests: tuple[str, ...]
    seconds: float


@dataclass
class Run:
    """What is left to do, and what became of the rest. Shared between the lanes."""

    waiting: list[Part]
    until: float
    took_s: float = 0.0  # of parts that are long enough to tell how fast this machine is, in all
    expected_s: float = 0.0
    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def slower(self) -> float:
        """How much slower than the one of tests/durations.json this machine is today."""
        return max(1.0, min(3.0, self.took_s / self.expected_s)) if self.expected_s else 1.0

    def take(self, *, shortest: bool = False) -> Part | None:
        """The next part that will be done in time, or the shortest one."""
        with self.lock:
            left = self.until - time.time() - SPARE_S
            fitting = (part for part in self.waiting if part.seconds * self.slower * 1.25 < left)
            found = min(fitting, key=lambda part: part.seconds, default=None) if shortest else next(fitting, None)
            if found:
                self.waiting.remove(found)
            return found

    def tell(self, part: Part, took_s: float, closing: str, *, failed: bool) -> None:
        """Notes and prints how a part ended."""
        with self.lock:
            if part.seconds >= BIG_S / 2:
                self.took_s += took_s
                self.expected_s += part.seconds
            line = f"{'FAILED' if failed else 'ran'}: {part.name}: {took_s:.0f} s (expected {part.seconds:.0f}): {closing}"
            self.lines.append(line)
            if failed:
                self.failed.append(part.name)
            print(line, flush=True)


def collect() -> list[str]:
    """The node ids of what `make test` leaves out today."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--tier", "rest"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 5):
        raise SystemExit(f"the tests cannot be collected:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return [line for line in done.stdout.splitlines() if "::" in line and " " not in line.partition("::")[0]]


def durations() -> dict[str, float]:
    """What tests took, in seconds: on the machine where it was noted, or here."""
    known: dict[str, float] = {}
    for path in (KNOWN, OUT / "durations.json"):
        if path.exists():
            known |= json.loads(path.read_text(encoding="utf-8"))
    return known


def expected(tests: Sequence[str], known: dict[str, float]) -> dict[str, float]:
    """What each test is going to take. One that was never measured: as with other parameters, on average."""
    alike: dict[str, list[float]] = {}
    for test, seconds in known.items():
        alike.setdefault(test.partition("[")[0], []).append(seconds)
    return {test: known.get(test, mean(alike.get(test.partition("[")[0], [UNKNOWN_S]))) for test in tests}


def parts_of(tests: Sequence[str], known: dict[str, float]) -> list[Part]:
    """Big tests alone; smaller ones of a file together, by architecture, since they share a board."""
    groups: dict[str, list[str]] = {}
    takes = expected(tests, known)
    for test in tests:
        file, _, name = test.partition("::")
        words = re.split(r"[\[\]-]", name)
        architecture = next((each for each in ARCHITECTURES if each in words), "")
        big = takes[test] >= BIG_S
        groups.setdefault(test if big else f"{file} {architecture}".strip(), []).append(test)
    return [Part(name, tuple(group), sum(takes[test] for test in group)) for name, group in sorted(groups.items())]


def changed_lately() -> list[str]:
    """The files that the commits of the last day before the present one changed."""
    head = _git("log", "-1", "--format=%ct")
    base = _git("rev-list", "-1", f"--before={int(head) - 86_400}", "HEAD") if head else ""
    return _git("diff", "--name-only", base).splitlines() if base else []


def _git(*arguments: str) -> str:
    """What git answers; nothing where there is no history."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def touched(part: Part, changed: Sequence[str]) -> bool:
    """Whether its test file, or what that tests, is among what changed."""
    file = part.tests[0].partition("::")[0]
    sources = next((sources for folder, sources in AREAS.items() if file.startswith(folder)), ())
    return any(name == file or name.startswith(sources or ("\0",)) for name in changed)


def in_order(parts: Sequence[Part], changed: Sequence[str], day: int) -> list[Part]:
    """Those that changes concern first; among equals another one is first each day."""
    turned = [parts[(at + day) % len(parts)] for at in range(len(parts))]
    return sorted(turned, key=lambda part: not touched(part, changed))


def run_part(part: Part, run: Run, number: int) -> None:
    """One pytest. What is not done when the time is up is interrupted, which is no failure of its own."""
    log = OUT / f"rest-{number}.log"
    began = time.time()
    with log.open("w", encoding="utf-8") as out:
        command = [sys.executable, "-m", "pytest", "-q", "--tier", "full", *part.tests]
        with subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT) as process:
            late = False
            try:
                code = process.wait(max(1.0, run.until - time.time()))
            except subprocess.TimeoutExpired:
                late = True
                code = _interrupted(process)
    text = log.read_text(encoding="utf-8", errors="replace")
    closing = text.strip().splitlines()[-1] if text.strip() else "no output"
    failed = bool(re.search(r"\b\d+ (failed|error)", closing)) if late else code not in (0, 5)
    if failed:
        print(text[-6000:], flush=True)
    run.tell(part, time.time() - began, f"{closing}{' (interrupted: the time was up)' if late else ''}", failed=failed)


def _interrupted(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def lane(run: Run, numbers: Sequence[int], *, shortest: bool) -> None:
    """One part after the other, as long as one fits."""
    for number in numbers:
        part = run.take(shortest=shortest)
        if part is None:
            return
        run_part(part, run, number)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 when a test failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.rest", description="Run what `make test` leaves out, as time allows.")
    parser.add_argument("--until", type=float, required=True, help="when to be done, in seconds since 1970")
    until = parser.parse_args(argv).until
    OUT.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and hand that on
    tests, known = collect(), durations()
    parts = parts_of(tests, known)
    run = Run(in_order(parts, changed_lately(), time.gmtime().tm_yday), until)
    print(f"{len(parts)} parts of what `make test` leaves out; {max(0, until - time.time()):.0f} s for them", flush=True)
    if new := [each for each in tests if each not in known]:
        print(f"never measured, and not yet in tests/durations.json: {', '.join(new)}", flush=True)
    # The last lane begins with the shortest parts, so that a few big ones leave time for many others.
    lanes = [
        threading.Thread(target=lane, args=(run, range(at, 2 * len(parts) + 2, LANES)), kwargs={"shortest": at == LANES - 1})
        for at in range(LANES)
    ]
    for each in lanes:
        each.start()
    for each in lanes:
        each.join()
    for part in run.waiting:
        print(f"not run, no time: {part.name} ({len(part.tests)} tests, {part.seconds:.0f} s)")
    print(f"{len(run.lines)} parts ran, {len(run.failed)} failed, {len(run.waiting)} had no time")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
