"""What runs on a board while it is flashed, beside a `launch` that changes the same files."""

import importlib.util
import io
import marshal
import os
import pathlib
import signal
import sys
import tarfile
import threading

import pytest

from boards.flash import _tar
from boards.onboard import versions
from tests.conftest import ROOT


@pytest.fixture
def helper(tmp_path, monkeypatch):
    """The helper, on a board made by us, with a folder of its own for what it reads of the system."""
    monkeypatch.setattr(versions, "TELL_S", 0.0)
    specification = importlib.util.spec_from_file_location("onboard_helper", ROOT / "boards/onboard/helper.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "PID", tmp_path / "pid")
    monkeypatch.setattr(module, "manager", lambda: "image")
    return module


@pytest.fixture
def ended(monkeypatch):
    """Which processes were ended."""
    found = []
    monkeypatch.setattr(os, "kill", lambda process, number: found.append((process, number)))
    return found


def test_a_pointer_that_is_taken_away_while_it_is_looked_at_names_nothing(helper, tmp_path):
    (tmp_path / "versions").mkdir()
    found, stop = set(), threading.Event()

    def launch():
        while not stop.is_set():
            (tmp_path / "trial").symlink_to("versions/new")
            (tmp_path / "trial").unlink()

    thread = threading.Thread(target=launch)
    thread.start()
    try:
        for _ in range(20_000):
            found.add(helper.pointer(tmp_path / "trial"))
    finally:
        stop.set()
        thread.join()
    assert found <= {"", "new"}


def test_what_ran_before_is_ended_for_a_trial(helper, ended, tmp_path):
    helper.PID.write_text("4711\n")
    assert helper.begin(str(tmp_path), "/etc/wamr-ota", "new", "60") == {"trial": "new"}
    assert helper.pointer(tmp_path / "trial") == "new"
    assert ended == [(4711, signal.SIGTERM)]


def test_a_trial_that_began_by_itself_is_not_ended(helper, ended, tmp_path, monkeypatch):
    """The system starts `launch` every few seconds where no agent is confirmed, and at once where it was just told to."""
    helper.PID.write_text("4711\n")

    def starts_at_once(base, config, version):
        assert helper.pointer(base / "trial") == "new"
        helper.PID.write_text("4712\n")
        (base / "trial.tried").touch()

    monkeypatch.setattr(helper, "service", starts_at_once)
    helper.begin(str(tmp_path), "/etc/wamr-ota", "new", "60")
    assert ended == []
    monkeypatch.setattr(helper, "service", lambda base, config, version: helper.PID.write_text("4713\n"))  # and had not got so far
    helper.begin(str(tmp_path), "/etc/wamr-ota", "new", "60")
    assert ended == [(4712, signal.SIGTERM)]


def test_a_process_number_that_is_just_being_written_is_waited_for(helper):
    assert helper.running() is None
    helper.PID.write_text("")
    timer = threading.Timer(0.2, helper.PID.write_text, ["4711\n"])
    timer.start()
    assert helper.running() == 4711
    timer.join()
    helper.PID.write_text("")
    with pytest.raises(SystemExit, match="/run is full"):
        helper.running()


def test_systemd_is_given_the_unit_that_every_installation_has_and_a_drop_in_that_names_the_launcher(helper, tmp_path, monkeypatch):
    unit = ROOT / "device_agent" / "wamr-ota.service"
    theirs = tmp_path / "base/versions/new/lib/device_agent"
    theirs.mkdir(parents=True)
    (theirs / unit.name).write_bytes(unit.read_bytes())
    (tmp_path / "system").mkdir()
    commands = []
    monkeypatch.setattr(helper, "UNIT", tmp_path / "system" / unit.name)
    monkeypatch.setattr(helper, "manager", lambda: "systemd")
    monkeypatch.setattr(helper, "run", lambda *command: commands.append(command))
    helper.service(tmp_path / "base", f"{tmp_path}/base/etc", "new")
    assert (tmp_path / "system" / unit.name).read_bytes() == unit.read_bytes()
    drop_in = (tmp_path / "system" / f"{unit.name}.d" / "flashed.conf").read_text()
    assert f"ExecStart=\nExecStart={tmp_path}/base/launch {tmp_path}/base/etc/agent.toml\n" in drop_in
    assert f"ReadWritePaths={tmp_path}/base\n" in drop_in
    assert ("systemctl", "enable", unit.name) in commands


def test_the_agent_that_is_flashed_brings_its_unit():
    """`make_tarball` takes what the wheel has; the wheel has all of the package."""
    assert (ROOT / "device_agent" / "wamr-ota.service").is_file()
    assert "[Service]" not in (ROOT / "boards/onboard/helper.py").read_text().replace('DROP_IN = """[Service]', "")


def test_an_agent_is_compiled_where_it_is_unpacked_and_says_how_far_it_is(helper, tmp_path, capfd):
    with tarfile.open(tmp_path / "tarball", "w:gz") as archive:
        for name, content in (
            ("launch", b"#!/bin/sh"),
            ("lib/a.py", b"def f():\n    raise ValueError\n"),
            ("packages/b.py", b"print 'old'"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert helper.unpack(str(tmp_path / "tarball"), str(tmp_path / "base"), "new") == {"installed": "new"}
    final = tmp_path / "base/versions/new/lib/a.py"
    compiled = pathlib.Path(importlib.util.cache_from_source(str(final)))
    content = compiled.read_bytes()
    assert int.from_bytes(content[4:8], "little") == 1, "unchecked by hash: PEP 552"
    assert marshal.loads(content[16:]).co_filename == str(final)
    assert "@compiled 2 " in capfd.readouterr().out


def test_what_keeps_an_agent_from_being_imported_is_told(helper, tmp_path, capfd):
    packages = tmp_path / "versions/new/packages"
    packages.mkdir(parents=True)
    (packages / "cbor2.py").write_text("raise OSError('no such instruction')")
    answer = helper.probe(str(tmp_path), "new")
    assert not answer["good"]
    assert answer["why"].endswith("OSError: no such instruction")
    assert "import time" not in answer["why"]
    assert "@imported " in capfd.readouterr().out


def agent_that(base, program: str, monkeypatch):
    """A confirmed agent that is a program of ours, beside no agent that is installed."""
    monkeypatch.setattr(sys, "executable", sys._base_executable)
    package = base / "versions" / "some" / "lib" / "device_agent"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(program)
    (base / "confirmed").symlink_to("versions/some")


def test_a_board_that_has_settings_gets_others_beside_them_for_the_trial(helper, tmp_path):
    config, key, sent = tmp_path / "etc", tmp_path / "key", tmp_path / "sent"
    config.mkdir()
    for name in ("agent.toml", "device.key", "device.pem", "device.pem.new", "of-the-board"):
        (config / name).write_text("before")
    (tmp_path / "elsewhere").write_text("before")
    (config / "root.cbor").symlink_to(tmp_path / "elsewhere")
    before = {each.name: each.read_text() for each in config.iterdir()}
    sent.write_bytes(_tar(dict.fromkeys(("agent.toml", "device.pem", "root.cbor"), b"after")))
    for _ in range(2):  # the line was lost: once more
        key.write_text("made")
        assert helper.settings(str(sent), str(config), str(key)) == {"provisioned": True}
        made = {each.name: each.read_text() for each in (tmp_path / "etc.trial").iterdir()}
        after = dict.fromkeys(("agent.toml", "device.pem", "root.cbor"), "after")
        assert made == after | {"device.key": "made", "of-the-board": "before"}
    assert {each.name: each.read_text() for each in config.iterdir()} == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["elsewhere", "etc", "etc.trial", "sent"]


def test_a_bundle_is_installed_by_the_agent_that_is_confirmed_and_its_answer_comes_back(helper, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(helper, "INSTALLING_S", 0.05)
    program = "import json, sys, time\ntime.sleep(1)\nprint(json.dumps({'result': 'confirmed', 'asked': sys.argv[1:]}))"
    agent_that(tmp_path, program, monkeypatch)
    answer = helper.install(str(tmp_path), "/etc/wamr-ota", "/tmp/a.bundle")["answer"]
    assert answer["asked"] == ["--config", "/etc/wamr-ota/agent.toml", "install", "/tmp/a.bundle", "--json"]
    assert "@looked 0" in capfd.readouterr().out


def test_an_agent_that_does_not_install_a_bundle_says_why(helper, tmp_path, monkeypatch):
    agent_that(tmp_path, "import sys\nsys.exit('device-agent: bundle-truncated: the bundle is cut off')", monkeypatch)
    found = helper.install(str(tmp_path), "/etc/wamr-ota", "/tmp/a.bundle")
    assert found == {"answer": None, "why": "device-agent: bundle-truncated: the bundle is cut off"}
