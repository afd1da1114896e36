"""The logic of an update: (update, event) → (update, effects). No I/O, no clock.

The runner (`device_agent.instance.runner`) carries out the effects in order, and the first of them always writes the journal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from device_agent.instance.states import (
    ENDED,
    LOADED,
    TRANSITIONS,
    Cleared,
    Continued,
    Endured,
    Event,
    GaveUp,
    Matched,
    MemberPassed,
    Offered,
    Phase,
    Removed,
    Resumed,
    SetConfirmed,
    Suspended,
    TrialFailed,
    TrialPassed,
    UpdateId,
    Verified,
    Withdrawn,
)
from ota.formats.deployment import release_id
from ota.formats.manifest import AnyVerified
from ota.formats.reasons import Reason
from ota.formats.trust import ROOT_REASONS

MAX_RESUMPTIONS = 3
RETRYABLE = frozenset(
    (
        Reason.MANIFEST_MISSING,
        Reason.MANIFEST_DIGEST_MISMATCH,
        Reason.INDEX_MISMATCH,
        Reason.CHUNK_MISSING,
        Reason.CHUNK_DIGEST_MISMATCH,
        Reason.BLOB_DIGEST_MISMATCH,
        Reason.DISK_FULL,
        Reason.STORAGE_UNWRITABLE,
        Reason.CONFINEMENT_LACKING,
        Reason.PROCESS_UNAVAILABLE,
        Reason.AGENT_ON_TRIAL,
        Reason.RECIPIENT_MISSING,
    )
)
"""Failures of transport, storage or the board, not of the update: the same deployment is tried again after a while."""
HELD_BACK = frozenset((Reason.DEPLOYMENT_STOPPED, Reason.DEPLOYMENT_EXPIRED, Reason.SET_INCOMPLETE))
"""The operator, or the clock, stopped it, or took a member out of its set: the same deployment is tried again once it may start."""
CLAIMED = frozenset((Reason.INSTANCES_EXCEEDED, Reason.MEMORY_EXCEEDED, Reason.DEVICE_CLAIMED, Reason.OWNER_REFUSED))
"""Another instance, or the owner, leaves no room for it: the same deployment is tried again once that has changed or gone."""
OF_THE_BOARD = frozenset((Reason.DEVICE_UNAVAILABLE, Reason.MODULE_INVALID))
"""Failures before a trial that may be the board's or the agent's: the same deployment is tried again when the agent starts."""


@dataclass(frozen=True)
class Update:
    """One update. The journal keeps all but the last three fields, which are known in this process only."""

    phase: Phase = Phase.IDLE
    deployment: bytes = b""
    manifest: bytes = b""
    resumptions: int = 0  # after a restart with the new module loaded, since it endured a trial for a minute
    reason: Reason | None = None
    detail: str = ""
    events: int = 0  # handled on trial, once that has ended
    config: Mapping[str, str] = field(default_factory=dict)  # that the deployment gives the module
    together: tuple[str, ...] = ()  # the instances of its set, this one among them
    number: int = 0  # of this update in this process
    verified: AnyVerified | None = None  # of this update, once it is verified
    confirmed: bytes = b""  # release of the confirmed module

    @property
    def id(self) -> UpdateId:
        """What events of this update name."""
        return UpdateId(self.deployment, self.manifest, self.number)

    @property
    def release(self) -> bytes:
        """What identifies content and configuration; empty for a removal."""
        return release_id(self.manifest, self.config) if self.manifest else b""

    @property
    def removal(self) -> bool:
        """Whether it is to remove the instance."""
        return not self.manifest

    @property
    def ended(self) -> bool:
        """Whether nothing is under way."""
        return self.phase in ENDED

    @property
    def retryable(self) -> bool:
        """Whether it ended for a reason that may not hold later. A member of a set goes back for the reason of another one."""
        back_with_set = self.phase is Phase.ROLLED_BACK and bool(self.together)
        if self.reason in CLAIMED:
            return self.phase is Phase.REJECTED or back_with_set
        if self.reason in ROOT_REASONS:
            return self.phase in (Phase.REJECTED, Phase.FAILED) or back_with_set
        return (self.phase is Phase.FAILED or back_with_set) and (self.reason in RETRYABLE or self.reason in HELD_BACK)

    def keeps_parts(self, *, crowded: bool) -> bool:
        """Whether what it has fetched is still of use. `crowded`: the disk is nearly full, and only what is under way has room."""
        return not self.ended or (self.retryable and not crowded)

    @property
    def never_ran(self) -> bool:
        """Whether the board did not take it as it was then, with the settings and the agent of then; or its set for that reason."""
        refused = self.phase is Phase.REJECTED or (self.phase is Phase.FAILED and self.reason in OF_THE_BOARD)
        return refused or (self.ended and self.reason is Reason.SET_FAILED)

    @property
    def interrupted(self) -> bool:
        """Whether the board went down with it too often: it may be at fault, or the power was."""
        return self.phase is Phase.ROLLED_BACK and self.reason is Reason.TRIAL_INTERRUPTED

    def is_news(self, offered: Offered) -> bool:
        """Whether an offer is another than the one that is under way or has ended, or one that may be tried again."""
        if (self.deployment, self.manifest, self.config) != (offered.deployment, offered.manifest, offered.config):
            return True
        if self.together != offered.together and (not self.ended or self.reason is Reason.SET_FAILED):
            return True
        return self.retryable or (offered.again and (self.never_ran or self.interrupted))


@dataclass(frozen=True)
class WriteJournal:
    """Put the update into the journal. `synced`: what comes next needs it on the disk, with all that was written before.

    Elsewhere it is enough that no later row is there without it: a power cut takes the update back, and what it has done since is
    done again. Before a module is loaded the row has to be there, for a restart of the board may be the module's fault.
    """

    update: Update
    synced: bool = True


@dataclass(frozen=True)
class FetchManifest:
    """Get the envelope, from the store or the broker, and verify it."""

    digest: bytes


@dataclass(frozen=True)
class FetchBlob:
    """Get the chunks that are missing, and check the whole."""

    verified: AnyVerified


@dataclass(frozen=True)
class StartWorker:
    """Load the new module in a worker of its own, beside the one that runs."""

    verified: AnyVerified


@dataclass(frozen=True)
class BeginTrial:
    """Hand the state over, switch between two events, and watch."""

    verified: AnyVerified


@dataclass(frozen=True)
class GoOnWithTrial:
    """Watch what this process is on trial for since before it started."""

    verified: AnyVerified


@dataclass(frozen=True)
class Commit:
    """Make the module on trial the confirmed one: slots, sequence, epoch and journal in one transaction.

    A set's members are committed in one transaction. `verified` is None for a removal: slots, keys and states of the instance are
    deleted.
    """

    update: Update
    verified: AnyVerified | None


@dataclass(frozen=True)
class RollBack:
    """Go back to the module that ran before; it was never stopped."""


@dataclass(frozen=True)
class StopOld:
    """Stop the module that ran before."""


@dataclass(frozen=True)
class Retire:
    """Stop what runs: its instance was removed."""


@dataclass(frozen=True)
class Leave:
    """Stop what runs, until the set is confirmed or goes back: another member may take its devices."""


@dataclass(frozen=True)
class Discard:
    """Drop what was started or fetched for an update that ended without a trial."""


@dataclass(frozen=True)
class RunConfirmed:
    """Forget the failures of the confirmed module, which the operator wants, and run it if another runs."""


@dataclass(frozen=True)
class PublishReport:
    """Tell the operator."""


Effect = (
    WriteJournal
    | FetchManifest
    | FetchBlob
    | StartWorker
    | BeginTrial
    | GoOnWithTrial
    | Commit
    | RollBack
    | StopOld
    | Retire
    | Leave
    | Discard
    | RunConfirmed
    | PublishReport
)


def _known(update: Update) -> AnyVerified:
    assert update.verified is not None, "no manifest was verified"
    return update.verified


def _confirmed(update: Update) -> tuple[Effect, ...]:
    if update.removal:
        return Commit(update, None), Retire(), PublishReport()
    return Commit(update, _known(update)), StopOld(), PublishReport()


_EFFECTS: dict[Phase, Callable[[Update], tuple[Effect, ...]]] = {
    Phase.OFFERED: lambda u: (WriteJournal(u, synced=False), Discard(), PublishReport(), FetchManifest(u.manifest)),
    Phase.FETCHING: lambda u: (WriteJournal(u, synced=False), PublishReport(), FetchBlob(_known(u))),
    Phase.STAGED: lambda u: (WriteJournal(u, synced=False), PublishReport()),
    Phase.STARTING: lambda u: (WriteJournal(u), PublishReport(), StartWorker(_known(u))),
    Phase.TRIAL: lambda u: (WriteJournal(u, synced=False), BeginTrial(_known(u)), PublishReport()),
    Phase.PASSED: lambda u: (WriteJournal(u), *((Leave(),) if u.removal else ()), PublishReport()),
    Phase.CONFIRMED: _confirmed,
    Phase.REJECTED: lambda u: (WriteJournal(u), Discard(), PublishReport()),
    Phase.FAILED: lambda u: (WriteJournal(u), Discard(), PublishReport()),
    Phase.ROLLED_BACK: lambda u: (WriteJournal(u), RollBack(), PublishReport()),
}
_EFFECTS_OF: dict[type, Callable[[Update], tuple[Effect, ...]]] = {
    Matched: lambda u: (WriteJournal(u), Discard(), RunConfirmed(), PublishReport()),
    Withdrawn: lambda u: (WriteJournal(u), Discard(), PublishReport()),
    Suspended: lambda u: (WriteJournal(u), Discard()),
    Endured: lambda u: (WriteJournal(u),),
    Continued: lambda u: (WriteJournal(u), GoOnWithTrial(_known(u)), PublishReport()),
}
"""Of events that do something else than what their target stands for."""


def step(update: Update, event: Event) -> tuple[Update, tuple[Effect, ...]]:
    """The next state and what to do.

    An event that has no place in the present state, or is about another update, changes nothing and does nothing.
    """
    if isinstance(event, Offered):
        return _offered(update, event)
    target = TRANSITIONS.get((update.phase, type(event)))
    if target is None or event.of != update.id:
        return update, ()
    other = _in_other_words(update, event)
    if other is not event:
        return step(update, other)
    why: Any = event
    moved = replace(update, phase=target, reason=getattr(why, "reason", None), detail=getattr(why, "detail", ""))
    match event:
        case Verified():
            moved = replace(moved, verified=event.verified)
        case TrialPassed() | MemberPassed() | TrialFailed():
            moved = replace(moved, events=event.events)
        case Endured():
            moved = replace(moved, resumptions=0)
        case Continued():
            moved = replace(moved, number=update.number + 1, verified=event.verified)
        case Resumed():
            return _resumed(update, moved)
    if isinstance(event, (TrialPassed, SetConfirmed, Removed)):
        moved = replace(moved, confirmed=update.release)
    return moved, _EFFECTS_OF.get(type(event), _EFFECTS[target])(moved)


def _in_other_words(update: Update, event: Event) -> Event:
    """What an event means for a member of a set, and for a removal, which has nothing to start and nothing to try."""
    match event:
        case TrialPassed() if update.together:
            return MemberPassed(event.of, event.events, event.detail)
        case Cleared() if update.removal:
            return MemberPassed(event.of) if update.together else Removed(event.of)
        case Resumed() if update.resumptions >= MAX_RESUMPTIONS:
            why_not = f"the board restarted {update.resumptions} times in the middle of this update"
            return GaveUp(update.id, Reason.TRIAL_INTERRUPTED, why_not)
    return event


def _offered(update: Update, event: Offered) -> tuple[Update, tuple[Effect, ...]]:
    target = TRANSITIONS.get((update.phase, Offered))
    if target is None or not update.is_news(event):
        return update, ()
    offered = Update(
        target,
        event.deployment,
        event.manifest,
        config=event.config,
        together=event.together,
        number=update.number + 1,
        confirmed=update.confirmed,
        resumptions=update.resumptions if update.interrupted and update.release == event.release else 0,
    )
    if offered.removal:
        return step(offered, Withdrawn(offered.id))
    if offered.release == update.confirmed:
        return step(offered, Matched(offered.id))
    return offered, _EFFECTS[target](offered)


def _resumed(update: Update, moved: Update) -> tuple[Update, tuple[Effect, ...]]:
    """Only a restart with the new module loaded may be its fault; a transfer is resumed as often as it takes."""
    counts = update.phase in LOADED and not update.removal
    resumed = replace(moved, resumptions=update.resumptions + counts, number=update.number + 1, verified=None)
    if resumed.removal:
        return step(resumed, Withdrawn(resumed.id))
    return resumed, _EFFECTS[resumed.phase](resumed)
