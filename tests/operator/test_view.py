"""What the operator sees of a fleet: every board, or that some are missing."""

import errno
import json
import os
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ota.formats import topics
from ota.formats.report import Attempt, LogRecord, Refusal, Running
from ota.operator import reports
from ota.operator.broker import Broker, Incoming
from ota.operator.discovery import NO_WILDCARDS, TOO_MANY
from ota.operator.reports import View
from tests.support import fleet
from tests.support.delay import Delay
from tests.support.lab import Mosquitto
from tests.support.operator import ota
from tests.support.publishing import module
from tests.support.reports import signed, signed_logs
from tests.support.rumqttd import Rumqttd


@pytest.fixture(params=("mosquitto", pytest.param("rumqttd", marks=pytest.mark.full)))
def port(request, tmp_path):
    """A real broker on the loopback, with its default limits."""
    if request.param == "mosquitto" and Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path) if request.param == "mosquitto" else Rumqttd(tmp_path)
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


def test_new_reports_of_many_boards_are_verified_in_children_all_of_which_have_ended(workspace, port, monkeypatch):
    """Two lots, in one of them a report that is forged, though a child looks at it."""
    boards, forked, fork = fleet.names(600), [], os.fork
    others, count = threading.active_count() - 1, threading.active_count  # of other tests; where more run, there is no child
    monkeypatch.setattr(threading, "active_count", lambda: count() - others)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(os, "fork", lambda: forked.append(fork()) or forked[-1])
    monkeypatch.setattr(reports, "TOGETHER", 300)
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, boards)
        broker.publish_all([(topics.report(boards[7]), signed(fleet.report(boards[8])))])
        view = View(broker, fleet.roster(workspace))
        view.read()
    assert len(forked) == 2
    assert [name for name, each in view.devices.items() if each.report is None] == [boards[7]]
    assert "report-forged" in view.devices[boards[7]].unknown
    for each in forked:
        with pytest.raises(ChildProcessError):
            os.waitpid(each, os.WNOHANG)


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


def test_a_reading_that_takes_long_shows_on_a_terminal_how_far_it_is(workspace, capsys, monkeypatch):
    monkeypatch.setattr("ota.cli.fleet.SHOWN_AFTER_S", 1e-9)
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, fleet.names(40))
    assert ota(workspace.folder, "status") == 0
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert ota(workspace.folder, "status") == 0
    said = capsys.readouterr().err
    assert "\rreading [" in said
    assert " 32 of 40 " in said
    assert said.endswith(" \r")  # and leaves nothing behind
    monkeypatch.setattr("ota.cli.fleet.SHOWN_AFTER_S", 600.0)
    assert ota(workspace.folder, "status") == 0
    assert capsys.readouterr().err == ""


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


def test_names_that_somebody_invents_have_an_end_and_displace_no_board_that_is_known(workspace, monkeypatch, capsys):
    for part in ("discovery", "reports", "roster"):
        monkeypatch.setattr(f"ota.operator.{part}.MAX_BOARDS", 5)
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["known"])
        assert ota(workspace.folder, "status") == 0
        fleet.leave(broker, [f"invented-{number}" for number in range(20)])
        capsys.readouterr()
        assert ota(workspace.folder, "devices", "--json") == 1
        found = json.loads(capsys.readouterr().out)
        assert len(found["boards"]) == 5
        assert "known" in {each["device"] for each in found["boards"]}
        assert found["reasons"] == [TOO_MANY]
        view = View(broker, fleet.roster(workspace))
        view.read()
        assert view.take(Incoming(topics.report("late"), signed(fleet.report("late")))) is None
        assert set(view.devices) >= {"known"}
        assert len(view.devices) == 5


def test_a_crowded_roster_keeps_the_boards_that_the_operator_set_up(workspace, monkeypatch):
    monkeypatch.setattr("ota.operator.roster.MAX_BOARDS", 3)
    ours = fleet.roster(workspace)
    ours.expect("ours", "lab")
    ours.save()
    roster = fleet.roster(workspace)
    for number in range(9):
        roster.sight(fleet.report(f"invented-{number}"), 1_900_000_000, live=False)
    roster.save()
    again = fleet.roster(workspace)
    assert again.home_of("ours") == "lab"
    assert len(again.names) == 3


