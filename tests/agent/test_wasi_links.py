"""What WASI's own test suite asserts of links, and that none of them leads out of the folder."""

import itertools
import struct

import pytest

from device_agent.sandbox import wasi_numbers as errors
from device_agent.sandbox.folder_room import ENTRY_BYTES
from device_agent.sandbox.wasi_paths import MAX_LINKS
from tests.support.wasi_guest import Guest

FOLLOW, STAY = 1, 0
CREATE, DIRECTORY, EXCLUSIVE = 1, 2, 4
READ = 1 << 1


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "dir" / "nested").mkdir(parents=True)
    (tmp_path / "in" / "file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    return tmp_path / "in"


@pytest.fixture
def guest(folder):
    return Guest(("/data", folder, True))


@pytest.fixture
def reader(folder):
    return Guest(("/data", folder, False))


def symlink(guest, target: str, name: str, folder: int = 3) -> int:
    raw = target.encode()
    guest.write(3000, raw)
    guest.write(1000, name.encode())
    return guest("path_symlink", 3000, len(raw), folder, 1000, len(name))


def link(guest, name: str, new: str, lookup: int = STAY, source: int = 3, target: int = 3) -> int:
    guest.write(1000, name.encode())
    guest.write(3000, new.encode())
    return guest("path_link", source, lookup, 1000, len(name), target, 3000, len(new))


def opened(guest, path: str, how: int = 0, lookup: int = FOLLOW, rights: int = READ) -> int:
    """A descriptor, or minus the error."""
    error = guest.path("path_open", 3, path, how, rights, rights, 0, 0, before=(lookup,))
    return -error if error else guest.u32(0)


def stat(guest, path: str, lookup: int) -> tuple[int, int, int]:
    """Type, names and size, or minus the error three times."""
    error = guest.path("path_filestat_get", 3, path, 200, before=(lookup,))
    if error:
        return -error, -error, -error
    _, _, kind, names, size = struct.unpack_from("<QQB7xQQ", guest.memory, 200)
    return kind, names, size


# -- symbolic links


def test_a_link_to_a_file_is_followed_where_the_call_says_so(guest):
    assert symlink(guest, "file", "link") == 0
    assert guest.read_file(opened(guest, "link")) == b"inside"
    assert opened(guest, "link", lookup=STAY) == -errors.LOOP
    assert opened(guest, "link", DIRECTORY) == -errors.NOTDIR
    assert opened(guest, "link/") == -errors.NOTDIR


def test_a_link_to_a_folder_is_followed_on_the_way_and_at_the_end(guest, folder):
    (folder / "dir" / "nested" / "deep").write_bytes(b"deep")
    assert symlink(guest, "dir", "link") == 0
    assert symlink(guest, "nested/deep", "dir/link") == 0
    assert opened(guest, "link", DIRECTORY) > 2
    assert opened(guest, "link/", DIRECTORY) > 2
    assert opened(guest, "link", DIRECTORY, STAY) in (-errors.LOOP, -errors.NOTDIR)
    assert guest.read_file(opened(guest, "link/nested/deep", lookup=STAY)) == b"deep"
    assert guest.read_file(opened(guest, "link/link")) == b"deep"
    assert guest.read_file(opened(guest, "link/../dir/nested/deep")) == b"deep"


def test_a_link_that_leads_nowhere_can_be_opened_to_be_made(guest, folder):
    assert symlink(guest, "target", "link") == 0
    assert opened(guest, "link") == -errors.NOENT
    assert opened(guest, "link", lookup=STAY) == -errors.LOOP
    assert opened(guest, "link", DIRECTORY, STAY) in (-errors.LOOP, -errors.NOTDIR)
    assert opened(guest, "link", CREATE | EXCLUSIVE) == -errors.EXIST
    assert opened(guest, "link", CREATE) > 2
    assert (folder / "target").read_bytes() == b""


def test_a_loop_of_links_ends(guest):
    assert symlink(guest, "loop", "loop") == 0
    assert opened(guest, "loop", lookup=STAY) == -errors.LOOP
    assert opened(guest, "loop") == -errors.LOOP
    assert opened(guest, "loop/file") == -errors.LOOP


def test_as_many_links_are_followed_as_linux_does(guest):
    names = ["file", *(f"link{number}" for number in range(MAX_LINKS + 1))]
    for target, name in itertools.pairwise(names):
        assert symlink(guest, target, name) == 0
    assert guest.read_file(opened(guest, names[MAX_LINKS])) == b"inside"
    assert opened(guest, names[MAX_LINKS + 1]) == -errors.LOOP


@pytest.mark.parametrize("target", ["/", "/etc/passwd", "..", "../secret", "dir/../../secret", "dir/.."])
def test_no_link_is_made_that_could_lead_out(guest, folder, target):
    assert symlink(guest, target, "link") == errors.NOTCAPABLE
    assert not (folder / "link").is_symlink()


@pytest.mark.parametrize(("name", "target"), [("up", ".."), ("out", "../secret"), ("root", "/"), ("twice", "dir/../../secret")])
@pytest.mark.parametrize("path", ["{}", "{}/secret", "dir/../{}"])
def test_a_link_out_that_somebody_else_made_is_not_followed(guest, folder, name, target, path):
    (folder / name).symlink_to(target)
    for how in (0, CREATE, DIRECTORY):
        assert opened(guest, path.format(name), how) == -errors.NOTCAPABLE
    assert stat(guest, path.format(name), FOLLOW)[0] == -errors.NOTCAPABLE
    assert (folder.parent / "secret").read_bytes() == b"outside"


@pytest.mark.parametrize(("there", "error"), [("", errors.NOENT), ("dir", errors.EXIST), ("file", errors.NOTDIR)])
def test_the_name_of_a_link_is_no_folders(guest, folder, there, error):
    name = there or "new"
    assert symlink(guest, "source", f"{name}/") in (error, errors.EXIST if there else error)
    if there:
        assert symlink(guest, "source", name) == errors.EXIST


def test_a_link_is_read_shown_changed_and_removed_as_itself(guest, folder):
    assert symlink(guest, "file", "link") == 0
    guest.write(4000, b"." * 10)
    assert guest.path("path_readlink", 3, "link", 4000, 10, 0) == 0
    assert (guest.u32(0), guest.read(4000, 6)) == (4, b"file..")
    assert guest.path("path_readlink", 3, "link", 4000, 2, 0) == 0
    assert guest.u32(0) == 2
    assert stat(guest, "link", STAY) == (7, 1, 4)
    assert stat(guest, "link", FOLLOW) == (4, 1, 6)
    modified = (folder / "file").stat().st_mtime_ns
    assert guest.path("path_filestat_set_times", 3, "link", 0, 6 * 10**9, 4, before=(STAY,)) == 0
    assert ((folder / "link").lstat().st_mtime_ns, (folder / "file").stat().st_mtime_ns) == (6 * 10**9, modified)
    assert guest.path("path_filestat_set_times", 3, "link", 0, 7 * 10**9, 4, before=(FOLLOW,)) == 0
    assert (folder / "file").stat().st_mtime_ns == 7 * 10**9
    assert guest.path("path_unlink_file", 3, "link") == 0
    assert (folder / "file").read_bytes() == b"inside"


def test_a_folder_is_not_removed_through_a_link_to_it(guest, folder):
    assert symlink(guest, "dir/nested", "link") == 0
    assert guest.path("path_remove_directory", 3, "link") == errors.NOTDIR
    assert guest.path("path_remove_directory", 3, "link/") == errors.NOTDIR
    assert (folder / "dir" / "nested").is_dir()


# -- hard links


def test_a_file_gets_another_name_in_this_folder_and_another(guest, folder):
    assert link(guest, "file", "name") == 0
    assert link(guest, "file", "dir/name") == 0
    assert stat(guest, "file", STAY) == stat(guest, "dir/name", STAY) == (4, 3, 6)
    assert guest.path("path_unlink_file", 3, "file") == 0
    assert (folder / "name").read_bytes() == b"inside"


@pytest.mark.parametrize("there", ["file", "dir", "dangling"])
def test_a_new_name_takes_no_other_things_place(guest, folder, there):
    (folder / "dangling").symlink_to("missing")
    (folder / "source").write_bytes(b"source")
    assert link(guest, "source", there) == errors.EXIST


def test_a_folder_has_one_name(guest):
    assert link(guest, "dir", "name") in (errors.PERM, errors.ACCES)
    assert link(guest, "file", "new/") == errors.NOENT


def test_a_link_itself_gets_another_name_and_is_never_followed_to_one(guest, folder):
    assert symlink(guest, "missing", "link") == 0
    assert link(guest, "link", "name") == 0
    assert (folder / "name").readlink().name == "missing"
    assert link(guest, "link", "other", FOLLOW) == errors.INVAL


# -- grants and quota


def test_a_folder_that_is_only_read_shows_links_and_takes_none(reader, folder):
    (folder / "link").symlink_to("file")
    assert reader.read_file(opened(reader, "link")) == b"inside"
    assert reader.path("path_readlink", 3, "link", 4000, 10, 0) == 0
    assert symlink(reader, "file", "new") == errors.NOTCAPABLE
    assert link(reader, "file", "new") == errors.NOTCAPABLE


def test_a_file_that_is_to_be_read_only_gets_no_name_where_it_could_be_written(tmp_path, folder):
    (tmp_path / "other").mkdir()
    guest = Guest(("/data", folder, False), ("/own", tmp_path / "other", True))
    assert link(guest, "file", "name", source=3, target=4) == errors.NOTCAPABLE
    assert list((tmp_path / "other").iterdir()) == []


def test_links_take_room_as_files_do(folder):
    (folder / "file").write_bytes(b"")
    taken = 3 * ENTRY_BYTES  # dir, nested, file
    guest = Guest(("/data", folder, True), quota_bytes=taken + 2 * ENTRY_BYTES)
    assert symlink(guest, "file", "one") == 0
    assert link(guest, "file", "two") == 0
    assert symlink(guest, "file", "three") == errors.NOSPC
    assert link(guest, "file", "three") == errors.NOSPC
    assert not (folder / "three").exists()
