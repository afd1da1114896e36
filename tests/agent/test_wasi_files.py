"""What WASI's own test suite asserts of files and folders, as far as the capability has them: each as a call and its error."""

import os
import struct

import pytest

from device_agent.sandbox import wasi_numbers as errors
from tests.support.wasi_guest import ALL, Guest

APPEND, NONBLOCK, SYNC = 1, 4, 16
CREATE, DIRECTORY, TRUNCATE = 1, 2, 8
READ, SEEK, TELL, WRITE = 1 << 1, 1 << 2, 1 << 5, 1 << 6


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "dir" / "nested").mkdir(parents=True)
    (tmp_path / "in" / "dir" / "nested" / "file").write_bytes(b"nested")
    (tmp_path / "in" / "file").write_bytes(b"0123456789")
    return tmp_path / "in"


@pytest.fixture
def guest(folder):
    return Guest(("/data", folder, True))


def stat(guest, number):
    """Device, inode, type, links, size, and the three times."""
    assert guest("fd_filestat_get", number, 200) == 0
    return struct.unpack_from("<QQB7xQQQQQ", guest.memory, 200)


def status(guest, number):
    """Type, flags, rights and inherited rights."""
    assert guest("fd_fdstat_get", number, 200) == 0
    return struct.unpack_from("<BxHxxxxQQ", guest.memory, 200)


def listed(guest, number, size=4096, cookie=0):
    """Whole entries, and whether the listing was cut."""
    assert guest("fd_readdir", number, 4000, size, cookie, 0) == 0
    used, at, found = guest.u32(0), 4000, []
    while at + 24 <= 4000 + used:
        following, inode, length, kind = struct.unpack_from("<QQIB", guest.memory, at)
        if at + 24 + length > 4000 + used:
            break
        found.append((bytes(guest.memory[at + 24 : at + 24 + length]), inode, kind, following))
        at += 24 + length
    return found, used == size


def rename(guest, source, target):
    guest.write(3000, target.encode())
    return guest.path("path_rename", 3, source, 3, 3000, len(target))


# -- paths


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("dir/nested/file", 0), ("dir/.//nested/../../dir/nested///./file", 0), ("./dir/nested/./file", 0),
        ("dir/nested/file/", errors.NOTDIR), ("dir/nested/file///", errors.NOTDIR), ("dir/nested/file/.", errors.NOTDIR),
        ("dir/nested/", 0), ("dir/nested///", 0), ("dir/nested/..", 0), (".", 0), ("./", 0),
        ("missing/", errors.NOENT), ("missing/file", errors.NOENT), ("file/below", errors.NOTDIR),
        ("dir/nested/../../..", errors.NOTCAPABLE), ("/dir/nested/file", errors.NOTCAPABLE), ("dir/nested/file\0", errors.INVAL),
    ],
)  # fmt: skip
def test_a_path_is_taken_as_it_is_written(guest, path, error):
    opened = guest.open(path, rights=READ)
    assert (max(0, -opened), opened > 3) == (error, not error)


@pytest.mark.parametrize("path", ["file/", "file/."])
def test_what_is_named_as_a_folder_is_not_removed_or_renamed_as_a_file(guest, folder, path):
    assert guest.path("path_unlink_file", 3, path) == errors.NOTDIR
    assert guest.path("path_remove_directory", 3, path) == errors.NOTDIR
    assert rename(guest, path, "moved") == errors.NOTDIR
    assert rename(guest, "dir", path) == errors.NOTDIR
    assert guest.path("path_filestat_get", 3, path, 200, before=(1,)) == errors.NOTDIR
    assert (folder / "file").read_bytes() == b"0123456789"
    assert (folder / "dir").is_dir()


