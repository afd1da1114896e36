"""Tarballs of agents, and how a board unpacks one beside the agent that runs."""

import errno
import gzip
import importlib.util
import io
import json
import os
import shutil
import tarfile
import zlib
from pathlib import Path

import pytest

from boards import tarball
from boards.errors import BoardError
from boards.onboard import versions
from boards.tarball import make_tarball
from device_agent.storage import schema
from tests.support.agents import PYTHON, host_tarball, host_wheel, lay_packages

LIMIT = "1000000"
ABOUT = json.dumps({"version": "new"}).encode()
RUNS = {
    "lib/device_agent/node/service.py": b"",
    "lib/pywamr.py": b"class Runtime:\n def close(self): 0\ndef confine(): return ['seccomp']\n",
}
GOOD = {
    "agent.json": ABOUT,
    "launch": b"#!/bin/sh\n",
    "lib/device_agent/__init__.py": b"",
    "lib/device_agent/node/__init__.py": b"",
    **RUNS,
}


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A board whose agent came by cable. Its Python knows nothing of the sources."""
    monkeypatch.setattr(versions.sys, "executable", str(PYTHON))
    made = tmp_path / "base"
    (made / "versions/old/packages/lacked").mkdir(parents=True)
    (made / "versions/old/packages/lacked/__init__.py").write_text("old = True")
    (made / "confirmed").symlink_to("versions/old")
    return made


def tar(path, files, kind=tarfile.REGTYPE, link=""):
    """`kind`: of the last member."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            last = name == list(files)[-1]
            if last and kind != tarfile.REGTYPE:
                entry.type, entry.linkname, entry.size = kind, link, 0
            archive.addfile(entry, io.BytesIO(content))
    return str(path)


def prepare(base, path, name="new", limit=LIMIT):
    return versions.prepare(path, str(base), name, limit)


def names(base):
    return {each.name for each in (base / "versions").iterdir()}


def test_a_tarball_says_which_agent_it_is_and_what_it_needs(tmp_path):
    made = host_tarball(tmp_path, "3.4.5")
    with tarfile.open(fileobj=io.BytesIO(made.content)) as archive:
        about = json.load(archive.extractfile("agent.json"))
        found = archive.getnames()
    assert made.name == about["version"]
    assert made.name.startswith("3.4.5+")
    assert about["python"] == "py311"
    assert about["architecture"] == "x86_64"
    assert int(about["libc"].removeprefix("glibc-2.")) >= 17
    assert (about["schema"], about["reads"], about["readable_by"]) == (schema.SCHEMA, schema.OLDEST, schema.READABLE_BY)
    assert about["launcher"] == 1
    assert "lib/boards/onboard/versions.py" in found
    assert not [each for each in found if each.startswith(("lib/ota/cli", "lib/boards/flash", "lib/boards/image"))]


def test_packages_that_are_brought_along_do_not_speak_for_the_agent(tmp_path, monkeypatch):
    """Debian's have descriptions of their own, as wheels have."""
    theirs = {"cbor2/__init__.py": b"", "cbor2-5.6.5.dist-info/METADATA": b"Requires-Python: >=3.8\n"}
    monkeypatch.setattr(tarball, "_packages", lambda debian, lacking, cache: theirs)
    made = make_tarball(host_wheel(tmp_path), "arm64", ["cbor2"], tmp_path)
    with tarfile.open(fileobj=io.BytesIO(made.content)) as archive:
        about = json.load(archive.extractfile("agent.json"))
        assert "packages/cbor2-5.6.5.dist-info/METADATA" in archive.getnames()
    assert about["python"] == "cp313"


def test_the_same_wheel_gives_the_same_tarball_and_another_wheel_another_name(tmp_path):
    one, again = host_tarball(tmp_path), host_tarball(tmp_path)
    assert one == again
    assert host_tarball(tmp_path, change={"device_agent/more.py": ""}).name != one.name


def test_a_library_that_compresses_otherwise_gives_the_same_name(tmp_path, monkeypatch):
    wheel = host_wheel(tmp_path)
    one = make_tarball(wheel)
    monkeypatch.setattr(tarball.gzip, "compress", lambda data, *_, **__: zlib.compress(data, 1, wbits=31))
    assert make_tarball(wheel).name == one.name


def test_a_file_that_is_no_wheel_of_ours_is_refused(tmp_path):
    wheel = host_wheel(tmp_path)
    with pytest.raises(BoardError, match="no wheel of ours"):
        make_tarball(wheel.rename(tmp_path / "another-1.0-py3-none-any.whl"))


