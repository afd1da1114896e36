"""How things are measured: alternating rounds, the best of each side for short calls, the median for long ones."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One measurement, as it stands in bench.json."""

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    floor: str = ""
    floor_value: float | None = None
    others: dict[str, float] = field(default_factory=dict)  # more peers by name, in the same unit


def alternate(rounds: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Results of each side, measured in turns."""
    results: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, found in zip(sides, results, strict=True):
            found.append(side())
    return results


def per_call_ns(function: Callable[[], object], count: int) -> Callable[[], float]:
    """Nanoseconds of one call, the loop's own time taken off."""

    def run() -> float:
        started = time.perf_counter_ns()
        for _ in range(count):
            function()
        spent = time.perf_counter_ns() - started
        started = time.perf_counter_ns()
        for _ in range(count):
            pass
        return (spent - (time.perf_counter_ns() - started)) / count

    return run


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)
