"""What starts a flashed agent on a board, in a file system of its own: trials that pass, fail, and are cut off."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounts, as root")
AGENT = """import pathlib, sys, time
config = pathlib.Path(sys.argv[-1])
with pathlib.Path({out!r}).open("a") as out:
    out.write({name!r} + " " + config.read_text() + " " + str(config.parent.name) + chr(10))
while {stays}:
    time.sleep(0.05)
"""
# /run is the test's own; the board is read-only but for the folder of its agents, as under the unit of systemd.
MOUNTS = """mount -t tmpfs run /run
if [ {confined} = yes ]; then
    mount --bind {board} {board} && mount -o remount,ro,bind {board}
    mount --bind {board}/base {board}/base && mount -o remount,rw,bind {board}/base
fi
exec sh {board}/base/launch "$@"
"""


class Board:
    """A folder of a board, and what its agents have said when they started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base = folder, folder / "base"
        self.said = self.base / "said"
        self.settings("etc", "old-settings")
        (self.base / "versions").mkdir(parents=True)
        shutil.copy(ROOT / "boards/onboard/launch", self.base)
        self.version("old")
        (self.base / "confirmed").symlink_to("versions/old")
        self.said.touch()

    def settings(self, name: str, text: str) -> None:
        (self.base / name).mkdir(parents=True)
        (self.base / name / "agent.toml").write_text(text)

    def version(self, name: str, *, stays: bool = True) -> None:
        package = self.base / "versions" / name / "lib/device_agent"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(AGENT.format(out=str(self.said), name=name, stays=stays))

    def trial(self, name: str) -> None:
        (self.base / "trial-seconds").write_text("30\n")
        (self.base / "trial").symlink_to(f"versions/{name}")

    def launch(self, *, confined: bool = False) -> subprocess.Popen:
        mounts = MOUNTS.format(board=self.folder, confined="yes" if confined else "no")
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-e", "-c", mounts, "sh"]
        return subprocess.Popen([*command, str(self.base / "etc/agent.toml")])

    @property
    def all_settings(self) -> list[str]:
        return sorted(each.name for each in self.base.glob("etc*"))

    def wait_for(self, line: str) -> None:
        end = time.monotonic() + 20
        while line not in self.said.read_text():
            assert time.monotonic() < end, self.said.read_text()
            time.sleep(0.02)

    @property
    def confirmed(self) -> str:
        return (self.base / "confirmed").readlink().name


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


@pytest.mark.parametrize("confined", [True, False])
@pytest.mark.parametrize("passes", [True, False])
def test_a_trial_with_new_settings_ends_with_what_belongs_together(board, passes, confined):
    board.version("new", stays=passes)
    board.settings("etc.trial", "new-settings")
    board.trial("new")
    launched = board.launch(confined=confined)
    try:
        board.wait_for("new new-settings etc.trial\n")
        if passes:
            (board.base / "trial.passed").touch()
        board.wait_for("new new-settings etc\n" if passes else "old old-settings etc\n")
    finally:
        launched.kill()
        launched.wait()
    assert board.confirmed == ("new" if passes else "old")
    assert not board.base.joinpath("trial").is_symlink()
    assert board.all_settings == ["etc"]


def test_a_trial_with_the_same_settings_stays_when_it_passes(board):
    board.version("new")
    board.trial("new")
    launched = board.launch(confined=True)
    try:
        board.wait_for("new old-settings etc\n")
        (board.base / "trial.passed").touch()
        end = time.monotonic() + 20
        while board.base.joinpath("trial").is_symlink() and time.monotonic() < end:
            time.sleep(0.05)
        assert board.confirmed == "new"
        assert launched.poll() is None
    finally:
        launched.kill()
        launched.wait()


@pytest.mark.parametrize("cut", ["before the new settings came", "behind it"])
def test_settings_whose_move_was_cut_off_are_whole_at_the_next_start(board, cut):
    (board.base / "etc").rename(board.base / "etc.old")
    if cut == "behind it":
        board.version("new")
        board.settings("etc.trial", "new-settings")
        board.trial("new")
        (board.base / "trial.tried").touch()
        (board.base / "trial.passed").touch()
    launched = board.launch(confined=True)
    try:
        board.wait_for("new new-settings etc\n" if cut == "behind it" else "old old-settings etc\n")
    finally:
        launched.kill()
        launched.wait()
    assert board.all_settings == ["etc"]


def test_a_trial_is_not_confirmed_without_its_settings(board):
    """Where they cannot be moved, for whatever reason, the agent would begin with none."""
    board.version("new")
    board.settings("etc.trial", "new-settings")
    board.trial("new")
    (board.base / "trial.tried").touch()
    (board.base / "trial.passed").touch()
    mounts = f"mount --bind {board.base}/etc.trial {board.base}/etc.trial\n" + MOUNTS.format(board=board.folder, confined="no")
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts, "sh"]
    launched = subprocess.Popen([*command, str(board.base / "etc/agent.toml")])  # a mount cannot be renamed
    try:
        end = time.monotonic() + 5
        while board.confirmed == "old" and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        launched.kill()
        launched.wait()
    assert board.confirmed == "old"
