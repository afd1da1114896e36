"""Devices that one program at a time can have: handed to the new version within the swap, and back when that fails. Real ptys, and
lines that are named pipes.
"""

import os
import select
import tty

import pytest

from tests.conftest import ROOT
from tests.support.keeper import KeeperLab, keeper

REFUSES = "(return (i32.const 16))"  # to be initialised


class Serial:
    """A pty: the module's end by its path, and what arrives at ours."""

    def __init__(self) -> None:
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        self.path = os.ttyname(self._theirs)

    def wrote(self) -> int:
        """The next byte that the module sent."""
        assert select.select([self._ours], [], [], 20)[0], "nothing was written to the port"
        return os.read(self._ours, 1)[0]

    def close(self) -> None:
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def serial():
    opened = Serial()
    yield opened
    opened.close()


def test_a_module_with_a_serial_port_is_updated_and_goes_back_with_its_port(lab, serial):
    board = KeeperLab(lab, {"serial": {"ports": [f"{serial.path}:115200"]}})
    lab.start()
    board.install(1, wasm=keeper(1, port=serial.path))
    assert (board.ask(b"s"), serial.wrote()) == ((1, 1, 1), 1)
    board.install(2, wasm=keeper(2, port=serial.path))
    assert (board.ask(), serial.wrote()) == ((2, 2, 1), 2)

    refusing = lab.wait_state("failed", deployment=board.deploy(3, wasm=keeper(3, init=REFUSES, port=serial.path)))
    assert refusing.attempt.reason == "state-refused"
    assert (board.ask(), serial.wrote()) == ((2, 3, 1), 2)

    lab.settings["trial"] = 20
    lab.kill()
    lab.start()
    assert (board.ask()[0], serial.wrote()) == (2, 2)
    trapping = board.deploy(4, wasm=keeper(4, port=serial.path))
    board.slot("trial")
    assert (board.ask(b"s")[::2], serial.wrote()) == ((4, 4), 4)
    board.tell(b"t")
    lab.wait_state("rolled-back", deployment=trapping)
    assert (board.ask()[::2], serial.wrote()) == ((2, 1), 2)
    assert lab.report.counters.get("events_dropped", 0) <= 1  # the one that trapped, which may have moved something


def test_a_module_with_a_gpio_line_is_updated_and_goes_back_with_its_line(lab, tmp_path):
    lines = tmp_path / "lines"
    lines.mkdir()
    lines.chmod(0o777)
    lab.environment |= {"PYTHONPATH": str(ROOT / "tests" / "support" / "lines"), "WAMR_OTA_LINES": str(lines)}
    board = KeeperLab(lab, {"gpio": {"outputs": ["gpiochip0:7"]}})
    os.mkfifo(lines / "gpiochip0.7")
    level = os.open(lines / "gpiochip0.7", os.O_RDWR)
    lab.start()
    for version in (1, 2):
        board.install(version, wasm=keeper(version, line="gpiochip0:7"))
        assert board.ask()[0] == version
        assert os.read(level, 1) == b"%d" % (version % 2)
    lab.wait_state("failed", deployment=board.deploy(3, wasm=keeper(3, init=REFUSES, line="gpiochip0:7")))
    assert board.ask()[:2] == (2, 3)
    assert os.read(level, 1) == b"0"
    os.close(level)
