"""A rollout in steps: it widens while boards confirm the update, and is paused when they fail."""

import json

import pytest

from ota.formats.deployment import FRACTION_ALL
from ota.operator.steps import Limit, Verdict, verdict
from ota.operator.waiting import Kind, Outcome, Standing
from tests.support.answering import AnsweringFleet
from tests.support.fleet import names
from tests.support.operator import ota
from tests.support.publishing import GROUP

BOARDS = names(12)


def included(site) -> list[str]:
    entry = site.entry()
    return [each for each in BOARDS if entry.includes(each)]


def rolled(site, capsys, *words: str) -> tuple[int, list[dict]]:
    """Exit code, and what it says of each step."""
    capsys.readouterr()
    code = ota(site.folder, "rollout", GROUP, "--wait", "30", "--json", *words)
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_it_widens_step_by_step_until_the_last_and_says_what_was_confirmed(site, capsys):
    assert ota(site.folder, "publish", site.module(1), "--boards", "board-0", "--fraction", "1") == 0
    first = site.entry().deployment_id
    with AnsweringFleet(site, BOARDS, lambda _: "confirmed"):
        code, steps = rolled(site, capsys, "--steps", "25,60,100")
    assert code == 0
    assert [each["fraction"] for each in steps] == [0.01, 0.25, 0.6, 1.0]
    assert {each["verdict"] for each in steps} == {"passed"}
    sizes = [each["counts"]["confirmed"] for each in steps]
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(BOARDS)
    entry = site.entry()
    assert (entry.deployment_id, entry.fraction_ppm, entry.paused) == (first, FRACTION_ALL, False)


def test_boards_that_fail_pause_it_and_no_further_board_begins(site, capsys):
    assert ota(site.folder, "publish", site.module(1), "--boards", "board-0,board-1", "--fraction", "1") == 0
    with AnsweringFleet(site, BOARDS, lambda name: "rolled-back" if name == "board-1" else "confirmed"):
        code, steps = rolled(site, capsys, "--steps", "100")
    assert code == 1
    assert [(each["verdict"], each["paused"]) for each in steps] == [("failed", True)]
    entry = site.entry()
    assert entry.paused
    assert entry.fraction_ppm == FRACTION_ALL // 100
    assert len(included(site)) < len(BOARDS)
    assert ota(site.folder, "rollout", GROUP, "--steps", "100") == 1
    assert "is paused: `ota resume` goes on with it" in capsys.readouterr().err


@pytest.mark.full
def test_so_many_boards_may_fail_and_the_same_command_goes_on_after_it_was_resumed(site, capsys):
    assert ota(site.folder, "publish", site.module(1), "--boards", "board-0,board-1", "--fraction", "1") == 0
    with AnsweringFleet(site, BOARDS, lambda name: "failed" if name == "board-1" else "confirmed"):
        assert rolled(site, capsys, "--steps", "100")[0] == 1
        assert ota(site.folder, "resume", GROUP) == 0
        code, steps = rolled(site, capsys, "--steps", "50,100", "--max-failed", "1")
    assert code == 0
    assert [each["fraction"] for each in steps] == [0.01, 0.5, 1.0]
    assert steps[-1]["counts"]["failed"] == 1


def test_a_step_that_does_not_end_is_not_passed(site, capsys):
    assert ota(site.folder, "publish", site.module(1), "--boards", "board-0,board-1", "--fraction", "1") == 0
    with AnsweringFleet(site, BOARDS, lambda name: "confirmed" if name == "board-0" else ""):
        code, steps = rolled(site, capsys, "--steps", "100", "--wait", "1.5")
    assert code == 1
    assert [each["verdict"] for each in steps] == ["open"]
    entry = site.entry()
    assert not entry.paused
    assert entry.fraction_ppm < FRACTION_ALL


@pytest.mark.full
def test_boards_that_are_offline_count_unless_they_need_not(site, capsys):
    assert ota(site.folder, "publish", site.module(1), "--boards", "board-0,gone", "--fraction", "1") == 0
    with AnsweringFleet(site, ["board-0"], lambda _: "confirmed"):
        site.board("gone", online=False)
        code, steps = rolled(site, capsys, "--steps", "100")
        assert (code, steps[0]["verdict"]) == (1, "open")
        code, steps = rolled(site, capsys, "--steps", "100", "--wait-for", "online")
    assert (code, [each["verdict"] for each in steps]) == (0, ["passed", "passed"])


