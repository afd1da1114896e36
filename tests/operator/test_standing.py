"""How a board stands to what is wanted of it, and what that makes of a deployment."""

from dataclasses import replace
from datetime import datetime

import pytest

from device_agent.instance.gate import Now, why_wait
from ota.formats.deployment import config_digest
from ota.formats.report import Attempt, InstanceReport, Refusal, Running, Summary
from ota.operator.reports import Device, Seen
from ota.operator.waiting import Kind, Outcome, Standing, judge
from ota.operator.withdrawing import judge_withdrawn
from tests.support import fleet
from tests.support.standings import ENTRY, NIGHT, OURS, changed, removing

RUNS = Running("m", "1", ENTRY.manifest_digest, b"", 1, "confirmed")


CONFIGURED = {"colour": "red"}


def device(state: str, deployment: bytes = ENTRY.deployment_id, **changes) -> Device:
    words = {name: changes.pop(name) for name in ("reason", "detail") if name in changes}
    attempt = Attempt(state, deployment, done_chunks=changes.pop("done", 0), chunks=5, **words)
    said = InstanceReport("b", "m", 5, changes.pop("running", Running()), attempt)
    report = fleet.report("b", refusals=tuple(changes.pop("refusals", ())), instances=(Summary("m"),))
    return Device("b", report, came_s=100, instances={"m": Seen(said)}, **changes)


def refused(document: str = "group", epoch: int = OURS.epoch, reason: str = "signer-unknown") -> Refusal:
    return Refusal(document, epoch, reason, "why")


def without_instance(**changes) -> Device:
    return Device("b", fleet.report("b", instances=(Summary("other"),)), came_s=100, instances={"m": Seen()}, **changes)


@pytest.mark.parametrize(
    ("board", "kind"),
    [
        (device("confirmed"), Kind.CONFIRMED),
        (device("failed", reason="trapped"), Kind.FAILED),
        (device("rolled-back", reason="unhealthy", online=True), Kind.FAILED),
        (device("rejected", reason="deployment-replayed"), Kind.FAILED),
        (device("idle", b"", refusals=[refused()]), Kind.FAILED),
        (device("idle", b"", refusals=[refused(reason="clock-not-set")]), Kind.PENDING),
        (device("idle", b"", refusals=[refused(epoch=2)]), Kind.OFFLINE),  # that was the document before
        (device("idle", b"", refusals=[refused(epoch=0)], live=True), Kind.FAILED),  # it could not be read
        (device("idle", b"", refusals=[refused(epoch=0)]), Kind.OFFLINE),  # that was before this deployment
        (device("idle", b"", refusals=[refused("root", 2)], live=True), Kind.FAILED),
        (device("idle", b"", refusals=[refused("device")], online=True), Kind.PENDING),  # not the group's document
        (device("confirmed", refusals=[refused("root", 2)], live=True), Kind.CONFIRMED),
        (device("rejected", b"x" * 16, reason="disk-full", online=True), Kind.PENDING),  # of another deployment
        (device("rejected", reason="clock-not-set", online=True), Kind.PENDING),
        (device("fetching"), Kind.PENDING),  # the link broke: it goes on when it is back
        (device("starting"), Kind.PENDING),
        (device("passed"), Kind.PENDING),
        (device("staged", detail="waits for n, of the same set"), Kind.PENDING),
        (device("confirmed", b"x" * 16, online=True), Kind.PENDING),
        (device("confirmed", b"x" * 16, live=True), Kind.PENDING),  # it speaks, whatever the broker says
        (device("confirmed", b"x" * 16), Kind.OFFLINE),
        (device("idle", b"", running=RUNS), Kind.CONFIRMED),
        (device("idle", b"", running=replace(RUNS, slot="trial"), online=True), Kind.PENDING),
        (device("idle", b"", running=replace(RUNS, config=config_digest(CONFIGURED)), online=True), Kind.PENDING),
        (device("failed", running=RUNS, reason="trapped"), Kind.FAILED),
        (without_instance(online=True), Kind.PENDING),
        (Device("b"), Kind.SILENT),
        (Device("b", unknown="no answer in 10 s"), Kind.UNKNOWN),
        (replace(device("idle"), instances={"m": Seen(unknown="no answer in 10 s")}), Kind.UNKNOWN),
    ],
)
def test_a_board_stands_as_what_is_known_says(board, kind):
    assert judge(board, "m", OURS, 200).kind is kind


