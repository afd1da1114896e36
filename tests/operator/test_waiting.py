"""`--wait`: what is true of every board of the group, and when the waiting ends."""

import json
import threading
import time
from dataclasses import replace

import pytest

from ota.demo.broker import DemoBroker
from ota.formats import topics
from ota.formats.deployment import DEPLOYMENT_TYPE, Deployment
from ota.formats.report import Attempt, Running
from ota.keyring import sign_document
from ota.operator import reports
from ota.operator.broker import Broker
from ota.operator.reports import Device
from ota.operator.waiting import Kind, Outcome, Standing, Waiting, judge
from tests.support import fleet
from tests.support.delay import Delay
from tests.support.lab import Mosquitto
from tests.support.operator import ota

OURS = Deployment("lab", b"o" * 16, b"m" * 32, 1, 1_700_000_000, 1_900_000_000)


def device(state: str, deployment: bytes = OURS.deployment_id, **changes) -> Device:
    attempt = Attempt(state, deployment, reason=changes.pop("reason", ""), done_chunks=changes.pop("done", 0), chunks=5)
    running = changes.pop("running", Running())
    return Device("b", fleet.report("b", attempt=attempt, running=running), came_s=100, **changes)


@pytest.mark.parametrize(
    ("board", "kind"),
    [
        (device("confirmed"), Kind.CONFIRMED),
        (device("failed", reason="trapped"), Kind.FAILED),
        (device("rolled-back", reason="unhealthy", online=True), Kind.FAILED),
        (device("rejected", reason="deployment-replayed"), Kind.FAILED),
        (device("rejected", b"", reason="signer-unknown", live=True), Kind.FAILED),
        (device("rejected", b"", reason="signer-unknown"), Kind.OFFLINE),  # that was before this deployment
        (device("rejected", b"x" * 16, reason="disk-full", online=True), Kind.PENDING),  # and that of another
        (device("rejected", reason="clock-not-set", online=True), Kind.PENDING),
        (device("fetching"), Kind.PENDING),  # the link broke: it goes on when it is back
        (device("confirmed", b"x" * 16, online=True), Kind.PENDING),
        (device("confirmed", b"x" * 16, live=True), Kind.PENDING),  # it speaks, whatever the broker says
        (device("confirmed", b"x" * 16), Kind.OFFLINE),
        (device("idle", b"", running=Running("m", "1", OURS.manifest_digest, 1, "confirmed")), Kind.CONFIRMED),
        (device("failed", running=Running("m", "1", OURS.manifest_digest, 1, "confirmed"), reason="trapped"), Kind.FAILED),
        (Device("b"), Kind.SILENT),
        (Device("b", unknown="no answer in 10 s"), Kind.UNKNOWN),
    ],
)
def test_a_board_stands_as_what_is_known_says(board, kind):
    assert judge(board, OURS, 200).kind is kind


def test_progress_is_never_beyond_the_whole():
    assert judge(device("fetching", done=7), OURS, 0).done_chunks == 5


def outcome(*kinds: Kind, **changes) -> Outcome:
    return Outcome({str(number): Standing(kind, kind.value) for number, kind in enumerate(kinds)}, **changes)


def test_boards_that_are_offline_or_were_never_heard_of_are_not_success():
    found = outcome(*[Kind.CONFIRMED] * 2, *[Kind.OFFLINE] * 3, *[Kind.SILENT] * 3)
    assert found.summary() == "2 of 8 boards confirmed it; 3 offline, 3 never heard of"
    assert found.ended
    assert not found.confirmed
    assert replace(found, only_online=True).confirmed
    for other in (Kind.FAILED, Kind.UNKNOWN, Kind.PENDING):
        assert not outcome(Kind.CONFIRMED, other, only_online=True).confirmed
    assert outcome(Kind.CONFIRMED).confirmed
    assert not outcome(Kind.CONFIRMED, gaps=["one"]).confirmed
    assert not outcome(Kind.CONFIRMED, superseded="another").confirmed
    assert not outcome(Kind.OFFLINE, only_online=True).confirmed