def test_a_board_that_steps_down_from_what_it_confirmed_stops_it_before_the_next_step(site, capsys, monkeypatch):
    assert ota(site.folder, "publish", site.module(1), "--boards", "board-0,board-1", "--fraction", "1") == 0
    with AnsweringFleet(site, BOARDS, lambda _: "confirmed") as boards:
        monkeypatch.setattr("ota.cli.steps.time.sleep", lambda s: boards.say("board-1", "confirmed", "previous", b"o" * 32))
        code, steps = rolled(site, capsys, "--steps", "100", "--soak", "3600")
    assert code == 1
    assert [each["verdict"] for each in steps] == ["passed", "failed"]
    told = steps[-1]["boards"]["board-1"]["instances"]["echo"]
    assert (told["standing"], told["state"]) == ("failed", "stepped-down")
    assert site.entry().paused


@pytest.mark.full
def test_another_deployment_meanwhile_ends_it(site, capsys, monkeypatch):
    assert ota(site.folder, "publish", site.module(1), "--boards", "board-0", "--fraction", "1") == 0
    other = site.module(2)

    def publish_another(_: float) -> None:
        assert ota(site.folder, "publish", other) == 0

    monkeypatch.setattr("ota.cli.steps.time.sleep", publish_another)
    with AnsweringFleet(site, BOARDS, lambda _: "confirmed"):
        code, steps = rolled(site, capsys, "--steps", "100", "--soak", "1")
    assert code == 1
    assert [each["verdict"] for each in steps] == ["passed", "superseded"]
    assert not site.entry().paused


def test_a_rehearsal_names_the_boards_of_each_step_and_sends_nothing(site, capsys):
    assert ota(site.folder, "publish", site.module(1), "--fraction", "20") == 0
    for name in BOARDS[:4]:
        site.board(name)
    assert ota(site.folder, "status") == 0
    before = site.deployment()
    code, steps = rolled(site, capsys, "--steps", "50,100", "--dry-run")
    assert code == 0
    assert [each["fraction"] for each in steps] == [0.2, 0.5, 1.0]
    assert steps[-1]["boards"] == sorted(BOARDS[:4])
    assert set(steps[0]["boards"]) <= set(steps[1]["boards"])
    assert site.deployment() == before


@pytest.mark.parametrize(
    "words",
    [("--steps", "50,10"), ("--steps", "0"), ("--steps", "101"), ("--steps", ""), ("--steps", "5", "--max-failed", "few"), ()],
)
def test_meaningless_steps_and_limits_are_wrong_usage(tmp_path, words):
    with pytest.raises(SystemExit) as caught:
        ota(tmp_path, "rollout", GROUP, *words)
    assert caught.value.code == 2


def outcome(*kinds: Kind, **changes) -> Outcome:
    return Outcome({f"board-{number}": {"m": Standing(kind, "")} for number, kind in enumerate(kinds)}, **changes)


C, F, P, W = Kind.CONFIRMED, Kind.FAILED, Kind.PENDING, Kind.WAITING
AWAY, U, S = Kind.OFFLINE, Kind.UNKNOWN, Kind.SILENT


@pytest.mark.parametrize(
    ("found", "limit", "expected"),
    [
        (outcome(C, C), Limit(), Verdict.PASSED),
        (outcome(C, F), Limit(), Verdict.FAILED),
        (outcome(C, F), Limit(1), Verdict.PASSED),
        (outcome(C, C, C, F), Limit(share_ppm=250_000), Verdict.PASSED),
        (outcome(C, C, F), Limit(share_ppm=250_000), Verdict.FAILED),
        (outcome(C, Kind.OVERRIDDEN), Limit(), Verdict.PASSED),
        (outcome(Kind.OVERRIDDEN), Limit(), Verdict.OPEN),
        (outcome(F), Limit(1), Verdict.OPEN),  # nobody has confirmed it
        (outcome(), Limit(), Verdict.OPEN),
        (outcome(C, P), Limit(), Verdict.OPEN),
        (outcome(C, U, only_online=True), Limit(), Verdict.OPEN),
        (outcome(C, AWAY), Limit(), Verdict.OPEN),
        (outcome(C, AWAY, S, only_online=True), Limit(), Verdict.PASSED),
        (outcome(AWAY, only_online=True), Limit(), Verdict.OPEN),
        (outcome(C, W), Limit(), Verdict.WAITING),
        (outcome(C, W, P), Limit(), Verdict.OPEN),
        (outcome(C, gaps=["cut"]), Limit(), Verdict.OPEN),
        (outcome(C, F, superseded="another"), Limit(), Verdict.SUPERSEDED),
    ],
)
def test_the_verdict_counts_nothing_as_good_that_is_not_known(found, limit, expected):
    assert verdict(found, limit) is expected