def test_tarballs_are_made_of_the_wheels_in_a_folder(tmp_path, capsys):
    host_wheel(tmp_path)
    assert tarball.main(["x86_64", "--wheels", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "agent-x86_64.tar.gz: 0.2.0+" in capsys.readouterr().out
    assert tarball.main(["riscv64", "--wheels", str(tmp_path), "--out", str(tmp_path / "out")]) == 1


def test_the_agent_of_the_sources_is_unpacked_and_starts(tmp_path, base):
    shutil.rmtree(base / "versions/old/packages")
    lay_packages(base / "versions/old/packages")
    made = host_tarball(tmp_path)
    (tmp_path / "tarball").write_bytes(made.content)
    answer = prepare(base, str(tmp_path / "tarball"), made.name, "100000000")
    assert answer["good"], answer
    assert answer["about"]["version"] == made.name
    source = base / "versions" / made.name / "lib/device_agent/__main__.py"
    assert Path(importlib.util.cache_from_source(str(source))).exists()


def test_packages_that_the_board_lacks_are_taken_over_where_a_tarball_brings_none(tmp_path, base):
    assert prepare(base, tar(tmp_path / "tarball", GOOD))["good"]
    assert (base / "versions/new/packages/lacked/__init__.py").read_text() == "old = True"
    brings = tar(tmp_path / "brings", GOOD | {"packages/lacked/__init__.py": b"new = True"})
    assert prepare(base, brings, "brings")["good"]
    assert (base / "versions/brings/packages/lacked/__init__.py").read_text() == "new = True"


def extension(size):
    """A header that says that what follows, of so many bytes, is about the next member."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, size
    return entry.tobuf(tarfile.USTAR_FORMAT)


def test_a_large_header_is_refused_before_memory_is_taken_for_it(tmp_path, base):
    (tmp_path / "tarball").write_bytes(gzip.compress(extension(versions.READ_BYTES + 1), mtime=0))
    assert "a header of more than" in prepare(base, str(tmp_path / "tarball"))["why"]


def test_nobody_else_may_change_what_an_agent_runs(tmp_path, base):
    with tarfile.open(tmp_path / "tarball", "w:gz") as archive:
        for name, content in GOOD.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o6777
            archive.addfile(entry, io.BytesIO(content))
    assert prepare(base, str(tmp_path / "tarball"))["good"]
    assert {(base / "versions/new" / name).stat().st_mode & 0o7777 for name in GOOD} == {0o755}


def test_an_agent_of_the_same_name_is_not_taken_for_the_one_that_is_signed(tmp_path, base):
    assert prepare(base, tar(tmp_path / "tarball", GOOD))["good"]
    launch = base / "versions/new/launch"
    another = tar(tmp_path / "another", GOOD | {"launch": b"#!/bin/sh -e"})
    assert prepare(base, another)["good"]
    assert launch.read_bytes() == b"#!/bin/sh -e"
    launch.write_bytes(b"damaged")
    assert prepare(base, another)["good"]
    assert launch.read_bytes() == b"#!/bin/sh -e"
    (base / "previous").symlink_to("versions/new")  # it may run: it is not changed
    answer = prepare(base, tar(tmp_path / "tarball", GOOD))
    assert answer["reason"] == "agent-invalid"
    assert "is called new" in answer["why"]
    assert launch.read_bytes() == b"#!/bin/sh -e"
    assert prepare(base, another)["good"]


def test_an_agent_whose_deletion_is_cut_off_is_not_taken_for_a_whole_one(tmp_path, base, monkeypatch):
    assert prepare(base, tar(tmp_path / "tarball", GOOD), "first")["good"]
    rmtree = shutil.rmtree

    def cut(path, **_):
        if Path(path).exists():
            (Path(path) / "launch").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(versions.shutil, "rmtree", cut)
    with pytest.raises(KeyboardInterrupt):
        versions.prune(base, "second", lambda _: True)
    monkeypatch.setattr(versions.shutil, "rmtree", rmtree)
    versions.unpack(str(tmp_path / "tarball"), str(base), "first")
    assert (base / "versions/first/launch").exists()
    assert names(base) == {"old", "first"}


def test_what_the_board_lacks_is_not_the_tarballs_fault(tmp_path, base, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(versions, "install", read_only)
    assert prepare(base, tar(tmp_path / "tarball", GOOD))["reason"] == "agent-failed"


ESCAPES = [
    ({"../escaped": b""}, tarfile.REGTYPE, ""),
    ({"lib/../../escaped": b""}, tarfile.REGTYPE, ""),
    ({"/escaped": b""}, tarfile.REGTYPE, ""),
    ({"lib/link": b""}, tarfile.SYMTYPE, "/etc"),
    ({"lib/link": b""}, tarfile.LNKTYPE, "/etc/passwd"),
    ({"lib/fifo": b""}, tarfile.FIFOTYPE, ""),
    ({"lib/device": b""}, tarfile.CHRTYPE, ""),
    ({".": b""}, tarfile.REGTYPE, ""),
    ({"lib/a": b"", "./lib/a": b"again"}, tarfile.REGTYPE, ""),
    ({"lib/a": b"", "lib/a/b": b"below a file"}, tarfile.REGTYPE, ""),
]


@pytest.mark.parametrize(("files", "kind", "link"), ESCAPES)
def test_a_tarball_with_anything_but_plain_files_below_its_folder_is_refused(tmp_path, base, files, kind, link):
    answer = prepare(base, tar(tmp_path / "tarball", GOOD | files, kind, link))
    assert (answer["good"], answer["reason"]) == (False, "agent-invalid"), answer
    assert names(base) == {"old"}
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        gzip.compress(b"no archive", mtime=0),
        gzip.compress(bytes(2000), mtime=0)[:-20],
        gzip.compress(b"".join((extension(2 << 20), bytes(2 << 20))), mtime=0),
    ],
    ids=["empty", "text", "compressed text", "cut", "large header"],
)
def test_a_file_that_is_no_tarball_is_refused(tmp_path, base, content):
    (tmp_path / "tarball").write_bytes(content)
    assert prepare(base, str(tmp_path / "tarball"))["reason"] == "agent-invalid"
    assert names(base) == {"old"}


def test_a_damaged_tarball_is_refused(tmp_path, base):
    content = bytearray(Path(tar(tmp_path / "tarball", GOOD | {"lib/x": os.urandom(9000)})).read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "tarball").write_bytes(content)
    assert prepare(base, str(tmp_path / "tarball"))["reason"] == "agent-invalid"
    assert names(base) == {"old"}


def test_a_tarball_that_grows_beyond_what_its_manifest_says_is_refused(tmp_path, base):
    answer = prepare(base, tar(tmp_path / "tarball", GOOD | {"lib/zeros": bytes(2_000_000)}))
    assert answer["reason"] == "agent-invalid"
    assert "more than 1000000 bytes" in answer["why"]
    assert names(base) == {"old"}


def test_an_agent_without_room_is_not_unpacked(tmp_path, base, monkeypatch):
    monkeypatch.setattr(versions.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5 << 20))
    answer = prepare(base, tar(tmp_path / "tarball", GOOD))
    assert answer["reason"] == "disk-full"
    assert names(base) == {"old"}


def test_an_agent_that_cannot_be_imported_is_told_before_anything_stops(tmp_path, base):
    broken = GOOD | {"lib/device_agent/node/service.py": b"raise OSError('no such instruction')"}
    answer = prepare(base, tar(tmp_path / "tarball", broken))
    assert (answer["good"], answer["reason"]) == (False, "agent-failed")
    assert answer["why"].endswith("OSError: no such instruction")


def test_a_step_that_was_cut_off_is_done_again(tmp_path, base):
    left = base / "versions/new.new/lib"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    assert prepare(base, tar(tmp_path / "tarball", GOOD))["good"]
    assert names(base) == {"old", "new"}
    assert not (base / "versions/new/lib/half").exists()


def test_what_a_flasher_laid_there_stays_and_what_came_over_the_air_before_goes(tmp_path, base):
    (base / "versions/flashed").mkdir()
    assert prepare(base, tar(tmp_path / "tarball", GOOD), "first")["good"]
    assert prepare(base, tar(tmp_path / "tarball", GOOD), "second")["good"]
    assert names(base) == {"old", "flashed", "second"}
    (base / "previous").symlink_to("versions/second")
    versions.unpack(str(tmp_path / "tarball"), str(base), "third")
    assert names(base) == {"old", "second", "third"}
    assert (base / "launch").stat().st_mode & 0o111


def test_nothing_is_unpacked_over_the_air_while_an_agent_is_on_trial_or_being_flashed(tmp_path, base):
    path = tar(tmp_path / "tarball", GOOD)
    with versions.alone(base, wait=True):
        assert prepare(base, path)["reason"] == "agent-on-trial"
        assert versions.begin_air(str(base), "old", "30")["reason"] == "agent-on-trial"
    (base / "trial").symlink_to("versions/flashed")
    assert prepare(base, path)["reason"] == "agent-on-trial"
    assert versions.begin_air(str(base), "old", "30")["reason"] == "agent-on-trial"
    assert versions.pointer(base / "trial") == "flashed"


def test_a_trial_begins_only_with_an_agent_that_is_still_there(tmp_path, base):
    assert not versions.begin_air(str(base), "gone", "30")["good"]
    assert not (base / "trial").is_symlink()
    prepare(base, tar(tmp_path / "tarball", GOOD))
    (base / "trial.tried").touch()
    assert versions.begin_air(str(base), "new", "30")["good"]
    assert versions.pointer(base / "trial") == "new"
    assert (base / "trial.air").read_text() == "new\n"
    assert not (base / "trial.tried").exists()


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "disk-full"), (errno.EIO, "agent-failed")])
def test_a_trial_that_the_disk_does_not_take_does_not_begin(tmp_path, base, monkeypatch, number, reason):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    prepare(base, tar(tmp_path / "tarball", GOOD))
    monkeypatch.setattr(versions, "write", refuse)
    answer = versions.begin_air(str(base), "new", "30")
    assert (answer["good"], answer["reason"]) == (False, reason)
    assert not (base / "trial").is_symlink()


def test_progress_is_told_with_a_check(tmp_path, base, capfd, monkeypatch):
    monkeypatch.setattr(versions, "TELL_S", 0.0)
    prepare(base, tar(tmp_path / "tarball", GOOD))
    line = next(each for each in capfd.readouterr().out.splitlines() if each.startswith("@compiled 3 "))
    assert int(line.split()[2], 16) == zlib.crc32(b"compiled 3")