@pytest.fixture
def site(tmp_path):
    """A broker and a workspace."""
    with DemoBroker(tmp_path) as broker:
        yield fleet.made(tmp_path / "operator", broker.port), broker.port


def deployed(workspace, **changes) -> Deployment:
    """A deployment that is on the broker."""
    deployment = replace(OURS, **changes)
    document = sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, [workspace.key("deploy")])
    with Broker(workspace.settings) as broker:
        broker.publish_all([(topics.desired("lab"), document)])
    return deployment


class Run:
    """Waits in a thread; `until` sees what it was told."""

    def __init__(self, workspace, deployment, listed=None, **changes) -> None:
        self.told: list[tuple[str, Standing]] = []
        self._changed = threading.Condition()
        self.outcome: Outcome | None = None
        self._arguments = (workspace, deployment, listed, changes)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        workspace, deployment, listed, changes = self._arguments
        with Broker(workspace.settings) as broker:
            waiting = Waiting(broker, fleet.roster(workspace, listed), workspace.root(), deployment, **changes)
            self.outcome = waiting.run(60, time.time(), self._tell)

    def _tell(self, name: str, standing: Standing) -> None:
        with self._changed:
            self.told.append((name, standing))
            self._changed.notify_all()

    def until(self, name: str, state: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: any((n, s.state) == (name, state) for n, s in self.told), 30), self.told

    def end(self) -> Outcome:
        self._thread.join(60)
        assert self.outcome is not None
        return self.outcome


def say(broker: Broker, name: str, state: str, *, online: bool = True, **attempt) -> None:
    fleet.leave(broker, [name], online=online, attempt=Attempt(state, OURS.deployment_id, **attempt))


