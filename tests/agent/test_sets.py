"""Sets: what is done next, and that a power cut between any two effects leaves all new or all old."""

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from device_agent.instance import sets, states
from device_agent.instance.sets import Begin, Confirm, Fail, Step, Wait
from device_agent.instance.states import ENDED, LOADED, ON_TRIAL, Phase
from device_agent.instance.updates import Commit, Leave, Update, WriteJournal, step
from ota.formats.reasons import Reason
from tests.agent.test_states import VERIFIED

ID = b"d" * 16
NAMES = ("lamp", "meter", "pump")


def member(phase: Phase, reason: Reason | None = None, **changes) -> Update:
    return replace(Update(phase, ID, b"m" * 32, reason=reason, detail="x" if reason else "", together=NAMES, number=1), **changes)


def of(*phases: Phase | Update | None) -> dict[str, Update | None]:
    found = [member(each) if isinstance(each, Phase) else each for each in phases]
    return dict(zip(NAMES, found, strict=True))


def next_step(members: dict[str, Update | None], takes: dict[str, frozenset[str]] | None = None) -> Step:
    return sets.next_step(ID, members, takes or {})


TRAPPED = member(Phase.ROLLED_BACK, Reason.TRAPPED)
NO_CHUNK = member(Phase.FAILED, Reason.CHUNK_MISSING)


@pytest.mark.parametrize("other", [None, Phase.OFFERED, Phase.FETCHING, NO_CHUNK, member(Phase.STAGED, deployment=b"another")])
def test_nothing_begins_until_all_are_staged(other):
    waits = next_step(of(Phase.STAGED, other, Phase.STAGED))
    assert isinstance(waits, Wait)
    assert "meter" in waits.why


def test_members_begin_one_after_the_other_and_are_confirmed_at_once():
    assert next_step(of(Phase.STAGED, Phase.STAGED, Phase.STAGED)) == Begin("lamp", first=True)
    for busy in (Phase.STARTING, Phase.TRIAL):
        assert isinstance(next_step(of(busy, Phase.STAGED, Phase.STAGED)), Wait)
    assert next_step(of(Phase.PASSED, Phase.STAGED, Phase.STAGED)) == Begin("meter", first=False)
    assert next_step(of(Phase.PASSED, Phase.PASSED, Phase.STAGED)) == Begin("pump", first=False)
    assert next_step(of(Phase.PASSED, Phase.PASSED, Phase.PASSED)) == Confirm(NAMES)


def test_a_member_that_gives_up_a_device_begins_before_the_one_that_takes_it():
    takes = {"lamp": frozenset({"pump"})}
    assert next_step(of(Phase.STAGED, Phase.STAGED, Phase.STAGED), takes) == Begin("meter", first=True)
    assert next_step(of(Phase.STAGED, Phase.PASSED, Phase.STAGED), takes) == Begin("pump", first=False)
    assert next_step(of(Phase.STAGED, Phase.PASSED, Phase.PASSED), takes) == Begin("lamp", first=False)


def test_members_that_take_devices_from_each_other_end_the_set_with_a_reason():
    takes = {"lamp": frozenset({"pump"}), "pump": frozenset({"lamp"})}
    failed = next_step(of(Phase.STAGED, Phase.CONFIRMED, Phase.STAGED), takes)
    assert failed == Fail(("lamp", "pump"), Reason.DEVICE_CLAIMED, failed.detail)
    assert "lamp and pump" in failed.detail


@pytest.mark.parametrize("reason", [Reason.MEMORY_EXCEEDED, Reason.DISK_FULL])
def test_a_set_that_went_back_for_lack_of_room_is_tried_again(reason):
    phase = Phase.REJECTED if reason is Reason.MEMORY_EXCEEDED else Phase.FAILED
    failed = next_step(of(Phase.PASSED, member(phase, reason), Phase.STAGED))
    assert failed == Fail(("lamp",), reason, failed.detail)
    back, _ = step(member(Phase.PASSED), states.SetFailed(member(Phase.PASSED).id, reason, failed.detail))
    assert (back.phase, back.retryable) == (Phase.ROLLED_BACK, True)


