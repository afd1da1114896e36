"""A real broker, a real agent process, and an operator: what system tests are written against."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boards.ports import free_port
from ota.author.build import Update
from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.formats.deployment import Entry
from ota.operator.broker import Broker
from ota.operator.publish import artifacts
from ota.operator.workspace import Settings
from tests.support import preloaded
from tests.support.observer import Observer, Seen
from tests.support.rumqttd import Rumqttd
from tests.support.signing import INSTANCE, VENDOR, Signer
from tests.support.wat import contract_module

DEVICE, GROUP = "board-1", "lab"
PATIENCE_S = 60.0
"""For anything that is waited for: well above what the agent's own delays, retries and time limits add up to."""
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
        wait_until_it_answers(self.url, PATIENCE_S)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_S)
            self._process = None


class Lab:
    """One board, one operator, one broker."""

    patience_s = PATIENCE_S

    def __init__(self, folder: Path, broker: Rumqttd | Mosquitto, **settings) -> None:
        self.folder = folder
        self.broker = broker
        self.signer = Signer(now_s=int(time.time()))
        self.observer = Observer(broker.port, DEVICE, INSTANCE)
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
        self.entries: dict[str, dict[str, Entry]] = {}  # of the group's document under "", of a device's by its name
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
[limits]
free_bytes = {settings["free_bytes"]}
[topics]
publish = "{{topic}}"
subscribe = ["{{topic}}"]
[policy.grants.logging]
[policy.grants.messaging]
subscribe = ["sys/#", "in/#"]
publish = ["out/#", "flood/#"]
{self._sources()}
{settings["extra"]}
"""

    def _sources(self) -> str:
        """The board's own readings, where it has any."""
        return f'[sources.readings]\nkind = "proc"\nperiod_s = {self.settings["proc"]}' if self.settings["proc"] else ""

    def start(self, *, wait: bool = True) -> None:
        """Starts the agent and waits for its report, which needs a broker."""
        (self.folder / "agent.toml").write_text(self.config(self.broker.url, "store"))
        self.observer.forget_reports()
        arguments = ["--config", str(self.folder / "agent.toml")]
        with (self.folder / "agent.log").open("ab") as log:
            if self.prefix or self.environment.keys() - os.environ.keys() or "coverage" in sys.modules:
                command = [*self.prefix, sys.executable, "-m", "device_agent", *arguments]
                self.agent = subprocess.Popen(command, stderr=log, start_new_session=True, env=self.environment)
            else:
                self.agent = preloaded.start(arguments, log, self.environment)
        if wait:
            self.observer.wait(lambda: self.observer.report is not None, self.patience_s, "a first report")

    def kill(self) -> None:
        """Power cut for agent and workers."""
        if self.agent is not None:
            os.killpg(self.agent.pid, signal.SIGKILL)
            self.agent.wait()
            self.agent = None

    def stop(self) -> None:
        """Ends the agent in good order."""
        self.agent.terminate()
        assert self.agent.wait(PATIENCE_S) == 0
        self.agent = None

    def alive(self) -> bool:
        """Whether the agent runs."""
        return self.agent.poll() is None

    def close(self) -> None:
        self.observer.close()
        if self.agent is not None:
            self.agent.terminate()
            try:
                self.agent.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self.broker.stop()

    @property
    def report(self) -> Seen | None:
        return self.observer.report

    def of(self, instance: str) -> Seen | None:
        """The board's report with that of an instance."""
        return self.observer.of(instance)

    def log(self) -> str:
        return (self.folder / "agent.log").read_text()

    def put(self, messages: list[tuple[str, bytes]]) -> None:
        """Retained messages onto the broker."""
        with Broker(self.operator) as broker:
            broker.publish_all(messages)

    def deploy(self, update: Update, instance: str = INSTANCE, **changes) -> bytes:
        """Publishes everything; returns the deployment's identifier. `leave_out` and `change` alter messages by topic.

        Other instances' entries of earlier calls stay in the document.
        """
        leave_out, change = changes.pop("leave_out", ()), changes.pop("change", {})
        of_document = {name: changes.pop(name) for name in ("epoch", "keys", "group") if name in changes}
        entry = self.signer.entry(update.digest, now_s=changes.pop("now_s", int(time.time())), **changes)
        self.put([(t, change.get(t, p)) for t, p in artifacts(update) if t not in leave_out])
        self.enter({instance: entry}, **of_document)
        return entry.deployment_id

    def enter(self, entries: dict[str, Entry], device: str = "", **changes) -> None:
        """Publishes the group's document, or the device's, with these entries and those of earlier calls for it."""
        kept = self.entries.setdefault(device, {})
        kept.update(entries)
        _, document = self.signer.document(dict(kept), device=device, **({"group": GROUP} | changes))
        self.put([(topics.device_desired(device) if device else topics.desired(GROUP), document)])

    def remove(self, instance: str = INSTANCE, device: str = "") -> bytes:
        """Publishes that an instance is to go; returns the deployment's identifier."""
        entry = self.signer.entry(b"", now_s=int(time.time()))
        self.enter({instance: entry}, device)
        return entry.deployment_id

    def wait_state(self, *states: str, deployment: bytes | None = None, instance: str = INSTANCE) -> Seen:
        def there() -> bool:
            report = self.of(instance)
            return report is not None and report.attempt.state in states and deployment in (None, report.attempt.deployment)

        self.observer.wait(there, self.patience_s, f"state {' or '.join(states)} of {instance}")
        return self.of(instance)

    def wait_refusal(self, reason: str, document: str = "group") -> Seen:
        """Until a document is refused as a whole."""

        def there() -> bool:
            report = self.report
            return report is not None and (document, reason) in [(each.document, each.reason) for each in report.refusals]

        self.observer.wait(there, self.patience_s, f"a refusal of the {document} document: {reason}")
        return self.report

    def install(self, version: int, instance: str = INSTANCE, **changes) -> Seen:
        """Deploys an echo module of this version and waits until it is confirmed and running."""
        name = f"{version}.0.0"
        deployment = self.deploy(self.signer.update(echo(version, **changes), name="echo", version=name), instance)
        self.wait_state("confirmed", deployment=deployment, instance=instance)
        return self.running(name, instance)

    def running(self, version: str, instance: str = INSTANCE) -> Seen:
        self.observer.wait(
            lambda: self.of(instance).running.version == version, self.patience_s, f"version {version} running as {instance}"
        )
        return self.of(instance)

    def still_answers(self, version: int) -> None:
        """The module of this version handles new events."""
        last = max(self.observer.messages, default=0)

        def answered() -> bool:
            fresh = [each for number, each in self.observer.messages.items() if number > last]
            return any(each.payload == bytes((version,)) and each.topic == "out/echo" for each in fresh)

        self.observer.wait(answered, self.patience_s, f"an answer of version {version}")
        assert self.alive()


def open_lab(tmp_path: Path, kind=Rumqttd, **settings) -> Lab:
    if kind is Mosquitto and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = kind(tmp_path)
    broker.start()
    return Lab(tmp_path, broker, **settings)