def test_no_file_is_created_as_a_folder(guest, folder):
    for path in ("new/", "new/.", "dir/"):
        assert guest.open(path, CREATE) == -errors.ISDIR
    assert not (folder / "new").exists()
    assert guest.path("path_create_directory", 3, "new/") == 0
    assert (folder / "new").is_dir()
    assert guest.path("path_create_directory", 3, "new/") == errors.EXIST


@pytest.mark.parametrize("ends", ["", "/"])
def test_folders_are_renamed_with_and_without_a_slash(guest, folder, ends):
    (folder / "empty").mkdir()
    assert rename(guest, "dir" + ends, "empty" + ends) == 0
    assert (folder / "empty" / "nested").is_dir()
    (folder / "full" / "file").mkdir(parents=True)
    assert rename(guest, "empty" + ends, "full" + ends) == errors.NOTEMPTY
    assert rename(guest, "empty" + ends, "file") == errors.NOTDIR
    assert rename(guest, "file", "full") == errors.ISDIR
    assert rename(guest, "file", "full/inside") == 0
    assert rename(guest, "full/inside", "empty/nested/file") == 0
    assert (folder / "empty/nested/file").read_bytes() == b"0123456789"


def test_a_folder_is_removed_when_it_is_empty_and_a_file_never_as_one(guest, folder):
    assert guest.path("path_remove_directory", 3, "file") == errors.NOTDIR
    assert guest.path("path_unlink_file", 3, "dir") == errors.ISDIR
    assert guest.path("path_unlink_file", 3, "dir/") == errors.ISDIR
    assert guest.path("path_remove_directory", 3, "dir/") == errors.NOTEMPTY
    (folder / "dir" / "nested" / "file").unlink()
    assert guest.path("path_remove_directory", 3, "dir/nested/") == 0


# -- what a descriptor may do


def test_a_file_that_was_opened_to_be_written_is_not_read(guest):
    number = guest.open("file", rights=WRITE)
    assert status(guest, number)[2] & (READ | WRITE) == WRITE
    guest.write(100, struct.pack("<II", 2000, 4))
    assert guest("fd_read", number, 100, 1, 0) == errors.BADF
    assert guest("fd_pread", number, 100, 1, 0, 0) == errors.BADF
    assert guest.write_file(number, b"x") == 0


def test_a_file_that_was_opened_to_be_read_is_not_written(guest):
    number = guest.open("file", rights=READ)
    assert status(guest, number)[2] & (READ | WRITE) == READ
    assert guest.write_file(number, b"x") == errors.BADF
    assert guest("fd_filestat_set_size", number, 0) == errors.BADF
    assert guest.read_file(number) == b"0123456789"


def test_a_folder_is_not_opened_to_be_written(guest):
    for path, how in ((".", DIRECTORY), ("dir", DIRECTORY), ("dir", 0)):
        assert guest.open(path, how, READ | WRITE) == -errors.ISDIR
    assert guest.open("file", DIRECTORY, READ | WRITE) == -errors.NOTDIR
    assert guest.open("missing", DIRECTORY, READ | WRITE) == -errors.NOENT


def test_rights_are_those_of_the_kind_and_cannot_be_given_up(guest):
    _, flags, base, inherited = status(guest, 3)
    assert (flags, base & (READ | SEEK | TELL | WRITE | 1 << 22)) == (0, 0)
    assert inherited == ALL
    again = guest.open(".", DIRECTORY, base)
    assert status(guest, again) == (3, 0, base, inherited)
    number = guest.open("file")
    assert status(guest, number)[2] & (1 << 13 | READ | SEEK | TELL | WRITE) == READ | SEEK | TELL | WRITE
    assert guest("fd_fdstat_set_rights", number, 0, 0) == errors.NOTSUP
    assert guest("fd_fdstat_set_rights", 99, 0, 0) == errors.BADF


def test_what_is_only_read_says_so(folder):
    reader = Guest(("/data", folder, False))
    _, _, base, inherited = status(reader, 3)
    assert base & (1 << 18 | 1 << 21) == 1 << 18 | 1 << 21
    assert not (base | inherited) & (WRITE | 1 << 9 | 1 << 10 | 1 << 25 | 1 << 26)


