"""wasi:filesystem 0.2 in a granted folder: what it does, its quota, and every way out."""

import os
import time

import pytest

from device_agent.sandbox import wasi2_files
from device_agent.sandbox.devices import Devices
from device_agent.sandbox.errors import ContractError
from device_agent.sandbox.folder_room import ENTRY_BYTES
from ota.formats.interfaces import ERROR_CODES, INTERFACES
from tests.support.component_guest import AREA, Guest

TYPES, PREOPENS, STREAMS = "wasi:filesystem/types@0.2.0", "wasi:filesystem/preopens@0.2.3", "wasi:io/streams@0.2.0"
FUNCTIONS = [
    (PREOPENS, "get-directories"),
    *((TYPES, name) for each in INTERFACES if each.name == "wasi:filesystem/types" for name in sorted(each.names)),
    *((STREAMS, name) for each in INTERFACES if each.name == "wasi:io/streams" for name in sorted(each.names)),
    ("wasi:io/error@0.2.0", "[method]error.to-debug-string"),
]
CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8
READ, WRITE = 1, 2
OK = None


class Desk:
    """The functions of one granted folder, as a module calls them; each answers None or the name of an error code."""

    def __init__(self, *folders, quota_bytes=1 << 20) -> None:
        opened = tuple((path, os.open(host, os.O_RDONLY | os.O_DIRECTORY), write) for path, host, write in folders)
        wasi = {"read": ["/data"], "write": ["/data"], "quota_bytes": quota_bytes}
        self.guest = Guest(FUNCTIONS, {"wasi": wasi}, devices=Devices(folders=opened))
        self.guest.call(PREOPENS, "get-directories")
        place, count = self.guest.unpack("<II")
        places = [place + 12 * each for each in range(count)]
        self.preopens = [(*self.guest.unpack("<I", each), self.guest.bytes_of(each + 4)) for each in places]
        self.root = self.preopens[0][0]

    def __call__(self, name: str, handle: int, *values, at: int = 1):
        """`at`: where the error code lies, which is the alignment of the result."""
        resource = "directory-entry-stream" if name == "read-directory-entry" else "descriptor"
        self.guest.call(TYPES, f"[method]{resource}.{name}", handle, *values)
        failed, code = self.guest.unpack(f"<B{at - 1}xB")
        return ERROR_CODES[code] if failed else OK

    def open(self, path, how=0, flags=READ | WRITE, folder=0, lookup=1):
        """A handle, or the name of an error code."""
        failed = self("open-at", folder or self.root, lookup, path, how, flags, at=4)
        return failed or self.guest.unpack("<4xI")[0]

    def stream(self, kind, handle, *values):
        failed = self(f"{kind}-via-stream", handle, *values, at=4)
        return failed or self.guest.unpack("<4xI")[0]

    def put(self, stream, content):
        """None, or the error code of the stream's failure."""
        self.guest.call(STREAMS, "[method]output-stream.blocking-write-and-flush", stream, content)
        failed, case, error = self.guest.unpack("<B3xB3xI")
        if not failed:
            return OK
        assert case == 0
        self.guest.call(TYPES, "filesystem-error-code", error)
        assert self.guest.unpack("<B") == (1,)
        return ERROR_CODES[self.guest.unpack("<xB")[0]]

    def get(self, stream, size=1000):
        """Bytes; None at the end."""
        self.guest.call(STREAMS, "[method]input-stream.read", stream, size)
        if self.guest.unpack("<B") == (1,):
            assert self.guest.unpack("<4xB") == (1,)
            return None
        return self.guest.bytes_of(AREA + 4)

    def drop(self, handle, resource="descriptor"):
        self.guest.call(STREAMS if "put" in resource else TYPES, f"[resource-drop]{resource}", handle)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "in" / "link").symlink_to("../secret")
    (tmp_path / "in" / "way").symlink_to("..")
    os.mkfifo(tmp_path / "in" / "pipe")
    return tmp_path / "in"


@pytest.fixture
def desk(folder):
    return Desk(("/data", folder, True))


@pytest.fixture
def reader(folder):
    return Desk(("/data", folder, False))


def test_the_granted_folders_have_their_names(folder):
    desk = Desk(("/data", folder, True), ("/other", folder / "sub", False))
    assert [name for _, name in desk.preopens] == [b"/data", b"/other"]
    first, second = (handle for handle, _ in desk.preopens)
    assert [(desk("get-flags", each) and None) or desk.guest.unpack("<xB")[0] for each in (first, second)] == [33, 1]
    call = lambda *two: desk.guest.call(TYPES, "[method]descriptor.is-same-object", *two)  # noqa: E731
    assert (call(first, first), call(first, second)) == (1, 0)


