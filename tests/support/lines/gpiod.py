"""GPIO lines that are named pipes, in the place of libgpiod's package: one program at a time has a line, as the kernel sees to it.

`WAMR_OTA_LINES` is the folder; each level that is driven goes into the line's pipe, and each that is written there is an edge. A
byte that is no level stands for an edge that the kernel had no room for.
"""

import fcntl
import os
from enum import Enum
from pathlib import Path
from types import SimpleNamespace


class EdgeEvent:
    Type = Enum("Type", ["RISING_EDGE", "FALLING_EDGE"])

    def __init__(self, rising, number):
        self.event_type = self.Type.RISING_EDGE if rising else self.Type.FALLING_EDGE
        self.line_seqno = number
        self.timestamp_ns = number * 1_000_000


line = SimpleNamespace(
    Direction=SimpleNamespace(INPUT="in", OUTPUT="out"),
    Value=SimpleNamespace(ACTIVE="active", INACTIVE="inactive"),
    Edge=Enum("Edge", ["NONE", "RISING", "FALLING", "BOTH"]),
    Bias=Enum("Bias", ["AS_IS", "DISABLED", "PULL_UP", "PULL_DOWN"]),
)


class LineSettings:
    def __init__(self, direction, edge_detection=line.Edge.NONE, bias=line.Bias.AS_IS, debounce_period=None):
        self.direction = direction
        self.edges = {line.Edge.RISING: b"1", line.Edge.FALLING: b"0"}.get(edge_detection, b"01")


class _Request:
    def __init__(self, descriptor, edges):
        self.fd = descriptor
        self._edges = edges
        self._number = 0

    def get_value(self, offset):
        return line.Value.INACTIVE

    def set_value(self, offset, value):
        os.write(self.fd, b"1" if value == line.Value.ACTIVE else b"0")

    def read_edge_events(self, max_events):
        events = []
        for level in os.read(self.fd, max_events):
            self._number += level in self._edges or level not in b"01"
            if level in self._edges:
                events.append(EdgeEvent(level in b"1", self._number))
        return events

    def release(self):
        os.close(self.fd)


def request_lines(path, consumer, config, event_buffer_size=None):
    ((offset, settings),) = config.items()
    descriptor = os.open(Path(os.environ["WAMR_OTA_LINES"]) / f"{Path(path).name}.{offset}", os.O_RDWR | os.O_NONBLOCK)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError when another program has it
    return _Request(descriptor, settings.edges)
