"""Flashing an emulated Debian that has never seen the agent, over its serial console, with the cable pulled."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from ota.cli.main import main
from ota.formats import topics
from ota.operator import reports
from ota.operator.broker import Broker
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace
from tests.conftest import ROOT
from tests.support.guest import PASSWORD, Guest
from tests.support.lab import echo
from tests.support.reports import instance_report
from tests.support.rumqttd import Rumqttd
from tests.support.serial import Cable
from tests.support.wheels import built_wheel

pytestmark = [pytest.mark.timeout(900), pytest.mark.emulated, pytest.mark.full]
BOOT_S = 600  # RISC-V with systemd took more than 400 on a busy machine


class Desk:
    """An operator with a broker, and a board on the other end of a cable."""

    def __init__(self, folder, architecture, init):
        built_wheel(architecture)
        self.folder, self.architecture, self.init = folder, architecture, init
        self.flashed = False
        self.broker = Rumqttd(folder)
        self.broker.start()
        assert main(["-C", str(folder / "operator"), "init", "--broker", self.broker.url]) == 0
        (folder / "password").write_text(PASSWORD + "\n")
        self.guest = Guest(architecture, folder / "guest", systemd=init == "systemd")
        self.cable = None

    def start(self):
        self.guest.make()
        self.guest.start()
        self.wait_for("login:")
        self.cable = Cable(self.guest.console_port)

    def wait_for(self, text, after=0):
        end = time.monotonic() + BOOT_S
        while text not in self.guest.console_log()[after:]:
            assert time.monotonic() < end, self.guest.console_log()[-2000:]
            time.sleep(0.2)

    def command(self, *more, board=""):
        port = f"socket://127.0.0.1:{self.cable.port}"
        flash = ["-C", str(self.folder / "operator"), "flash", board or f"qemu-{self.architecture}", "--port", port]
        flash += ["--broker", f"mqtt://10.0.2.2:{self.broker.port}", "--password-file", str(self.folder / "password")]
        return [*flash, "--wheels", str(ROOT / "build/wheels"), "--cache", str(ROOT / "build/boards"), *more]

    def flash(self, *more, **settings):
        return main(self.command(*more, **settings))

    def flash_first(self, *more):
        """Flashes the board as one that never saw the agent, with the policy that the tests need."""
        (self.folder / "policy.toml").write_text(POLICY)
        code = self.flash("--device", "guest-1", "--policy", str(self.folder / "policy.toml"), *more)
        self.flashed = code == 0
        return code

    def devices(self, capsys):
        capsys.readouterr()
        assert main(["-C", str(self.folder / "operator"), "devices", "--json"]) == 0
        return {each["device"]: each for each in json.loads(capsys.readouterr().out)["boards"]}

    def reported(self, agent, timeout_s):
        """Whether this agent reports as started within the last half minute."""
        workspace = Workspace.open(self.folder / "operator")
        with Broker(workspace.settings) as broker:
            found = reports.follow_one(broker, Roster(workspace).signers, "guest-1", timeout_s)
            return any(online and report.agent == agent and report.uptime_s < 30 for report, online in found)

    def answers(self, agents, timeout_s):
        """Whether one of these agents reports anew from now on."""
        now = int(time.time())
        workspace = Workspace.open(self.folder / "operator")
        with Broker(workspace.settings) as broker:
            found = reports.follow_one(broker, Roster(workspace).signers, "guest-1", timeout_s)
            return any(online and report.agent in agents and report.time_s >= now - 1 for report, online in found)

    def close(self):
        if self.cable is not None:
            self.cable.close()
        if self.guest.running():
            self.guest.cut()
        self.broker.stop()


POLICY = """[policy.grants.logging]
[policy.grants.messaging]
subscribe = ["sys/#"]
publish = ["out/#"]
[policy.grants.wasi]
write = ["/srv/roof"]
quota_bytes = 4096
"""
MODULE = """[module]
name = "echo"
version = "1.0.0"
[capabilities.messaging]
subscribe = ["sys/#"]
publish = ["out/#"]
[capabilities.wasi]
write = ["/srv/roof"]
quota_bytes = 4096
[limits]
memory_pages = 4
deadline_ms = 30000
"""
GUESTS = (
    "aarch64-systemd",
    "armv7-inittab",
    "riscv64-inittab",
    "armv7-systemd",
    "riscv64-systemd",
)


@pytest.fixture(scope="module", params=GUESTS)
def desk(request, tmp_path_factory):
    opened = Desk(tmp_path_factory.mktemp(f"desk-{request.param}"), *request.param.split("-"))
    try:
        opened.start()
        yield opened
    finally:
        opened.close()


def test_a_board_that_never_saw_the_agent_gets_it_and_its_identity_though_the_cable_is_pulled_twice(desk, capsys):
    size = 1_600_000 if desk.init == "systemd" else 240_000  # with packages that it lacks
    desk.cable.pull_at(size // 3, 1.0)
    desk.cable.pull_at(size // 3, 3.0)
    assert desk.flash_first("--json") == 0, capsys.readouterr().err
    said = capsys.readouterr()
    outcome = json.loads(said.out)
    assert desk.cable.pulled == 2, said.err
    assert outcome["lost"] >= 2
    assert outcome["provisioned"]
    assert outcome["sent_bytes"] > size
    device = desk.devices(capsys)["guest-1"]
    assert device["agent"] == outcome["agent"]
    assert device["online"]
    assert device["certificate"]["device"] == "guest-1"


@pytest.fixture
def flashed(desk, capsys):
    """A desk with a flashed board; here, unless a test before has done it: each test can run alone."""
    if not desk.flashed:
        assert desk.flash_first() == 0, capsys.readouterr().err
        capsys.readouterr()
    return desk


def test_flashing_the_same_again_changes_nothing(flashed, capsys):
    assert flashed.flash("--json") == 0
    said = capsys.readouterr()
    assert "runs there already" in said.err
    assert json.loads(said.out)["sent_bytes"] == 0


def test_the_agent_confines_a_module_and_opens_the_folder_that_it_was_granted(flashed, capsys):
    """Under systemd: with the unit's few capabilities and its read-only system."""
    (flashed.folder / "echo.wasm").write_bytes(echo(1))
    (flashed.folder / "echo.toml").write_text(MODULE)
    operator = ("-C", str(flashed.folder / "operator"))
    assert main([*operator, "publish", str(flashed.folder / "echo.wasm"), "--wait", "120"]) == 0, capsys.readouterr().err
    with Broker(Workspace.open(flashed.folder / "operator").settings) as broker:
        report = instance_report(broker.retained_one(topics.instance_report("guest-1", "echo")))
    assert (report.running.version, report.running.lacking) == ("1.0.0", ())