def test_files_are_created_written_read_and_removed(desk, folder):
    number = desk.open("new", CREATE | EXCLUSIVE)
    assert desk.put(desk.stream("write", number, 0), b"hello world") is OK
    assert desk.put(desk.stream("append", number), b"!") is OK
    source = desk.stream("read", number, 6)
    assert [desk.get(source, 3), desk.get(source), desk.get(source)] == [b"wor", b"ld!", None]
    assert desk("write", number, b"J", 0, at=8) is OK
    assert desk.guest.unpack("<8xQ") == (1,)
    for place, expected, ended in ((0, b"Jello", False), (100, b"", True)):
        assert desk("read", number, 5, place, at=4) is OK
        assert (desk.guest.bytes_of(AREA + 4), desk.guest.unpack("<12x?")) == (expected, (ended,))
    for name in ("sync", "sync-data"):
        assert desk(name, number) is OK
    assert desk("set-size", number, 5) is OK
    assert desk("advise", number, 0, 0, 3) is OK
    assert (folder / "new").read_bytes() == b"Jello"
    assert desk.open("new", CREATE | EXCLUSIVE) == "exist"
    assert desk("unlink-file-at", desk.root, "new") is OK
    assert desk.open("new") == "no-entry"


def test_folders_are_made_listed_renamed_and_removed(desk):
    root = desk.root
    assert desk("create-directory-at", root, "sub/deep") is OK
    assert desk("rename-at", root, "sub/deep", root, "sub/other") is OK
    assert desk("symlink-at", root, "file", "soft") is OK
    assert desk("readlink-at", root, "soft", at=4) is OK
    assert desk.guest.bytes_of(AREA + 4) == b"file"
    assert desk("link-at", root, 0, "file", root, "hard") is OK
    assert desk("read-directory", root, at=4) is OK
    (entries,), found = desk.guest.unpack("<4xI"), []
    while True:
        assert desk("read-directory-entry", entries, at=4) is OK
        some, kind = desk.guest.unpack("<4xB3xB")
        if not some:
            break
        found.append((kind, desk.guest.bytes_of(AREA + 12)))
    kinds = [(6, b"file"), (6, b"hard"), (5, b"link"), (4, b"pipe"), (5, b"soft"), (3, b"sub"), (5, b"way")]
    assert found == kinds
    assert desk("remove-directory-at", root, "sub") == "not-empty"
    assert desk("remove-directory-at", root, "sub/other") is OK


def test_attributes_are_told_and_times_are_set(desk, folder):
    number = desk.open("file")
    assert desk("stat", number, at=8) is OK
    kind, links, size, *times = desk.guest.unpack("<8xB7xQQ" + "B7xQI4x" * 3)
    assert (kind, links, size, times[0::3]) == (6, 1, 6, [1, 1, 1])
    assert times[4] == int((folder / "file").stat().st_mtime)
    assert desk("set-times", number, 2, 1000, 5, 0, 0, 0) is OK
    assert desk("set-times-at", desk.root, 1, "file", 0, 0, 0, 2, 2000, 7) is OK
    about = (folder / "file").stat()
    assert (about.st_atime_ns, about.st_mtime_ns) == (1000 * 10**9 + 5, 2000 * 10**9 + 7)
    assert desk("set-times", number, 1, 0, 0, 1, 0, 0) is OK
    assert (folder / "file").stat().st_mtime > time.time() - 3600
    assert desk("set-times", number, 2, 0, 10**9, 0, 0, 0) == "invalid"
    assert desk("stat-at", desk.root, 0, "link", at=8) is OK
    assert desk.guest.unpack("<8xB") == (5,)
    assert desk("metadata-hash", number, at=8) is OK
    one = desk.guest.unpack("<8xQQ")
    assert desk("metadata-hash-at", desk.root, 0, "file", at=8) is OK
    assert desk.guest.unpack("<8xQQ") == one
    assert desk("get-type", number) is OK
    assert desk.guest.unpack("<xB") == (6,)


