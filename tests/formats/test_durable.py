"""Files that are replaced whole: two writers of one file, and a folder that somebody keeps locked."""

import errno
import fcntl
import os
import threading

import pytest

from ota import durable


def test_two_writers_of_one_file_leave_one_of_their_contents_whole(tmp_path):
    contents = [bytes([number]) * 20_000 for number in range(4)]

    def write(content: bytes) -> None:
        for _ in range(10):
            durable.write_durably(tmp_path / "file", content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_locked_for_ever_is_an_error_and_no_endless_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "LOCK_S", 0.05)
    (tmp_path / "file").write_bytes(b"old")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="locked") as caught:
            durable.write_durably(tmp_path / "file", b"new")
    finally:
        os.close(folder)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"old"
    durable.write_durably(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
