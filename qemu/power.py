"""The content of a disk after a power cut: everything that was flushed, and a random part of the rest.

QEMU's filter blklogwrites keeps every write and every flush in a log (format: Linux, drivers/md/dm-log-writes.c). To kill QEMU
alone loses nothing, because the kernel of this machine has what QEMU wrote.
"""

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from boards.errors import BoardError

__all__ = ["Entry", "read_log", "settle"]

MAGIC, VERSION = 0x6A736677736872, 1
SUPER, HEAD = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD = 1, 2, 4
PAGE = 4096
SECTOR = 512


@dataclass(frozen=True)
class Entry:
    """One request to the disk: where, in bytes, what, and whether it is a flush, durable by itself, or a discard."""

    at: int
    data: bytes
    flags: int


def read_log(path: Path) -> Iterator[Entry]:
    """The entries of a log, up to the first that is not whole. Raises BoardError for what is no log."""
    with path.open("rb") as file:
        head = file.read(SECTOR)
        if not head:
            return
        if len(head) < SECTOR or SUPER.unpack_from(head)[:2] != (MAGIC, VERSION) or SUPER.unpack_from(head)[3] != SECTOR:
            raise BoardError(f"{path} is no log of writes")
        while len(head := file.read(SECTOR)) == SECTOR:
            sector, count, flags, _ = HEAD.unpack_from(head)
            if flags & DISCARD:
                yield Entry(sector * SECTOR, b"", flags)
                continue
            data = file.read(count * SECTOR)
            if len(data) < count * SECTOR:
                return
            yield Entry(sector * SECTOR, data, flags)


def settle(log: Path, disk: Path, chance: random.Random | None) -> int:
    """Brings onto a raw disk what its log says was flushed, and of each later write every page or not, as chance has it.

    Without chance all of it is kept, as when a board is switched off in good order. Returns how many pages were lost.
    """
    entries = list(read_log(log))
    durable = max((index + 1 for index, each in enumerate(entries) if each.flags & FLUSH), default=0)
    lost = 0
    descriptor = os.open(disk, os.O_WRONLY)
    try:
        for index, each in enumerate(entries):
            safe = chance is None or index < durable or each.flags & FUA
            for offset in range(0, len(each.data), PAGE):
                if safe or (chance is not None and chance.random() < 0.5):
                    os.pwrite(descriptor, each.data[offset : offset + PAGE], each.at + offset)
                else:
                    lost += 1
    finally:
        os.close(descriptor)
    return lost
