"""`--wait`: what is true of every board of the group, and when the waiting ends."""

import json
import threading
import time
from dataclasses import replace

import pytest

from ota.cli.waiting import _tell
from ota.formats import topics
from ota.formats.deployment import DEPLOYMENT_TYPE, Deployment, Entry
from ota.formats.report import Attempt, Refusal, Running, Summary
from ota.keyring import sign_document
from ota.operator import reports
from ota.operator.broker import Broker
from ota.operator.waiting import Kind, Outcome, Standing, Waiting
from tests.support import fleet
from tests.support.delay import Delay
from tests.support.lab import Mosquitto
from tests.support.operator import ota
from tests.support.reports import identity, signed
from tests.support.rumqttd import Rumqttd
from tests.support.standings import ENTRY, NIGHT, OURS, changed, removing


@pytest.fixture
def site(tmp_path):
    """A broker and a workspace."""
    with Rumqttd(tmp_path) as broker:
        yield fleet.made(tmp_path / "operator", broker.port), broker.port


def deployed(workspace, deployment: Deployment = OURS) -> Deployment:
    """It is on the broker."""
    document = sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, [workspace.key("deploy")])
    topic = topics.device_desired(deployment.device) if deployment.device else topics.desired("lab")
    with Broker(workspace.settings) as broker:
        broker.publish_all([(topic, document)])
    return deployment


class Run:
    """Waits in a thread; `until` sees what it was told."""

    def __init__(self, workspace, deployments, listed=None, *, instances=("m",), **changes) -> None:
        self.told: list[tuple[str, str, Standing]] = []
        self._changed = threading.Condition()
        self.outcome: Outcome | None = None
        deployments = [deployments] if isinstance(deployments, Deployment) else deployments
        self._arguments = (workspace, deployments, listed, instances, changes)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        workspace, deployments, listed, instances, changes = self._arguments
        with Broker(workspace.settings) as broker:
            waiting = Waiting(broker, fleet.roster(workspace, listed), workspace.root(), deployments, instances, **changes)
            self.outcome = waiting.run(60, time.time(), self._tell)

    def _tell(self, name: str, instance: str, standing: Standing) -> None:
        with self._changed:
            self.told.append((name, instance, standing))
            self._changed.notify_all()

    def until(self, name: str, state: str, instance: str = "") -> None:
        def came() -> bool:
            return any((n, s.state) == (name, state) and instance in ("", i) for n, i, s in self.told)

        with self._changed:
            assert self._changed.wait_for(came, 30), self.told

    def end(self) -> Outcome:
        self._thread.join(60)
        assert self.outcome is not None
        return self.outcome


def say(broker: Broker, name: str, state: str, *, instance: str = "m", entry: Entry = ENTRY, **attempt) -> None:
    said = Attempt(state, entry.deployment_id, entry.manifest_digest, **attempt)
    fleet.leave_instance(broker, [name], instance, attempt=said, running=Running())


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
    assert found.standings["b"]["m"].reason == "disk-full"
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
        fleet.leave(broker, ["a"], online=False)
        say(broker, "a", "fetching", done_chunks=2, chunks=4)
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
        deployed(workspace, replace(changed(deployment_id=b"n" * 16), epoch=4))
        found = waiting.end()
    assert not found.confirmed
    assert found.superseded == f"deployment {(b'n' * 16).hex()[:12]} of instance m"