def test_flags_are_kept_and_reported(guest, folder):
    number = guest.open("file", flags=APPEND)
    assert status(guest, number)[1] == APPEND
    assert guest("fd_seek", number, 0, 0, 0) == 0
    assert guest.write_file(number, b"ab") == 0
    assert guest("fd_tell", number, 0) == 0
    assert guest.u32(0) == 12
    guest.write(100, struct.pack("<II", 2000, 1))
    guest.write(2000, b"_")
    assert guest("fd_pwrite", number, 100, 1, 3, 0) == 0
    assert guest("fd_fdstat_set_flags", number, NONBLOCK) == 0
    assert status(guest, number)[1] == NONBLOCK
    assert guest("fd_seek", number, 0, 0, 0) == 0
    assert guest.write_file(number, b"^") == 0
    assert (folder / "file").read_bytes() == b"^12_456789ab"
    assert guest("fd_fdstat_set_flags", number, SYNC) == errors.NOTSUP
    assert guest.open("file", flags=SYNC) == -errors.NOTSUP


def test_opening_a_folder_need_not_wait(guest):
    """As `opendir` of the C library asks for."""
    number = guest.open("dir", DIRECTORY, READ, NONBLOCK)
    assert status(guest, number)[:2] == (3, NONBLOCK)
    assert [name for name, *_ in listed(guest, number)[0]] == [b".", b"..", b"nested"]


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("fd_read", (100, 1, 0), "ISDIR"), ("fd_pread", (100, 1, 0, 0), "ISDIR"), ("fd_write", (100, 1, 0), "BADF"),
        ("fd_pwrite", (100, 1, 0, 0), "BADF"), ("fd_seek", (0, 0, 0), "BADF"), ("fd_seek", (0, 1, 0), "BADF"),
        ("fd_seek", (0, 2, 0), "BADF"), ("fd_tell", (0,), "BADF"), ("fd_allocate", (0, 1), "BADF"),
        ("fd_filestat_set_size", (0,), "INVAL"),
    ],
)  # fmt: skip
def test_a_folder_is_no_file(guest, name, values, error):
    guest.write(100, struct.pack("<II", 2000, 1))
    for number in (3, guest.open("dir", DIRECTORY, READ)):
        assert guest(name, number, *values) == getattr(errors, error)


def test_a_file_is_no_folder(guest):
    number = guest.open("file", rights=READ)
    assert guest.open("file", folder=number, rights=READ) == -errors.NOTDIR
    assert guest("fd_readdir", number, 4000, 100, 0, 0) == errors.NOTDIR


def test_a_granted_folder_may_be_closed(guest):
    inner = guest.open("dir", DIRECTORY, READ)
    assert guest("fd_close", 3) == 0
    assert guest("fd_prestat_get", 3, 0) == errors.BADF
    assert guest.open("nested/file", rights=READ, folder=inner) == 3


# -- places and sizes


def test_seek_and_tell_count_from_where_they_are_told(guest):
    number = guest.open("file")
    places = []
    for offset, whence in ((4, 0), (-2, 1), (0, 2), (5, 2)):
        assert guest("fd_seek", number, offset, whence, 0) == 0
        places.append(guest.u32(0))
    assert places == [4, 2, 10, 15]
    assert guest("fd_seek", number, -1, 0, 0) == errors.INVAL
    assert guest("fd_seek", number, 0, 3, 0) == errors.INVAL
    assert guest("fd_tell", number, 0) == 0
    assert guest.u32(0) == 15