def test_a_member_that_is_removed_leaves_its_devices_before_the_set_is_confirmed():
    removal = member(Phase.STAGED, manifest=b"")
    passed, effects = step(removal, states.Cleared(removal.id))
    assert (passed.phase, passed.events, Leave() in effects) == (Phase.PASSED, 0, True)


def test_a_member_that_runs_the_wanted_release_counts_as_passed():
    assert next_step(of(Phase.CONFIRMED, Phase.STAGED, Phase.STAGED)) == Begin("meter", first=True)
    assert next_step(of(Phase.CONFIRMED, Phase.PASSED, Phase.PASSED)) == Confirm(("meter", "pump"))


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in ENDED])
@pytest.mark.parametrize(
    "broken", [TRAPPED, member(Phase.REJECTED, Reason.CLASS_MISMATCH), member(Phase.FAILED, Reason.MODULE_INVALID)]
)
def test_one_that_failed_ends_all_others_and_is_named(phase, broken):
    failed = next_step(of(phase, broken, phase))
    assert failed == Fail(("lamp", "pump"), Reason.SET_FAILED, failed.detail)
    assert "meter" in failed.detail
    assert broken.reason.value in failed.detail


@pytest.mark.parametrize("phase", [*ON_TRIAL, Phase.STARTING])
@pytest.mark.parametrize("lost", [NO_CHUNK, member(Phase.OFFERED), None])
def test_one_that_is_tried_again_later_takes_what_has_begun_back_to_be_tried_again_with_it(phase, lost):
    failed = next_step(of(phase, lost, Phase.STAGED))
    assert isinstance(failed, Fail)
    assert failed.members == ("lamp",)
    assert failed.reason is (Reason.CHUNK_MISSING if lost is NO_CHUNK else Reason.DEPLOYMENT_STOPPED)
    after, _ = step(member(phase, verified=VERIFIED), states.SetFailed(member(phase).id, failed.reason, failed.detail))
    assert after.retryable


def test_what_the_journal_had_counts_once_it_was_resumed():
    found = {name: member(Phase.PASSED, number=0) for name in NAMES}
    assert isinstance(next_step(found), Wait)


@pytest.mark.parametrize("reason", [Reason.CAPABILITY_DENIED, Reason.SET_FAILED])
def test_what_the_board_did_not_take_before_it_started_counts_once_it_was_judged_again(reason):
    phase = Phase.FAILED if reason is Reason.SET_FAILED else Phase.REJECTED
    found = of(Phase.STAGED, member(phase, reason, number=0), Phase.STAGED)
    assert isinstance(next_step(found), Wait)
    assert isinstance(next_step(of(Phase.STAGED, member(phase, reason, number=1), Phase.STAGED)), Fail)


def test_sets_are_told_apart_by_deployment_and_members():
    updates = [member(Phase.STAGED), member(Phase.TRIAL), member(Phase.STAGED, deployment=b"e"), TRAPPED, Update(Phase.STAGED)]
    assert sets.sets_of(updates) == {(ID, NAMES), (b"e", NAMES)}