def test_who_reads_reports_meanwhile_does_not_undo_where_a_board_belongs(workspace):
    reading, enrolling, forgetting = (fleet.roster(workspace) for _ in range(3))
    enrolling.assign("a", "lab")
    enrolling.save()
    reading.sight(fleet.report("a"), 1_900_000_000, live=True)
    reading.save()
    assert fleet.roster(workspace).home_of("a") == "lab"
    forgetting.forget("a")
    forgetting.save()
    assert fleet.roster(workspace).home_of("a") == ""


def test_a_broker_of_another_workspace_is_named_and_nothing_there_is_remembered_or_removed(workspace, tmp_path, port, capsys):
    other = fleet.made(tmp_path / "other", port)
    with Broker(workspace.settings) as broker:
        broker.publish_all([(topics.root(1), workspace.root_documents()[1])])
        fleet.leave(broker, ["a"])
        why = f"{other.settings.broker} belongs to another workspace: ota/v1/root/1 is not the root document of this one"
        assert ota(other.folder, "publish", module(tmp_path, 1), "--pack", tmp_path / "x.bundle") == 0
        for words in (("status",), ("status", "a"), ("devices",), ("root", "rehearse")):
            assert ota(other.folder, *words) == 1
            assert f"incomplete: {why}, and so are the boards there" in (said := capsys.readouterr().err)
            assert "lost: " not in said  # it never was there
            assert ota(other.folder, *words, "--json") == 1
            found = json.loads(capsys.readouterr().out)
            assert not found["complete"]
            assert why in found["reasons"][0]
        assert fleet.roster(other).names == set()
        assert not fleet.roster(other).signers.knows("a")
        assert ota(other.folder, "group-keys", "new", "lab") == 0
        for words in (("devices", "--forget", "a"), ("devices", "--trust", "a"), ("group-keys", "deliver", "lab")):
            assert ota(other.folder, *words) == 1
            assert why in capsys.readouterr().err
        assert ota(other.folder, "token", "a", "-o", tmp_path / "token") == 0
        assert ota(other.folder, "retire", "a", "--yes") == 1
        assert "a: retired here, but what the broker keeps of it may still be there" in (said := capsys.readouterr().err)
        assert why in said
        assert broker.retained_one(topics.report("a"))
    assert ota(workspace.folder, "status") == 0


@pytest.mark.parametrize("words", [("status",), ("devices",)])
def test_a_workspace_that_cannot_be_written_hides_no_board(workspace, monkeypatch, capsys, words):
    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"])
    monkeypatch.setattr("ota.operator.workspace.write_durably", full)
    assert ota(workspace.folder, *words) == 1
    said = capsys.readouterr()
    assert "a       lab" in said.out
    assert "incomplete: what was read can't be remembered: " in said.err
    assert "No space left on device" in said.err


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
        broker.publish_all([(topics.report("a"), b"garbage"), (topics.report("b"), signed(fleet.report("c")))])
    assert ota(workspace.folder, "status") == 1
    captured = capsys.readouterr()
    assert "a       -" in captured.out
    assert "unknown: its report is not believed: malformed" in captured.out
    assert "unknown: its report is not believed: report-forged: it is that of 'c'" in captured.out
    assert captured.err.count("incomplete: 1 board is unknown") == 2


def test_a_forgotten_board_leaves_nothing_and_comes_back_when_it_speaks(workspace, capsys):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["old", "older", "new"])
        for instance in ("monitor", "removed-long-ago"):
            fleet.leave_instance(broker, ["old", "new"], instance)
        assert ota(workspace.folder, "devices") == 0
        assert ota(workspace.folder, "devices", "--forget", "old", "--forget", "older") == 0
        left = broker.retained([topics.instance_report(name, "removed-long-ago") for name in ("old", "new")])
        assert {each.topic.split("/")[3] for each in left if each.payload} == {"new"}
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
    assert "no line or message in 0.1 s: earlier ones are not shown; -f continues until Ctrl-C" in capsys.readouterr().err
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
    records = [LogRecord(moment, "info", "m", "m 1", "hello"), LogRecord(float("nan"), "info", "kitchen", "m 1", "when")]
    ended = threading.Event()

    def speak() -> None:
        with Broker(workspace.settings) as broker:
            fleet.leave(broker, ["b1"])
            while not ended.wait(0.1):
                broker.publish_all([(topics.log("b1"), signed_logs("b1", records))])

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
    assert "time nan  b1  info   kitchen (m 1): when" in lines