@pytest.mark.parametrize(
    "board",
    [device("rejected", reason="signer-unknown"), device("idle", b"", refusals=[refused(reason="signer-unknown")], live=True)],
)
def test_a_board_that_does_not_have_the_root_in_force_yet_has_not_ended(board):
    for has, kind in ((6, Kind.PENDING), (7, Kind.FAILED), (0, Kind.FAILED)):  # 0: it does not say
        assert judge(replace(board, report=replace(board.report, root=has)), "m", OURS, 200, root=7).kind is kind


def test_an_instance_that_waits_for_its_window_is_neither_done_nor_failed():
    windowed = changed(window=NIGHT)
    now = Now(datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 12), trusted=True)
    for each in (now, replace(now, trusted=False)):
        reason = why_wait(ENTRY.deployment_id, windowed.entries["m"], each).reason.value
        assert judge(device("staged", reason=reason, detail="in any words"), "m", windowed, 200).kind is Kind.WAITING
    for reason in ("", "set-awaited", why_wait(b"", None, now).reason.value):
        assert judge(device("staged", reason=reason, detail=str(NIGHT)), "m", windowed, 200).kind is Kind.PENDING


def test_a_configuration_is_part_of_what_runs():
    wanted = changed(config=CONFIGURED)
    assert judge(device("idle", b"", running=RUNS, online=True), "m", wanted, 200).kind is Kind.PENDING
    configured = replace(RUNS, config=config_digest(CONFIGURED))
    assert judge(device("idle", b"", running=configured), "m", wanted, 200).kind is Kind.CONFIRMED


def test_a_removal_is_confirmed_by_a_report_that_runs_nothing():
    assert judge(device("confirmed"), "m", removing(), 200).kind is Kind.CONFIRMED
    assert judge(device("idle", b""), "m", removing(), 200).kind is Kind.CONFIRMED
    assert judge(device("idle", b"", running=RUNS, online=True), "m", removing(), 200).kind is Kind.PENDING
    assert judge(without_instance(), "m", removing(), 200).kind is Kind.CONFIRMED
    assert judge(replace(device("idle"), instances={"m": Seen()}), "m", removing(), 200).kind is Kind.OFFLINE


def test_progress_is_never_beyond_the_whole():
    assert judge(device("fetching", done=7), "m", OURS, 0).done_chunks == 5


def outcome(*kinds: Kind, **changes) -> Outcome:
    return Outcome({str(number): {"m": Standing(kind, kind.value)} for number, kind in enumerate(kinds)}, **changes)


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


def test_what_waits_for_its_window_ends_the_wait_without_success_or_failure():
    found = outcome(Kind.CONFIRMED, Kind.WAITING)
    assert found.ended
    assert found.staged
    assert not found.confirmed
    assert found.summary() == "1 of 2 boards confirmed it; 1 waiting for the window or the owner"
    assert not outcome(Kind.WAITING, Kind.PENDING).ended
    for other in (Kind.FAILED, Kind.OFFLINE, Kind.UNKNOWN, Kind.PENDING):
        assert not outcome(Kind.WAITING, other).staged
    assert outcome(Kind.WAITING, Kind.OFFLINE, only_online=True).staged


