"""The table and the pure logic: every state, every event, every crash point between two effects."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_agent.instance import states, updates
from device_agent.instance.states import ENDED, TRANSITIONS, Phase
from device_agent.instance.updates import (
    CLAIMED,
    HELD_BACK,
    MAX_RESUMPTIONS,
    RETRYABLE,
    Commit,
    FetchManifest,
    Retire,
    RollBack,
    RunConfirmed,
    Update,
    WriteJournal,
    step,
)
from ota.formats.manifest import VerifiedManifest
from ota.formats.reasons import Reason
from ota.formats.report import STATES
from ota.formats.trust import ROOT_REASONS
from tests.conftest import ROOT
from tests.support.signing import Signer

OFFER = states.Offered(b"d" * 16, b"m" * 32)
REMOVAL = states.Offered(b"d" * 16, b"")
SET = ("lamp", "meter")
SIGNED = Signer().update(b"wasm")
VERIFIED = VerifiedManifest(SIGNED.manifest, SIGNED.digest)
MADE = {
    states.Matched: states.Matched,
    states.Withdrawn: states.Withdrawn,
    states.Verified: lambda of: states.Verified(of, VERIFIED),
    states.Refused: lambda of: states.Refused(of, Reason.CLASS_MISMATCH, "x"),
    states.Fetched: states.Fetched,
    states.FetchFailed: lambda of: states.FetchFailed(of, Reason.CHUNK_MISSING, "x"),
    states.Cleared: states.Cleared,
    states.Removed: states.Removed,
    states.Started: states.Started,
    states.StartFailed: lambda of: states.StartFailed(of, Reason.MODULE_INVALID, "x"),
    states.TrialPassed: lambda of: states.TrialPassed(of, 7, "x"),
    states.MemberPassed: lambda of: states.MemberPassed(of, 7, "x"),
    states.SetConfirmed: states.SetConfirmed,
    states.SetFailed: lambda of: states.SetFailed(of, Reason.SET_FAILED, "x"),
    states.TrialFailed: lambda of: states.TrialFailed(of, Reason.TRAPPED, "x", 3),
    states.Endured: states.Endured,
    states.Stopped: lambda of: states.Stopped(of, Reason.DEPLOYMENT_STOPPED, "x"),
    states.Resumed: states.Resumed,
    states.Continued: lambda of: states.Continued(of, VERIFIED),
    states.Lapsed: lambda of: states.Lapsed(of, Reason.DEPLOYMENT_EXPIRED, "x"),
    states.Suspended: states.Suspended,
    states.GaveUp: lambda of: states.GaveUp(of, Reason.TRIAL_INTERRUPTED, "x"),
}
KINDS = tuple(MADE)


def made(kind: type, update: Update) -> states.Event:
    """An event of a kind about an update; an offer of another one."""
    return OFFER if kind is states.Offered else MADE[kind](update.id)


def at(phase: Phase) -> Update:
    return Update(phase, b"old", b"old", number=3, verified=VERIFIED)


def test_the_phases_are_those_of_reports():
    assert {phase.value for phase in Phase} == set(STATES)


def test_every_event_has_a_place():
    assert {kind for _, kind in TRANSITIONS} == {states.Offered, *KINDS} == set(states.Event.__args__)


@pytest.mark.parametrize("phase", list(Phase))
def test_an_event_without_a_place_changes_nothing(phase):
    before = at(phase)
    for kind in (states.Offered, *KINDS):
        after, effects = step(before, made(kind, before))
        if (phase, kind) in TRANSITIONS:
            assert after.phase is TRANSITIONS[phase, kind], kind
        else:
            assert (after, effects) == (before, ()), kind


@pytest.mark.parametrize("phase", list(Phase))
def test_an_event_about_another_update_changes_nothing(phase):
    before = at(phase)
    for kind, other in itertools.product(KINDS, ({"deployment": b"new"}, {"manifest": b"new"}, {"number": 2})):
        assert step(before, made(kind, replace(before, **other))) == (before, ()), (kind, other)


@pytest.mark.parametrize("phase", list(Phase))
def test_the_journal_is_written_before_any_other_effect(phase):
    before = at(phase)
    for kind in (kind for where, kind in TRANSITIONS if where is phase):
        after, effects = step(before, made(kind, before))
        assert isinstance(effects[0], (WriteJournal, Commit)), kind
        assert effects[0].update == after, kind
        assert not any(isinstance(effect, (WriteJournal, Commit)) for effect in effects[1:]), kind


def happen(update: Update, *kinds: type) -> Update:
    for kind in kinds:
        update, _ = step(update, made(kind, update))
    return update


GOOD_WAY = (states.Offered, states.Verified, states.Fetched, states.Cleared, states.Started, states.TrialPassed)
LOADED_WAY, MEMBER_WAY = GOOD_WAY[:5], GOOD_WAY[1:]


def test_the_good_way():
    update, phases = Update(), []
    for kind in GOOD_WAY:
        update = happen(update, kind)
        phases.append(update.phase)
    assert phases == [Phase.OFFERED, Phase.FETCHING, Phase.STAGED, Phase.STARTING, Phase.TRIAL, Phase.CONFIRMED]
    assert (update.deployment, update.manifest, update.confirmed) == (OFFER.deployment, OFFER.manifest, OFFER.manifest)
    assert (update.events, update.detail) == (7, "x")


def test_effects_carry_the_manifest_that_was_verified_for_their_update():
    update = happen(Update(), *LOADED_WAY)
    staged = at(Phase.STAGED)
    for before, kind in ((at(Phase.OFFERED), states.Verified), (staged, states.Cleared), (update, states.TrialPassed)):
        _, effects = step(before, made(kind, before))
        assert [each.verified for each in effects if hasattr(each, "verified")] == [VERIFIED]


def test_an_ended_deployment_is_not_tried_again():
    for phase in (Phase.CONFIRMED, Phase.REJECTED, Phase.ROLLED_BACK):
        before = Update(phase, OFFER.deployment, OFFER.manifest, reason=Reason.TRAPPED)
        assert step(before, OFFER) == (before, ())


def test_only_what_may_go_better_another_time_is_tried_again():
    for reason in Reason:
        before = Update(Phase.FAILED, OFFER.deployment, OFFER.manifest, reason=reason)
        moved, _ = step(before, OFFER)
        assert (moved.phase is Phase.OFFERED) == (reason in RETRYABLE | HELD_BACK | ROOT_REASONS), reason


@pytest.mark.parametrize("phase", ENDED)
def test_what_the_board_did_not_take_or_went_down_with_is_offered_again_and_what_failed_by_itself_is_not(phase):
    for reason in Reason:
        before = Update(phase, OFFER.deployment, OFFER.manifest, reason=reason)
        refused = phase is Phase.REJECTED or (phase is Phase.FAILED and reason in updates.OF_THE_BOARD) or before.interrupted
        moved, _ = step(before, replace(OFFER, again=True))
        assert (moved.phase is Phase.OFFERED) == (refused or reason is Reason.SET_FAILED or before.retryable), reason


@pytest.mark.parametrize("phase", [*ENDED, *states.BEGUN])
def test_an_offer_of_the_confirmed_module_is_confirmed_at_once(phase):
    before = Update(phase, b"another", b"another", number=4, confirmed=OFFER.manifest)
    moved, effects = step(before, OFFER)
    assert (moved.phase, moved.deployment, moved.manifest) == (Phase.CONFIRMED, OFFER.deployment, OFFER.manifest)
    assert moved.number == 5
    assert not any(isinstance(each, (Commit, FetchManifest)) for each in effects)
    assert any(isinstance(each, RunConfirmed) for each in effects)


def test_an_offer_of_the_confirmed_module_waits_for_a_trial():
    before = Update(Phase.TRIAL, b"another", b"another", confirmed=OFFER.manifest)
    assert step(before, OFFER) == (before, ())


def test_a_module_that_takes_the_board_down_with_it_is_given_up():
    update = happen(Update(), *LOADED_WAY)
    for _ in range(3):
        update = happen(update, states.Resumed)
        assert update.phase is Phase.OFFERED
        update = happen(update, *LOADED_WAY[1:])
    update, effects = step(update, states.Resumed(update.id))
    assert update.phase is Phase.ROLLED_BACK
    assert update.reason is Reason.TRIAL_INTERRUPTED
    assert any(isinstance(effect, RollBack) for effect in effects)


def test_what_the_board_went_down_with_too_often_is_tried_again_when_asked_and_given_up_at_the_next_restart():
    update = happen(Update(), *LOADED_WAY)
    for _ in range(3):
        update = happen(update, states.Resumed, *LOADED_WAY[1:])
    update, _ = step(update, states.Resumed(update.id))
    assert update.interrupted
    assert step(update, OFFER) == (update, ())
    update, _ = step(update, replace(OFFER, again=True))
    assert update.phase is Phase.OFFERED
    update = happen(update, *LOADED_WAY[1:])
    assert happen(update, states.Endured).resumptions == 0
    update, _ = step(update, states.Resumed(update.id))
    assert update.interrupted


def test_another_release_after_one_that_the_board_went_down_with_has_all_its_tries():
    update = Update(Phase.ROLLED_BACK, b"d", b"m", 3, Reason.TRIAL_INTERRUPTED)
    assert step(update, OFFER)[0].resumptions == 0


def test_a_stop_in_good_order_in_the_middle_of_a_trial_is_not_counted():
    update = happen(Update(), *LOADED_WAY)
    for _ in range(2 * MAX_RESUMPTIONS):
        update, effects = step(update, states.Suspended(update.id))
        assert not any(isinstance(each, FetchManifest) for each in effects)
        update = happen(update, states.Resumed, *LOADED_WAY[1:])
    assert (update.phase, update.resumptions) == (Phase.TRIAL, 0)


def test_power_cuts_long_after_a_trial_began_are_not_the_modules_fault():
    update = happen(Update(), *LOADED_WAY)
    for _ in range(10):
        update = happen(update, states.Resumed, *LOADED_WAY[1:])
        update, effects = step(update, states.Endured(update.id))
        assert (update.phase, update.resumptions) == (Phase.TRIAL, 0)
        assert effects == (WriteJournal(update),)


def test_an_update_has_another_number_after_each_offer_and_each_restart():
    update, numbers = Update(), [0]
    for offer in range(1, 6):
        update = step(update, states.Offered(b"d" * 16, offer.to_bytes(32)))[0]
        numbers.append(update.number)
        for _ in range(2):
            update = happen(update, *GOOD_WAY[1 : 1 + offer % 5], states.Resumed)
            numbers.append(update.number)
    assert numbers == list(range(16))


@pytest.mark.parametrize("phase", list(Phase))
def test_an_update_has_ended_when_only_an_offer_can_move_it(phase):
    events = {event for (before, event) in TRANSITIONS if before is phase}
    assert Update(phase).ended == (events == {states.Offered, states.Matched, states.Withdrawn})


def test_counters_begin_at_zero():
    update = happen(Update(), states.Offered)
    assert (update.resumptions, update.events, update.number) == (0, 0, 1)
    assert states.TrialPassed(update.id).events == states.TrialFailed(update.id, Reason.TRAPPED, "x").events == 0


def test_a_transfer_is_resumed_as_often_as_it_takes():
    update = Update(Phase.FETCHING, OFFER.deployment, OFFER.manifest)
    for _ in range(50):
        update = happen(update, states.Resumed, states.Verified)
    assert update.phase is Phase.FETCHING


INTERNAL = (states.Matched, states.Withdrawn, states.Removed, states.MemberPassed, states.GaveUp)  # made by `step` itself
OUTSIDE = [kind for kind in KINDS if kind not in INTERNAL]
OFFERS = (OFFER, REMOVAL, replace(OFFER, together=SET), replace(REMOVAL, together=SET), replace(OFFER, config={"a": "b"}))


@given(st.lists(st.sampled_from((*OFFERS, *OUTSIDE)), max_size=40))
def test_no_sequence_of_events_confirms_without_a_passed_trial(events):
    update, passed = Update(), False
    for each in events:
        before = update
        event = each if isinstance(each, states.Offered) else made(each, update)
        update, effects = step(update, event)
        if update.id != before.id:
            passed = False
        passed = passed or (before.phase is Phase.TRIAL and isinstance(event, states.TrialPassed))
        if any(isinstance(effect, Commit) for effect in effects):
            assert passed or before.removal
            assert (before.phase is Phase.PASSED) == bool(before.together)
            assert isinstance(event, states.SetConfirmed) == bool(before.together)


def test_a_removal_fetches_and_starts_nothing_and_happens_when_it_is_cleared():
    update, effects = step(Update(confirmed=b"c" * 32), REMOVAL)
    assert update.phase is Phase.STAGED
    assert not any(isinstance(each, FetchManifest) for each in effects)
    update, effects = step(update, states.Cleared(update.id))
    assert (update.phase, update.confirmed) == (Phase.CONFIRMED, b"")
    assert effects[:2] == (Commit(update, None), Retire())
    assert step(update, REMOVAL) == (update, ())


def test_a_removal_that_a_restart_interrupts_is_staged_again_and_never_given_up():
    update = Update()
    update = step(update, replace(REMOVAL, together=SET))[0]
    for _ in range(2 * MAX_RESUMPTIONS):
        update = happen(update, states.Cleared)
        assert update.phase is Phase.PASSED
        update = happen(update, states.Resumed)
        assert update.phase is Phase.STAGED


def test_a_member_of_a_set_stays_on_trial_until_all_have_passed():
    update = happen(step(Update(confirmed=b"c"), replace(OFFER, together=SET))[0], *MEMBER_WAY)
    assert (update.phase, update.confirmed, update.events) == (Phase.PASSED, b"c", 7)
    confirmed, effects = step(update, states.SetConfirmed(update.id))
    assert (confirmed.phase, confirmed.confirmed) == (Phase.CONFIRMED, OFFER.manifest)
    assert effects[0] == Commit(confirmed, VERIFIED)


@pytest.mark.parametrize("steps", range(len(MEMBER_WAY) + 1))
def test_a_member_of_a_set_that_failed_ends_wherever_it_is_and_goes_back_if_it_was_fed(steps):
    update = happen(step(Update(), replace(OFFER, together=SET))[0], *MEMBER_WAY[:steps])
    fed = update.phase in states.ON_TRIAL
    after, effects = step(update, states.SetFailed(update.id, Reason.SET_FAILED, "meter: trapped"))
    assert after.phase is (Phase.ROLLED_BACK if fed else Phase.FAILED)
    assert (after.reason, after.detail) == (Reason.SET_FAILED, "meter: trapped")
    assert any(isinstance(each, RollBack) for each in effects) == fed
    assert step(after, replace(OFFER, together=SET)) == (after, ())


def test_a_module_that_fails_after_it_has_passed_goes_back():
    update = happen(step(Update(), replace(OFFER, together=SET))[0], *MEMBER_WAY)
    assert happen(update, states.TrialFailed).phase is Phase.ROLLED_BACK


def test_another_set_is_news_for_what_is_under_way_and_for_what_failed_with_its_set():
    alone, of_set = OFFER, replace(OFFER, together=SET)
    update = happen(step(Update(), of_set)[0], *MEMBER_WAY[:2])
    assert step(update, alone)[0].phase is Phase.OFFERED
    failed = happen(update, states.SetFailed)
    assert step(failed, alone)[0].phase is Phase.OFFERED
    confirmed = happen(happen(update, *MEMBER_WAY[2:]), states.SetConfirmed)
    assert step(confirmed, alone) == (confirmed, ())


def test_another_configuration_of_the_confirmed_module_is_an_update_and_the_same_one_is_none():
    update = happen(step(Update(), OFFERS[-1])[0], *GOOD_WAY[1:])
    assert update.confirmed == OFFERS[-1].release != OFFER.release
    other = replace(OFFERS[-1], deployment=b"e" * 16, config={"a": "c"})
    assert step(update, other)[0].phase is Phase.OFFERED
    assert step(update, replace(other, config={"a": "b"}))[0].phase is Phase.CONFIRMED


def test_a_trial_that_crosses_a_restart_goes_on():
    update = happen(Update(), *LOADED_WAY)
    after, effects = step(replace(update, verified=None), states.Continued(update.id, VERIFIED))
    assert (after.phase, after.verified, after.number) == (Phase.TRIAL, VERIFIED, update.number + 1)
    assert not any(isinstance(each, updates.BeginTrial) for each in effects)
    assert happen(after, states.TrialPassed).phase is Phase.CONFIRMED


STARTS = (*INTERNAL, states.Resumed, states.Continued, states.Lapsed)  # posted when the agent starts, or by `step` itself


class Boards(RuleBasedStateMachine):
    """A board that may lose its power between any two effects: what is in the journal is where it goes on."""

    def __init__(self):
        super().__init__()
        self.update = Update()
        self.journal = Update()
        self.confirmed = b""
        self.offers = 0

    def feed(self, event, crash_after=None):
        moved, effects = step(self.update, event)
        for number, effect in enumerate(effects):
            if number == crash_after:
                self.reboot()
                return
            if isinstance(effect, (WriteJournal, Commit)):
                self.journal = effect.update
            if isinstance(effect, Commit):
                self.confirmed = effect.update.manifest
        self.update = moved

    def reboot(self):
        self.update = self.journal
        if not self.update.ended:
            self.feed(states.Resumed(self.update.id))

    @rule(crash=st.none() | st.integers(0, 4))
    def offer(self, crash):
        self.offers += 1
        self.feed(states.Offered(self.offers.to_bytes(16), self.offers.to_bytes(32)), crash)

    @rule(kind=st.sampled_from([each for each in KINDS if each not in STARTS]), crash=st.none() | st.integers(0, 4))
    def happens(self, kind, crash):
        self.feed(made(kind, self.update), crash)

    @precondition(lambda self: self.update.ended)
    @rule()
    def power_cut_at_rest(self):
        before = self.update
        self.reboot()
        assert self.update == before

    @rule()
    def power_cut(self):
        self.reboot()

    @invariant()
    def memory_never_runs_ahead_of_the_journal(self):
        assert self.update == self.journal

    @invariant()
    def only_what_is_confirmed_is_confirmed(self):
        if self.update.phase is Phase.CONFIRMED:
            assert self.confirmed == self.update.manifest


TestBoards = Boards.TestCase


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> idle"]
    seen = sorted({(before.value, event.__name__, after.value) for (before, event), after in TRANSITIONS.items()})
    lines += [f"    {before.replace('-', '_')} --> {after.replace('-', '_')}: {event}" for before, event, after in seen]
    return "\n".join([*lines, "```", ""])


def test_the_diagram_in_the_documents_is_made_from_the_table():
    text = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    assert diagram() in text


def test_every_effect_is_used():
    makers = (*updates._EFFECTS.values(), *updates._EFFECTS_OF.values())
    trials = (at(Phase.TRIAL), replace(at(Phase.TRIAL), manifest=b""))
    used = {type(effect) for make in makers for trial in trials for effect in make(trial)}
    assert used == set(updates.Effect.__args__)
    assert set(updates._EFFECTS) == set(Phase) - {Phase.IDLE}
    assert Phase.IDLE in ENDED


@pytest.mark.parametrize("phase", ENDED)
@pytest.mark.parametrize("together", [(), SET], ids=["alone", "in a set"])
def test_an_update_is_tried_again_by_where_it_ended_and_why(phase, together):
    """One that ran and was rolled back is tried again only where the reason is another member's of its set."""
    for reason in RETRYABLE | HELD_BACK | CLAIMED | ROOT_REASONS:
        where = {Phase.ROLLED_BACK} if together else set()
        if reason in CLAIMED:
            where |= {Phase.REJECTED}
        elif reason in ROOT_REASONS:
            where |= {Phase.REJECTED, Phase.FAILED}
        else:
            where |= {Phase.FAILED}
        assert Update(phase, reason=reason, together=together).retryable == (phase in where), reason


def test_a_removal_in_a_set_has_handled_no_events_on_trial():
    update = step(Update(confirmed=b"c" * 32), replace(REMOVAL, together=SET))[0]
    removed, _ = step(update, states.Cleared(update.id))
    assert (removed.phase is not update.phase, removed.events) == (True, 0)
