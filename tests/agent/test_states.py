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
    HELD_BACK,
    MAX_RESUMPTIONS,
    RETRYABLE,
    Commit,
    FetchManifest,
    RollBack,
    RunConfirmed,
    Update,
    WriteJournal,
    step,
)
from ota.formats.manifest import VerifiedManifest
from ota.formats.reasons import Reason
from ota.formats.report import STATES
from tests.conftest import ROOT
from tests.support.signing import Signer

OFFER = states.Offered(b"d" * 16, b"m" * 32)
SIGNED = Signer().update(b"wasm")
VERIFIED = VerifiedManifest(SIGNED.manifest, SIGNED.digest)
MADE = {
    states.Matched: lambda of: states.Matched(of),
    states.Verified: lambda of: states.Verified(of, VERIFIED),
    states.Refused: lambda of: states.Refused(of, Reason.CLASS_MISMATCH, "x"),
    states.Fetched: states.Fetched,
    states.FetchFailed: lambda of: states.FetchFailed(of, Reason.CHUNK_MISSING, "x"),
    states.Started: states.Started,
    states.StartFailed: lambda of: states.StartFailed(of, Reason.MODULE_INVALID, "x"),
    states.TrialPassed: lambda of: states.TrialPassed(of, 7, "x"),
    states.TrialFailed: lambda of: states.TrialFailed(of, Reason.TRAPPED, "x", 3),
    states.Endured: states.Endured,
    states.Stopped: lambda of: states.Stopped(of, Reason.DEPLOYMENT_STOPPED, "x"),
    states.Resumed: states.Resumed,
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


@pytest.mark.parametrize(("phase", "kind"), list(itertools.product(Phase, (states.Offered, *KINDS))))
def test_an_event_without_a_place_changes_nothing(phase, kind):
    before = at(phase)
    after, effects = step(before, made(kind, before))
    if (phase, kind) in TRANSITIONS:
        assert after.phase is TRANSITIONS[phase, kind]
    else:
        assert (after, effects) == (before, ())


@pytest.mark.parametrize(("phase", "kind"), list(itertools.product(Phase, KINDS)))
@pytest.mark.parametrize("other", [{"deployment": b"new"}, {"manifest": b"new"}, {"number": 2}])
def test_an_event_about_another_update_changes_nothing(phase, kind, other):
    before = at(phase)
    assert step(before, made(kind, replace(before, **other))) == (before, ())


@pytest.mark.parametrize(("phase", "kind"), list(TRANSITIONS))
def test_the_journal_is_written_before_any_other_effect(phase, kind):
    before = at(phase)
    after, effects = step(before, made(kind, before))
    assert isinstance(effects[0], (WriteJournal, Commit))
    assert effects[0].update == after
    assert not any(isinstance(effect, (WriteJournal, Commit)) for effect in effects[1:])


def happen(update: Update, *kinds: type) -> Update:
    for kind in kinds:
        update, _ = step(update, made(kind, update))
    return update


GOOD_WAY = (states.Offered, states.Verified, states.Fetched, states.Started, states.TrialPassed)


def test_the_good_way():
    update, phases = Update(), []
    for kind in GOOD_WAY:
        update = happen(update, kind)
        phases.append(update.phase)
    assert phases == [Phase.OFFERED, Phase.FETCHING, Phase.STAGED, Phase.TRIAL, Phase.CONFIRMED]
    assert (update.deployment, update.manifest, update.confirmed) == (OFFER.deployment, OFFER.manifest, OFFER.manifest)
    assert (update.events, update.detail) == (7, "x")


def test_effects_carry_the_manifest_that_was_verified_for_their_update():
    update = happen(Update(), *GOOD_WAY[:4])
    for before, kind in ((at(Phase.OFFERED), states.Verified), (at(Phase.FETCHING), states.Fetched), (update, states.TrialPassed)):
        _, effects = step(before, made(kind, before))
        assert [each.verified for each in effects if hasattr(each, "verified")] == [VERIFIED]


def test_an_ended_deployment_is_not_tried_again():
    for phase in (Phase.CONFIRMED, Phase.REJECTED, Phase.ROLLED_BACK):
        before = Update(phase, OFFER.deployment, OFFER.manifest, reason=Reason.TRAPPED)
        assert step(before, OFFER) == (before, ())


@pytest.mark.parametrize("reason", list(Reason))
def test_only_what_may_go_better_another_time_is_tried_again(reason):
    before = Update(Phase.FAILED, OFFER.deployment, OFFER.manifest, reason=reason)
    moved, _ = step(before, OFFER)
    assert (moved.phase is Phase.OFFERED) == (reason in RETRYABLE | HELD_BACK)


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
    update = happen(Update(), *GOOD_WAY[:4])
    for _ in range(3):
        update = happen(update, states.Resumed)
        assert update.phase is Phase.OFFERED
        update = happen(update, *GOOD_WAY[1:4])
    update, effects = step(update, states.Resumed(update.id))
    assert update.phase is Phase.ROLLED_BACK
    assert update.reason is Reason.TRIAL_INTERRUPTED
    assert any(isinstance(effect, RollBack) for effect in effects)


def test_a_stop_in_good_order_in_the_middle_of_a_trial_is_not_counted():
    update = happen(Update(), *GOOD_WAY[:4])
    for _ in range(2 * MAX_RESUMPTIONS):
        update, effects = step(update, states.Suspended(update.id))
        assert not any(isinstance(each, FetchManifest) for each in effects)
        update = happen(update, states.Resumed, *GOOD_WAY[1:4])
    assert (update.phase, update.resumptions) == (Phase.TRIAL, 0)


def test_power_cuts_long_after_a_trial_began_are_not_the_modules_fault():
    update = happen(Update(), *GOOD_WAY[:4])
    for _ in range(10):
        update = happen(update, states.Resumed, *GOOD_WAY[1:4])
        update, effects = step(update, states.Endured(update.id))
        assert (update.phase, update.resumptions) == (Phase.TRIAL, 0)
        assert effects == (WriteJournal(update),)


def test_an_update_has_another_number_after_each_offer_and_each_restart():
    update, numbers = Update(), [0]
    for offer in range(1, 6):
        update = step(update, states.Offered(b"d" * 16, offer.to_bytes(32)))[0]
        numbers.append(update.number)
        for _ in range(2):
            update = happen(update, *GOOD_WAY[1 : 1 + offer % 4], states.Resumed)
            numbers.append(update.number)
    assert numbers == list(range(16))


@pytest.mark.parametrize("phase", list(Phase))
def test_an_update_has_ended_when_only_an_offer_can_move_it(phase):
    events = {event for (before, event) in TRANSITIONS if before is phase}
    assert Update(phase).ended == (events == {states.Offered, states.Matched})


def test_counters_begin_at_zero():
    update = happen(Update(), states.Offered)
    assert (update.resumptions, update.events, update.number) == (0, 0, 1)
    assert states.TrialPassed(update.id).events == states.TrialFailed(update.id, Reason.TRAPPED, "x").events == 0


def test_a_transfer_is_resumed_as_often_as_it_takes():
    update = Update(Phase.FETCHING, OFFER.deployment, OFFER.manifest)
    for _ in range(50):
        update = happen(update, states.Resumed, states.Verified)
    assert update.phase is Phase.FETCHING


@given(st.lists(st.sampled_from((states.Offered, *KINDS)), max_size=40))
def test_no_sequence_of_events_confirms_without_a_passed_trial(kinds):
    update = Update()
    for kind in kinds:
        before = update
        update, effects = step(update, made(kind, update))
        if any(isinstance(effect, Commit) for effect in effects):
            assert before.phase is Phase.TRIAL
            assert kind is states.TrialPassed


STARTS = (states.Matched, states.Resumed, states.Lapsed, states.GaveUp)  # posted when the agent starts, or by `step` itself


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
    used = {type(effect) for make in makers for effect in make(at(Phase.TRIAL))}
    assert used == set(updates.Effect.__args__)
    assert set(updates._EFFECTS) == set(Phase) - {Phase.IDLE}
    assert Phase.IDLE in ENDED