def test_another_instance_of_the_group_may_change_meanwhile_and_an_older_document_changes_nothing(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"])
        waiting = Run(workspace, deployed(workspace))
        waiting.until("a", "pending")
        deployed(workspace, replace(changed(instance="other", deployment_id=b"n" * 16), epoch=4))
        deployed(workspace, replace(changed(deployment_id=b"x" * 16), epoch=2))
        say(broker, "a", "fetching")
        waiting.until("a", "fetching")
        say(broker, "a", "confirmed")
        assert waiting.end().confirmed


def test_a_set_is_done_when_all_its_instances_are(site):
    workspace, _ = site
    both = changed(instance="n")
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"])
        waiting = Run(workspace, deployed(workspace, both), instances=("m", "n"))
        waiting.until("a", "pending", "m")
        waiting.until("a", "pending", "n")
        say(broker, "a", "passed")
        waiting.until("a", "passed", "m")
        say(broker, "a", "rolled-back", instance="n", reason="trapped")
        waiting.until("a", "rolled-back", "n")
        say(broker, "a", "rolled-back", reason="set-failed")
        found = waiting.end()
    assert found.summary() == "0 of 1 boards confirmed it; 1 failed"
    assert (found.standings["a"]["m"].reason, found.standings["a"]["n"].reason) == ("set-failed", "trapped")


def test_single_devices_are_waited_for_without_the_rest_of_the_fleet(site):
    workspace, _ = site
    documents = [replace(OURS, group="", device=name) for name in ("a", "never")]
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"], group="anywhere")
        fleet.leave(broker, ["b"])
        for each in documents:
            deployed(workspace, each)
        waiting = Run(workspace, documents)
        waiting.until("a", "pending")
        say(broker, "a", "confirmed")
        found = waiting.end()
    assert found.summary() == "1 of 2 boards confirmed it; 1 never heard of"


def test_a_board_with_a_deployment_of_its_own_does_not_count(site):
    workspace, _ = site
    own = replace(changed(deployment_id=b"p" * 16), group="", device="b")
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b", "c"])
        broker.publish_all([(topics.device_desired("c"), b"nobody signed this")])
        deployed(workspace, own)
        waiting = Run(workspace, deployed(workspace))
        waiting.until("b", "overridden")
        say(broker, "a", "confirmed")
        waiting.until("c", "pending")
        say(broker, "c", "confirmed")
        found = waiting.end()
    assert found.confirmed
    assert found.summary() == "2 of 2 boards confirmed it; 1 with a deployment of their own"


def test_a_named_board_that_nobody_knows_is_missing_and_not_left_out(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a"])
        waiting = Run(workspace, deployed(workspace, changed(boards=("a", "ghost"), fraction_ppm=0)))
        waiting.until("a", "pending")
        say(broker, "a", "confirmed")
        assert waiting.end().summary() == "1 of 2 boards confirmed it; 1 never heard of"


def test_a_removal_is_waited_for(site):
    workspace, _ = site
    entry = removing().entries["m"]
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"], instances=(Summary("m"),))
        fleet.leave_instance(broker, ["a", "b"], "m")
        waiting = Run(workspace, deployed(workspace, removing()))
        waiting.until("b", "pending")
        say(broker, "a", "confirmed", entry=entry)
        say(broker, "b", "rejected", entry=entry, reason="set-failed")
        assert waiting.end().summary() == "1 of 2 boards confirmed it; 1 failed"


def test_everything_that_is_left_waits_for_its_window(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        waiting = Run(workspace, deployed(workspace, changed(window=NIGHT)))
        waiting.until("b", "pending")
        say(broker, "a", "confirmed")
        say(broker, "b", "staged", reason="window-closed", detail=f"waits for its window, {NIGHT}")
        found = waiting.end()
    assert found.staged
    assert found.standings["b"]["m"].detail == f"waits for its window, {NIGHT}"


def test_a_deployment_that_is_widened_is_the_same_one(site):
    workspace, _ = site
    few, rest = [], []
    narrow = changed(fraction_ppm=300_000)
    for name in fleet.names(8):
        (few if narrow.entries["m"].includes(name) else rest).append(name)
    assert few
    assert rest
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, few + rest)
        waiting = Run(workspace, deployed(workspace, narrow))
        for name in few:
            waiting.until(name, "pending")
        deployed(workspace, replace(OURS, epoch=4))
        for name in rest:
            waiting.until(name, "pending")
        for name in few + rest:
            say(broker, name, "confirmed")
        assert waiting.end().summary() == "8 of 8 boards confirmed it"


def test_boards_of_the_group_that_are_not_part_of_it_are_counted_apart(site):
    workspace, _ = site
    few, rest = [], []
    narrow = changed(fraction_ppm=300_000)
    for name in fleet.names(8):
        (few if narrow.entries["m"].includes(name) else rest).append(name)
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, few + rest)
        for name in few:
            say(broker, name, "confirmed")
        found = Run(workspace, deployed(workspace, narrow)).end()
    assert found.summary() == f"{len(few)} of {len(few)} boards confirmed it; {len(rest)} of the group not part of it"
    assert found.confirmed


def test_a_wait_for_a_fraction_that_no_board_is_part_of_ends_and_says_so(site, modules, capsys):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["board-1", "board-2"])
    assert ota(workspace.folder, "publish", modules / "tally.wasm", "--fraction", "0.0001", "--wait", "60") == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "none of the 2 boards of group lab is part of it: `ota widen` takes more"


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
    unread = {"b": {"m": Standing(Kind.UNKNOWN, "unknown")}, "a": {"m": Standing(Kind.CONFIRMED, "confirmed")}}
    assert not Outcome(unread).ended
    assert Outcome(unread | {"b": {"m": Standing(Kind.UNKNOWN, "unreadable")}}).ended


