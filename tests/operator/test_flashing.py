"""The operator's side of flashing a board: the broker that the new agent has to report to."""

import re
from types import SimpleNamespace

import pytest

from boards.definition import load_board
from boards.flash import Flasher
from boards.ports import free_port
from device_agent.node.config import load
from ota.cli.flash import _Operator, _WithoutBroker
from ota.cli.main import main
from ota.operator.session import BrokerError
from ota.operator.workspace import Workspace
from tests.support.rumqttd import Rumqttd


@pytest.fixture
def operator(tmp_path):
    """A folder with a workspace whose broker does not answer."""
    assert main(["-C", str(tmp_path / "operator"), "init", "--broker", f"mqtt://127.0.0.1:{free_port()}"]) == 0
    return tmp_path


def test_a_broker_that_does_not_answer_is_told_before_anything_is_sent_to_the_board(operator, tmp_path, monkeypatch):
    workspace, board = Workspace.open(operator / "operator"), load_board("raspberry-pi-4")
    flasher = Flasher(
        board, tmp_path / "wheel", tmp_path, None, _Operator(workspace, board, SimpleNamespace()), None, device="roof-1"
    )
    steps = []

    def again(step):
        steps.append(step)
        return SimpleNamespace(provisioned=False)

    monkeypatch.setattr(flasher, "_again", again)
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1"):
        flasher.run()
    assert len(steps) == 1, "the board was looked at"


def test_a_broker_that_is_away_during_a_trial_is_a_report_that_has_not_come(operator, capsys):
    board = load_board("raspberry-pi-4")
    workspace = Workspace.open(operator / "operator")
    assert not _Operator(workspace, board, SimpleNamespace()).reported("roof-1", "1", 10.0, 0.5)
    assert "the report cannot be looked for: " in capsys.readouterr().err
    broker = Rumqttd(operator)
    broker.start()
    try:
        settings = operator / "operator/ota.toml"
        settings.write_text(re.sub(r"mqtt://[0-9.:]+", broker.url, settings.read_text()))
        assert not _Operator(Workspace.open(operator / "operator"), board, SimpleNamespace()).reported("roof-1", "1", 10.0, 0.5)
        assert capsys.readouterr().err == ""
    finally:
        broker.stop()


def test_a_board_without_a_broker_is_seen_to_run_by_its_console(operator, monkeypatch):
    """For a while, without a break: no report can be seen."""
    now, alive = [0.0], [True, True, False, True, True, True, True, True, True]
    monkeypatch.setattr(
        "ota.cli.flash.time", SimpleNamespace(monotonic=lambda: now[0] + 1, sleep=lambda s: now.append(now.pop() + s))
    )
    made = _WithoutBroker(Workspace.open(operator / "operator"), load_board("raspberry-pi-4"), SimpleNamespace())
    made.check()
    made.flasher = SimpleNamespace(alive=lambda agent: alive.pop(0))
    looks = 0
    while not made.reported("roof-1", "1", 0.0, 5.0):
        looks += 1
    assert looks == 6
    assert now == [35.0]


def test_settings_without_a_broker_name_none(operator):
    out = operator / "roof"
    words = ["settings", "roof-1", "--board", "raspberry-pi-4", "--no-broker", "-o", str(out)]
    assert main(["-C", str(operator / "operator"), *words]) == 0
    assert load(out / "agent.toml").broker is None