# What is the same on all boards is tried on one.
on_one = pytest.mark.parametrize("desk", ["armv7-inittab"], indirect=True)


def broken_wheel(folder):
    """The agent of a mistake: it can be imported and ends at once."""
    (original,) = (ROOT / "build/wheels").glob("*armv7l.whl")
    target = folder / original.name
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(target, "w") as wheel:
        for name in source.namelist():
            content = source.read(name)
            wheel.writestr(name, b"raise SystemExit('broken on purpose')\n" if name == "device_agent/__main__.py" else content)
    return folder


def running(desk, capsys):
    return desk.devices(capsys)["guest-1"]["agent"]


@on_one
def test_an_agent_that_does_not_come_up_is_taken_away_and_the_old_one_runs_on(flashed, tmp_path, capsys):
    before = running(flashed, capsys)
    assert flashed.flash("--wheels", str(broken_wheel(tmp_path))) == 1
    error = capsys.readouterr().err
    assert f"did not report: {before} runs again" in error
    assert "broken on purpose" in error
    assert flashed.reported(before, 60)


@on_one
def test_settings_that_lead_nowhere_are_taken_away_with_the_trial(flashed, capsys):
    before = running(flashed, capsys)
    wrong = ("--device", "guest-1", "--provision-again", "--broker", "mqtt://10.0.2.2:1", "--wait", "45")
    assert flashed.flash(*wrong) == 1
    assert f"did not report: {before} runs again" in capsys.readouterr().err
    assert flashed.reported(before, 90)


