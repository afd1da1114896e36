"""Files that are replaced whole: two writers of one file, and a folder that somebody keeps locked."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
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


def test_who_is_killed_while_a_file_is_written_leaves_nothing_behind(tmp_path):
    if not _has_nameless_files(tmp_path):
        pytest.skip("this file system has no files without a name")
    (tmp_path / "file").write_bytes(b"old")
    for name in ("file", "new"):
        program = f"""
import os, signal
from pathlib import Path
from ota import durable
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
durable.write_durably(Path({str(tmp_path / name)!r}), bytes(20_000), 0o600)
"""
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": b"old"}


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_system_without_nameless_files_is_written_all_the_same(tmp_path, monkeypatch, code):
    real = os.open

    def fake(path, flags, *rest, **more):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", fake)
    for content in (b"old", b"new"):
        durable.write_durably(tmp_path / "file", content, 0o600)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def _has_nameless_files(folder):
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return True
