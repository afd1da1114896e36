"""The behaviours of preview 1 that the capability offers, on a folder, and every way out of it."""

import errno
import os
import struct
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.sandbox import wasi_numbers as errors
from device_agent.sandbox.errors import Exited
from device_agent.sandbox.folder_room import ENTRY_BYTES
from device_agent.sandbox.wasi import MAX_DESCRIPTORS
from tests.support.wasi_guest import READING, Guest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "in" / "file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "in" / "link").symlink_to("../secret")
    (tmp_path / "in" / "way").symlink_to("..")
    os.mkfifo(tmp_path / "in" / "pipe")
    return tmp_path / "in"


@pytest.fixture
def guest(folder):
    return Guest(("/data", folder, True))


@pytest.fixture
def reader(folder):
    return Guest(("/data", folder, False))


def test_the_granted_folder_has_its_name(guest):
    assert guest("fd_prestat_get", 3, 0) == 0
    assert (guest.memory[0], guest.u32(4)) == (0, 5)
    assert guest("fd_prestat_dir_name", 3, 10, 5) == 0
    assert guest.read(10, 5) == b"/data"
    assert guest("fd_prestat_get", 4, 0) == errors.BADF
    assert guest("fd_prestat_dir_name", 3, 10, 2) == errors.NAMETOOLONG


def test_files_are_created_written_read_and_removed(guest, folder):
    number = guest.open("new", 1 | 4)
    assert guest.write_file(number, b"hello world") == 0
    assert guest("fd_seek", number, 6, 0, 0) == 0
    assert guest.read_file(number) == b"world"
    assert guest("fd_filestat_set_size", number, 5) == 0
    assert guest("fd_sync", number) == 0
    assert guest("fd_close", number) == 0
    assert (folder / "new").read_bytes() == b"hello"
    assert guest.open("new", 1 | 4) == -errors.EXIST
    assert guest.path("path_unlink_file", 3, "new") == 0
    assert guest.open("new") == -errors.NOENT
    assert guest("fd_close", number) == errors.BADF


