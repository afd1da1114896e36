"""The main job through the commands, on each broker: publish, confirm, swap, roll back, read, publish again, republish."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.brokers import KINDS
from tests.support.lab import Mosquitto, echo

AGENT = """
[device]
id = "board-1"
group = "lab"
[broker]
url = "{url}"
[storage]
folder = "board"
[trust]
root = "operator/trust/root.1.cbor"
[trial]
seconds = 0.5
[report]
period_s = 0.5
[sources.readings]
kind = "proc"
period_s = 0.1
[limits]
free_bytes = 0
[policy]
confinement = "best-effort"
[policy.grants.messaging]
subscribe = ["sys/#"]
publish = ["out/#"]
"""
DESCRIPTION = '[module]\nname = "echo"\nversion = "{}"\n[capabilities.messaging]\nsubscribe = ["sys/#"]\npublish = ["out/#"]\n'
WAIT_S = "60"
CHUNKS = 25  # more than any broker's window


@pytest.fixture(
    params=[pytest.param(kind, marks=[] if kind is Mosquitto else pytest.mark.full) for kind in KINDS.values()],
    ids=list(KINDS),
)
def broker(request, tmp_path):
    if request.param is Mosquitto and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    opened = request.param(tmp_path)
    opened.start()
    yield opened
    opened.stop()


class Operator:
    """`ota` in a folder, as somebody types it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.run("init", "--vendor", "example.com", "--broker", url, "--group", "lab", "--no-passphrase")

    def run(self, *words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "ota.cli.main", "-C", "operator", *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def module(self, version: str, number: int, before: str = "") -> str:
        path = self.folder / f"echo-{version}.wasm"
        path.write_bytes(echo(number, before, padding=CHUNKS * 16 * 1024))
        path.with_suffix(".toml").write_text(DESCRIPTION.format(version))
        return str(path)

    def instance(self) -> dict:
        """What the board says of the module's instance."""
        (device,) = json.loads(self.run("status", "board-1", "--json"))["boards"]
        (found,) = device["instances"]
        return found


@pytest.fixture
def operator(broker, tmp_path):
    operator = Operator(tmp_path, broker.url)
    (tmp_path / "agent.toml").write_text(AGENT.format(url=broker.url))
    with (tmp_path / "agent.log").open("wb") as log:
        command = [sys.executable, "-m", "device_agent", "--config", str(tmp_path / "agent.toml")]
        agent = subprocess.Popen(command, stderr=log, start_new_session=True, env=os.environ)
    yield operator
    agent.terminate()
    agent.wait(60)


@pytest.mark.timeout(900)  # mochi is built once
def test_the_main_job_works(operator):
    first, second = operator.module("1.0.0", 1), operator.module("2.0.0", 2)
    faulty = operator.module("3.0.0", 3, "unreachable")
    assert "1 of 1 boards" in operator.run("publish", first, "--wait", WAIT_S)
    operator.run("publish", second, "--wait", WAIT_S)
    assert operator.instance()["running"]["version"] == "2.0.0"
    operator.run("publish", faulty, "--wait", WAIT_S, code=1)
    found = operator.instance()
    assert found["running"]["version"] == "2.0.0"
    assert (found["attempt"]["state"], found["attempt"]["reason"]) == ("rolled-back", "trapped")
    assert "out/echo" in operator.run("logs", "--seconds", "4")
    operator.run("publish", second, "--wait", WAIT_S)
    assert operator.instance()["running"]["version"] == "2.0.0"
