"""GPIO lines that are named pipes, in the place of libgpiod's package: one program at a time has a line, as the kernel sees to it.

`WAMR_OTA_LINES` is the folder; each level that is driven goes into the line's pipe.
"""

import fcntl
import os
from pathlib import Path
from types import SimpleNamespace

line = SimpleNamespace(
    Direction=SimpleNamespace(INPUT="in", OUTPUT="out"), Value=SimpleNamespace(ACTIVE="active", INACTIVE="inactive")
)


class LineSettings:
    def __init__(self, direction):
        self.direction = direction


class _Request:
    def __init__(self, descriptor):
        self._descriptor = descriptor

    def get_value(self, offset):
        return line.Value.INACTIVE

    def set_value(self, offset, value):
        os.write(self._descriptor, b"1" if value == line.Value.ACTIVE else b"0")


def request_lines(path, consumer, config):
    (offset,) = config
    descriptor = os.open(Path(os.environ["WAMR_OTA_LINES"]) / f"{Path(path).name}.{offset}", os.O_RDWR | os.O_NONBLOCK)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError when another program has it
    return _Request(descriptor)