def test_a_board_whose_report_cannot_be_read_ends_the_wait_as_unknown(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        broker.publish_all([(topics.report("b"), b"\xff")])
        waiting = Run(workspace, deployed(workspace))
        waiting.until("b", "unreadable")
        say(broker, "a", "confirmed")
        found = waiting.end()
    assert found.summary() == "1 of 2 boards confirmed it; 1 unknown"
    assert not found.confirmed


def test_what_somebody_else_writes_as_a_boards_report_does_not_stop_the_wait(site):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["a", "b"])
        waiting = Run(workspace, deployed(workspace))
        waiting.until("b", "pending")
        broker.publish_all([(topics.report("b"), b"\xff"), (topics.report("b"), signed(fleet.report("b"), identity("rogue")))])
        say(broker, "a", "confirmed")
        say(broker, "b", "confirmed")
        found = waiting.end()
    assert found.confirmed


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


@pytest.mark.parametrize(("kind", "told"), [(Kind.FAILED, True), (Kind.CONFIRMED, False)])
def test_the_command_says_how_a_board_that_failed_tries_again(capsys, kind, told):
    _tell("group lab", Outcome({"a": {"m": Standing(kind, "rejected")}}), 2)
    assert ("--new-sequence" in capsys.readouterr().err) is told


def test_the_command_says_what_became_of_every_board(site, modules, capsys):
    workspace, _ = site
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, ["gone"], online=False)
    words = ("publish", modules / "tally.wasm", "--wait", "2", "--json")
    assert ota(workspace.folder, *words) == 1
    captured = capsys.readouterr()
    assert captured.out, captured.err
    found = json.loads(captured.out)
    assert found["boards"]["gone"]["instances"]["tally"]["state"] == "offline"
    assert not found["confirmed"]
    assert ota(workspace.folder, "publish", modules / "tally.wasm", "--wait", "2", "--group", "labb") == 1
    captured = capsys.readouterr()
    assert "no board has reported group labb (groups that boards have: lab)" in captured.err
    assert "no board of group labb reported in 2 s" in captured.out


def test_of_many_boards_only_failures_have_a_line_and_the_others_are_counted(site, modules, capsys, monkeypatch):
    workspace, _ = site
    monkeypatch.setattr("ota.cli.waiting.COUNTS_S", 0.0)
    with Broker(workspace.settings) as broker:
        fleet.leave(broker, fleet.names(65))
    assert ota(workspace.folder, "publish", modules / "tally.wasm") == 0
    with Broker(workspace.settings) as broker:
        epoch = workspace.read()["epochs"]["lab"]
        fleet.leave(broker, ["refuses"], refusals=(Refusal("group", epoch, "signer-unknown", ""),))
    assert ota(workspace.folder, "publish", modules / "tally.wasm", "--wait", "2") == 1
    said = capsys.readouterr().err
    assert "  refuses: rejected  signer-unknown" in said
    assert [each for each in said.splitlines() if " boards confirmed it" in each] == [
        "  0 of 66 boards confirmed it; 1 failed, 65 not ended"
    ]
    assert "board-1: pending" not in said


def test_where_capabilities_are_granted_is_said_when_a_board_denies_one(capsys):
    _tell("group lab", Outcome({"a": {"m": Standing(Kind.FAILED, "rejected", "capability-denied", "no clock")}}), 1)
    said = capsys.readouterr().err
    assert "[policy.grants] of a board's agent.toml says what modules may use\n" in said
    assert "checks an update that it refused again when its agent restarts\n" in said
    _tell("group lab", Outcome({"a": {"m": Standing(Kind.FAILED, "failed", "trapped")}}), 1)
    assert "[policy.grants]" not in capsys.readouterr().err
