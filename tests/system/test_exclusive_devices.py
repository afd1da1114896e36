"""Devices that one program at a time can have: handed to the new version within the swap, and back when that fails. Real ptys, and
lines that are named pipes.
"""

import os
import select
import time
import tty

import pytest

from ota.operator.publish import artifacts
from tests.conftest import ROOT
from tests.support.keeper import KeeperLab, keeper
from tests.support.sets import deploy_together, wait_all

NAMES = ("left", "right")
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
    assert refusing.attempt.reason == "start-failed"
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


def test_of_two_entries_that_claim_one_port_one_is_refused_until_the_other_is_gone(lab, serial):
    board = KeeperLab(lab, {"serial": {"ports": [f"{serial.path}:115200"]}})
    lab.start()
    updates = {name: board.update(1, name=name, wasm=keeper(1, port=serial.path)) for name in ("left", "right")}
    for update in updates.values():
        lab.put(artifacts(update))
    entries = {name: lab.signer.entry(each.digest, now_s=int(time.time())) for name, each in updates.items()}
    lab.enter(entries)  # both at the same moment

    def settled() -> bool:
        return {lab.of(name).attempt.state for name in updates} == {"confirmed", "rejected"}

    lab.observer.wait(lambda: lab.report is not None and settled(), lab.patience_s, "one that has the port, and one that has not")
    has, has_not = sorted(updates, key=lambda name: lab.of(name).attempt.state)
    refused = lab.of(has_not).attempt
    assert refused.reason == "device-claimed"
    assert refused.detail == f"{serial.path}, which instance {has_not} asks for, is instance {has}'s"
    lab.remove(has)
    lab.wait_state("confirmed", deployment=entries[has_not].deployment_id, instance=has_not)


def written(board: KeeperLab, serial: Serial) -> int:
    """The version that writes to the port with the next event."""
    board.tell()
    return serial.wrote()


def moving(board: KeeperLab, serial, version: int, **changes) -> dict[str, object]:
    """The port moves from left to right."""
    return {
        "left": keeper_without_devices(board, version, "left"),
        "right": board.update(version, name="right", wasm=keeper(version, port=serial.path, **changes)),
    }


def keeper_without_devices(board: KeeperLab, version: int, name: str):
    granted = {key: value for key, value in board.capabilities.items() if key != "serial"}
    return board.lab.signer.update(keeper(version), name=name, version=f"{version}.0.0", capabilities=granted)


@pytest.fixture
def two(lab, serial):
    """A board whose instance left has the port."""
    board = KeeperLab(lab, {"serial": {"ports": [f"{serial.path}:115200"]}})
    lab.start()
    for name, update in {
        "left": board.update(1, name="left", wasm=keeper(1, port=serial.path)),
        "right": keeper_without_devices(board, 1, "right"),
    }.items():
        lab.wait_state("confirmed", deployment=lab.deploy(update, name), instance=name)
    assert written(board, serial) == 1
    return board


def test_a_set_moves_a_port_from_one_member_to_another(two, serial):
    wait_all(two.lab, NAMES, deploy_together(two.lab, moving(two, serial, 2)), "confirmed")
    assert written(two, serial) == 2
    for name in NAMES:
        two.lab.running("2.0.0", name)
    back = {"left": two.update(3, name="left", wasm=keeper(3, port=serial.path)), "right": None}
    wait_all(two.lab, NAMES, deploy_together(two.lab, back), "confirmed")  # from one that is removed
    assert written(two, serial) == 3


def test_a_set_that_fails_gives_the_port_back_to_the_member_that_had_it(two, serial):
    deployment = deploy_together(two.lab, moving(two, serial, 2, init=REFUSES))
    assert wait_all(two.lab, NAMES, deployment, "rolled-back", "failed")["left"] == "rolled-back"
    for name in NAMES:
        two.lab.running("1.0.0", name)
    assert written(two, serial) == 1


def test_a_set_whose_members_exchange_ports_is_refused_with_a_reason(lab, serial):
    other = Serial()
    ports = {"left": serial.path, "right": other.path}
    board = KeeperLab(lab, {"serial": {"ports": [f"{each}:115200" for each in ports.values()]}})

    def having(version: int, ports: dict[str, str]):
        return {
            name: board.lab.signer.update(
                keeper(version, port=port),
                name=name,
                version=f"{version}.0.0",
                capabilities=board.capabilities | {"serial": {"ports": [f"{port}:115200"]}},
            )
            for name, port in ports.items()
        }

    lab.start()
    wait_all(lab, NAMES, deploy_together(lab, having(1, ports)), "confirmed")
    crossed = deploy_together(lab, having(2, dict(zip(ports, reversed(ports.values()), strict=True))))
    wait_all(lab, NAMES, crossed, "failed")
    assert [lab.of(name).attempt.reason for name in NAMES] == ["device-claimed"] * 2
    other.close()
