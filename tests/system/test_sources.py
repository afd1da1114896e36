"""Sources of a real agent: events of the board reach a module's queue, also with no more rights than the systemd unit leaves."""

import os
import shutil
import socket
import threading
import tty

import pytest

from ota.formats.report import InstanceReport
from tests.support.lab import PUBLISH
from tests.support.wat import contract_module
from tests.system.test_unit import setting

SAYS_IT_AGAIN = (
    """(call $publish (i32.const 100) (i32.const 8) (local.get $payload) (local.get $size) (i32.const 80)) (i32.const 0)"""
)
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


def install(lab) -> InstanceReport:
    wasm = contract_module(SAYS_IT_AGAIN, PUBLISH, '(data (i32.const 100) "out/said")')
    wanted = {"messaging": {"publish": ["out/#"], "subscribe": ["sys/#"]}}
    return lab.wait_state("confirmed", deployment=lab.deploy(lab.signer.update(wasm, capabilities=wanted)))


def heard(lab, payload: bytes) -> None:
    def said() -> bool:
        return payload in [each.payload for each in list(lab.observer.messages.values())]

    lab.observer.wait(said, lab.patience_s, f"what a source has read: {payload!r}")


@pytest.fixture
def sources(lab, tmp_path):
    """A FIFO of another user in a folder that is read-only, a socket, a serial port: settings, and functions that write to them."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.mkfifo(folder / "commands", 0o600)
    os.chown(folder / "commands", 60704 if os.geteuid() == 0 else -1, -1)
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    lab.settings["proc"] = 0
    lab.settings["extra"] = f"""
[sources.commands]
kind = "file"
path = "{folder}/commands"
[sources.app]
kind = "datagram"
path = "{tmp_path}/app"
mode = "0660"
[sources.gps]
kind = "serial"
port = "{os.ttyname(theirs)}:9600"
[sources.missing]
kind = "serial"
port = "/dev/ttyNONE9:9600"
"""
    yield folder, ours
    os.close(ours)
    os.close(theirs)


def check_all(lab, tmp_path, folder, port) -> None:
    lab.start()
    install(lab)
    writer = threading.Thread(target=(folder / "commands").write_bytes, args=(b"by FIFO\n",))
    writer.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"by socket", str(tmp_path / "app"))
    os.write(port, b"by port\n")
    for each in (b"by FIFO", b"by socket", b"by port"):
        heard(lab, each)
    writer.join()
    assert (tmp_path / "app").stat().st_mode & 0o777 == 0o660
    lab.observer.wait(
        lambda: lab.report.counters.get("source_failures", 0) > 0, lab.patience_s, "the failure of a port that is not there"
    )
    assert lab.alive()
    assert lab.log().count("source missing:") == 1


def test_events_of_the_board_reach_a_module_whatever_their_source_and_one_that_fails_ends_nothing(lab, tmp_path, sources):
    check_all(lab, tmp_path, *sources)


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"),
    reason="takes privileges of root away by setpriv, and mounts a folder read-only for one process",
)
def test_sources_work_with_no_more_rights_than_the_service_has(lab, tmp_path, sources):
    folder, port = sources
    kept = [f"+{each.removeprefix('CAP_').lower()}" for each in setting("CapabilityBoundingSet")[0].split()]
    rights = ["setpriv", "--no-new-privs", "--bounding-set", ",".join(["-all", *kept]), "--"]
    lab.prefix = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(folder), *rights]
    check_all(lab, tmp_path, folder, port)
