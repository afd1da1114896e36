"""The unit of systemd: one text wherever it is installed, as tight as it says, and nothing that the agent needs is taken away."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from device_agent.sandbox.devices import open_devices
from ota.cli.main import main
from ota.formats.capabilities import Capabilities
from ota.formats.reasons import Refused
from tests.conftest import ROOT
from tests.support.enrolment import Site
from tests.support.lab import PATIENCE_S, Mosquitto, echo

UNIT = ROOT / "device_agent" / "wamr-ota.service"
EXPOSURE = 3.5  # of 10; without hardening it is 9.6


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@needs_systemd
def test_systemd_finds_nothing_wrong_with_it(tmp_path):
    shutil.copy(UNIT, tmp_path)
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []


@needs_systemd
def test_its_exposure_is_what_is_stated():
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd does not look at a file: {done.stderr.strip()[:200]}")
    assert float(found[1]) <= EXPOSURE


def test_what_modules_and_enrolment_need_is_left():
    for name in (
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "PrivateUsers",
        "MemoryDenyWriteExecute",
        "ProtectProc",
    ):
        assert setting(name) == []
    writable = setting("ReadWritePaths")[0].split()
    assert "-/etc/wamr-ota" in writable
    example = (ROOT / "device_agent/agent.example.toml").read_text()
    (granted,) = re.findall(r'# write = \["([^"]+)"\]', example)
    assert any(granted.startswith(each.removeprefix("-") + "/") for each in writable)
    assert re.findall(r'^folder = "([^"]+)"', example, re.MULTILINE) == [f"/var/lib/{setting('StateDirectory')[0]}"]
    assert "/run/wamr-ota/" in f"/run/{setting('RuntimeDirectory')[0]}/"
    assert setting("RuntimeDirectoryPreserve") == ["yes"], (
        "a new file would give out users that another agent has locked in the old one"
    )
    calls = setting("SystemCallFilter")[0].split()
    assert {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"} <= set(calls)
    assert setting("After") == setting("Wants") == []


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes privileges of root away by setpriv")
def test_with_its_capabilities_alone_modules_are_confined_updated_and_given_folders_of_others(lab, tmp_path):
    folder = tmp_path / "roof"
    folder.mkdir(mode=0o700)
    os.chown(folder, 60704, 60704)
    lab.settings["extra"] = f'[policy.grants.wasi]\nwrite = ["{folder}"]\nquota_bytes = 65536\n'
    kept = [f"+{each.removeprefix('CAP_').lower()}" for each in setting("CapabilityBoundingSet")[0].split()]
    lab.prefix = ["setpriv", "--no-new-privs", "--bounding-set", ",".join(["-all", *kept]), "--"]
    lab.start()
    lab.install(1)
    wasi = {
        "messaging": {"publish": ["out/#"], "subscribe": ["in/#", "sys/#"]},
        "wasi": {"write": [str(folder)], "quota_bytes": 4096},
    }
    lab.deploy(lab.signer.update(echo(2), name="echo", version="2.0.0", capabilities=wasi))
    assert lab.running("2.0.0").running.lacking == ()
    lab.still_answers(2)
    lab.wait_state("confirmed")


# What ProtectSystem=strict does: nothing can be written but below the folders that come first, until "--".
STRICT = """mount --make-rprivate /
before=$(cat /proc/self/mountinfo)
while [ "$1" != -- ]; do mount --bind "$1" "$1"; shift; done
shift
while read -r _ _ _ _ where how _; do
    case $where,$how, in /proc* | /sys* | /dev*) ;; *,rw,*) mount -o remount,ro,bind "$where" ;; esac
done <<END
$before
END
exec "$@"
"""


def under_the_unit(folders: dict[str, Path]) -> list[str]:
    """What starts an agent with the unit's privileges and files; `folders` are ours for those that the unit names."""
    named = [each.removeprefix("-") for each in setting("ReadWritePaths")[0].split()]
    named += [f"/var/lib/{each}" for each in setting("StateDirectory")] + [f"/run/{each}" for each in setting("RuntimeDirectory")]
    writable = [str(folders[each]) for each in named if each in folders]
    for each in writable:
        Path(each).mkdir(parents=True, exist_ok=True)
    kept = [f"+{each.removeprefix('CAP_').lower()}" for each in setting("CapabilityBoundingSet")[0].split()]
    confined = ["setpriv", "--no-new-privs", "--bounding-set", ",".join(["-all", *kept]), "--"]
    return ["unshare", "--mount", "sh", "-e", "-c", STRICT, "sh", *writable, "--", *confined]


tools = shutil.which("setpriv") and shutil.which("unshare") and Mosquitto.command()


@pytest.mark.skipif(os.geteuid() != 0 or not tools, reason="mounts and takes privileges away as root; mosquitto")
def test_a_board_enrols_and_comes_back_though_the_system_is_read_only_to_its_agent(tmp_path, capsys):
    site = Site(tmp_path)
    try:
        site.settings()
        site.prefix = under_the_unit(
            {"/etc/wamr-ota": tmp_path / "b", "/var/lib/wamr-ota": tmp_path / "store", "/run/wamr-ota": Path("/run/wamr-ota")}
        )
        site.start()
        assert main(["-C", str(tmp_path / "operator"), "enrol", "--once", "--seconds", str(PATIENCE_S)]) == 0, site.log()
        assert "board-1: has its certificate" in capsys.readouterr().out
        assert site.reported(), site.log()
        assert (tmp_path / "b/device.pem").exists()
        assert not (tmp_path / "b/enrolment.token").exists()
        options = Path(f"/proc/{site.agent.pid}/mountinfo").read_text()
        assert re.search(r" / ro[, ]", options), "the test's own: / is read-only"
        site.agent.terminate()
        site.agent.wait(PATIENCE_S)
        site.start()
        assert site.reported(), site.log()
        assert site.log().count("asking for a certificate") == 1
    finally:
        site.close()


def test_a_folder_that_is_read_only_to_the_agent_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: SimpleNamespace(f_flag=os.ST_RDONLY))
    wasi = {"read": [str(tmp_path)]}
    assert open_devices(Capabilities.parse({"wasi": wasi}, "test")).folders
    with pytest.raises(Refused, match=rf"systemctl edit wamr-ota, \[Service\], ReadWritePaths={tmp_path}"):
        open_devices(Capabilities.parse({"wasi": {"write": [str(tmp_path)], "quota_bytes": 4096}}, "test"))