def test_it_ends_when_every_online_board_has_ended_and_tells_of_the_rest(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        fleet.leave(broker, ["gone"], online=False)
        fleet.leave(broker, ["elsewhere"], group="other")
        waiting = Run(workspace, deployed(workspace), ["never"])
        for name in ("a", "b"):
            waiting.until(name, "pending")
        say(broker, "a", "confirmed")
        say(broker, "b", "rejected", reason="disk-full", detail="0 bytes free")
        found = waiting.end()
    assert found.summary() == "1 of 4 boards confirmed it; 1 failed, 1 offline, 1 never heard of"
    assert found.standings["b"].reason == "disk-full"
    assert "elsewhere" not in found.standings


def test_a_link_that_breaks_while_a_board_fetches_does_not_end_the_wait(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"])
        waiting = Run(workspace, deployed(workspace))
        waiting.until("a", "pending")
        say(broker, "a", "fetching", done_chunks=1, chunks=4)
        waiting.until("a", "fetching")
        broker.publish_all([(topics.online("a"), topics.OFFLINE)])
        say(broker, "a", "fetching", online=False, done_chunks=2, chunks=4)
        say(broker, "a", "confirmed")
        found = waiting.end()
    assert found.confirmed
    assert found.summary() == "1 of 1 boards confirmed it"


def test_the_operators_own_link_may_break_too(site):
    workspace, port = site
    deployment = deployed(workspace)
    with Broker(workspace.settings) as broker, Delay(port, 0) as link:
        fleet.leave(broker, ["a"])
        workspace.settings = fleet.settings(link.port)
        waiting = Run(workspace, deployment)
        waiting.until("a", "pending")
        link.cut()
        say(broker, "a", "confirmed")
        assert waiting.end().confirmed


def test_a_board_that_is_set_up_while_we_wait_is_waited_for(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        deployment = deployed(workspace)
        say(broker, "a", "confirmed")
        waiting = Run(workspace, deployment)
        waiting.until("a", "confirmed")
        waiting.until("b", "pending")
        say(broker, "b", "confirmed")
        assert waiting.end().summary() == "2 of 2 boards confirmed it"


def test_another_deployment_ends_the_wait_at_once(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"])
        waiting = Run(workspace, deployed(workspace))
        waiting.until("a", "pending")
        deployed(workspace, deployment_id=b"n" * 16, epoch=2)
        found = waiting.end()
    assert not found.confirmed
    assert found.superseded == f"deployment {(b'n' * 16).hex()[:12]}"


def test_a_deployment_that_is_widened_is_the_same_one(site):
    workspace, _ = site
    few, rest = [], []
    narrow = replace(OURS, fraction_ppm=300_000)
    for name in fleet.names(8):
        (few if narrow.includes(name) else rest).append(name)
    assert few
    assert rest
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, few + rest)
        waiting = Run(workspace, deployed(workspace, fraction_ppm=300_000))
        for name in few:
            waiting.until(name, "pending")
        deployed(workspace, epoch=2)
        for name in rest:
            waiting.until(name, "pending")
        for name in few + rest:
            say(broker, name, "confirmed")
        assert waiting.end().summary() == "8 of 8 boards confirmed it"


def test_a_board_that_moves_to_another_group_is_not_waited_for(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        waiting = Run(workspace, deployed(workspace))
        waiting.until("b", "pending")
        fleet.leave(broker, ["b"], group="other")
        waiting.until("b", "moved")
        say(broker, "a", "confirmed")
        found = waiting.end()
    assert found.summary() == "1 of 1 boards confirmed it"
    assert found.confirmed


def test_a_board_that_could_not_be_read_is_not_taken_for_done():
    unread = {"b": Standing(Kind.UNKNOWN, "unknown"), "a": Standing(Kind.CONFIRMED, "confirmed")}
    assert not Outcome(unread).ended
    assert Outcome(unread | {"b": Standing(Kind.UNKNOWN, "unreadable")}).ended


def test_a_board_that_reports_what_cannot_be_read_ends_the_wait_as_unknown(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        waiting = Run(workspace, deployed(workspace))
        waiting.until("b", "pending")
        broker.publish_all([(topics.report("b"), b"\xff")])
        waiting.until("b", "unreadable")
        say(broker, "a", "confirmed")
        found = waiting.end()
    assert found.summary() == "1 of 2 boards confirmed it; 1 unknown"
    assert not found.confirmed


def test_a_broker_that_is_away_for_long_is_waited_for(tmp_path, monkeypatch):
    """Longer than connecting is tried, and over the time of the next reading."""
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    monkeypatch.setattr(reports, "REFRESH_S", 0.5)
    monkeypatch.setattr("ota.operator.broker.RECONNECT_MIN_S", 0.01)
    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    try:
        workspace = fleet.made(tmp_path / "operator", mosquitto.port)
        deployment = deployed(workspace)
        with Broker(workspace.settings) as broker:
            fleet.leave(broker, ["a"])
        waiting = Run(workspace, deployment)
        waiting.until("a", "pending")
        mosquitto.stop()
        time.sleep(3)
        assert waiting.outcome is None
        mosquitto.start()
        with Broker(workspace.settings) as broker:
            say(broker, "a", "confirmed")
        assert waiting.end().confirmed
    finally:
        mosquitto.stop()


def test_the_command_says_what_became_of_every_board(site, modules, capsys):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["gone"], online=False)
    words = ("publish", modules / "tally.wasm", "--wait", "2", "--json")
    assert ota(workspace.folder, *words) == 1
    captured = capsys.readouterr()
    assert captured.out, captured.err
    found = json.loads(captured.out)
    assert found["states"] == {"gone": "offline"}
    assert not found["confirmed"]
    assert ota(workspace.folder, "publish", modules / "tally.wasm", "--wait", "2", "--group", "labb") == 1
    captured = capsys.readouterr()
    assert "no board has reported group labb (groups that boards have: lab)" in captured.err
    assert "no board of group labb reported in 2 s" in captured.out
