"""A broker that admits boards with a certificate, a second listener for those that enrol, and a real agent with a token."""

import socket
import subprocess
import sys
import time

from boards.ports import free_ports
from device_agent.broker.certificates import signing_request
from ota.cli.main import main
from ota.operator import reports
from ota.operator.broker import Broker
from ota.operator.ca import CertificateAuthority
from ota.operator.roster import Roster
from ota.operator.workspace import Workspace
from tests.support.lab import PATIENCE_S, Mosquitto
from tests.support.tls import server_certificate


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Site:
    """A broker with three listeners: the operator's, one for boards with a certificate, one for boards that enrol."""

    def __init__(self, folder):
        self.folder = folder
        self.plain, self.boards, self.enrolment = free_ports(3)
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
        self.agent = None
        self.prefix = []  # a command that starts the agent, as unshare(1) does
        self._start_broker()

    def _start_broker(self):
        command = [Mosquitto.command(), "-c", str(self.folder / "mosquitto.conf")]
        self.broker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE_S
        while not _answers(self.plain):
            assert time.monotonic() < end, "mosquitto does not answer"
            time.sleep(0.05)

    def restart(self, line):
        """The broker, with another line for the listener that asks for certificates."""
        self.broker.terminate()
        self.broker.wait(PATIENCE_S)
        conf = self.folder / "mosquitto.conf"
        conf.write_text(conf.read_text().replace("require_certificate true\n", f"require_certificate true\n{line}\n"))
        self._start_broker()

    def settings(self, **changes):
        """The board's folder, as `ota settings` makes it, with the broker where this machine has it."""
        text = (self.folder / "operator/ota.toml").read_text()
        if '"../server.pem"' not in text:
            (self.folder / "operator/ota.toml").write_text(f'{text}ca_file = "../server.pem"\n')
        command = [
            "-C",
            str(self.folder / "operator"),
            "settings",
            changes.get("name", "board-1"),
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

    def certified(self, age_days, **changes):
        """The board's folder with a certificate of this age, of which the board has the key."""
        self.settings(**changes)
        folder, now_s = self.folder / "b", time.time() - age_days * 86_400
        (folder / "enrolment.token").unlink()
        authority = CertificateAuthority(self.workspace, now_s=lambda: now_s)
        pem = authority.sign(signing_request(folder / "device.key", "board-1"), "board-1")
        (folder / "device.pem").write_bytes(pem)
        with (folder / "agent.toml").open("a") as toml:
            toml.write("\n[renewal]\nperiod_s = 2.0\n[report]\nperiod_s = 1.0\n")

    def start(self):
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "device_agent",
            "--log-format",
            "text",
            "--config",
            str(self.folder / "b/agent.toml"),
        ]
        with (self.folder / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(command, stderr=log)

    def start_and_ask(self):
        """Starts the agent, and waits until it asks for a certificate."""
        self.start()
        self.wait_log("asking for a certificate")

    def wait_log(self, text):
        """Waits until the agent's log says something."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.log():
            assert time.monotonic() < end, self.log()
            time.sleep(0.05)

    def log(self):
        return (self.folder / "agent.log").read_text()

    def close(self):
        if self.agent is not None:
            self.agent.terminate()
            self.agent.wait(PATIENCE_S)
        self.broker.terminate()
        self.broker.wait(PATIENCE_S)

    def reported(self, timeout_s=PATIENCE_S):
        workspace = Workspace.open(self.folder / "operator")
        with Broker(workspace.settings) as broker:
            found = reports.follow_one(broker, Roster(workspace).signers, "board-1", timeout_s)
            return any(online for _, online in found)