def test_a_folder_is_synced_as_a_file_is(guest, folder, monkeypatch):
    """By the number of a folder that was opened, or handed in: what a module renamed in it is on the disk then."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    number = guest.open("sub", 2, READING)
    assert [guest("fd_sync", each) for each in (number, 3)] == [0, 0]
    assert synced == [(folder / "sub").stat().st_ino, folder.stat().st_ino]


def test_appending_goes_to_the_end(guest, folder):
    number = guest.open("file", flags=1)
    assert guest("fd_seek", number, 0, 0, 0) == 0
    assert guest.write_file(number, b"!") == 0
    assert (folder / "file").read_bytes() == b"inside!"


def test_folders_are_made_listed_renamed_and_removed(guest, folder):
    assert guest.path("path_create_directory", 3, "sub/deep") == 0
    guest.write(3000, b"sub/other")
    assert guest.path("path_rename", 3, "sub/deep", 3, 3000, 9) == 0
    assert guest("fd_readdir", 3, 4000, 4096, 0, 0) == 0
    raw, names, at = guest.read(4000, guest.u32(0)), [], 0
    while at < len(raw):
        _, _, size, _ = struct.unpack_from("<QQIB", raw, at)
        names.append(raw[at + 24 : at + 24 + size])
        at += 24 + size
    assert names == [b".", b"..", b"file", b"link", b"pipe", b"sub", b"way"]
    assert guest.path("path_remove_directory", 3, "sub") == errors.NOTEMPTY
    assert guest.path("path_remove_directory", 3, "sub/other") == 0
    assert guest.path("path_filestat_get", 3, "file", 200, before=(0,)) == 0
    assert struct.unpack_from("<Q", guest.memory, 200 + 32)[0] == 6


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("../secret", errors.NOTCAPABLE), ("sub/../../secret", errors.NOTCAPABLE), ("/etc/passwd", errors.NOTCAPABLE),
        ("..", errors.NOTCAPABLE),
        ("link", errors.NOTCAPABLE), ("way/secret", errors.NOTCAPABLE), ("./way/./secret", errors.NOTCAPABLE),
        ("file/../../secret", errors.NOTDIR),
        ("pipe", errors.NOTCAPABLE), ("", errors.NOENT), ("a\0b", errors.INVAL), ("x" * 5000, errors.NAMETOOLONG),
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(guest, path, error):
    if path == "pipe":
        assert guest.open(path) in (-error, -errors.IO)
        return
    assert guest.open(path) == -error
    assert guest.open(path, 1) in (-error, -errors.ISDIR)


def test_walking_up_and_down_inside_is_fine(guest):
    assert guest.read_file(guest.open("sub/../sub/./../file")) == b"inside"


def test_a_folder_that_is_only_read_is_not_changed(reader, folder):
    before = sorted(folder.iterdir())
    assert reader.open("new", 1) == -errors.NOTCAPABLE
    assert reader.open("file", 8) == -errors.NOTCAPABLE
    assert reader.open("file") == -errors.NOTCAPABLE
    number = reader.open("file", rights=READING)
    assert reader.read_file(number) == b"inside"
    assert reader.write_file(number, b"x") == errors.BADF
    for name, more in (("path_create_directory", ()), ("path_remove_directory", ()), ("path_unlink_file", ())):
        assert reader.path(name, 3, "sub", *more) == errors.NOTCAPABLE
    assert reader("fd_filestat_set_size", number, 0) == errors.BADF
    assert sorted(folder.iterdir()) == before
    inner = reader.open("sub", 2, READING)
    assert reader.path("path_create_directory", inner, "x") == errors.NOTCAPABLE


def test_sockets_are_not_offered(guest):
    for name, more in (
        ("sock_accept", (0, 0)),
        ("sock_recv", (0, 0, 0, 0, 0)),
        ("sock_send", (0, 0, 0, 0)),
        ("sock_shutdown", (0,)),
    ):
        assert [guest(name, number, *more) for number in (1, 3, 9)] == [errors.NOTSOCK, errors.NOTSOCK, errors.BADF]
    assert guest("proc_raise", 9) == errors.NOSYS


def test_descriptors_run_out_politely(guest):
    opened = [guest.open("file") for _ in range(MAX_DESCRIPTORS)]
    assert opened[-1] == -errors.MFILE
    assert guest("fd_close", opened[0]) == 0
    assert guest.open("file") == opened[0]


def test_a_number_is_given_to_something_else(guest, folder):
    """A granted folder's too: the module's own numbers are its own affair."""
    number, other = guest.open("file"), guest.open("sub", 2, READING)
    assert guest("fd_renumber", number, other) == 0
    assert guest.read_file(other) == b"inside"
    assert guest("fd_tell", number, 0) == errors.BADF
    assert guest("fd_renumber", other, number) == errors.BADF
    inner = guest.open("sub", 2, READING)
    assert guest("fd_renumber", inner, 3) == 0
    assert guest("fd_prestat_get", 3, 0) == errors.BADF
    assert guest.open("new", 1) > 0
    assert (folder / "sub" / "new").exists()
    assert guest.path("path_create_directory", 3, "../x") == errors.NOTCAPABLE


def test_vectors_that_ask_for_too_much_are_refused(guest):
    number = guest.open("file")
    guest.write(100, struct.pack("<II", 0, 0xFFFFFFFF))
    assert guest("fd_read", number, 100, 1, 0) == errors.INVAL
    assert guest("fd_read", number, 100, -1, 0) == errors.INVAL
    assert guest("fd_pread", number, 100, 0, -1, 0) == errors.INVAL


def test_poll_waits_for_clocks_and_answers_every_subscription(guest):
    one = struct.pack("<QBxxxxxxxIxxxxQQHxxxxxx", 77, 0, 1, 1_000_000, 0, 0)
    guest.write(100, one + one.replace(struct.pack("<Q", 77), struct.pack("<Q", 78), 1))
    assert guest("poll_oneoff", 100, 1000, 2, 0) == 0
    assert guest.u32(0) == 2
    assert struct.unpack_from("<QHB", guest.memory, 1032) == (78, 0, 0)
    assert guest("poll_oneoff", 100, 1000, 0, 0) == errors.INVAL
    assert guest("poll_oneoff", 100, 1000, 1 << 20, 0) == errors.INVAL


@pytest.mark.parametrize(("timeout_ns", "slept_s"), [(30 * 10**9, 30.0), (2**64 - 1, 2**62 / 1e9)])
def test_a_sleep_is_as_long_as_the_guest_says(guest, monkeypatch, timeout_ns, slept_s):
    """What ends it sooner is the deadline of the event."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    guest.write(100, struct.pack("<QBxxxxxxxIxxxxQQHxxxxxx", 77, 0, 1, timeout_ns, 0, 0))
    assert guest("poll_oneoff", 100, 1000, 1, 0) == 0
    assert slept == [slept_s]


def test_arguments_clocks_and_random(guest):
    assert guest("args_sizes_get", 0, 4) == 0
    assert (guest.u32(0), guest.u32(4)) == (1, 7)
    assert guest("environ_sizes_get", 0, 4) == 0
    assert guest.u32(0) == 0
    assert guest("clock_time_get", 0, 0, 8) == 0
    assert struct.unpack_from("<Q", guest.memory, 8)[0] > 1_600_000_000 * 10**9
    assert guest("clock_time_get", 3, 0, 8) == errors.INVAL
    assert guest("random_get", 100, 32) == 0
    assert guest.read(100, 32) != bytes(32)


