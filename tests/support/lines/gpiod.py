"""GPIO lines that are files, in the place of libgpiod's package: one program at a time has a line, as the kernel sees to it.

`WAMR_OTA_LINES` is the folder; a line's file holds what was written to it last.
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
        return line.Value.ACTIVE if os.pread(self._descriptor, 1, 0) == b"1" else line.Value.INACTIVE

    def set_value(self, offset, value):
        os.pwrite(self._descriptor, b"1" if value == line.Value.ACTIVE else b"0", 0)


def request_lines(path, consumer, config):
    (offset,) = config
    descriptor = os.open(Path(os.environ["WAMR_OTA_LINES"]) / f"{Path(path).name}.{offset}", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises OSError when another program has it
    return _Request(descriptor)
