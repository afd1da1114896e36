"""When staged updates are let begin: windows that open while they wait, entries that change, clocks that are set, sets."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from device_agent.instance import conductor, states
from device_agent.instance.conductor import Conductor
from device_agent.instance.consent import Consent
from device_agent.instance.gate import Now, Waits
from device_agent.instance.owner import NO_RULES, Owner, Rule
from device_agent.instance.states import Phase
from device_agent.instance.updates import Update, step
from ota.formats.deployment import Entry
from ota.formats.provenance import Kind
from ota.formats.reasons import Reason, Refused
from ota.formats.window import Window
from tests.agent.test_states import VERIFIED

ID = b"d" * 16
NIGHT = Window(frozenset(range(7)), 120, 60)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
IN_WINDOW = NOON.replace(hour=2, minute=30)


class Runner:
    """What the conductor sees of a runner; its update moves as the states say."""

    def __init__(self, phase: Phase, name: str = "lamp", **changes) -> None:
        self.name = name
        self.update = replace(Update(phase, ID, b"m" * 32, number=1, verified=VERIFIED), **changes)
        self.target = SimpleNamespace(why_wait=lambda: None)
        self.waits_for, self.posted, self.moved, self.kind = None, [], lambda: None, Kind.UNSPECIFIED

    def post(self, event) -> None:
        self.posted.append(event)
        self.update = step(self.update, event)[0]
        self.moved()

    def wait_for(self, what) -> None:
        if self.waits_for != what:
            self.waits_for = what
            self.moved()


class Wishes:
    """What the operator wants of every instance."""

    def __init__(self, entry: Entry) -> None:
        self.wanted: Entry | None = entry
        self.held: Refused | None = None

    def entry(self, name: str) -> Entry | None:
        return self.wanted

    def why_not(self, name: str) -> Refused | None:
        return self.held


class Board:
    """A conductor whose clock the test sets."""

    def __init__(self, runners: dict[str, Runner], window: Window | None = NIGHT, owner: Owner = NO_RULES) -> None:
        self.runners, self.now, self.takes, self.ready = runners, Now(NOON, NOON, True), {}, {}
        together = tuple(sorted(runners)) if len(runners) > 1 else ()
        self.wishes = Wishes(Entry(b"m" * 32, ID, 0, window=window, together=together))
        self.consent = Consent(owner, self.ready_since, asyncio.ensure_future, lambda: self.conductor.poke())
        self.conductor = Conductor(
            lambda: self.runners, lambda names: self.takes, self.wishes, lambda: self.now, self.consent, asyncio.ensure_future
        )
        for each in runners.values():
            each.update = replace(each.update, together=together)
            each.moved = self.conductor.poke

    async def ready_since(self, instance: str, what: bytes, now_s: int) -> int:
        return self.ready.setdefault((instance, what), now_s)

    def phases(self) -> list[Phase]:
        return [each.update.phase for each in self.runners.values()]

    async def looks(self) -> None:
        self.conductor.poke()
        for _ in range(5):
            await asyncio.sleep(0)

    def goes_to(self, time: datetime, *, trusted: bool = True) -> None:
        self.now = Now(time, time, trusted)


async def waits_until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def with_one() -> Board:
    """A board of one instance, whose update is staged by day."""
    board = Board({"lamp": Runner(Phase.STAGED)})
    await board.looks()
    assert board.phases() == [Phase.STAGED]
    assert "02:00" in board.runners["lamp"].waits_for.detail
    return board


def test_a_staged_update_begins_when_its_window_opens_with_nobody_to_say_so(monkeypatch):
    async def main():
        monkeypatch.setattr(conductor, "MINUTE_S", 0.01)
        board = await with_one()
        board.goes_to(IN_WINDOW)
        await waits_until(lambda: board.phases() == [Phase.STARTING])

    asyncio.run(main())


def test_nothing_is_looked_at_while_no_update_waits(monkeypatch):
    async def main():
        monkeypatch.setattr(conductor, "MINUTE_S", 0.0)
        board = Board({"lamp": Runner(Phase.CONFIRMED)})
        looks = []
        board.conductor = Conductor(
            lambda: looks.append(1) or board.runners, lambda _: {}, board.wishes, lambda: board.now, board.consent, None
        )
        board.conductor.poke()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(looks) == 1

    asyncio.run(main())


def test_a_window_that_closed_before_the_change_began_is_waited_for_again():
    async def main():
        board = await with_one()
        board.goes_to(IN_WINDOW.replace(hour=3, minute=0))
        await board.looks()
        assert board.phases() == [Phase.STAGED]
        board.goes_to(IN_WINDOW + timedelta(days=1))
        await board.looks()
        assert board.phases() == [Phase.STARTING]

    asyncio.run(main())


def test_an_entry_that_loses_its_window_lets_its_update_begin_at_once():
    async def main():
        board = await with_one()
        board.wishes.wanted = replace(board.wishes.wanted, window=None)
        await board.looks()
        assert board.phases() == [Phase.STARTING]

    asyncio.run(main())


def test_a_clock_that_is_set_is_looked_at_anew():
    async def main():
        board = await with_one()
        board.goes_to(IN_WINDOW, trusted=False)
        await board.looks()
        assert "time to be known" in board.runners["lamp"].waits_for.detail
        board.goes_to(IN_WINDOW)
        await board.looks()
        assert board.phases() == [Phase.STARTING]

    asyncio.run(main())


@pytest.mark.parametrize("reason", [Reason.DEPLOYMENT_STOPPED, Reason.DEPLOYMENT_EXPIRED])
def test_what_expires_or_is_paused_while_it_waits_does_not_begin(reason):
    async def main():
        board = await with_one()
        board.wishes.held = Refused(reason, "x")
        board.goes_to(IN_WINDOW)
        await board.looks()
        assert (board.phases(), board.runners["lamp"].update.reason) == ([Phase.FAILED], reason)

    asyncio.run(main())


def test_what_the_target_waits_for_is_told_and_waited_for():
    async def main():
        board = Board({"agent": Runner(Phase.STAGED, "agent")}, window=None)
        agent = board.runners["agent"]
        agent.target.why_wait = lambda: Waits(Reason.LINK_AWAITED, "x")
        await board.looks()
        assert (board.phases(), agent.waits_for.reason) == ([Phase.STAGED], Reason.LINK_AWAITED)
        agent.target.why_wait = lambda: None
        await board.looks()
        assert board.phases() == [Phase.STARTING]

    asyncio.run(main())


def test_an_update_that_the_journal_had_is_not_let_begin_before_it_is_resumed():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED, number=0)}, window=None)
        await board.looks()
        assert board.phases() == [Phase.STAGED]

    asyncio.run(main())


def test_a_set_waits_for_its_window_once_and_goes_on_when_that_closes():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED), "meter": Runner(Phase.STAGED, "meter")})
        await board.looks()
        assert [each.waits_for.detail for each in board.runners.values()] == ["waits for its window, " + str(NIGHT)] * 2
        board.goes_to(IN_WINDOW)
        await board.looks()
        assert board.phases() == [Phase.STARTING, Phase.STAGED]
        assert "lamp" in board.runners["meter"].waits_for.detail
        board.goes_to(NOON)
        for event in (states.Started, states.TrialPassed):
            board.runners["lamp"].post(event(board.runners["lamp"].update.id))
            await board.looks()
        assert board.phases() == [Phase.PASSED, Phase.STARTING]

    asyncio.run(main())


def test_a_member_that_another_deployment_has_taken_is_told_what_that_waits_for_and_all_comes_to_rest():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED), "meter": Runner(Phase.STAGED, "meter")})
        lamp, meter = board.runners.values()
        meter.update = replace(meter.update, deployment=b"another", together=())
        looks = []
        board.conductor = Conductor(
            lambda: looks.append(1) or board.runners, lambda _: {}, board.wishes, lambda: board.now, board.consent, None
        )
        lamp.moved = meter.moved = board.conductor.poke
        board.conductor.poke()
        for _ in range(100):
            await asyncio.sleep(0)
        assert "meter" in lamp.waits_for.detail
        assert meter.waits_for.detail == "waits for the document of its deployment"
        assert len(looks) < 20

    asyncio.run(main())


def test_a_set_that_expires_while_it_waits_ends_as_a_whole():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED), "meter": Runner(Phase.STAGED, "meter")})
        board.wishes.held = Refused(Reason.DEPLOYMENT_EXPIRED, "x")
        await board.looks()
        assert [each.update.reason for each in board.runners.values()] == [Reason.DEPLOYMENT_EXPIRED] * 2

    asyncio.run(main())


def test_a_member_that_fails_takes_the_others_back():
    async def main():
        board = Board({"lamp": Runner(Phase.PASSED), "meter": Runner(Phase.TRIAL, "meter")})
        meter = board.runners["meter"]
        meter.post(states.TrialFailed(meter.update.id, Reason.TRAPPED, "unreachable"))
        await board.looks()
        lamp = board.runners["lamp"].update
        assert (lamp.phase, lamp.reason) == (Phase.ROLLED_BACK, Reason.SET_FAILED)
        assert "meter" in lamp.detail
        assert "trapped" in lamp.detail

    asyncio.run(main())


def test_a_set_with_a_member_that_no_instance_has_waits_and_says_so():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED), "meter": Runner(Phase.STAGED, "meter")}, window=None)
        del board.runners["meter"]
        await board.looks()
        assert board.phases() == [Phase.STAGED]
        assert "meter" in board.runners["lamp"].waits_for.detail

    asyncio.run(main())


def test_nothing_else_changes_while_the_agent_is_on_trial():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED)}, window=None)
        agent = board.runners["agent"] = Runner(Phase.TRIAL, "agent")
        agent.moved = board.conductor.poke
        await board.looks()
        assert board.phases() == [Phase.STAGED, Phase.TRIAL]
        assert "agent" in board.runners["lamp"].waits_for.detail
        agent.post(states.TrialPassed(agent.update.id))
        await board.looks()
        assert board.phases() == [Phase.STARTING, Phase.CONFIRMED]

    asyncio.run(main())


def test_the_agent_itself_begins_whatever_modules_do():
    async def main():
        board = Board({"agent": Runner(Phase.STAGED, "agent")}, window=None)
        board.runners["lamp"] = Runner(Phase.TRIAL)
        await board.looks()
        assert board.runners["agent"].update.phase is Phase.STARTING

    asyncio.run(main())


WEEK = Owner(functional=Rule.parse("postpone 7d"))


def postponed(board: Board) -> list[bool]:
    return [each.waits_for is not None and each.waits_for.reason is Reason.UPDATE_POSTPONED for each in board.runners.values()]


def test_an_update_that_its_owner_postpones_waits_from_when_it_is_ready_although_no_window_is_set():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED)}, None, WEEK)
        await board.looks()
        assert (board.phases(), postponed(board)) == ([Phase.STAGED], [True])
        assert "2026-06-08 12:00" in board.runners["lamp"].waits_for.detail
        board.goes_to(NOON + timedelta(days=7, seconds=-1))
        await board.looks()
        assert board.phases() == [Phase.STAGED]
        board.goes_to(NOON + timedelta(days=7))
        await board.looks()
        assert board.phases() == [Phase.STARTING]

    asyncio.run(main())


def test_a_window_holds_after_a_postponement():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED)}, NIGHT, WEEK)
        await board.looks()
        board.goes_to(NOON + timedelta(days=7))
        await board.looks()
        assert board.runners["lamp"].waits_for.reason is Reason.WINDOW_CLOSED
        board.goes_to(IN_WINDOW + timedelta(days=8))
        await board.looks()
        assert board.phases() == [Phase.STARTING]

    asyncio.run(main())


def test_a_restart_does_not_begin_a_postponement_anew():
    async def main():
        first = Board({"lamp": Runner(Phase.STAGED)}, None, WEEK)
        await first.looks()
        second = Board({"lamp": Runner(Phase.STAGED)}, None, WEEK)
        second.ready = first.ready
        second.goes_to(NOON + timedelta(days=7))
        await second.looks()
        assert second.phases() == [Phase.STARTING]

    asyncio.run(main())


def test_another_configuration_of_what_was_postponed_and_runs_is_postponed_as_long():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED)}, None, WEEK)
        await board.looks()
        board.goes_to(NOON + timedelta(days=7))
        await board.looks()
        assert board.phases() == [Phase.STARTING]
        changed = board.runners["lamp"]
        changed.update = replace(changed.update, phase=Phase.STAGED, config={"site": "roof"})
        board.goes_to(NOON + timedelta(days=30))
        await board.looks()
        assert (board.phases(), postponed(board)) == ([Phase.STAGED], [True])
        board.goes_to(NOON + timedelta(days=37))
        await board.looks()
        assert board.phases() == [Phase.STARTING]

    asyncio.run(main())


def test_a_clock_that_nobody_set_ends_no_postponement():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED)}, None, WEEK)
        board.goes_to(NOON - timedelta(days=9000), trusted=False)
        await board.looks()
        assert (postponed(board), board.ready) == ([True], {})
        board.goes_to(NOON)
        await board.looks()
        assert (postponed(board), board.phases()) == ([True], [Phase.STAGED])
        board.goes_to(NOON + timedelta(days=8), trusted=False)
        await board.looks()
        assert board.phases() == [Phase.STAGED]

    asyncio.run(main())


def test_a_security_update_is_not_held_by_the_rule_for_functional_ones_and_its_label_is_no_way_past_its_own():
    async def main():
        for owner, kind, begins in (
            (WEEK, Kind.SECURITY, True),
            (WEEK, Kind.UNSPECIFIED, False),
            (WEEK, Kind.UNKNOWN, False),
            (Owner(security=Rule.parse("postpone 1m")), Kind.SECURITY, False),
            (Owner(security=Rule.parse("refuse")), Kind.SECURITY, False),
            (Owner(security=Rule.parse("refuse")), Kind.UNKNOWN, False),
            (Owner(security=Rule.parse("refuse")), Kind.FUNCTIONAL, True),
        ):
            board = Board({"lamp": Runner(Phase.STAGED)}, None, owner)
            board.runners["lamp"].kind = kind
            await board.looks()
            assert board.phases() == [Phase.STARTING if begins else Phase.STAGED], (owner, kind)

    asyncio.run(main())


def test_a_set_waits_for_the_member_whose_owner_postpones_it():
    async def main():
        board = Board({"lamp": Runner(Phase.STAGED), "meter": Runner(Phase.STAGED, "meter")}, None, WEEK)
        board.runners["lamp"].kind = Kind.SECURITY
        await board.looks()
        assert (board.phases(), postponed(board)) == ([Phase.STAGED] * 2, [True] * 2)

    asyncio.run(main())