def test_long_lines_are_cut_and_exit_ends_the_call(guest):
    assert guest.write_file(2, b"x" * 2500 + b"\nend\n") == 0
    assert [len(text) for _, text in guest.logged] == [1000, 1000, 500, 3]
    assert {level for level, _ in guest.logged} == {"warn"}
    with pytest.raises(Exited, match="proc_exit\\(3\\)"):
        guest("proc_exit", 3)


def test_every_error_of_the_kernel_has_a_number():
    assert errors.ERRORS[errno.ENOSPC] == errors.NOSPC
    assert all(0 < number < 77 for number in errors.ERRORS.values())


# -- the quota


@pytest.fixture
def small(tmp_path):
    """A module that may keep three entries and 1,000 bytes."""
    (tmp_path / "in").mkdir()
    return Guest(("/data", tmp_path / "in", True), quota_bytes=3 * ENTRY_BYTES + 1000)


def test_files_together_have_no_more_bytes_than_the_quota(small):
    first, second = small.open("a", 1), small.open("b", 1)
    assert small.write_file(first, bytes(600)) == 0
    assert small.write_file(second, bytes(400 + ENTRY_BYTES)) == 0
    assert small.write_file(second, b"!") == errors.NOSPC
    assert small("fd_seek", first, 0, 0, 0) == 0
    assert small.write_file(first, b"what is there may be changed") == 0
    assert small("fd_filestat_set_size", first, 599) == 0
    assert small.write_file(second, b"!") == 0


def test_a_file_with_holes_takes_its_whole_length(small):
    number = small.open("a", 1)
    assert small("fd_filestat_set_size", number, 1 << 30) == errors.NOSPC
    small.write(100, struct.pack("<II", 2000, 1))
    assert small("fd_pwrite", number, 100, 1, 1 << 30, 0) == errors.NOSPC
    assert small("fd_seek", number, 1 << 30, 0, 0) == 0
    assert small.write_file(number, b"!") == errors.NOSPC


def test_empty_files_and_folders_run_out_too(small):
    assert small.open("a", 1) > 0
    assert small.path("path_create_directory", 3, "b") == 0
    assert small.open("c", 1) > 0
    assert small.open("d", 1) == -errors.NOSPC
    assert small.path("path_create_directory", 3, "d") == errors.NOSPC
    assert small.path("path_create_directory", 3, "b") == errors.NOSPC
    assert small.path("path_remove_directory", 3, "b") == 0
    assert small.open("d", 1) > 0


def test_a_file_that_is_removed_while_it_is_open_takes_its_room_until_it_is_closed(small):
    number = small.open("a", 1)
    assert small.write_file(number, bytes(1000 + 2 * ENTRY_BYTES)) == 0
    assert small.path("path_unlink_file", 3, "a") == 0
    other = small.open("b", 1)
    assert small.write_file(other, b"!") == errors.NOSPC
    assert small("fd_close", number) == 0
    assert small.write_file(other, b"!") == 0


