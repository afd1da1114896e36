"""The logic of an update: (update, event) → (update, effects). No I/O, no clock.

The runner (`device_agent.instance.runner`) carries out the effects in order, and the first of them always writes the journal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from device_agent.instance.states import (
    ENDED,
    TRANSITIONS,
    Endured,
    Event,
    GaveUp,
    Matched,
    Offered,
    Phase,
    Resumed,
    Suspended,
    TrialFailed,
    TrialPassed,
    UpdateId,
    Verified,
)
from ota.formats.manifest import VerifiedManifest
from ota.formats.reasons import Reason

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
    )
)
"""Failures of transport, storage or the board, not of the update: the same deployment is tried again after a while."""
HELD_BACK = frozenset((Reason.DEPLOYMENT_STOPPED, Reason.DEPLOYMENT_EXPIRED))
"""The operator, or the clock, stopped it: the same deployment is tried again once it may start."""


@dataclass(frozen=True)
class Update:
    """One update. The journal keeps the first seven fields; the others are known in this process only."""

    phase: Phase = Phase.IDLE
    deployment: bytes = b""
    manifest: bytes = b""
    resumptions: int = 0  # after a restart with the new module loaded, since it endured a trial for a minute
    reason: Reason | None = None
    detail: str = ""
    events: int = 0  # handled on trial, once that has ended
    number: int = 0  # of this update in this process
    verified: VerifiedManifest | None = None  # of this update, once it is verified
    confirmed: bytes = b""  # manifest of the confirmed module

    @property
    def id(self) -> UpdateId:
        """What events of this update name."""
        return UpdateId(self.deployment, self.manifest, self.number)

    @property
    def ended(self) -> bool:
        """Whether nothing is under way."""
        return self.phase in ENDED

    def is_news(self, deployment: bytes, manifest: bytes) -> bool:
        """Whether an offer is another than the one that is under way or has ended, or one that may be tried again."""
        if (self.deployment, self.manifest) != (deployment, manifest):
            return True
        return self.phase is Phase.FAILED and (self.reason in RETRYABLE or self.reason in HELD_BACK)


@dataclass(frozen=True)
class WriteJournal:
    """Put the update into the journal, durably."""

    update: Update


@dataclass(frozen=True)
class FetchManifest:
    """Get the envelope, from the store or the broker, and verify it."""

    digest: bytes


@dataclass(frozen=True)
class FetchBlob:
    """Get the chunks that are missing, and check the whole."""

    verified: VerifiedManifest


@dataclass(frozen=True)
class StartWorker:
    """Load the new module in a worker of its own, beside the one that runs."""

    verified: VerifiedManifest


@dataclass(frozen=True)
class BeginTrial:
    """Hand the state over, switch between two events, and watch."""

    verified: VerifiedManifest


@dataclass(frozen=True)
class Commit:
    """Make the module on trial the confirmed one: slots, sequence, epoch and journal in one transaction."""

    update: Update
    verified: VerifiedManifest


@dataclass(frozen=True)
class RollBack:
    """Go back to the module that ran before; it was never stopped."""


@dataclass(frozen=True)
class StopOld:
    """Stop the module that ran before."""


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
    | Commit
    | RollBack
    | StopOld
    | Discard
    | RunConfirmed
    | PublishReport
)


def _known(update: Update) -> VerifiedManifest:
    assert update.verified is not None, "no manifest was verified"
    return update.verified


_EFFECTS: dict[Phase, Callable[[Update], tuple[Effect, ...]]] = {
    Phase.OFFERED: lambda u: (WriteJournal(u), Discard(), PublishReport(), FetchManifest(u.manifest)),
    Phase.FETCHING: lambda u: (WriteJournal(u), PublishReport(), FetchBlob(_known(u))),
    Phase.STAGED: lambda u: (WriteJournal(u), StartWorker(_known(u))),
    Phase.TRIAL: lambda u: (WriteJournal(u), BeginTrial(_known(u)), PublishReport()),
    Phase.CONFIRMED: lambda u: (Commit(u, _known(u)), StopOld(), PublishReport()),
    Phase.REJECTED: lambda u: (WriteJournal(u), Discard(), PublishReport()),
    Phase.FAILED: lambda u: (WriteJournal(u), Discard(), PublishReport()),
    Phase.ROLLED_BACK: lambda u: (WriteJournal(u), RollBack(), PublishReport()),
}
_EFFECTS_OF: dict[type, Callable[[Update], tuple[Effect, ...]]] = {
    Matched: lambda u: (WriteJournal(u), Discard(), RunConfirmed(), PublishReport()),
    Suspended: lambda u: (WriteJournal(u), Discard()),
    Endured: lambda u: (WriteJournal(u),),
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
    why: Any = event
    moved = replace(update, phase=target, reason=getattr(why, "reason", None), detail=getattr(why, "detail", ""))
    match event:
        case Verified():
            moved = replace(moved, verified=event.verified)
        case TrialPassed():
            moved = replace(moved, events=event.events, confirmed=update.manifest)
        case TrialFailed():
            moved = replace(moved, events=event.events)
        case Endured():
            moved = replace(moved, resumptions=0)
        case Resumed():
            if update.resumptions >= MAX_RESUMPTIONS:
                why_not = f"the board restarted {update.resumptions} times in the middle of this update"
                return step(update, GaveUp(update.id, Reason.TRIAL_INTERRUPTED, why_not))
            resumptions = update.resumptions + _counts(update.phase)
            moved = replace(moved, resumptions=resumptions, number=update.number + 1, verified=None)
    return moved, _EFFECTS_OF.get(type(event), _EFFECTS[target])(moved)


def _offered(update: Update, event: Offered) -> tuple[Update, tuple[Effect, ...]]:
    target = TRANSITIONS.get((update.phase, Offered))
    if target is None or not update.is_news(event.deployment, event.manifest):
        return update, ()
    offered = Update(target, event.deployment, event.manifest, number=update.number + 1, confirmed=update.confirmed)
    if event.manifest == update.confirmed:
        return step(offered, Matched(offered.id))
    return offered, _EFFECTS[target](offered)


def _counts(phase: Phase) -> int:
    """Only a restart with the new module loaded may be its fault; a transfer is resumed as often as it takes."""
    return 1 if phase in (Phase.STAGED, Phase.TRIAL) else 0
