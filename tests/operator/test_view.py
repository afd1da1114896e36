"""What the operator sees of a fleet: every board, or that some are missing."""

import json
import threading
import time
from datetime import UTC, datetime

import pytest

from ota.demo.broker import DemoBroker
from ota.formats import topics
from ota.formats.report import LogRecord, encode_logs
from ota.operator.broker import Broker
from ota.operator.discovery import NO_WILDCARDS
from ota.operator.reports import View
from tests.support import fleet
from tests.support.delay import Delay
from tests.support.lab import Mosquitto
from tests.support.operator import ota


@pytest.fixture(params=("mosquitto", "rumqttd"))
def port(request, tmp_path):
    """A real broker on the loopback, with its default limits."""
    if request.param == "mosquitto" and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path) if request.param == "mosquitto" else DemoBroker(tmp_path)
    broker.start()
    yield broker.port
    broker.stop()


@pytest.fixture
def workspace(tmp_path, port):
    return fleet.made(tmp_path / "operator", port)


@pytest.mark.parametrize(
    "count", [0, 1, 59, 61, 900, pytest.param(2000, marks=pytest.mark.full), pytest.param(5000, marks=pytest.mark.full)]
)
def test_every_board_is_seen_whether_it_is_known_or_not(workspace, port, count):
    boards = set(fleet.names(count))
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, sorted(boards))
        for _ in range(2):  # the second time the roster has them
            view = View(broker, fleet.roster(workspace))
            view.read()
            assert view.gaps == []
            assert {name for name, each in view.devices.items() if each.report and each.online} == boards
        assert fleet.roster(workspace).names == boards


def test_a_board_that_the_broker_lost_is_listed(workspace, port, capsys):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        assert ota(workspace.folder, "status") == 0
        broker.publish_all([(topics.report("b"), b""), (topics.online("b"), b"")])
    capsys.readouterr()
    assert ota(workspace.folder, "status", "--json") == 0
    found = {each["device"]: each for each in json.loads(capsys.readouterr().out)["boards"]}
    assert (found["a"]["reported"], found["b"]["reported"]) == (True, False)
    assert ota(workspace.folder, "status") == 0
    assert "never reported" in capsys.readouterr().out


def test_boards_that_a_file_lists_are_expected(workspace, tmp_path, capsys):
    (tmp_path / "fleet.txt").write_text("# the hall\nboard-0\n\nboard-99 # in the cellar\n")
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["board-0"])
    assert ota(workspace.folder, "status", "--devices", tmp_path / "fleet.txt") == 0
    assert "board-99" in capsys.readouterr().out
    (tmp_path / "fleet.txt").write_text("a/b\n")
    assert ota(workspace.folder, "status", "--devices", tmp_path / "fleet.txt") == 1
    assert "'a/b' is not the name of a board" in capsys.readouterr().err


def test_names_that_crowd_a_bucket_are_a_gap_and_not_a_complete_list(workspace, port, capsys):
    crowd = (name for number in range(10_000_000) if topics.bucket(name := f"x{number}") == "7a3")
    boards = [next(crowd) for _ in range(70)]
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, boards)
    assert ota(workspace.folder, "status", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["complete"]
    assert "bucket 7a3" in found["reasons"][0]


def test_a_name_in_another_boards_bucket_is_no_board(workspace):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"])
        broker.publish_all([(topics.online("a").rpartition("/")[0] + "/intruder", b"1")])
        view = View(broker, fleet.roster(workspace))
        view.read()
    assert set(view.devices) == {"a"}


def test_a_report_that_cannot_be_read_is_an_unknown_board_and_exit_code_1(workspace, capsys):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        broker.publish_all([(topics.report("a"), b"garbage"), (topics.report("b"), fleet.report("c").to_bytes())])
    assert ota(workspace.folder, "status") == 1
    captured = capsys.readouterr()
    assert "a       -" in captured.out
    assert "unknown: its report can't be read" in captured.out
    assert "unknown: its report is that of 'c'" in captured.out
    assert captured.err.count("incomplete: 1 board is unknown") == 2


def test_a_forgotten_board_leaves_nothing_and_comes_back_when_it_speaks(workspace, capsys):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["old", "older", "new"])
        assert ota(workspace.folder, "devices") == 0
        assert ota(workspace.folder, "devices", "--forget", "old", "--forget", "older") == 0
        capsys.readouterr()
        assert ota(workspace.folder, "devices", "--json") == 0
        assert [each["device"] for each in json.loads(capsys.readouterr().out)["boards"]] == ["new"]
        assert ota(workspace.folder, "devices", "--forget", "old") == 1
        assert "no board has the name old" in capsys.readouterr().err
        fleet.leave(broker, ["old"])
    assert ota(workspace.folder, "devices", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["boards"]) == 2


