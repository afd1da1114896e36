"""A real broker, a real agent process, and an operator: what system tests are written against."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ota.author.build import Update
from ota.demo.broker import DemoBroker, free_port
from ota.demo.stage import DEVICE, Observer
from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.formats.report import Report
from ota.operator.broker import Broker
from ota.operator.publish import artifacts
from ota.operator.workspace import Settings
from tests.support.signing import VENDOR, Signer
from tests.support.wat import contract_module

GROUP = "lab"
PUBLISH = '(import "device:module/messaging@0.1.0" "publish" (func $publish (param i32 i32 i32 i32 i32)))'


def echo(version: int, before: str = "", padding: int = 0) -> bytes:
    """A module that publishes [version] on out/echo for each event, `before` doing something first; padded to a size."""
    body = f"""{before}
      (i32.store8 (i32.const 200) (i32.const {version}))
      (call $publish (i32.const 100) (i32.const 8) (i32.const 200) (i32.const 1) (i32.const 80)) (i32.const 0)"""
    wasm = contract_module(body, PUBLISH, '(data (i32.const 100) "out/echo")')
    if padding:
        content = b"\x03pad" + os.urandom(padding)
        size, leb = len(content), bytearray()
        while True:
            leb.append((size & 0x7F) | (0x80 if size > 0x7F else 0))
            size >>= 7
            if not size:
                break
        wasm += b"\x00" + bytes(leb) + content
    return wasm


def wait_until_it_answers(url: str, timeout_s: float) -> None:
    """Waits until a broker takes connections."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            with Broker(Settings(VENDOR, BrokerUrl.parse(url), GROUP)):
                return
        except Exception:
            time.sleep(0.05)
    raise AssertionError(f"the broker at {url} did not answer within {timeout_s} s")


class Mosquitto:
    """mosquitto on the loopback, retained messages kept over a restart."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nautosave_interval 1\nuser root\nset_tcp_nodelay true\n"
        )
        self._process = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @staticmethod
    def command() -> str | None:
        return shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")

    def start(self) -> None:
        self._process = subprocess.Popen([self.command(), "-c", str(self._config)], stderr=subprocess.DEVNULL)
        wait_until_it_answers(self.url, 10)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


class Lab:
    """One board, one operator, one broker."""

    patience_s = 30.0  # for anything that is waited for

    def __init__(self, folder: Path, broker: DemoBroker | Mosquitto, **settings) -> None:
        self.folder = folder
        self.broker = broker
        self.signer = Signer(now_s=int(time.time()))
        self.observer = Observer(broker.port)
        self.settings = {
            "trial": 0.3,
            "trial_max": 60,
            "forget": 3600,
            "fetch_timeout": 2,
            "retry": 60,
            "proc": 0.05,
            "free_bytes": 0,
            "report": 0.2,
            "extra": "",
        } | settings
        self.agent = None
        self.prefix: list[str] = []  # a command that starts the agent, as setpriv(1) does
        self.environment = dict(os.environ)
        (folder / "root.cbor").write_bytes(self.signer.root_document())

    @property
    def operator(self) -> Settings:
        return Settings(VENDOR, BrokerUrl.parse(self.broker.url), GROUP)

    def config(self, broker: str, store: str) -> str:
        """The agent's configuration."""
        settings = self.settings
        return f"""
[device]
id = "{DEVICE}"
group = "{GROUP}"
[broker]
url = "{broker}"
[storage]
folder = "{store}"
[trust]
root = "root.cbor"
[trial]
seconds = {settings["trial"]}
max_s = {settings["trial_max"]}
[failures]
forget_s = {settings["forget"]}
[fetch]
timeout_s = {settings["fetch_timeout"]}
retry_s = {settings["retry"]}
[report]
period_s = {settings["report"]}
[sources]
proc_period_s = {settings["proc"]}
[limits]
free_bytes = {settings["free_bytes"]}
[grants.logging]
[grants.messaging]
subscribe = ["sys/#", "in/#"]
publish = ["out/#"]
{settings["extra"]}
"""

    def start(self) -> None:
        """Starts the agent and waits for its report."""
        (self.folder / "agent.toml").write_text(self.config(self.broker.url, "store"))
        self.observer.report = None
        with (self.folder / "agent.log").open("ab") as log:
            command = [*self.prefix, sys.executable, "-m", "device_agent", "--config", str(self.folder / "agent.toml")]
            self.agent = subprocess.Popen(command, stderr=log, start_new_session=True, env=self.environment)
        self.observer.wait(lambda: self.observer.report is not None, self.patience_s, "a first report")

    def kill(self) -> None:
        """Power cut for agent and workers."""
        if self.agent is not None:
            os.killpg(self.agent.pid, signal.SIGKILL)
            self.agent.wait()
            self.agent = None

    def alive(self) -> bool:
        """Whether the agent runs."""
        return self.agent.poll() is None

    def close(self) -> None:
        self.observer.close()
        if self.agent is not None:
            self.agent.terminate()
            try:
                self.agent.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self.broker.stop()

    @property
    def report(self) -> Report:
        return self.observer.report

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def put(self, messages: list[tuple[str, bytes]]) -> None:
        """Retained messages onto the broker."""
        with Broker(self.operator) as broker:
            broker.publish_all(messages)

    def deploy(self, update: Update, **changes) -> bytes:
        """Publishes everything; returns the deployment's identifier. `leave_out` and `change` alter messages by topic."""
        leave_out, change = changes.pop("leave_out", ()), changes.pop("change", {})
        deployment, document = self.signer.deployment(update.digest, now_s=changes.pop("now_s", int(time.time())), **changes)
        messages = [(t, change.get(t, p)) for t, p in artifacts(update) if t not in leave_out]
        self.put([*messages, (topics.desired(GROUP), document)])
        return deployment.deployment_id

    def wait_state(self, *states: str, deployment: bytes | None = None) -> Report:
        def there() -> bool:
            attempt = self.report.attempt if self.report else None
            return attempt is not None and attempt.state in states and deployment in (None, attempt.deployment)

        self.observer.wait(there, self.patience_s, f"state {' or '.join(states)}")
        return self.report

    def install(self, version: int, **changes) -> Report:
        """Deploys an echo module of this version and waits until it is confirmed and running."""
        name = f"{version}.0.0"
        deployment = self.deploy(self.signer.update(echo(version, **changes), name="echo", version=name))
        self.wait_state("confirmed", deployment=deployment)
        return self.running(name)

    def running(self, version: str) -> Report:
        self.observer.wait(lambda: self.report.running.version == version, self.patience_s, f"version {version} running")
        return self.report

    def still_answers(self, version: int) -> None:
        """The module of this version handles new events."""
        last = max(self.observer.messages, default=0)

        def answered() -> bool:
            fresh = [each for number, each in self.observer.messages.items() if number > last]
            return any(each.payload == bytes((version,)) and each.topic == "out/echo" for each in fresh)

        self.observer.wait(answered, self.patience_s, f"an answer of version {version}")
        assert self.alive()


def open_lab(tmp_path: Path, kind=DemoBroker, **settings) -> Lab:
    if kind is Mosquitto and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = kind(tmp_path)
    broker.start()
    return Lab(tmp_path, broker, **settings)
