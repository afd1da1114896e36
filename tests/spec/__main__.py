"""make spec: every script in both modes, a process each; writes build/spec.json and says what failed that is not known."""

import argparse
import itertools
import json
import sys
import tomllib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ota.author.aot import host_target
from tests.spec.script import Script
from tests.spec.source import HERE, commands, files
from tests.support.aot import aotc

MODES = ("interpreter", "aot")
PROPOSALS = ("core", "simd", "extended-const")


def run_file(mode: str, script: Path) -> dict[str, Any]:
    """The outcome of one script."""
    listed, folder = commands(script)
    outcome = Script(mode, folder).run(listed)
    return {"passed": outcome.passed, "failed": outcome.failed, "skipped": dict(outcome.skipped)}


class _Apart:
    """Runs scripts in a process beside this one: a crash is an outcome too, and the next script gets another process."""

    def __init__(self) -> None:
        self._pool = self._made()

    @staticmethod
    def _made() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=get_context("fork"))

    def run(self, mode: str, script: Path) -> dict[str, Any]:
        try:
            return self._pool.submit(run_file, mode, script).result()
        except BrokenProcessPool:
            self._pool = self._made()
            return {"passed": 0, "failed": [f"{script.stem}: the process crashed"], "skipped": {}}

    def close(self) -> None:
        self._pool.shutdown()


def run_all(modes: tuple[str, ...], proposals: tuple[str, ...] = PROPOSALS) -> dict[str, Any]:
    """By mode and proposal: passed, failed with what was known, skipped by reason."""
    known = tomllib.loads((HERE / "known.toml").read_text(encoding="utf-8"))
    result: dict[str, Any] = {}
    apart = _Apart()
    for mode, (proposal, script) in itertools.product(modes, [each for each in files() if each[0] in proposals]):
        total = result.setdefault(mode, {}).setdefault(proposal, {"passed": 0, "failed": {}, "known": {}, "skipped": {}})
        outcome = apart.run(mode, script)
        total["passed"] += outcome["passed"]
        _count(total["skipped"], outcome["skipped"])
        name = script.stem if proposal in ("core", "simd") else f"{proposal}-{script.stem}"
        here = known.get(f"{mode}-{host_target()}", {}).get(name, {})
        _sort_failures(total, known.get(name, {}) | here, name, outcome["failed"])
    apart.close()
    return result


def _count(total: dict[str, int], more: dict[str, int]) -> None:
    total.update(Counter(total) + Counter(more))


def _sort_failures(total: dict[str, Any], known: dict[str, Any], name: str, failures: list[str]) -> None:
    lines = [int(each.split()[1]) if each.startswith("line ") else 0 for each in failures]
    for line, text in zip(lines, failures, strict=True):
        reason = next((reason for reason, where in known.items() if line in where), None)
        if reason is None:
            total["failed"].setdefault(name, []).append(text)
        else:
            total["known"][reason] = total["known"].get(reason, 0) + 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the WebAssembly spec tests.")
    parser.add_argument("--out", type=Path, help="where the result goes, as JSON")
    parser.add_argument("--mode", choices=MODES)
    arguments = parser.parse_args()
    modes = (arguments.mode,) if arguments.mode else MODES if aotc() is not None else MODES[:1]
    result = run_all(modes)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    bad = 0
    for mode, proposals in result.items():
        for proposal, total in proposals.items():
            known, skipped = sum(total["known"].values()), sum(total["skipped"].values())
            failed = sum(map(len, total["failed"].values()))
            bad += failed
            print(f"{mode:12} {proposal:14} {total['passed']:6} passed {failed:4} failed {known:4} known {skipped:6} skipped")
            for name, failures in total["failed"].items():
                print(*(f"  {name} {each}" for each in failures[:8]), sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
