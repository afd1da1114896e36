"""The stage of the demonstration: broker, board and operator as processes of their own, and an observer who keeps count."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from ota.demo.broker import DemoBroker
from ota.demo.cable import LOOPBACK, Cable
from ota.errors import OtaError
from ota.formats import topics
from ota.formats.report import InstanceReport, Message, Report
from ota.formats.signed_report import INSTANCE_REPORT, REPORT, Statement
from ota.operator.logs import message_of, module_topics

DEVICE, GROUP = "board-1", "demo"
_AGENT = """# The board's whole configuration.
[device]
id = "{device}"
group = "{group}"

[broker]
url = "{url}"

[storage]
folder = "board"

[trust]
root = "operator/trust/root.1.cbor"

[trial]
seconds = 1.5

[report]
period_s = 0.5

[sources.readings]
kind = "proc"
period_s = 0.1

[policy.grants.logging]

[policy.grants.messaging]
subscribe = ["sys/#", "local/#"]
publish = ["readings/#", "alerts/#", "summaries/#", "local/#"]
"""


class Observer:
    """Sees what the board sends: its modules' messages by number, its last report, and those of its instances by name.

    Nobody else is on this broker: signatures are the operator's to verify, who does. Raises OSError when there is no broker.
    """

    def __init__(self, port: int) -> None:
        self.messages: dict[int, Message] = {}
        self.report: Report | None = None
        self.instances: dict[str, InstanceReport] = {}
        self.topics: set[str] = set()  # of everything that came from modules
        self._changed = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = self._subscribe
        self._client.on_message = self._received
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()

    def close(self) -> None:
        """Ends the connection."""
        self._client.disconnect()
        self._client.loop_stop()
        self._client.on_connect = self._client.on_message = None  # so paho closes the rest as soon as we are gone

    def wait(self, holds: Any, timeout_s: float, what: str) -> None:
        """Waits until `holds()`; raises OtaError naming `what` when it does not come."""
        with self._changed:
            if not self._changed.wait_for(holds, timeout_s):
                raise OtaError(f"waited {timeout_s:.0f} s for: {what}; the board's last report: {self.report}")

    def missing(self, timeout_s: float) -> list[int]:
        """Numbers of the board that are missing up to the highest seen; waits until there is none, or the time is up.

        Instances take turns at sending, so the first that comes after a break may be the last that was said.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._holes(), timeout_s)
            return self._holes()

    def _holes(self) -> list[int]:
        return sorted(set(range(1, max(self.messages, default=0) + 1)) - self.messages.keys())

    def _subscribe(self, client: paho.Client, *_: Any) -> None:
        wanted = (topics.report(DEVICE), topics.instance_reports(DEVICE), module_topics(DEVICE), "local/#")
        client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in wanted])

    def _received(self, client: paho.Client, data: Any, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        with self._changed:
            if message.topic == topics.report(DEVICE):
                self.report = Report.from_bytes(Statement.from_bytes(payload, REPORT).claimed)
            elif topics.covers(topics.instance_reports(DEVICE), message.topic):
                report = InstanceReport.from_bytes(Statement.from_bytes(payload, INSTANCE_REPORT).claimed)
                self.instances[report.instance] = report
            else:
                self.topics.add(message.topic)
                found = message_of(message.topic, payload, getattr(message.properties, "UserProperty", ()))
                if found is not None:
                    self.messages[found[1].number] = found[1]
            self._changed.notify_all()


class Stage:
    """Everything that runs, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = DemoBroker(folder)
        self.broker.start()
        self.cable = Cable(self.broker.port)
        self.workspace = folder / "operator"
        self._agent: subprocess.Popen[bytes] | None = None
        self._log = (folder / "board.log").open("ab")
        self.observer = Observer(self.broker.port)

    def start_board(self) -> None:
        """Starts the agent as a board's init system would."""
        config = self.folder / "agent.toml"
        config.write_text(_AGENT.format(device=DEVICE, group=GROUP, url=self.cable.url), encoding="utf-8")
        command = [sys.executable, "-m", "device_agent", "--config", str(config)]
        self._agent = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)

    def kill_board(self) -> None:
        """Pulls the plug: agent and workers are gone at once."""
        if self._agent is not None:
            os.killpg(self._agent.pid, signal.SIGKILL)
            self._agent.wait()
            self._agent = None

    def ota(self, *words: str) -> tuple[int, str]:
        """Runs the command `ota` in the workspace; returns its exit code and what it printed."""
        command = [sys.executable, "-m", "ota.cli.main", "-C", str(self.workspace), *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.returncode, done.stdout

    def counter(self, name: str, instance: str) -> int:
        """A counter in the last report of an instance."""
        report = self.observer.instances.get(instance)
        return report.counters.get(name, 0) if report else 0

    def close(self) -> None:
        """Ends everything."""
        self.observer.close()
        if self._agent is not None:
            self._agent.terminate()
            try:
                self._agent.wait(10)
            except subprocess.TimeoutExpired:
                self.kill_board()
        self.cable.close()
        self.broker.stop()
        self._log.close()
