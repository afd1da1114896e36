"""What starts a flashed agent on a board, in a file system of its own: trials that pass, fail, and are cut off."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boards.onboard import versions
from tests.conftest import ROOT
from tests.support.lab import PATIENCE_S

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounts, as root")
AGENT = """import pathlib, sys, time
config = pathlib.Path(sys.argv[-1])
with pathlib.Path({out!r}).open("a") as out:
    out.write({name!r} + " " + config.read_text() + " " + str(config.parent.name) + chr(10))
while {stays}:
    time.sleep(0.05)
"""
# An agent that has started another one, and told the launcher, when it dies just behind the pointer.
WARMS = """import os, pathlib, subprocess, sys
base = pathlib.Path({base!r})
code = "import sys, time; sys.stdin.read(); open({out!r}, 'a').write('waited' + chr(10)); time.sleep(1000)"
waits = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
pathlib.Path("/run/wamr-ota/warm").write_text(f"new {{waits.pid}}" + chr(10))
(base / "trial").symlink_to("versions/new")
os.execv("/bin/sh", ["sh", str(base / "launch"), sys.argv[-1]])
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

    def air(self, name: str, *, seconds: int = 30) -> None:
        """A trial as an agent begins it that came over the air."""
        (self.base / "versions" / name / "agent.json").touch()
        assert versions.begin_air(str(self.base), name, str(seconds))["good"]

    def code(self, name: str, code: str) -> None:
        """A version whose agent does something else."""
        self.version(name)
        (self.base / "versions" / name / "lib/device_agent/__main__.py").write_text(code)

    def has(self, name: str) -> bool:
        return (self.base / name).exists() or (self.base / name).is_symlink()

    def wait_until(self, what) -> None:
        end = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < end, sorted(each.name for each in self.base.iterdir())
            time.sleep(0.02)

    def passes(self, name: str) -> None:
        (self.base / "trial.passed").write_text(f"{name}\n")

    def launch(self, *, confined: bool = False) -> subprocess.Popen:
        mounts = MOUNTS.format(board=self.folder, confined="yes" if confined else "no")
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-e", "-c", mounts, "sh"]
        return subprocess.Popen([*command, str(self.base / "etc/agent.toml")])

    @contextlib.contextmanager
    def launched(self, **how) -> Iterator[subprocess.Popen]:
        process = self.launch(**how)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @property
    def all_settings(self) -> list[str]:
        return sorted(each.name for each in self.base.glob("etc*"))

    def wait_for(self, line: str) -> None:
        end = time.monotonic() + PATIENCE_S
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
            board.passes("new")
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
        board.passes("new")
        end = time.monotonic() + PATIENCE_S
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
        board.passes("new")
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
    board.passes("new")
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


def test_an_agent_that_came_over_the_air_confirms_itself_and_stays(board):
    board.version("new")
    board.air("new")
    with board.launched(confined=True) as launcher:
        board.wait_for("new old-settings etc\n")
        board.passes("new")
        board.wait_until(lambda: not board.has("trial"))
        assert board.confirmed == "new"
        assert (board.base / "previous").readlink().name == "old"
        assert launcher.poll() is None
        board.wait_until(lambda: not board.has("trial.air"))
    assert board.said.read_text().count("new ") == 1


FAILURES = {
    "import nothing_that_is_there": ("it ended with status 1", "ModuleNotFoundError: No module named 'nothing_that_is_there'"),
    "import sys; print('why', file=sys.stderr); sys.exit(3)": ("it ended with status 3", "why"),
    "import os; os.kill(os.getpid(), 11)": ("it ended with status 139", ""),
    "import time; time.sleep(1000)": ("it did not confirm itself within 2 s", ""),
    "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)": ("it did not confirm itself within 2 s", ""),
}


@pytest.mark.parametrize("code", FAILURES)
def test_an_agent_that_fails_its_trial_gives_way_to_the_one_before_which_can_say_why(board, code):
    board.code("new", code)
    board.air("new", seconds=2)
    with board.launched(confined=True):
        board.wait_for("old old-settings etc\n")
        name, why, *said = (board.base / "trial.failed").read_text().splitlines()
    assert (name, why) == ("new", FAILURES[code][0])
    assert FAILURES[code][1] in said or not FAILURES[code][1]
    assert board.confirmed == "old"
    assert not board.has("trial")
    assert not board.has("trial.air")


def test_an_agent_on_trial_when_the_power_went_gives_way_without_a_verdict(board):
    board.version("new")
    board.air("new")
    with board.launched():
        board.wait_for("new old-settings etc\n")
    with board.launched():
        board.wait_for("old old-settings etc\n")
    assert not board.has("trial")
    assert not board.has("trial.failed")