def test_what_was_there_before_counts(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(bytes(500))
    guest = Guest(("/data", tmp_path, True), quota_bytes=3 * ENTRY_BYTES + 600)
    number = guest.open("new", 1)
    assert guest.write_file(number, bytes(101)) == errors.NOSPC
    assert guest.write_file(number, bytes(100)) == 0


def test_a_file_that_is_open_for_reading_takes_its_room_too_once_it_is_removed(small):
    """Else: fill, close, open for reading, remove, and again."""
    for turn in range(3):
        number = small.open("a", 1)
        assert small.write_file(number, bytes(1000 + 2 * ENTRY_BYTES)) == (errors.NOSPC if turn else 0)
        small("fd_close", number)
        assert small.open("a", rights=READING) > 0
        assert small.path("path_unlink_file", 3, "a") == 0


def test_what_others_remove_makes_room_and_what_they_bring_makes_none(small, tmp_path):
    number = small.open("a", 1)
    assert small.write_file(number, bytes(1000 + 2 * ENTRY_BYTES)) == 0
    small("fd_close", number)
    assert small.open("b", 1) == -errors.NOSPC
    (tmp_path / "in" / "a").unlink()
    for _ in range(5):
        (tmp_path / "in" / "brought").write_bytes(bytes(50_000))
        assert small.path("path_unlink_file", 3, "brought") == 0
    number = small.open("b", 1)
    assert small.write_file(number, bytes(1001 + 2 * ENTRY_BYTES)) == errors.NOSPC
    assert small.write_file(number, bytes(1000 + 2 * ENTRY_BYTES)) == 0


def test_folders_in_each_other_count_once_and_each_name_of_a_file(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_bytes(bytes(500))
    os.link(tmp_path / "b" / "file", tmp_path / "b" / "link")
    for folders in (("", "b"), ("b", ""), ("", "", "b")):
        granted = tuple((f"/{number}", tmp_path / folder, True) for number, folder in enumerate(folders))
        guest = Guest(*granted, quota_bytes=4 * ENTRY_BYTES + 510)  # b, file, link, new
        number = guest.open("new", 1)
        assert guest.write_file(number, bytes(11)) == errors.NOSPC
        assert guest.write_file(number, bytes(10)) == 0
        (tmp_path / folders[0] / "new").unlink()


@pytest.fixture
def deep(tmp_path):
    """A folder that is removed by something that does not recurse."""
    (tmp_path / "deep").mkdir()
    yield tmp_path / "deep"
    subprocess.run(["rm", "-r", str(tmp_path / "deep")], check=True)


@pytest.mark.parametrize("depth", [100, 3000])
def test_a_deep_folder_keeps_no_module_from_its_start(deep, depth):
    """Made by the module, one level from the next; deeper than there may be descriptors, and than a path can tell."""
    quota = 4000 * ENTRY_BYTES
    guest = Guest(("/data", deep, True), quota_bytes=quota)
    number = 3
    for _ in range(depth):
        assert guest.path("path_create_directory", number, "d") == 0
        inner = guest.open("d", 2, READING, folder=number)
        if number > 3:
            guest("fd_close", number)
        number = inner
    again = Guest(("/data", deep, True), quota_bytes=quota)
    if depth < 1000:
        assert again.wasi._room._left == quota - depth * ENTRY_BYTES
        assert again.open("new", 1) > 0
    else:
        assert again.open("new", 1) == -errors.NOSPC


def test_a_folder_is_not_created_by_opening_it(guest, folder):
    assert guest.open("new", 1 | 2) == -errors.INVAL
    assert not (folder / "new").exists()


NAMES = st.sampled_from(["a", "b", "d", "d/a"])
STEPS = st.one_of(
    st.tuples(st.just("open"), NAMES, st.sampled_from([0, 1, 8, 9, 5])),
    st.tuples(st.just("read"), NAMES, st.just(0)),
    st.tuples(st.just("write"), st.integers(3, 8), st.integers(0, 900)),
    st.tuples(st.just("size"), st.integers(3, 8), st.integers(0, 2000)),
    st.tuples(st.just("seek"), st.integers(3, 8), st.integers(0, 3000)),
    st.tuples(st.just("close"), st.integers(4, 8), st.just(0)),
    st.tuples(st.sampled_from(["path_create_directory", "path_remove_directory", "path_unlink_file"]), NAMES, st.just(0)),
    st.tuples(st.just("rename"), NAMES, NAMES),
)


def taken(root, guest) -> int:
    """What is there by name, and what is only open any more."""
    entries = list(root.rglob("*"))
    opened = [os.fstat(each.real) for each in guest.wasi._open.values() if each.kind == 4]
    lost = {about.st_ino: about.st_size for about in opened if not about.st_nlink}
    return ENTRY_BYTES * len(entries) + sum(each.stat().st_size for each in entries if each.is_file()) + sum(lost.values())


@given(st.lists(STEPS, max_size=40))
def test_whatever_a_module_does_in_a_folder_it_is_counted_right(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("room")
    quota = 3 * ENTRY_BYTES + 3000
    guest = Guest(("/data", root, True), quota_bytes=quota)
    for name, first, second in steps:
        if name == "open":
            guest.open(first, second)
        elif name == "read":
            guest.open(first, rights=READING)
        elif name == "write":
            guest.write_file(first, bytes(second))
        elif name == "size":
            guest("fd_filestat_set_size", first, second)
        elif name == "seek":
            guest("fd_seek", first, second, 0, 0)
        elif name == "close":
            guest("fd_close", first)
        elif name == "rename":
            guest.write(3000, second.encode())
            guest.path("path_rename", 3, first, 3, 3000, len(second))
        else:
            guest.path(name, 3, first)
        assert taken(root, guest) <= quota
    for number in range(4, 40):
        guest("fd_close", number)
    guest.wasi._room._count()
    assert guest.wasi._room._left == quota - taken(root, guest)


def texts(guest, kind: str) -> list[bytes]:
    assert guest(f"{kind}_sizes_get", 0, 4) == 0
    count, size = guest.u32(0), guest.u32(4)
    assert guest(f"{kind}_get", 100, 3000) == 0
    assert all(3000 <= guest.u32(100 + 4 * index) < 3000 + size for index in range(count))
    return guest.read(3000, size).split(b"\0")[:count]


def test_arguments_and_environment_are_those_of_the_description():
    guest = Guest(arguments=("name", "--fast", "é"), environment={"TZ": "UTC", "EMPTY": ""})
    assert texts(guest, "args") == [b"name", b"--fast", "é".encode()]
    assert texts(guest, "environ") == [b"TZ=UTC", b"EMPTY="]
    assert texts(Guest(), "environ") == []
