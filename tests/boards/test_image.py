"""Images: the same bytes each time, what is said to be inside is inside, and what cannot be built says so."""

import json
import os
import struct

import pytest

from boards.definition import load_board
from boards.errors import BoardError
from boards.image import FORGET_BYTES, FORMAT_MARK, MARK_SECTOR, build_image, settings_tar
from boards.kernel import cpio, modules
from boards.packages import load_lock
from ota.cli.main import main
from tests.conftest import ROOT
from tests.support.tiers import default_architecture
from tests.support.wheels import built_wheel

CACHE = ROOT / "build" / "boards"


@pytest.fixture(scope="module")
def wheel():
    return built_wheel(default_architecture())


@pytest.mark.full
def test_two_builds_are_the_same_bytes(tmp_path, wheel):
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "agent.toml").write_text("x")
    board = load_board(f"qemu-{default_architecture()}")
    first = build_image(board, wheel, tmp_path / "a.img", CACHE, settings=settings)
    before = os.umask(0o077)  # whatever the builder's is
    second = build_image(board, wheel, tmp_path / "b.img", CACHE, settings=settings)
    assert os.umask(before) == 0o077
    assert first.image.read_bytes() == second.image.read_bytes()
    assert first.initramfs.read_bytes() == second.initramfs.read_bytes()
    assert first.spdx.read_bytes() == second.spdx.read_bytes()
    _looks_like_a_card(first.image.read_bytes())
    listed = {each["name"] for each in json.loads(first.spdx.read_text())["packages"]}
    assert listed == {each.name for each in load_lock(board.debian).select(["agent", "system", "kernel"])} | {"wamr-ota"}
    assert not list(tmp_path.glob("*.part"))


def _looks_like_a_card(image: bytes) -> None:
    assert image[510:512] == b"\x55\xaa"
    kinds, starts = [], []
    for number in range(4):
        entry = image[446 + 16 * number : 462 + 16 * number]
        kinds.append(entry[4])
        starts.append(struct.unpack("<I", entry[8:12])[0])
    assert kinds == [0x0C, 0x83, 0, 0]
    assert image[MARK_SECTOR * 512 :].startswith(FORMAT_MARK)
    assert image[starts[0] * 512 + 82 :][:5] == b"FAT32"
    assert image[starts[1] * 512 :][:4] == b"hsqs"
    assert image[-FORGET_BYTES:] == bytes(FORGET_BYTES)  # where data begins: a card does not go on with its old life


def test_a_board_without_an_image_says_what_to_do_instead(tmp_path, wheel):
    with pytest.raises(BoardError, match="no image can be built for raspberry-pi-5: flash the agent"):
        build_image(load_board("raspberry-pi-5"), wheel, tmp_path / "x.img", CACHE)
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_what_is_missing(tmp_path, capsys):
    assert main(["image", "build", "qemu-armv7", "-o", str(tmp_path / "x"), "--wheels", str(tmp_path)]) == 1
    assert "run `make wheels`" in capsys.readouterr().err
    assert main(["image", "build", "nothing", "-o", str(tmp_path / "x")]) == 1
    assert "there is no board 'nothing'" in capsys.readouterr().err
    assert main(["image", "build", "qemu-armv7", "-o", str(tmp_path / "x"), "--settings", str(tmp_path / "none")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_settings_are_the_same_bytes_whatever_their_times_and_owners(tmp_path):
    (tmp_path / "b").write_text("2")
    (tmp_path / "a").write_text("1")
    first = settings_tar(tmp_path)
    (tmp_path / "a").touch()
    (tmp_path / "a").chmod(0o644)
    assert settings_tar(tmp_path) == first


def test_the_archive_is_one_that_cpio_reads(tmp_path):
    content = cpio([("folder", 0o040755, b""), ("folder/file", 0o100644, b"hello")])
    assert content[:6] == b"070701"
    assert len(content) % 4 == 0
    assert b"TRAILER!!!" in content[-16:]


def test_a_module_that_the_kernel_lacks_is_named(tmp_path):
    base = tmp_path / "usr/lib/modules/6.1"
    base.mkdir(parents=True)
    (base / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (base / "a-b.ko").write_bytes(b"ELF\0depends=c\0license=GPL\0")
    (base / "c.ko").write_bytes(b"ELF\0depends=\0")
    assert [name for name, _ in modules(tmp_path, ["ext4", "a_b"])] == ["c", "a_b"]
    with pytest.raises(BoardError, match=r"the kernel in 6\.1 has no module nothing"):
        modules(tmp_path, ["nothing"])
