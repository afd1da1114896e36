"""Cards: what is written is what was meant, and no disk is written to that somebody needs."""

import hashlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from boards import card
from boards.card import Disk, find_disk, write_image
from boards.errors import BoardError
from ota.cli.main import main
from tests.conftest import ROOT


@pytest.fixture
def loop(tmp_path):
    """A loop device of 16 MB."""
    (tmp_path / "card").write_bytes(b"\xaa" * (16 << 20))
    done = subprocess.run(["losetup", "--show", "-f", str(tmp_path / "card")], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    path = Path(done.stdout.strip())
    yield path
    subprocess.run(["losetup", "-d", str(path)], check=False)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "sd.img"
    path.write_bytes(os.urandom(9 << 20) + b"the end")
    content = bytearray(path.read_bytes().ljust((9 << 20) + 512, b"\0"))
    content[510:512] = b"\x55\xaa"
    path.write_bytes(content)
    return path


def test_what_is_written_is_read_back(loop, image, capsys):
    assert main(["image", "write", str(image), str(loop), "--yes", "--json"]) == 0
    assert hashlib.sha256(image.read_bytes()).hexdigest() in capsys.readouterr().out
    assert loop.read_bytes()[: image.stat().st_size] == image.read_bytes()
    assert loop.read_bytes()[image.stat().st_size :] == b"\xaa" * ((16 << 20) - image.stat().st_size)


def test_a_write_that_breaks_off_leaves_nothing_that_boots(loop, image):
    def pull(what: str, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_image(image, find_disk(loop), pull)
    assert loop.read_bytes()[:512] == bytes(512)


def test_a_mounted_disk_is_refused_until_told_otherwise(loop, image, tmp_path, capsys):
    subprocess.run(["mkfs.ext4", "-q", str(loop)], check=True)
    (tmp_path / "mnt").mkdir()
    if subprocess.run(["mount", str(loop), str(tmp_path / "mnt")], check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        before = loop.read_bytes()
        assert main(["image", "write", str(image), str(loop), "--yes"]) == 1
        assert f"it is mounted on {tmp_path / 'mnt'}; --even-if mounted overrules this" in capsys.readouterr().err
        # Told otherwise it is tried, and the kernel itself has the last word.
        assert main(["image", "write", str(image), str(loop), "--yes", "--even-if", "mounted"]) == 1
        assert "busy" in capsys.readouterr().err
        assert loop.read_bytes() == before
    finally:
        subprocess.run(["umount", str(tmp_path / "mnt")], check=True)


def test_a_card_that_is_too_small_is_refused(loop, tmp_path):
    big = tmp_path / "big.img"
    with big.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(BoardError, match=r"has 16777216 bytes, the image 17825792"):
        find_disk(loop).check(big.stat().st_size)


def test_what_is_no_disk_is_refused(image, tmp_path, capsys):
    for path, message in (
        (tmp_path / "file", "is not a disk"),
        (tmp_path / "none", "no such disk"),
        (Path("/dev/null"), "is not a disk"),
    ):
        if path.name == "file":
            path.touch()
        assert main(["image", "write", str(image), str(path), "--yes"]) == 1
        assert message in capsys.readouterr().err
    assert main(["image", "write", str(tmp_path / "no.img"), "/dev/null", "--yes"]) == 1
    assert "No such file" in capsys.readouterr().err


def test_what_is_no_image_is_refused(loop, tmp_path, capsys):
    before = loop.read_bytes()
    for content in (b"", b"# README\n" * 100):
        (tmp_path / "file").write_bytes(content)
        assert main(["image", "write", str(tmp_path / "file"), str(loop), "--yes"]) == 1
        assert "is no image of a disk: it has no partition table" in capsys.readouterr().err
    assert loop.read_bytes() == before


def test_nothing_is_written_without_a_yes(loop, image, capsys):
    before = loop.read_bytes()
    assert main(["image", "write", str(image), str(loop), "--dry-run"]) == 0
    assert "would be written" in capsys.readouterr().out
    command = [sys.executable, "-m", "ota.cli.main", "image", "write", str(image), str(loop)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "ota: nothing was written: say yes, or give --yes\n")
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as asked:
        os.write(ours, b"n\n")
        _, error = asked.communicate()
    assert asked.returncode == 1
    assert f"{loop}: loop device over" in error
    assert "0.0 GB" in error
    assert loop.read_bytes() == before


def fake(tmp_path: Path, name: str, *, removable: str = "0", where: str = "devices/pci0", mounts: str = "", **files: str) -> Path:
    """A /sys and /proc that show one disk with one partition."""
    device = tmp_path / "sys" / where / name
    part = device / f"{name}1"
    part.mkdir(parents=True)
    for path, text in {"dev": "8:0", "size": "2000", "ro": "0", "removable": removable, **files}.items():
        (device / path).parent.mkdir(parents=True, exist_ok=True)
        (device / path).write_text(text + "\n")
    (part / "dev").write_text("8:1\n")
    (part / "partition").write_text("1\n")
    (tmp_path / "sys/class/block").mkdir(parents=True)
    (tmp_path / f"sys/class/block/{name}").symlink_to(device)
    (tmp_path / f"sys/class/block/{name}1").symlink_to(part)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(mounts)
    return tmp_path


@pytest.fixture
def any_file_is_a_disk(monkeypatch):
    monkeypatch.setattr(Path, "is_block_device", lambda self: True)
    monkeypatch.setattr(card, "_number", {"/dev/sdx1": "8:1"}.get)


@pytest.mark.parametrize(
    ("settings", "refusals"),
    [
        ({}, ["it is built in"]),
        ({"removable": "1"}, []),
        ({"where": "devices/pci0/usb1/1-1"}, []),
        ({"device/type": "SD"}, []),
        ({"device/type": "MMC"}, ["it is built in"]),
        ({"removable": "1", "ro": "1"}, ["it is read-only"]),
        ({"removable": "1", "mounts": "22 1 8:1 / /media/x rw - ext4 x rw\n"}, ["it is mounted on /media/x"]),
        ({"removable": "1", "mounts": "22 1 8:1 / / rw - ext4 x rw\n"}, ["the system runs from it (/)"]),
        ({"removable": "1", "mounts": "22 1 0:31 /root / rw shared:1 - btrfs /dev/sdx1 rw\n"}, ["the system runs from it (/)"]),
        ({"removable": "1", "mounts": "22 1 0:32 / /proc rw - proc proc rw\n"}, []),
        ({"removable": "1", "sdx1/holders/dm-0": ""}, ["it is part of dm-0"]),
    ],
)
def test_what_speaks_against_a_disk(tmp_path, any_file_is_a_disk, settings, refusals):
    disk = find_disk(Path("/dev/sdx"), fake(tmp_path, "sdx", **settings))
    assert [why.partition(",")[0] for _, why in disk.objections] == refusals
    if refusals:
        with pytest.raises(BoardError, match="is refused"):
            disk.check(1)
    else:
        disk.check(1)


def test_a_partition_is_refused_and_its_disk_named(tmp_path, any_file_is_a_disk):
    with pytest.raises(BoardError, match=r"is a partition: name the whole disk, /dev/sdx"):
        find_disk(Path("/dev/sdx1"), fake(tmp_path, "sdx"))


def test_each_objection_is_overruled_alone_and_read_only_never():
    disk = Disk(Path("/dev/x"), "", 10, (("system", "a"), ("fixed", "b")))
    with pytest.raises(BoardError, match="b; --even-if fixed"):
        disk.check(1, ("system",))
    disk.check(1, ("system", "fixed"))
    with pytest.raises(BoardError, match=r"is refused: c$"):
        Disk(Path("/dev/x"), "", 10, (("read-only", "c"),)).check(1, card.OBJECTIONS)


def test_a_disk_that_forgets_is_found_out(loop, image, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr("os.pwrite", lambda target, data, at: len(data) if at == 4 << 20 else real(target, data, at))
    with pytest.raises(BoardError, match="does not give back what was written"):
        write_image(image, find_disk(loop))
