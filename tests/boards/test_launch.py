"""What starts a flashed agent on a board, in a file system of its own: trials that pass, fail, and where /etc is read-only."""

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
# /run is the test's own; /etc of the board is read-only but for the settings, as under the unit of systemd.
MOUNTS = """mount -t tmpfs run /run
if [ {confined} = yes ]; then
    mount --bind {etc} {etc} && mount -o remount,ro,bind {etc}
    for each in {etc}/wamr-ota {etc}/wamr-ota.trial; do [ ! -d $each ] || mount -o rw --bind $each $each; done
fi
exec sh {launch} "$@"
"""


class Board:
    """A folder of a board, and what its agents have said when they started."""

    def __init__(self, folder: Path) -> None:
        self.base, self.etc, self.said = folder / "base", folder / "etc", folder / "said"
        self.settings("wamr-ota", "old-settings")
        (self.base / "versions").mkdir(parents=True)
        shutil.copy(ROOT / "boards/onboard/launch", self.base)
        self.version("old")
        (self.base / "confirmed").symlink_to("versions/old")
        self.said.touch()

    def settings(self, name: str, text: str) -> None:
        (self.etc / name).mkdir(parents=True)
        (self.etc / name / "agent.toml").write_text(text)

    def version(self, name: str, *, stays: bool = True) -> None:
        package = self.base / "versions" / name / "lib/device_agent"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(AGENT.format(out=str(self.said), name=name, stays=stays))

    def trial(self, name: str) -> None:
        (self.base / "trial-seconds").write_text("30\n")
        (self.base / "trial").symlink_to(f"versions/{name}")

    def launch(self, *options: str, confined: bool = False) -> subprocess.Popen:
        mounts = MOUNTS.format(etc=self.etc, launch=self.base / "launch", confined="yes" if confined else "no")
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-e", "-c", mounts, "sh"]
        options += ("--confined",) * confined
        return subprocess.Popen([*command, *options, str(self.etc / "wamr-ota/agent.toml")])

    def settle(self) -> None:
        assert self.launch("--settle").wait(20) == 0

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


def runs(board, line, **how):
    """Starts what is to run, and ends it once it has said this."""
    launched = board.launch(**how)
    try:
        board.wait_for(line)
    finally:
        launched.kill()
        launched.wait()


def test_under_the_unit_settings_of_a_trial_that_passed_are_moved_before_the_next_start(board):
    board.version("new")
    board.settings("wamr-ota.trial", "new-settings")
    board.trial("new")
    board.settle()
    assert board.base.joinpath("trial").is_symlink(), "a trial that has not begun is left alone"
    launched = board.launch(confined=True)
    board.wait_for("new new-settings wamr-ota.trial\n")
    (board.base / "trial.passed").touch()
    assert launched.wait(30) == 0
    assert board.confirmed == "old", "the settings could not be moved there"
    board.settle()
    assert board.confirmed == "new"
    assert sorted(each.name for each in board.etc.iterdir()) == ["wamr-ota"]
    runs(board, "new new-settings wamr-ota\n", confined=True)


def test_under_the_unit_a_trial_that_ends_by_itself_is_taken_back(board):
    board.version("new", stays=False)
    board.settings("wamr-ota.trial", "new-settings")
    board.trial("new")
    assert board.launch(confined=True).wait(30) == 0
    board.settle()
    assert board.confirmed == "old"
    assert not board.base.joinpath("trial").is_symlink()
    assert sorted(each.name for each in board.etc.iterdir()) == ["wamr-ota"]
    runs(board, "old old-settings wamr-ota\n", confined=True)


def test_under_the_unit_a_trial_with_the_same_settings_stays_when_it_passes(board):
    board.version("new")
    board.trial("new")
    launched = board.launch(confined=True)
    try:
        board.wait_for("new old-settings wamr-ota\n")
        (board.base / "trial.passed").touch()
        end = time.monotonic() + 20
        while board.base.joinpath("trial").is_symlink() and time.monotonic() < end:
            time.sleep(0.05)
        assert board.confirmed == "new"
        assert launched.poll() is None
    finally:
        launched.kill()
        launched.wait()


@pytest.mark.parametrize("passes", [True, False])
def test_without_systemd_a_trial_ends_in_one_go(board, passes):
    board.version("new", stays=passes)
    board.settings("wamr-ota.trial", "new-settings")
    board.trial("new")
    launched = board.launch()
    try:
        board.wait_for("new new-settings wamr-ota.trial\n")
        if passes:
            (board.base / "trial.passed").touch()
        board.wait_for("new new-settings wamr-ota\n" if passes else "old old-settings wamr-ota\n")
    finally:
        launched.kill()
        launched.wait()
    assert board.confirmed == ("new" if passes else "old")


def test_settings_whose_move_was_cut_off_are_put_back_before_the_next_start(board):
    (board.etc / "wamr-ota").rename(board.etc / "wamr-ota.old")
    board.settle()
    runs(board, "old old-settings wamr-ota\n", confined=True)


def test_a_trial_is_not_confirmed_without_its_settings(board):
    """Where they cannot be moved, for whatever reason, the agent would begin with none."""
    board.version("new")
    board.settings("wamr-ota.trial", "new-settings")
    board.trial("new")
    (board.base / "trial.tried").touch()
    (board.base / "trial.passed").touch()
    mounts = MOUNTS.format(etc=board.etc, launch=board.base / "launch", confined="yes")
    subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounts, "sh", "--settle", str(board.etc / "wamr-ota/agent.toml")], check=False
    )
    assert board.confirmed == "old"
    board.settle()
    assert board.confirmed == "new"
    runs(board, "new new-settings wamr-ota\n", confined=True)
