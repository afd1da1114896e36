"""`ota logs` and `ota enrol` go on listening when the broker was away, and say so."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from device_agent.broker.certificates import signing_request
from ota.formats import topics
from ota.formats.enrolment import Request, address
from ota.formats.report import LogRecord
from ota.operator.enrolment import new_token
from tests.support import fleet
from tests.support.lab import Mosquitto
from tests.support.publishing import Publishing
from tests.support.reports import signed_logs


@pytest.fixture
def site(tmp_path, capsys):
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    opened = Publishing(tmp_path, Mosquitto)
    yield opened
    opened.close()


class Listening:
    """A command in a process of its own, whose lines are read as they come."""

    def __init__(self, *words: str) -> None:
        command, both = [sys.executable, "-u", "-m", "ota.cli.main", *words], subprocess.STDOUT
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=both, text=True, start_new_session=True)

    def until(self, text: str) -> str:
        """What it says until a line has this text in it."""
        said = ""
        for line in self.process.stdout:
            said += line
            if text in line:
                return said
        raise AssertionError(said)


@contextmanager
def listening(site, *words: str):
    command = Listening("-C", str(site.folder), *words)
    try:
        yield command
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(30) == 130
    finally:
        command.process.kill()
        command.process.wait(30)
        command.process.stdout.close()


def restart(site, command: Listening) -> None:
    site.broker.stop()
    assert "connecting again, what comes meanwhile is missed" in command.until("broke")
    site.broker.start()
    command.until("connected to the broker again")


def test_a_board_that_asks_after_the_broker_was_away_is_answered(site):
    token = new_token(site.workspace, "b1", int(time.time()), 3600)
    request = Request.make(token, "b1", signing_request(site.folder / "b1.key", "b1"))
    with listening(site, "enrol") as command:
        command.until("answering boards at ")
        restart(site, command)
        site.put(topics.enrolment_request(address(request.signing_request)), request.to_bytes())
        command.until("b1: has its certificate")


def test_what_a_board_logs_after_the_broker_was_away_is_shown(site):
    def say(text: str) -> None:
        site.put(topics.log("b1"), signed_logs("b1", [LogRecord(1.7e9, "info", "", "", text)]))

    with site.connect() as broker:
        fleet.leave(broker, ["b1"])
    with listening(site, "logs", "-f") as command:
        command.until("listening at ")
        say("before")
        command.until("before")
        restart(site, command)
        say("after")
        command.until("after")