class Boards(RuleBasedStateMachine):
    """Three instances, of which one may be removed and one may run the wanted release. Power goes between any two effects."""

    def __init__(self):
        super().__init__()
        self.journal, self.update, self.offers = {}, {}, 0

    @initialize(removed=st.sampled_from([None, *NAMES]), matched=st.sampled_from([None, *NAMES]))
    def begin(self, removed, matched):
        self.wanted = {name: b"" if name == removed else name.encode() * 4 for name in NAMES}
        self.old = {name: self.wanted[name] if name == matched else b"old" for name in NAMES}
        self.confirmed = dict(self.old)
        for name in NAMES:
            self.update[name] = self.journal[name] = Update(confirmed=self.old[name])

    def feed(self, name, event, crash_after=None):
        moved, effects = step(self.update[name], event)
        for number, effect in enumerate(effects):
            if number == crash_after:
                self.power_cut()
                return
            assert not isinstance(effect, Commit), "only the set is confirmed"
            if isinstance(effect, WriteJournal):
                self.journal[name] = effect.update
        self.update[name] = moved

    @rule()
    def power_cut(self):
        for name, update in self.journal.items():
            self.update[name] = replace(update, number=0, verified=None, confirmed=self.confirmed[name])

    @rule(name=st.sampled_from(NAMES))
    def the_agent_starts_or_the_operator_offers(self, name):
        update = self.update[name]
        if not update.ended and not update.number:
            self.feed(name, states.Resumed(update.id))
        elif update.ended:
            self.feed(name, states.Offered(ID, self.wanted[name], together=NAMES))

    @rule(name=st.sampled_from(NAMES), bad=st.integers(0, 20).map(lambda each: each == 0), crash=st.none() | st.integers(0, 3))
    def it_goes_on(self, name, bad, crash):
        update = self.update[name]
        good = {
            Phase.OFFERED: states.Verified(update.id, VERIFIED),
            Phase.FETCHING: states.Fetched(update.id),
            Phase.STARTING: states.Started(update.id),
            Phase.TRIAL: states.TrialPassed(update.id),
        }
        wrong = {
            Phase.OFFERED: states.Refused(update.id, Reason.CLASS_MISMATCH, ""),
            Phase.FETCHING: states.FetchFailed(update.id, Reason.CHUNK_MISSING, ""),
            Phase.STARTING: states.StartFailed(update.id, Reason.MODULE_INVALID, ""),
            **{phase: states.TrialFailed(update.id, Reason.TRAPPED, "") for phase in ON_TRIAL},
        }
        event = (wrong if bad else good).get(update.phase)
        if event is not None and (update.number or update.ended):
            self.feed(name, event, crash)

    @rule(name=st.sampled_from(NAMES))
    def the_operator_stops_a_member(self, name):
        if self.update[name].number:
            self.feed(name, states.Stopped(self.update[name].id, Reason.DEPLOYMENT_STOPPED, ""))

    @precondition(lambda self: sets.sets_of(self.update.values()))
    @rule(crash=st.none() | st.integers(0, 8))
    def the_set_goes_on(self, crash):
        match next_step(self.update):
            case Begin(name):
                self.feed(name, states.Cleared(self.update[name].id), crash)
            case Fail(names, reason, detail):
                for number, name in enumerate(names):
                    if number == crash:
                        self.power_cut()
                        return
                    self.feed(name, states.SetFailed(self.update[name].id, reason, detail))
            case Confirm(names):
                self.confirm(names, crash)

    def confirm(self, names, crash):
        """One transaction: all of it or nothing."""
        moves = [(name, step(self.update[name], states.SetConfirmed(self.update[name].id))[0]) for name in names]
        if crash == 0:
            self.power_cut()
            return
        for name, moved in moves:
            self.journal[name], self.confirmed[name] = moved, moved.release
        if crash is not None:
            self.power_cut()
            return
        self.update.update(moves)

    @invariant()
    def the_board_would_start_with_all_new_or_all_old(self):
        assert self.confirmed in (self.old, self.wanted)

    @invariant()
    def what_is_told_is_what_is_there(self):
        if any(each.phase is Phase.CONFIRMED and self.old[name] != self.wanted[name] for name, each in self.update.items()):
            assert self.confirmed == self.wanted

    @invariant()
    def not_two_members_change_at_once(self):
        assert sum(each.phase in LOADED and each.phase is not Phase.PASSED for each in self.update.values() if each.number) <= 1


TestBoards = Boards.TestCase


@pytest.mark.parametrize("cut", range(40))
def test_a_set_that_loses_power_once_at_any_step_ends_all_new(cut):
    board = Boards()
    board.begin(removed="pump", matched=None)
    steps = 0

    def did():
        nonlocal steps
        if steps == cut:
            board.power_cut()
        steps += 1

    for _ in range(40):
        for name in NAMES:
            if board.update[name].number == 0:
                board.the_agent_starts_or_the_operator_offers(name)
                did()
            board.it_goes_on(name, bad=False, crash=None)
            did()
        if sets.sets_of(board.update.values()):
            board.the_set_goes_on(crash=None)
            did()
        board.the_board_would_start_with_all_new_or_all_old()
    assert board.confirmed == board.wanted != board.old