def test_reading_at_a_place_leaves_the_place_and_the_rest_of_the_buffer_alone(guest):
    number = guest.open("file")
    guest.write(2000, b"." * 20)
    guest.write(100, struct.pack("<IIII", 2000, 2, 2010, 4))
    assert guest("fd_pread", number, 100, 2, 6, 0) == 0
    assert (guest.u32(0), guest.read(2000, 16)) == (4, b"67" + b"." * 8 + b"89" + b"." * 4)
    assert guest("fd_pread", number, 100, 2, 10, 0) == 0
    assert guest.u32(0) == 0
    assert guest("fd_pwrite", number, 100, 2, 8, 0) == 0
    assert guest("fd_tell", number, 8) == 0
    assert (guest.u32(0), guest.u32(8)) == (6, 0)
    assert stat(guest, number)[4] == 14


def test_a_file_is_emptied_lengthened_and_cut(guest, folder):
    number = guest.open("file")
    assert guest("fd_filestat_set_size", number, 100) == 0
    assert stat(guest, number)[4] == 100
    assert guest("fd_filestat_set_size", number, 5) == 0
    assert (folder / "file").read_bytes() == b"01234"
    assert guest("fd_filestat_set_size", number, -1) == errors.INVAL
    assert guest.open("file", TRUNCATE, 0) > 0
    assert stat(guest, number)[4] == 0
    assert guest("fd_advise", number, 0, 10, 1) == 0
    assert guest("fd_advise", number, 0, 10, 6) == errors.INVAL
    assert guest("fd_allocate", number, 0, 10) == errors.NOTSUP
    assert stat(guest, number)[4] == 0


def test_what_one_descriptor_writes_another_reads(guest):
    writer, reader = guest.open("new", CREATE), guest.open("new", rights=READ)
    assert guest.write_file(writer, b"at once") == 0
    assert guest.read_file(reader) == b"at once"


def test_a_name_may_go_while_its_file_is_open(guest):
    number, inner = guest.open("file"), guest.open("dir/nested", DIRECTORY, READ)
    assert guest.path("path_unlink_file", 3, "file") == 0
    assert guest.path("path_unlink_file", 3, "dir/nested/file") == 0
    assert guest.path("path_remove_directory", 3, "dir/nested") == 0
    assert guest.open("file", CREATE) > inner
    assert guest.read_file(number) == b"0123456789"
    assert guest("fd_close", inner) == 0


# -- what is told about them


def test_two_files_are_told_apart(guest, folder):
    (folder / "other").touch()
    first, second = stat(guest, guest.open("file")), stat(guest, guest.open("other"))
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert first[2:5] == (4, 1, 10)
    assert stat(guest, 3)[2] == 3
    assert [stat(guest, number)[2:] for number in range(3)] == [(2, 1, 0, 0, 0, 0)] * 3


def test_times_are_set_one_or_both_and_not_two_ways_at_once(guest, folder):
    number = guest.open("file")
    os.utime(folder / "file", ns=(10**9, 2 * 10**9))
    for flags in (3, 12):
        assert guest("fd_filestat_set_times", number, 7, 7, flags) == errors.INVAL
        assert guest.path("path_filestat_set_times", 3, "file", 7, 7, flags, before=(0,)) == errors.INVAL
    assert stat(guest, number)[5:7] == (10**9, 2 * 10**9)
    assert guest("fd_filestat_set_times", number, 99, 123_456_789, 4) == 0
    assert stat(guest, number)[5:7] == (10**9, 123_456_789)
    assert guest.path("path_filestat_set_times", 3, "file", 55, 66, 1, before=(0,)) == 0
    assert stat(guest, number)[5:7] == (55, 123_456_789)


def test_times_before_1970_are_not_set_and_not_shown(guest, folder):
    number = guest.open("file")
    for flags in (1, 4):
        assert guest("fd_filestat_set_times", number, -(10**9), -(10**9), flags) == errors.INVAL
        assert guest.path("path_filestat_set_times", 3, "file", -1, -1, flags, before=(0,)) == errors.INVAL
    os.utime(folder / "file", ns=(-(10**9), -2 * 10**9))
    assert stat(guest, number)[5:7] == (0, 0)