def test_a_board_has_confirmed_when_all_its_instances_have():
    def board(*kinds: Kind) -> Outcome:
        return Outcome({"a": {str(number): Standing(kind, kind.value) for number, kind in enumerate(kinds)}})

    assert board(Kind.CONFIRMED, Kind.CONFIRMED).confirmed
    assert board(Kind.CONFIRMED, Kind.FAILED).summary() == "0 of 1 boards confirmed it; 1 failed"
    assert not board(Kind.CONFIRMED, Kind.PENDING).ended
    assert not board(Kind.FAILED, Kind.PENDING).ended  # the other members of its set go back as well
    assert board(Kind.CONFIRMED, Kind.OVERRIDDEN).confirmed
    assert board(Kind.OVERRIDDEN).ended
    assert not board(Kind.OVERRIDDEN).confirmed


OWN = replace(OURS, group="", device="b", epoch=9, entries={})  # without an entry for the instance any more
OTHER = Running("m", "2", b"n" * 32, b"", 2, "confirmed")


def withdrawn(said=None, *, report=True, state: str = "idle", running: Running = OTHER, refusals=(), **changes) -> Device:
    """A board that runs what its own document had, and says which documents it has."""
    made = device(state, running=running, refusals=refusals, **changes)
    return replace(made, report=replace(made.report, documents=said) if report else None)


@pytest.mark.parametrize(
    ("board", "group", "kind", "state"),
    [
        (withdrawn({"device": 9, "group": 3}), None, Kind.CONFIRMED, "withdrawn"),
        (withdrawn({"device": 10}), None, Kind.CONFIRMED, "withdrawn"),  # another change came since
        (withdrawn({"device": 8}, online=True), None, Kind.PENDING, "pending"),
        (withdrawn({"group": 9}, online=True), None, Kind.PENDING, "pending"),  # of another document
        (withdrawn({}, online=True), None, Kind.PENDING, "pending"),
        (withdrawn({"device": 8}), None, Kind.OFFLINE, "offline"),
        (withdrawn(report=False), None, Kind.SILENT, "never-reported"),
        (replace(withdrawn(report=False), unknown="no answer"), None, Kind.UNKNOWN, "unknown"),
        (withdrawn(None), None, Kind.UNKNOWN, "untold"),  # an older agent
        (withdrawn({"device": 8}, refusals=[refused("device", 9, "deployment-replayed")]), None, Kind.FAILED, "rejected"),
        (withdrawn({"device": 9}, online=True), OURS, Kind.PENDING, "pending"),  # it is to follow its group, and runs its own yet
        (withdrawn({"device": 8}, online=True, running=RUNS), OURS, Kind.PENDING, "pending"),
        (withdrawn({"device": 9}, running=RUNS), OURS, Kind.CONFIRMED, "confirmed"),
        (withdrawn({"device": 9}, state="confirmed"), OURS, Kind.CONFIRMED, "confirmed"),
        (withdrawn({"device": 9}, state="rejected", reason="sequence-too-old"), OURS, Kind.FAILED, "rejected"),
        (withdrawn(None, state="fetching"), OURS, Kind.PENDING, "fetching"),
        (withdrawn({"device": 9}), changed(paused=True), Kind.CONFIRMED, "withdrawn"),  # nobody begins that
        (withdrawn({"device": 9}), changed(fraction_ppm=0, boards=("c",)), Kind.CONFIRMED, "withdrawn"),  # it is for others
    ],
)
def test_how_a_board_stands_to_what_is_withdrawn(board, group, kind, state):
    found = judge_withdrawn(board, "m", OWN, group, since_s=50)
    assert (found.kind, found.state) == (kind, state)


def test_a_groups_board_has_a_withdrawal_once_it_has_the_groups_document():
    group = replace(OURS, epoch=4, entries={})
    for epoch, kind in ((3, Kind.PENDING), (4, Kind.CONFIRMED)):
        assert judge_withdrawn(withdrawn({"group": epoch}, online=True), "m", group, None, since_s=50).kind is kind


def test_nothing_more_is_waited_for_where_agents_do_not_say_it():
    outcome = Outcome({"b": {"m": judge_withdrawn(withdrawn(None), "m", OWN, None, since_s=50)}})
    assert outcome.ended
    assert not outcome.confirmed
