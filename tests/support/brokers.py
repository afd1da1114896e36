"""More brokers for tests: mochi (Go), HiveMQ CE and Artemis (Java), aedes (Node.js), pinned, built once below build/programs."""

import contextlib
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from boards.ports import free_port, free_ports
from tests.conftest import ROOT
from tests.support.built import built, tool
from tests.support.lab import Mosquitto, wait_until_it_answers
from tests.support.rumqttd import Rumqttd

SOURCES = ROOT / "tests" / "brokers"
START_TIMEOUT_S, STOP_TIMEOUT_S = 120, 30
LOOPBACK = "127.0.0.1"


class _Process(ABC):
    """A broker in a process of its own, on the loopback."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://{LOOPBACK}:{self.port}"

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    def start(self) -> None:
        log = (self.folder / "broker.log").open("ab")
        with log:
            self._process = subprocess.Popen(self.command(), stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        """Until it takes connections."""
        wait_until_it_answers(self.url, START_TIMEOUT_S)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class Mochi(_Process):
    """mochi-mqtt 2.7, its own command."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        go = tool("go", "mochi")
        package = "github.com/mochi-mqtt/server/v2/cmd"
        self._program = built(SOURCES / "mochi", [[go, "build", "-mod=mod", "-o", "OUT/mochi", package]]) / "mochi"

    def command(self) -> list[str]:
        rest = free_ports(2)
        return [
            str(self._program), "-tcp", f"{LOOPBACK}:{self.port}", "-ws", f"{LOOPBACK}:{rest[0]}", "-info", f"{LOOPBACK}:{rest[1]}",
        ]  # fmt: skip


class HiveMq(_Process):
    """HiveMQ CE 2025.5, embedded."""

    CONFIGURATION: ClassVar = """<?xml version="1.0"?>
<hivemq>
  <listeners><tcp-listener><port>{port}</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners>
  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
</hivemq>
"""

    def __init__(self, folder: Path, made: Path | None = None) -> None:
        """`made`: a folder with a configuration and a credentials.xml, in place of a listener for everybody."""
        super().__init__(folder)
        self._java, maven = tool("java", "HiveMQ"), tool("mvn", "HiveMQ")
        copy = [maven, "-q", "-B", "-f", "pom.xml", "dependency:copy-dependencies", "-DoutputDirectory=OUT/lib"]
        self._built = built(SOURCES / "hivemq", [copy])
        self._made = made
        for each in ("conf", "data", "extensions"):
            (folder / "hivemq" / each).mkdir(parents=True)
        if made is None:
            (folder / "hivemq" / "conf" / "config.xml").write_text(self.CONFIGURATION.format(port=self.port))

    def command(self) -> list[str]:
        folders = [self.folder / "hivemq" / each for each in ("conf", "data", "extensions")]
        if self._made is not None:
            folders = [self._made, *folders[1:], self._made / "credentials.xml"]
        return [self._java, "-Xmx512m", "-cp", f"{self._built}/lib/*", str(self._built / "HiveMq.java"), *map(str, folders)]


class Artemis(_Process):
    """ActiveMQ Artemis 2.53, embedded, with its defaults."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._java, maven = tool("java", "Artemis"), tool("mvn", "Artemis")
        copy = [maven, "-q", "-B", "-f", "pom.xml", "dependency:copy-dependencies", "-DoutputDirectory=OUT/lib"]
        self._built = built(SOURCES / "artemis", [copy])

    def command(self) -> list[str]:
        source = str(self._built / "Artemis.java")
        return [self._java, "-Xmx512m", "-cp", f"{self._built}/lib/*", source, str(self.port), str(self.folder / "artemis")]


class Aedes(_Process):
    """aedes 1.2 (Node.js), which has no MQTT 5."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._node, npm = tool("node", "aedes"), tool("npm", "aedes")
        self._built = built(SOURCES / "aedes", [[npm, "install", "--no-audit", "--no-fund", "--no-package-lock"]])

    def command(self) -> list[str]:
        return [self._node, str(self._built / "broker.js"), str(self.port)]

    def wait(self) -> None:
        """Until it listens: it accepts none of our connections."""
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError(f"aedes did not listen within {START_TIMEOUT_S} s")


KINDS = {"mosquitto": Mosquitto, "rumqttd": Rumqttd, "mochi": Mochi, "hivemq": HiveMq, "artemis": Artemis}