def test_groups_and_names_that_nobody_has_are_exit_code_1(workspace, capsys):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"])
    assert ota(workspace.folder, "status", "--group", "labb") == 1
    assert "no board has group labb; boards have lab" in capsys.readouterr().err
    assert ota(workspace.folder, "logs", "--device", "nobody", "--seconds", "0.1") == 1
    assert "no board has the name nobody" in capsys.readouterr().err
    assert ota(workspace.folder, "logs", "--device", "a", "--seconds", "0.1") == 0
    with pytest.raises(SystemExit):
        ota(workspace.folder, "logs", "--device", "#")
    assert "'#' is not a name" in capsys.readouterr().err


def test_a_broker_without_retained_wildcards_is_said_to_hide_boards(workspace, port, monkeypatch, capsys, tmp_path):
    (tmp_path / "fleet.txt").write_text("a\nb\n")
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
    real = topics.online_in
    monkeypatch.setattr("ota.operator.discovery.topics.online_in", lambda digits: real(digits).replace("online", "elsewhere"))
    monkeypatch.setattr("ota.operator.discovery._wildcards_work", lambda broker, found: False)
    assert (
        ota(workspace.folder, "status", "--devices", tmp_path / "fleet.txt", "--json") == 0
    )  # that is the fleet, says the operator
    assert len(json.loads(capsys.readouterr().out)["boards"]) == 2
    assert ota(workspace.folder, "status", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["reasons"] == [NO_WILDCARDS]
    assert len(found["boards"]) == 2


def test_a_slow_network_hides_no_board(workspace, port, capsys):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, fleet.names(70))
    workspace_file = workspace.folder / "ota.toml"
    with Delay(port, 0.7) as slow:
        workspace_file.write_text(workspace_file.read_text().replace(f":{port}", f":{slow.port}"))
        assert ota(workspace.folder, "status", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["boards"]) == 70


def test_a_boards_clock_that_is_wrong_does_not_make_it_old(workspace, capsys):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"], time_s=int(time.time()) - 3 * 86_400, online=False)
        assert ota(workspace.folder, "status", "--json") == 0
        fleet.leave(broker, ["a"], time_s=int(time.time()) - 3 * 86_400 + 5, uptime_s=65)  # it came since the reading before
        capsys.readouterr()
        assert ota(workspace.folder, "status", "--json") == 0
        (found,) = json.loads(capsys.readouterr().out)["boards"]
        assert found["age_s"] < 600
        assert -3 * 86_400 - 600 < found["clock_ahead_s"] < -2 * 86_400
        assert ota(workspace.folder, "status") == 0
        assert "; its clock is 3 d behind" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "shown"),
    [((), "2026-03-01 05:14:05+05:30  b1"), (("--utc",), "2026-02-28T23:44:05+00:00  b1")],
)
def test_logs_have_the_date_in_this_machines_zone_or_in_utc(workspace, capsys, monkeypatch, words, shown):
    monkeypatch.setenv("TZ", "IST-05:30")  # as POSIX writes it: no files of zones are needed
    time.tzset()
    moment = datetime(2026, 2, 28, 23, 44, 5, 700_000, tzinfo=UTC).timestamp()
    records = [LogRecord(moment, "info", "m 1", "hello"), LogRecord(float("nan"), "info", "m 1", "when")]
    ended = threading.Event()

    def speak() -> None:
        with Broker(workspace.settings) as broker:
            while not ended.wait(0.1):
                broker.publish_all([(topics.log("b1"), encode_logs(records))])

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        assert ota(workspace.folder, "logs", "--seconds", "1", *words) == 0
    finally:
        ended.set()
        speaker.join()
        monkeypatch.undo()
        time.tzset()
    lines = capsys.readouterr().out.splitlines()
    assert f"{shown}  info   m 1: hello" in lines
    assert "time nan  b1  info   m 1: when" in lines