def test_a_long_listing_comes_in_pieces(guest, folder):
    for number in range(300):
        (folder / "dir" / f"entry{number:03}").touch()
    number, cookie, names = guest.open("dir", DIRECTORY, READ), 0, []
    for _ in range(400):
        found, cut = listed(guest, number, 256, cookie)
        names += found
        if not cut:
            break
        cookie = found[-1][3]
    assert [name for name, *_ in names] == [b".", b"..", *(b"entry%03d" % each for each in range(300)), b"nested"]
    assert names[0][1:3] == (stat(guest, number)[1], 3)
    assert (names[2][1], names[2][2]) == ((folder / "dir" / "entry000").stat().st_ino, 4)
    assert listed(guest, number, cookie=-1) == ([], False)
    assert listed(guest, number, cookie=1 << 40) == ([], False)


# -- streams, clocks, waiting


def test_output_is_a_terminal_so_that_libraries_write_each_line_at_once(guest):
    """By the rights: a C library takes what can be sought in for a file, and keeps what is printed until much has come together."""
    for number, right in ((0, READ), (1, WRITE), (2, WRITE)):
        kind, _, base, _ = status(guest, number)
        assert (kind, base & (READ | SEEK | TELL | WRITE)) == (2, right)
    assert guest("fd_seek", 1, 0, 0, 0) == errors.SPIPE
    guest.write(100, struct.pack("<II", 2000, 4))
    assert guest("fd_read", 1, 100, 1, 0) == errors.BADF
    assert guest.write_file(0, b"x") == errors.BADF
    assert guest.read_file(0) == b""


def test_a_line_ends_when_the_module_does(guest):
    assert guest.write_file(1, b"whole\nhalf") == 0
    assert guest.logged == [("info", "whole")]
    guest.wasi.end_lines()
    guest.wasi.end_lines()
    assert guest.logged == [("info", "whole"), ("info", "half")]


def test_output_keeps_its_level_under_another_number(guest):
    number = guest.open("file")
    assert guest("fd_renumber", 1, number) == 0
    assert guest.write_file(number, b"told\n") == 0
    assert guest.logged == [("info", "told")]
    assert guest.write_file(1, b"x") == errors.BADF


def test_waiting_tells_what_is_ready_and_what_is_not_there(guest):
    def subscription(userdata, kind, number):
        return struct.pack("<QBxxxxxxxI28x", userdata, kind, number)

    asked = [(1, 1, 0), (2, 2, 1), (3, 2, 2), (4, 1, 9), (5, 7, 0)]
    clock = struct.pack("<QBxxxxxxxIxxxxQQHxxxxxx", 6, 0, 1, 5 * 10**9, 0, 0)
    guest.write(100, b"".join(subscription(*each) for each in asked) + clock)
    assert guest("poll_oneoff", 100, 1000, 6, 0) == 0
    events = [struct.unpack_from("<QHB", guest.memory, 1000 + 32 * index) for index in range(guest.u32(0))]
    assert events == [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, errors.BADF, 1), (5, errors.INVAL, 7)]


def test_small_things(guest):
    guest.write(100, struct.pack("<II", 2000, 1))
    assert guest("fd_write", -31337, 100, 1, 0) == errors.BADF
    assert guest("random_get", 100, 0) == 0
    assert guest("sched_yield") == 0
    assert guest("fd_prestat_dir_name", 3, 10, 20) == 0
    assert guest("fd_prestat_dir_name", 3, 10, 0) == errors.NAMETOOLONG
    rising = []
    for clock in (0, 1):
        assert guest("clock_res_get", clock, 8) == 0
        assert guest.u32(8) > 0
    for _ in range(3):
        assert guest("clock_time_get", 1, 0, 8) == 0
        rising.append(struct.unpack_from("<Q", guest.memory, 8)[0])
    assert rising == sorted(set(rising))
