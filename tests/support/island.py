"""A board without any broker, and the bundles that are carried there."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ota.author.build import Update
from ota.formats import bundle, topics
from ota.formats.deployment import Entry
from ota.formats.report import InstanceReport, Report
from ota.operator.publish import artifacts
from tests.support.lab import DEVICE, GROUP, echo
from tests.support.reports import board_report, instance_report
from tests.support.signing import INSTANCE, Signer

PATIENCE_S = 60.0


class Island:
    """One board and its operator's keys. `stick` is what is plugged in; `settings` are lines of agent.toml."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.folder, self.media = folder, folder / "media"
        self.stick = self.media / "stick"
        self.media.mkdir()
        self.signer = Signer(now_s=int(time.time()))
        self.agent: subprocess.Popen | None = None
        self.entries: dict[str, Entry] = {}
        (folder / "root.cbor").write_bytes(self.signer.root_document())
        self.config = folder / "agent.toml"
        self.config.write_text(f"""
[device]
id = "{DEVICE}"
group = "{GROUP}"
[storage]
folder = "store"
[trust]
root = "root.cbor"
[trial]
seconds = 0.3
[fetch]
retry_s = 0.5
[limits]
free_bytes = 0
[bundles]
watch = ["{self.media}/*"]
console = "console"
[sources.readings]
kind = "proc"
period_s = 0.05
[policy.grants.logging]
[policy.grants.messaging]
subscribe = ["sys/#", "in/#"]
publish = ["out/#"]
{settings}
""")
        (folder / "console").touch()

    def update(self, version: int, **changes) -> Update:
        return self.signer.update(
            echo(version, padding=changes.pop("padding", 0)), name="echo", version=f"{version}.0.0", **changes
        )

    def messages(self, update: Update, instance: str = INSTANCE, **changes) -> list[tuple[str, bytes]]:
        """What a broker would hold, and a bundle holds, in order. `changes`: of the document."""
        self.entries[instance] = self.signer.entry(update.digest, now_s=int(time.time()), expires_s=0)
        _, document = self.signer.document(dict(self.entries), **({"group": GROUP} | changes))
        desired = topics.device_desired(changes["device"]) if changes.get("device") else topics.desired(changes.get("group", GROUP))
        found = [(topics.root(1), self.signer.root_document()), (desired, document), *artifacts(update)]
        return sorted(found, key=lambda each: bundle.order(each[0]))

    def pack(self, messages: list[tuple[str, bytes]], path: Path | None = None) -> Path:
        """Onto the stick, which is there afterwards."""
        path = path or self.stick / f"{GROUP}.bundle"
        path.parent.mkdir(exist_ok=True)
        with (path.parent / ".part").open("wb") as file:
            bundle.pack([(topic, partial(bytes, payload)) for topic, payload in messages], file.write)
        (path.parent / ".part").rename(path)
        return path

    def start(self) -> None:
        with (self.folder / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(self.command, stderr=log, start_new_session=True)

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "device_agent", "--config", str(self.config)]

    @property
    def alive(self) -> bool:
        return self.agent is not None and self.agent.poll() is None

    def kill(self) -> None:
        """Power cut."""
        if self.agent is not None:
            os.killpg(self.agent.pid, signal.SIGKILL)
            self.agent.wait()
            self.agent = None

    def close(self) -> None:
        if self.agent is not None:
            self.agent.terminate()
            try:
                self.agent.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def pull(self) -> None:
        """The stick is pulled out: what is open can't be read any more."""
        for each in self.stick.iterdir():
            if each.suffix == bundle.SUFFIX:
                os.truncate(each, 0)
            each.unlink()
        self.stick.rmdir()

    def install(self, path: Path, *options: str) -> subprocess.CompletedProcess:
        command = [*self.command, "install", str(path), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * PATIENCE_S)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"there was not {what}; the log: {self.log()[-3000:]}"
            assert self.agent is None or self.agent.poll() is None, f"the agent ended: {self.log()[-3000:]}"
            time.sleep(0.05)

    @property
    def answer(self) -> dict:
        """On the stick; empty when there is none."""
        path = self.stick / f"{DEVICE}.answer.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def wait_answer(self, result: str) -> dict:
        self.wait(lambda: self.answer.get("result") == result, f"the answer {result}, but {self.answer}")
        return self.answer

    def reports(self) -> tuple[Report, dict[str, InstanceReport]]:
        """As the stick has them."""
        found = dict(bundle.read_reports((self.stick / f"{DEVICE}.reports").read_bytes()))
        board = board_report(found.pop(topics.report(DEVICE)))
        instances = [instance_report(each) for each in found.values()]
        return board, {each.instance: each for each in instances}

    def log(self) -> str:
        path = self.folder / "agent.log"
        return path.read_text() if path.exists() else ""