@pytest.mark.parametrize(
    ("path", "codes"),
    [
        ("../secret", {"not-permitted"}), ("sub/../../secret", {"not-permitted"}), ("/etc/passwd", {"not-permitted"}),
        ("..", {"not-permitted"}), ("link", {"not-permitted"}), ("way/secret", {"not-permitted"}),
        ("file/../../secret", {"not-directory"}), ("pipe", {"not-permitted", "io", "no-such-device"}), ("", {"no-entry"}),
        ("a\0b", {"invalid"}), ("x" * 5000, {"name-too-long"}), ("x" * 300, {"name-too-long"}),
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(desk, path, codes):
    assert desk.open(path) in codes
    assert desk.open(path, CREATE) in codes | {"is-directory"}
    assert desk("stat-at", desk.root, 1, path, at=8) in codes | {OK if path == "pipe" else "no-entry"}


@pytest.mark.parametrize("target", ["/etc", "..", "sub/../../x"])
def test_no_link_is_made_that_leads_out(desk, target):
    assert desk("symlink-at", desk.root, target, "new") == "not-permitted"


def test_a_folder_that_is_only_read_is_not_changed(reader, folder):
    before, root = sorted(folder.iterdir()), reader.root
    assert reader.open("new", CREATE) == "not-permitted"
    assert reader.open("file", TRUNCATE) == "not-permitted"
    assert reader.open("file") == "not-permitted"
    number = reader.open("file", flags=READ)
    assert reader.stream("write", number, 0) == reader.stream("append", number) == "not-permitted"
    assert reader("write", number, b"x", 0, at=8) == reader("set-size", number, 0) == "not-permitted"
    assert reader("set-times", number, 1, 0, 0, 1, 0, 0) == "not-permitted"
    for name in ("create-directory-at", "remove-directory-at", "unlink-file-at"):
        assert reader(name, root, "sub") == "not-permitted"
    assert reader("rename-at", root, "file", root, "new") == "not-permitted"
    assert reader("link-at", root, 0, "file", root, "new") == "not-permitted"
    inner = reader.open("sub", DIRECTORY, READ | 32)
    assert reader("create-directory-at", inner, "x") == "not-permitted"
    assert sorted(folder.iterdir()) == before
    assert (folder / "file").read_bytes() == b"inside"


def test_a_file_is_no_folder_and_a_folder_no_file(desk):
    number = desk.open("file")
    assert desk.open("x", folder=number) == "not-directory"
    assert desk("read-directory", number, at=4) == "not-directory"
    assert desk.stream("read", desk.root, 0) == "is-directory"
    assert desk.open("file", DIRECTORY) == "not-directory"
    assert desk.open("new", CREATE | DIRECTORY) == "invalid"
    assert desk.open("file", flags=READ | 4) == "unsupported"


def test_descriptors_run_out_politely(desk):
    opened = [desk.open("file") for _ in range(wasi2_files.MAX_DESCRIPTORS)]
    assert desk.open("file") == "insufficient-memory"
    streams = [desk.stream("read", opened[0], 0) for _ in range(3)]
    desk.drop(opened[0])
    assert desk.open("file") == "insufficient-memory"
    assert desk.get(streams[0]) == b"inside"
    for each in streams:
        desk.drop(each, "input-stream")
    assert isinstance(desk.open("file"), int)


def test_the_quota_bounds_what_is_written(folder):
    for each in folder.iterdir():
        each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()
    desk = Desk(("/data", folder, True), quota_bytes=3 * ENTRY_BYTES + 1000)
    first, second = desk.open("a", CREATE), desk.open("b", CREATE)
    assert desk.put(desk.stream("write", first, 0), bytes(600)) is OK
    out = desk.stream("append", second)
    assert desk.put(out, bytes(400 + ENTRY_BYTES - 700)) is OK
    assert desk.put(out, bytes(701)) == "insufficient-space"
    assert desk("set-size", second, 1 << 40) == "insufficient-space"
    assert desk("write", second, b"x", 1 << 40, at=8) == "insufficient-space"
    assert desk("write", second, b"x", (1 << 63) + 1, at=8) == "invalid"


def test_a_stream_tells_why_it_failed(folder):
    desk = Desk(("/data", folder, True), quota_bytes=0)
    out = desk.stream("append", desk.open("file"))
    desk.guest.call(STREAMS, "[method]output-stream.write", out, b"x")
    _, case, error = desk.guest.unpack("<B3xB3xI")
    assert case == 0
    desk.guest.call("wasi:io/error@0.2.0", "[method]error.to-debug-string", error)
    assert desk.guest.bytes_of() == b"insufficient-space"


def test_a_file_is_spliced_into_another(desk, folder):
    source, target = desk.stream("read", desk.open("file"), 2), desk.stream("write", desk.open("new", CREATE), 0)
    desk.guest.call(STREAMS, "[method]output-stream.splice", target, source, 3)
    assert desk.guest.unpack("<B7xQ") == (0, 3)
    assert (folder / "new").read_bytes() == b"sid"


def test_a_descriptor_is_not_used_after_it_was_dropped(desk):
    number = desk.open("file")
    desk.drop(number)
    with pytest.raises(ContractError, match="no handle"):
        desk("stat", number, at=8)
    entries = number  # given again, to something else
    assert desk("read-directory", desk.root, at=4) is OK
    assert desk.guest.unpack("<4xI") == (entries,)
    with pytest.raises(ContractError, match=r"of directory-entry-stream, not of descriptor"):
        desk("stat", entries, at=8)


def test_a_case_that_a_variant_does_not_have_is_refused(desk):
    with pytest.raises(ContractError, match="none of an enum's 3 cases"):
        desk("set-times", desk.root, 3, 0, 0, 0, 0, 0)
    with pytest.raises(ContractError, match="none of an enum's 6 cases"):
        desk("advise", desk.root, 0, 0, 6)