class Speaker:
    """Says the same over and over, as boards do, for as long as it is open."""

    def __init__(self, port: int, messages: list[tuple[str, bytes, dict[str, str]]]) -> None:
        self._messages, self._ended = messages, threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            for topic, payload, about in self._messages:
                properties = Properties(PacketTypes.PUBLISH)
                properties.UserProperty = list(about.items())
                self._client.publish(topic, payload, properties=properties)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()


def test_logs_show_what_modules_publish_on_their_own_topics_and_nothing_that_others_send_there(workspace, port, capsys):
    about = {"board": "b1", "instance": "m", "module": "m 1", "number": "7", "time": "1700000000.5"}
    messages = [
        ("devices/b1/readings/x", b"1.5", about),
        ("devices/b1/readings/x", b"2.5", about | {"instance": "kitchen", "number": "8"}),
        ("devices/b1/readings/y", b"numberless", about | {"number": "many"}),
        ("devices/b1/commands", b"go", {}),
        ("devices/b2/readings/x", b"in the name of another board", about),
        ("elsewhere/b1/readings/x", b"3.5", about),
        ("devices", b"of no board", about),
    ]
    with Speaker(port, messages):
        assert ota(workspace.folder, "logs", "--seconds", "1", "--utc") == 0
        lines = set(capsys.readouterr().out.splitlines())
        assert lines == {
            "2023-11-14T22:13:20+00:00  b1  event  m 1: devices/b1/readings/x 1.5",
            "2023-11-14T22:13:20+00:00  b1  event  kitchen (m 1): devices/b1/readings/x 2.5",
        }
        assert ota(workspace.folder, "logs", "--seconds", "1", "--json", "--instance", "kitchen") == 0
        found = {line["number"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
        assert found.keys() == {8}
        assert (found[8]["device"], found[8]["instance"], found[8]["payload"]) == ("b1", "kitchen", b"2.5".hex())
        assert ota(workspace.folder, "logs", "--seconds", "1", "--instance", "kitchne") == 0
        assert "no line or message in 1 s of instance kitchne, only of kitchen, m: " in capsys.readouterr().err
        assert ota(workspace.folder, "logs", "--seconds", "1", "--topics", "#") == 0
        assert {line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()} == {"1.5", "2.5", "3.5"}


def test_status_has_a_line_for_each_instance_and_names_what_is_wrong(workspace, capsys):
    two = (fleet.summary("blink"), fleet.summary("hygro", Running(), Attempt("rejected", reason="capability-denied")))
    refusals = (Refusal("group", 7, "signer-unknown", "nobody knows it"),)
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"], instances=two, refusals=refusals, problems=("clock: not set",))
        fleet.leave(broker, ["b"], instances=())
    assert ota(workspace.folder, "status") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["a", "lab", "0.1.0", "blink", "monitor", "1.0.0", "confirmed", "idle", "online"]
    assert lines[2] == ["a", "lab", "0.1.0", "hygro", "-", "none", "rejected", "(capability-denied)"]
    assert lines[3] == ["b", "lab", "0.1.0", "-", "-", "-", "-", "online"]
    assert " ".join(lines[4]) == "a: clock: not set"
    assert " ".join(lines[5]) == "a: group document, epoch 7, was refused: signer-unknown: nobody knows it"


def test_a_board_that_runs_what_was_before_its_confirmed_module_says_so(workspace, capsys):
    previous = replace(fleet.RUNNING, slot="previous")
    attempt = Attempt("confirmed", b"d" * 16, b"m" * 32)
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"], instances=(fleet.summary("blink", previous, attempt), fleet.summary("hygro", attempt=attempt)))
        fleet.leave_instance(broker, ["a"], "blink", running=previous, attempt=attempt)
        fleet.leave_instance(broker, ["a"], "hygro", attempt=attempt)
    assert ota(workspace.folder, "status") == 0
    blink, hygro = capsys.readouterr().out.splitlines()[1:3]
    assert "previous   confirmed, then stepped down  online" in blink
    assert "stepped" not in hygro
    assert ota(workspace.folder, "status", "a") == 0
    _, blink, hygro = capsys.readouterr().out.split("\n\n")
    assert "stepped down    it failed again and again: the previous module runs, until it is tried again" in blink
    assert "stepped" not in hygro


def test_status_of_a_board_has_everything_about_its_instances(workspace, capsys):
    failed = Attempt("rolled-back", b"d" * 16, b"m" * 32, b"", "trapped", "unreachable executed")
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"], instances=(fleet.summary("blink"), fleet.summary("hygro")))
        fleet.leave_instance(broker, ["a"], "blink", attempt=failed, counters={"events_handled": 41})
        fleet.leave_instance(broker, ["a"], "gone", running=Running(), attempt=Attempt("confirmed", b"d" * 16))
    assert ota(workspace.folder, "status", "a") == 0
    shown = capsys.readouterr().out
    board, blink, hygro = shown.split("\n\n")
    assert board.splitlines()[0].split() == ["device", "a"]
    assert "counter_11" in board
    assert "because         trapped: unreachable executed" in blink
    assert "events_handled  41" in blink
    assert hygro.split() == ["instance", "hygro", "state", "no", "report"]
    assert ota(workspace.folder, "status", "a", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["boards"]
    blink, hygro = found["instances"]
    assert (blink["instance"], blink["counters"], blink["attempt"]["reason"]) == ("blink", {"events_handled": 41}, "trapped")
    assert (hygro["instance"], hygro["version"], hygro["unknown"]) == ("hygro", "1.0.0", "it has no report of its own")
    assert ota(workspace.folder, "status", "a", "gone") == 0  # it was removed, and its report stays
    assert "confirmed: removal" in capsys.readouterr().out
    assert ota(workspace.folder, "status", "a", "nothing") == 1
    assert "a has no instance nothing; it has blink, hygro" in capsys.readouterr().err
    assert ota(workspace.folder, "status", "nobody") == 1
    assert "no board has the name nobody" in capsys.readouterr().err
    assert ota(workspace.folder, "status", "a", "--group", "lab") == 2
    assert "either a board or --group" in capsys.readouterr().err
    assert ota(workspace.folder, "status", "a", "blink", "--watch") == 2


def test_a_report_of_an_instance_that_cannot_be_read_makes_the_answer_incomplete(workspace, capsys):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"], instances=(fleet.summary("m"), fleet.summary("n")))
        broker.publish_all([(topics.instance_report("a", "m"), signed(fleet.instance_report("a", "n")))])
        broker.publish_all([(topics.instance_report("a", "n"), b"garbage")])
    assert ota(workspace.folder, "status", "a", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    first, second = found["boards"][0]["instances"]
    assert first["unknown"] == "the report of instance m is not believed: report-forged: it is that of instance 'n'"
    assert second["unknown"].startswith("the report of instance n is not believed: malformed")
    assert not found["complete"]


def test_prometheus_has_the_counters_of_every_instance(workspace, capsys):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        fleet.leave_instance(broker, ["a", "b"])
    assert ota(workspace.folder, "status", "--prometheus") == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("a", "b"):
        assert f'wamr_ota_instance_events_handled_total{{device="{name}",group="lab",instance="monitor"}} 5' in lines


def test_a_topic_that_no_board_can_have_is_left_alone(workspace):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"])
        view = View(broker, fleet.roster(workspace))
        view.read()
        levels = topics.report("a").rpartition("/")[0]
        for topic in (
            "ota/v1/online/0/0/0/a b",
            f"{levels}/instance/a b/report",
            "x",
            "report",
            f"{levels} b/report",
            "instance/a",
        ):
            assert view.take(Incoming(topic, b"1")) is None
        assert set(view.devices) == {"a"}


def test_a_board_may_be_called_report(workspace):
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["report", "instance"])
        view = View(broker, fleet.roster(workspace), only=("report", "instance"))
        view.read()
        assert view.take(Incoming(topics.online("report"), topics.OFFLINE)) == view.devices["report"]
    assert [each.online for each in view.devices.values()] == [False, True]