def test_a_trial_that_cannot_be_noted_does_not_begin_and_the_confirmed_agent_runs(board):
    """As on a disk that is full, or read-only since it was found damaged."""
    board.version("new")
    board.air("new")
    (board.base / "trial.tried").symlink_to(board.base / "nothing/there")
    with board.launched():
        board.wait_for("old old-settings etc\n")
    assert "new " not in board.said.read_text()
    assert not board.has("trial")


@pytest.mark.parametrize("content", ["", "1x", "08", "-", "$(", "99999999999999999999"])
def test_a_damaged_count_of_starts_keeps_no_agent_from_running(board, content):
    (board.base / "starts").write_text(content)
    with board.launched():
        board.wait_for("old old-settings etc\n")


def test_an_agent_that_waits_beside_the_one_before_goes_on_and_no_second_one_is_started(board):
    code = WARMS.format(base=str(board.base), out=str(board.said))
    (board.base / "versions/old/lib/device_agent/__main__.py").write_text(code)
    board.version("new")
    board.air("new")
    (board.base / "trial").unlink()
    with board.launched():
        board.wait_for("waited\n")
        board.passes("new")
        board.wait_until(lambda: not board.has("trial"))
    assert board.confirmed == "new"
    assert board.said.read_text() == "waited\n"


def test_a_trial_over_the_air_leaves_the_settings_alone_that_a_flasher_has_laid_there(board):
    board.version("new", stays=False)
    board.settings("etc.trial", "of the flasher")
    board.air("new")
    with board.launched():
        board.wait_for("new old-settings etc\n")
        board.wait_for("old old-settings etc\n")
    assert board.all_settings == ["etc", "etc.trial"]
    board.version("newer")
    board.air("newer")
    with board.launched():
        board.wait_for("newer old-settings etc\n")
        board.passes("newer")
        board.wait_until(lambda: not board.has("trial"))
    assert board.all_settings == ["etc", "etc.trial"]


def test_an_agent_that_is_flashed_takes_the_place_of_one_on_trial_that_came_over_the_air(board):
    board.version("new")
    board.version("flashed")
    board.air("new")
    launcher = board.launch()
    try:
        board.wait_for("new old-settings etc\n")
        (board.base / "trial.air").unlink()  # what `begin` of boards/onboard/helper.py does
        versions.begin(board.base, "flashed", 30)
        board.passes("new")  # too late: it is not the one on trial any more
        board.wait_for("old old-settings etc\n")
    finally:
        launcher.kill()
        launcher.wait()
    assert board.confirmed == "old"
    with board.launched():
        board.wait_for("flashed old-settings etc\n")
        board.passes("flashed")
        board.wait_until(lambda: not board.has("trial"))
    assert board.confirmed == "flashed"


def test_an_agent_that_was_confirmed_without_a_restart_hands_over_to_the_next_one(board):
    """Its launcher is still its parent."""
    board.code(
        "new",
        (AGENT + "    if pathlib.Path({go!r}).exists(): break\n").format(
            out=str(board.said), name="new", stays=True, go=str(board.base / "go")
        ),
    )
    board.version("next")
    board.air("new")
    with board.launched() as launcher:
        board.wait_for("new old-settings etc\n")
        board.passes("new")
        board.wait_until(lambda: not board.has("trial"))
        board.air("next")
        (board.base / "go").touch()
        board.wait_for("next old-settings etc\n")
        board.passes("next")
        board.wait_until(lambda: not board.has("trial"))
        assert launcher.poll() is None
    assert board.confirmed == "next"


def test_a_confirmed_agent_that_starts_no_more_gives_way_to_the_one_before_it(board):
    """As when its files were damaged."""
    board.version("damaged", stays=False)
    (board.base / "previous").symlink_to("versions/old")
    (board.base / "confirmed").unlink()
    (board.base / "confirmed").symlink_to("versions/damaged")
    for _ in range(5):
        with board.launched() as launcher:
            launcher.wait(60)
    assert board.said.read_text() == "damaged old-settings etc\n" * 5
    with board.launched(confined=True):
        board.wait_for("old old-settings etc\n")
    (board.base / "starts").unlink()  # as an agent does once it runs
    with board.launched() as launcher:
        launcher.wait(60)
    assert board.said.read_text().endswith("damaged old-settings etc\n")


def test_an_update_after_stepping_down_keeps_the_agent_that_worked_as_the_one_before_it(board):
    board.version("damaged", stays=False)
    (board.base / "previous").symlink_to("versions/old")
    (board.base / "confirmed").unlink()
    (board.base / "confirmed").symlink_to("versions/damaged")
    (board.base / "starts").write_text("5\n")
    with board.launched():
        board.wait_for("old old-settings etc\n")
    (board.base / "starts").unlink()
    board.version("new")
    board.air("new")
    with board.launched():
        board.wait_for("new old-settings etc\n")
        board.passes("new")
        board.wait_until(lambda: not board.has("trial") and not board.has("stepped-down"))
    assert (board.confirmed, (board.base / "previous").readlink().name) == ("new", "old")
