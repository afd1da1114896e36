"""A board that nobody sits at: it boots with a token, gets its certificate over MQTT, and talks to a broker that asks for one."""

import shutil
import socket
import subprocess
import sys
import time

import pytest

from ota.cli.main import main
from ota.demo.broker import free_port
from ota.formats.broker_url import BrokerUrl
from ota.operator import reports
from ota.operator.broker import Broker
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import Workspace
from tests.support.lab import Mosquitto
from tests.support.tls import server_certificate

pytestmark = pytest.mark.skipif(Mosquitto.command() is None, reason="mosquitto is not installed")


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Site:
    """A broker with three listeners: the operator's, one for boards with a certificate, one for boards that enrol."""

    def __init__(self, folder):
        self.folder = folder
        self.plain, self.boards, self.enrolment = free_port(), free_port(), free_port()
        server_certificate(folder)
        assert main(["-C", str(folder / "operator"), "init", "--broker", f"mqtt://127.0.0.1:{self.plain}"]) == 0
        self.workspace = Workspace.open(folder / "operator")
        authority = CertificateAuthority(self.workspace)
        tls = f"certfile {folder}/server.pem\nkeyfile {folder}/server.key\n"
        (folder / "acl").write_text("topic readwrite ota/v1/enrol/#\nuser board-1\ntopic readwrite ota/v1/#\n")
        (folder / "mosquitto.conf").write_text(
            f"user root\nper_listener_settings true\n"
            f"listener {self.plain} 127.0.0.1\nallow_anonymous true\n"
            f"listener {self.boards} 127.0.0.1\n{tls}cafile {authority.certificate_file}\nrequire_certificate true\n"
            f"use_identity_as_username true\nacl_file {folder}/acl\n"
            f"listener {self.enrolment} 127.0.0.1\n{tls}allow_anonymous true\nacl_file {folder}/acl\n"
        )
        self.broker = subprocess.Popen([Mosquitto.command(), "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL)
        self.agent = None
        end = time.monotonic() + 10
        while not _answers(self.plain) and time.monotonic() < end:
            time.sleep(0.05)

    def settings(self, **changes):
        """The board's folder, as `ota settings` makes it, with the broker where this machine has it."""
        text = (self.folder / "operator/ota.toml").read_text()
        if '"../server.pem"' not in text:
            (self.folder / "operator/ota.toml").write_text(f'{text}ca_file = "../server.pem"\n')
        command = [
            "-C",
            str(self.folder / "operator"),
            "settings",
            "board-1",
            "--board",
            "generic-aarch64",
            "-o",
            str(self.folder / "b"),
        ]
        command += ["--broker", f"mqtts://boards.example:{self.boards}", "--enrol-at", f"mqtts://127.0.0.1:{self.enrolment}"]
        assert main([*command, *changes.get("more", [])]) == 0
        toml = self.folder / "b/agent.toml"
        toml.write_text(
            toml.read_text().replace("boards.example", "127.0.0.1").replace("/var/lib/wamr-ota", str(self.folder / "store"))
        )

    def start(self):
        command = [sys.executable, "-m", "device_agent", "--log-format", "text", "--config", str(self.folder / "b/agent.toml")]
        with (self.folder / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(command, stderr=log)

    def log(self):
        return (self.folder / "agent.log").read_text()

    def close(self):
        if self.agent is not None:
            self.agent.terminate()
            self.agent.wait(10)
        self.broker.terminate()
        self.broker.wait(10)

    def reported(self, timeout_s=20.0):
        with Broker(Workspace.open(self.folder / "operator").settings) as broker:
            return any(online for _, online in reports.follow_one(broker, "board-1", timeout_s))


@pytest.fixture
def site(tmp_path):
    opened = Site(tmp_path)
    yield opened
    opened.close()


def test_a_board_with_a_token_enrols_by_itself_and_shows_its_certificate_from_then_on(site, capsys):
    site.settings()
    site.start()
    assert main(["-C", str(site.folder / "operator"), "enrol", "--once", "--seconds", "30"]) == 0
    assert "board-1: has its certificate" in capsys.readouterr().out
    assert site.reported()
    assert not (site.folder / "b/enrolment.token").exists()
    assert main(["-C", str(site.folder / "operator"), "devices", "--json"]) == 0
    assert '"certificate": {"device": "board-1"' in capsys.readouterr().out
    site.agent.terminate()
    site.agent.wait(10)
    site.start()
    assert site.reported()
    assert site.log().count("asking for a certificate") == 1


def test_a_board_with_an_expired_token_is_refused_and_runs_on_alone(site, capsys):
    site.settings(more=["--hours", "0.0001"])
    time.sleep(1.1)
    site.start()
    assert main(["-C", str(site.folder / "operator"), "enrol", "--seconds", "8"]) == 1
    assert "board-1: refused: token-expired" in capsys.readouterr().out
    assert "the operator refused the enrolment: token-expired; the module goes on, the board asks again later" in site.log()
    assert site.agent.poll() is None


def test_a_board_whose_token_was_refused_takes_the_next_one(site, capsys):
    site.settings(more=["--hours", "0.0001"])
    time.sleep(1.1)
    site.start()
    assert main(["-C", str(site.folder / "operator"), "enrol", "--seconds", "8"]) == 1
    capsys.readouterr()
    shutil.move(site.folder / "b", site.folder / "old")
    site.settings()
    token = (site.folder / "b/enrolment.token").read_bytes()
    shutil.rmtree(site.folder / "b")
    shutil.move(site.folder / "old", site.folder / "b")
    (site.folder / "b/enrolment.token").write_bytes(token)
    assert main(["-C", str(site.folder / "operator"), "enrol", "--once", "--seconds", "40"]) == 0
    assert site.reported(20.0)
    assert site.log().count("no certificate:") == 1
    assert "Traceback" not in site.log()


def test_a_board_without_a_certificate_is_not_let_in(site):
    site.settings()
    (site.folder / "b/enrolment.token").unlink()
    site.start()
    assert not site.reported(4.0)
    assert BrokerUrl.parse(f"mqtts://127.0.0.1:{site.boards}").tls
    assert site.agent.poll() is None
