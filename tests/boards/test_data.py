"""The data partition of an image: formatted once, and never where something may be."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from boards.image import FORGET_BYTES, FORMAT_MARK, MARK_SECTOR, SECTOR
from tests.conftest import ROOT

SCRIPT = ROOT / "boards" / "system" / "data"
PATH = os.environ["PATH"] + ":/usr/sbin"
pytestmark = pytest.mark.skipif(shutil.which("mkfs.ext4", path=PATH) is None, reason="e2fsprogs is not installed")


class Card:
    """A disk and its third partition, as files, as an image leaves them."""

    def __init__(self, folder: Path) -> None:
        self.disk, self.part = folder / "disk", folder / "part"
        for path, size in ((self.disk, 2 << 20), (self.part, 32 << 20)):
            with path.open("wb") as file:
                file.truncate(size)
        self.mark()

    def run(self) -> int:
        return subprocess.run(["sh", str(SCRIPT), str(self.disk), str(self.part)], check=False).returncode

    def write(self, path: Path, at: int, content: bytes) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(content)

    def mark(self) -> None:
        self.write(self.disk, MARK_SECTOR * SECTOR, FORMAT_MARK)

    @property
    def marked(self) -> bool:
        return FORMAT_MARK in self.disk.read_bytes()

    def tool(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": PATH})
        return done.stdout

    @property
    def label(self) -> str:
        return self.tool("e2label", str(self.part)).strip()

    def keep(self, content: bytes) -> None:
        """A file in its file system."""
        file = self.part.with_name("kept")
        file.write_bytes(content)
        self.tool("debugfs", "-w", "-R", f"write {file} kept", str(self.part))

    def kept(self) -> str:
        return self.tool("debugfs", "-R", "cat kept", str(self.part))


@pytest.fixture
def card(tmp_path):
    return Card(tmp_path)


def test_a_partition_as_an_image_leaves_it_is_formatted_once(card):
    card.write(card.part, FORGET_BYTES, b"what the card held before")
    assert card.run() == 0
    assert card.label == "wamr-data"
    assert not card.marked
    card.keep(b"the module's state")
    assert card.run() == 0
    assert card.kept() == "the module's state"


@pytest.mark.parametrize("left", ["nothing", "a part of a file system", "a file system without its label"])
def test_a_first_format_that_was_cut_off_is_done_again(card, left):
    if left == "a part of a file system":
        card.write(card.part, 8192, b"tables")
    elif left != "nothing":
        card.tool("mkfs.ext4", "-q", "-F", str(card.part))
    assert card.run() == 0
    assert card.label == "wamr-data"
    assert not card.marked


def test_a_format_that_was_cut_off_behind_its_last_step_is_not_done_again(card):
    assert card.run() == 0
    card.keep(b"state")
    card.mark()
    assert card.run() == 0
    assert not card.marked, "with it, a label that cannot be read later would cost the data"
    assert card.kept() == "state"


@pytest.mark.parametrize(
    ("what", "at", "content"),
    [
        ("a superblock of zeros", 1024, bytes(1024)),
        ("a first MiB of zeros", 0, bytes(FORGET_BYTES)),
        ("zeros wherever a superblock was", 0, bytes(32 << 20)),
        ("a superblock of noise", 1024, b"\xa5" * 1024),
        ("another label", 1024 + 120, b"photographs\0\0\0\0\0"),
        ("no label", 1024 + 120, bytes(16)),
    ],
)
def test_a_label_that_cannot_be_read_never_costs_the_data(card, what, at, content):
    assert card.run() == 0
    card.keep(b"state")
    card.write(card.part, at, content)
    before = card.part.read_bytes(), card.disk.read_bytes()
    assert card.run() == 1, what
    assert (card.part.read_bytes(), card.disk.read_bytes()) == before


def test_a_partition_that_is_not_there_is_not_made(card):
    card.part.unlink()
    assert card.run() != 0
    assert not card.part.exists()


def test_without_the_mark_of_an_image_nothing_is_formatted(card):
    """Whatever lies there, and nothing too."""
    card.write(card.disk, MARK_SECTOR * SECTOR, bytes(len(FORMAT_MARK)))
    before = card.part.read_bytes()
    assert card.run() == 1
    assert card.part.read_bytes() == before
    card.write(card.part, 700_000, b"x")
    assert card.run() == 1
