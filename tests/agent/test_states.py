"""The table and the pure logic: every state, every event, every crash point between two effects."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_agent.instance import states, updates
from device_agent.instance.states import ENDED, TRANSITIONS, Phase
from device_agent.instance.updates import MAX_RESUMPTIONS, RETRYABLE, Commit, RollBack, Update, WriteJournal, step
from ota.formats.reasons import Reason
from ota.formats.report import STATES
from tests.conftest import ROOT

OFFER = states.Offered(b"d" * 16, b"m" * 32)
EVENTS = (
    OFFER,
    states.Verified(),
    states.Refused(Reason.CLASS_MISMATCH, "x"),
    states.Fetched(),
    states.FetchFailed(Reason.CHUNK_MISSING, "x"),
    states.Started(),
    states.StartFailed(Reason.MODULE_INVALID, "x"),
    states.TrialPassed(),
    states.TrialFailed(Reason.TRAPPED, "x"),
    states.Resumed(),
    states.GaveUp(Reason.TRIAL_INTERRUPTED, "x"),
)


def test_the_phases_are_those_of_reports():
    assert {phase.value for phase in Phase} == set(STATES)


@pytest.mark.parametrize(("phase", "event"), list(itertools.product(Phase, EVENTS)))
def test_an_event_without_a_place_changes_nothing(phase, event):
    before = Update(phase, b"old", b"old")
    after, effects = step(before, event)
    if (phase, type(event)) in TRANSITIONS:
        assert after.phase in Phase
    else:
        assert (after, effects) == (before, ())


@pytest.mark.parametrize(("phase", "event"), list(TRANSITIONS))
def test_the_journal_is_written_before_any_other_effect(phase, event):
    example = next(each for each in EVENTS if type(each) is event)
    after, effects = step(Update(phase, b"old", b"old"), example)
    assert isinstance(effects[0], (WriteJournal, Commit))
    assert effects[0].update == after
    assert not any(isinstance(effect, (WriteJournal, Commit)) for effect in effects[1:])


def test_the_good_way():
    update, phases = Update(), []
    for event in (OFFER, states.Verified(), states.Fetched(), states.Started(), states.TrialPassed()):
        update, _ = step(update, event)
        phases.append(update.phase)
    assert phases == [Phase.OFFERED, Phase.FETCHING, Phase.STAGED, Phase.TRIAL, Phase.CONFIRMED]
    assert (update.deployment, update.manifest) == (OFFER.deployment, OFFER.manifest)


def test_an_ended_deployment_is_not_tried_again():
    for phase in (Phase.CONFIRMED, Phase.REJECTED, Phase.ROLLED_BACK):
        before = Update(phase, OFFER.deployment, OFFER.manifest, reason=Reason.TRAPPED)
        assert step(before, OFFER) == (before, ())


@pytest.mark.parametrize("reason", list(Reason))
def test_only_failures_of_the_way_are_tried_again(reason):
    before = Update(Phase.FAILED, OFFER.deployment, OFFER.manifest, reason=reason)
    moved, _ = step(before, OFFER)
    assert (moved.phase is Phase.OFFERED) == (reason in RETRYABLE)


def test_a_module_that_takes_the_board_down_with_it_is_given_up():
    update = Update(Phase.TRIAL, OFFER.deployment, OFFER.manifest)
    for _ in range(MAX_RESUMPTIONS):
        update, _ = step(update, states.Resumed())
        assert update.phase is Phase.OFFERED
        for event in (states.Verified(), states.Fetched(), states.Started()):
            update, _ = step(update, event)
    update, effects = step(update, states.Resumed())
    assert update.phase is Phase.ROLLED_BACK
    assert update.reason is Reason.TRIAL_INTERRUPTED
    assert any(isinstance(effect, RollBack) for effect in effects)


def test_a_transfer_is_resumed_as_often_as_it_takes():
    update = Update(Phase.FETCHING, OFFER.deployment, OFFER.manifest)
    for _ in range(50):
        update, _ = step(update, states.Resumed())
        update, _ = step(update, states.Verified())
    assert update.phase is Phase.FETCHING


@given(st.lists(st.sampled_from(EVENTS), max_size=40))
def test_no_sequence_of_events_confirms_without_a_passed_trial(events):
    update = Update()
    for event in events:
        before = update
        update, effects = step(update, event)
        if any(isinstance(effect, Commit) for effect in effects):
            assert before.phase is Phase.TRIAL
            assert isinstance(event, states.TrialPassed)


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
            self.feed(states.Resumed())

    @rule(crash=st.none() | st.integers(0, 4))
    def offer(self, crash):
        self.offers += 1
        self.feed(states.Offered(self.offers.to_bytes(16), self.offers.to_bytes(32)), crash)

    @rule(event=st.sampled_from(EVENTS[1:9]), crash=st.none() | st.integers(0, 4))
    def happens(self, event, crash):
        self.feed(event, crash)

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
    used = {type(effect) for make in updates._EFFECTS.values() for effect in make(Update())}
    assert used == set(updates.Effect.__args__)
    assert set(updates._EFFECTS) == set(Phase) - {Phase.IDLE}
    assert Phase.IDLE in ENDED
