"""What a cut leaves on a disk: everything flushed, of the rest pages by chance, and nothing of a log that is none."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boards.errors import BoardError
from qemu.power import DISCARD, FLUSH, FUA, HEAD, MAGIC, PAGE, SECTOR, SUPER, VERSION, read_log, settle


def log_of(entries):
    """A log as QEMU writes it."""
    out = SUPER.pack(MAGIC, VERSION, len(entries), SECTOR).ljust(SECTOR, b"\0")
    for at, data, flags in entries:
        out += HEAD.pack(at // SECTOR, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0")
        out += b"" if flags & DISCARD else data
    return out


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(8 * PAGE))
    return path


def pages(disk):
    content = disk.read_bytes()
    return [content[at] for at in range(0, len(content), PAGE)]


def test_what_was_flushed_is_there_and_what_was_not_may_be_lost(tmp_path, disk):
    log = tmp_path / "log"
    entries = [(0, b"\1" * PAGE, 0), (0, b"", FLUSH), (PAGE, b"\2" * 4 * PAGE, 0), (5 * PAGE, b"\3" * PAGE, FUA)]
    log.write_bytes(log_of(entries))
    seen = set()
    for seed in range(40):
        disk.write_bytes(bytes(8 * PAGE))
        lost = settle(log, disk, random.Random(seed))
        found = pages(disk)
        assert found[0] == 1
        assert found[5] == 3
        assert found[1:5].count(0) == lost
        seen.add(tuple(found[1:5]))
    assert len(seen) > 5


def test_switched_off_in_good_order_nothing_is_lost(tmp_path, disk):
    (tmp_path / "log").write_bytes(log_of([(PAGE, b"\2" * PAGE, 0), (0, b"\1" * SECTOR, 0)]))
    assert settle(tmp_path / "log", disk, None) == 0
    assert pages(disk)[:2] == [1, 2]


def test_an_entry_that_was_cut_off_itself_is_not_read(tmp_path):
    whole = log_of([(0, b"\1" * PAGE, 0), (PAGE, b"\2" * PAGE, 0)])
    for size in range(len(whole) - PAGE + 1, len(whole), 777):
        (tmp_path / "log").write_bytes(whole[:size])
        assert len(list(read_log(tmp_path / "log"))) == 1
    (tmp_path / "log").write_bytes(b"")
    assert list(read_log(tmp_path / "log")) == []


@given(st.binary(min_size=1, max_size=2000))
def test_what_is_no_log_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(data)
    if data[:16] != struct.pack("<QQ", MAGIC, VERSION):
        with pytest.raises(BoardError, match="is no log of writes"):
            list(read_log(path))
