"""A lab whose agent was flashed: it runs under its launcher, which a stand-in for a service manager keeps alive."""

import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from boards.onboard import versions
from boards.tarball import Tarball
from ota.author.agent import prepare_agent
from ota.author.build import Update, sign
from ota.formats.agent import ABI, AgentDescription
from ota.formats.classes import class_id
from ota.formats.deployment import AGENT
from tests.support.agents import host_tarball, lay_packages
from tests.support.lab import Lab, Mosquitto
from tests.support.rumqttd import Rumqttd
from tests.support.signing import VENDOR

# /run is the board's own. What init starts again and again is the launcher.
MANAGER = """mount -t tmpfs run /run
while :; do sh {base}/launch {base}/etc/agent.toml 2>>{log}; sleep 0.2; done
"""


class AirLab(Lab):
    """One board with a flashed agent, `version`. `kill` is a power cut for everything that runs on the board."""

    def __init__(self, folder: Path, broker: Rumqttd | Mosquitto, version: str = "0.1.0", **settings) -> None:
        if os.geteuid() != 0 or not shutil.which("unshare"):
            pytest.skip("mounts, as root")
        super().__init__(folder, broker, **({"agent_trial": 30, "retry": 1} | settings))
        self.base, self.made = folder / "base", folder / "tarballs"
        self.made.mkdir()
        (self.base / "etc").mkdir(parents=True)
        self.first = self.tarball(version)
        self.flash(self.first)

    def tarball(self, version: str, change: dict[str, str] | None = None) -> Tarball:
        """An agent out of the sources, with `change`d files."""
        folder = self.made / version
        folder.mkdir(exist_ok=True)
        return host_tarball(folder, version, change)

    def flash(self, made: Tarball) -> None:
        """Lays an agent and its launcher there, confirmed, with packages that the system's Python lacks."""
        file = self.folder / "flashed"
        file.write_bytes(made.content)
        versions.unpack(str(file), str(self.base), made.name)
        packages = self.base / "versions" / made.name / "packages"
        if not packages.exists():
            lay_packages(packages)
        versions.point(self.base / "confirmed", made.name)

    def agent_update(self, made: Tarball, board: str = "generic") -> Update:
        """It as an update, signed with the next sequence."""
        file = self.made / f"{made.name}.tar.gz"
        file.write_bytes(made.content)
        self.signer.sequence += 1
        return prepare_agent(file, VENDOR, board=board).signed(self.signer.sequence, self.signer.keys["release"])

    def signed_agent(self, update: Update, agent: AgentDescription) -> Update:
        """An agent's update whose manifest says something else of the same tarball, signed."""
        self.signer.sequence += 1
        vendor = update.manifest.vendor
        identifier = class_id(vendor, "generic", agent.platform.text, ABI)
        manifest = replace(update.manifest, agent=agent, class_identifier=identifier, sequence=self.signer.sequence)
        return sign(manifest, update.blob, update.index, [self.signer.keys["release"]])

    def publish_agent(self, made: Tarball, **changes) -> bytes:
        """Deploys it to the group; returns the deployment's identifier."""
        return self.deploy(self.agent_update(made), instance=AGENT, **changes)

    def start(self) -> None:
        """Switches the board on, and waits for a report."""
        shutil.copy(self.folder / "root.cbor", self.base / "etc/root.cbor")
        config = self.config(self.broker.url, str(self.folder / "store"))
        config = config.replace("[trial]\n", f"[trial]\nagent_s = {self.settings['agent_trial']}\n")
        (self.base / "etc/agent.toml").write_text(config)
        self.observer.forget_reports()
        self.switch_on()
        self.observer.wait(lambda: self.observer.report is not None, self.patience_s, "a first report")

    def switch_on(self) -> None:
        manager = MANAGER.format(base=self.base, log=self.folder / "agent.log")
        command = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-e", "-c", manager]
        self.agent = subprocess.Popen(command, start_new_session=True)

    def kill(self) -> None:
        if self.agent is not None:
            os.killpg(self.agent.pid, signal.SIGKILL)
            self.agent.wait()
            self.agent = None

    def close(self) -> None:
        self.observer.close()
        self.kill()
        self.broker.stop()

    @property
    def confirmed(self) -> str:
        return versions.pointer(self.base / "confirmed")

    def wait_agent(self, *states: str, deployment: bytes):
        """Waits until the instance "agent" reports one of these states of a deployment."""

        def there() -> bool:
            found = self.of(AGENT)
            return found is not None and found.attempt.state in states and found.attempt.deployment == deployment

        self.observer.wait(there, self.patience_s, f"the agent {' or '.join(states)}: {self._state()}")
        return self.of(AGENT)

    def _state(self) -> str:
        return json.dumps(sorted(each.name for each in self.base.iterdir()))
