"""Metrics of a filter, which it alone can read. Results are those of proxy-wasm's host functions."""

from dataclasses import dataclass

from device_agent.sandbox.proxy_abi import BAD_ARGUMENT, COUNTER, INTERNAL_FAILURE, MASK_64, METRIC_KINDS, METRICS, NOT_FOUND, OK


@dataclass
class Metric:
    """Counters only rise; gauges and histograms hold what they are told."""

    name: bytes
    kind: int
    value: int = 0


class Metrics:
    """By their numbers, from 0."""

    def __init__(self) -> None:
        self._all: list[Metric] = []

    def define(self, kind: int, name: bytes) -> tuple[int, int]:
        """The result, and the number of the metric of that name."""
        if not 0 <= kind < METRIC_KINDS:
            return BAD_ARGUMENT, 0
        known = next((number for number, each in enumerate(self._all) if each.name == name), None)
        if known is not None:
            return OK, known
        if len(self._all) >= METRICS:
            return INTERNAL_FAILURE, 0
        self._all.append(Metric(name, kind))
        return OK, len(self._all) - 1

    def increment(self, number: int, offset: int) -> int:
        """The result."""
        metric = self._found(number)
        if metric is None:
            return NOT_FOUND
        if metric.kind == COUNTER and offset < 0:
            return BAD_ARGUMENT
        metric.value = (metric.value + offset) & MASK_64
        return OK

    def record(self, number: int, value: int) -> int:
        """The result."""
        metric = self._found(number)
        if metric is None:
            return NOT_FOUND
        metric.value = value & MASK_64
        return OK

    def value(self, number: int) -> int | None:
        """None where there is no such metric."""
        metric = self._found(number)
        return None if metric is None else metric.value

    def _found(self, number: int) -> Metric | None:
        return self._all[number] if 0 <= number < len(self._all) else None