@on_one
def test_another_name_than_the_boards_is_asked_about(flashed, capsys):
    assert flashed.flash("--device", "guest-2") == 1
    assert "this board is guest-1: --provision-again makes it guest-2" in capsys.readouterr().err


def wheel_in(folder, more=""):
    """A folder with the agent's wheel; with `more` in it, as another build."""
    (wheel,) = (ROOT / "build/wheels").glob("*armv7l.whl")
    folder.mkdir()
    shutil.copyfile(wheel, folder / wheel.name)
    if more:
        with zipfile.ZipFile(folder / wheel.name, "a") as archive:
            archive.writestr("device_agent/another.py", more)
    return str(folder)


def killed_after(command, seconds):
    """How a flasher ended that had so much time: its exit code, below zero when it was killed."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as flasher:
        try:
            return flasher.wait(seconds)
        except subprocess.TimeoutExpired:
            flasher.kill()
            return flasher.wait()


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("kills", "number"), [(5, number) for number in range(5)])
@on_one
def test_a_flasher_that_is_killed_at_random_moments_leaves_an_agent_running(flashed, tmp_path, capsys, kills, number):
    """The agent from before, or the new one where that was confirmed already; and the next flasher finishes it."""
    seed = int(os.environ.get("WAMR_OTA_SEED", time.time_ns() % 2**32))
    chance = random.Random(seed)
    folders = [wheel_in(tmp_path / "another", "# another build\n"), wheel_in(tmp_path / "same")]
    began = time.monotonic()
    before = running(flashed, capsys)
    assert flashed.flash("--wheels", folders[0], "--json") == 0
    takes_s = time.monotonic() - began
    names = (json.loads(capsys.readouterr().out)["agent"], before)
    for kill in range(kills):
        before, wanted = names[kill % 2], names[(kill + 1) % 2]
        after_s = chance.uniform(0, takes_s)
        told = f"seed {seed}, kill {kill} after {after_s:.1f} of {takes_s:.1f} s"
        identity = ("--device", "guest-1", "--provision-again") if chance.random() < 0.4 else ()
        command = flashed.command("--wheels", folders[(kill + 1) % 2], *identity, "--wait", "40", "--json")
        code = killed_after([sys.executable, "-m", "ota.cli.main", *command], after_s)
        assert code in (0, -signal.SIGKILL), told
        if code == 0:
            continue  # it was faster
        assert flashed.answers((before, wanted), 120), f"{told}: no agent reports\n{flashed.guest.console_log()[-3000:]}"
        assert flashed.flash("--wheels", folders[(kill + 1) % 2], *identity, "--json") == 0, f"{told}: {capsys.readouterr().err}"
        assert json.loads(capsys.readouterr().out)["agent"] == wanted, told
    assert flashed.flash("--json") == 0


@on_one
def test_a_power_cut_after_flashing_boots_the_confirmed_agent(flashed, capsys):
    before = running(flashed, capsys)
    flashed.guest.cut()
    flashed.guest.start()
    assert flashed.reported(before, 180)
    flashed.cable.close()
    flashed.cable = Cable(flashed.guest.console_port)


@on_one
def test_what_does_not_fit_is_said_before_anything_is_changed(flashed, capsys, tmp_path):
    flashed.wait_for("login:", len(flashed.guest.console_log()) - 300)
    built_wheel("aarch64")  # what a Raspberry Pi would get
    assert flashed.flash(board="raspberry-pi-4") == 1
    assert "raspberry-pi-4 is a board with aarch64, this one is armv7l" in capsys.readouterr().err
    (flashed.folder / "password").write_text("wrong\n")
    try:
        assert flashed.flash() == 1
        assert "the board refused the login of 'root'" in capsys.readouterr().err
    finally:
        (flashed.folder / "password").write_text(PASSWORD + "\n")
    assert flashed.flash("--dry-run") == 0
    assert "could be flashed; nothing was changed" in capsys.readouterr().out
    assert flashed.flash("--base", "/proc/nothing") == 1
    assert "nothing can be written to /proc/nothing" in capsys.readouterr().err
    assert flashed.flash("--base", "/x; reboot") == 1
    assert "no folder that can be named on a command line" in capsys.readouterr().err
