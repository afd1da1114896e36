"""The logic of an update: (update, event) → (update, effects). No I/O, no clock.

The runner (`device_agent.instance.runner`) carries out the effects in order, and the first of them always writes the journal.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from device_agent.instance.states import ENDED, TRANSITIONS, Event, GaveUp, Offered, Phase, Resumed
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
        Reason.CONFINEMENT_LACKING,
    )
)
"""Failures of the way or of the board, not of the update: the same deployment is tried again."""


@dataclass(frozen=True)
class Update:
    """One update, as the journal keeps it."""

    phase: Phase = Phase.IDLE
    deployment: bytes = b""
    manifest: bytes = b""
    resumptions: int = 0
    reason: Reason | None = None
    detail: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing is under way."""
        return self.phase in ENDED


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


@dataclass(frozen=True)
class StartWorker:
    """Load the new module in a worker of its own, beside the one that runs."""


@dataclass(frozen=True)
class BeginTrial:
    """Hand the state over, switch between two events, and watch."""


@dataclass(frozen=True)
class Commit:
    """Make the module on trial the confirmed one: slots, sequence, epoch and journal in one transaction."""

    update: Update


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
class PublishReport:
    """Tell the operator."""


Effect = WriteJournal | FetchManifest | FetchBlob | StartWorker | BeginTrial | Commit | RollBack | StopOld | Discard | PublishReport

_EFFECTS: dict[Phase, Callable[[Update], tuple[Effect, ...]]] = {
    Phase.OFFERED: lambda u: (WriteJournal(u), Discard(), PublishReport(), FetchManifest(u.manifest)),
    Phase.FETCHING: lambda u: (WriteJournal(u), PublishReport(), FetchBlob()),
    Phase.STAGED: lambda u: (WriteJournal(u), StartWorker()),
    Phase.TRIAL: lambda u: (WriteJournal(u), BeginTrial(), PublishReport()),
    Phase.CONFIRMED: lambda u: (Commit(u), StopOld(), PublishReport()),
    Phase.REJECTED: lambda u: (WriteJournal(u), Discard(), PublishReport()),
    Phase.FAILED: lambda u: (WriteJournal(u), Discard(), PublishReport()),
    Phase.ROLLED_BACK: lambda u: (WriteJournal(u), RollBack(), PublishReport()),
}


def step(update: Update, event: Event) -> tuple[Update, tuple[Effect, ...]]:
    """The next state and what to do. An event that has no place in the present state changes nothing and does nothing."""
    target = TRANSITIONS.get((update.phase, type(event)))
    if target is None or (isinstance(event, Offered) and not _is_news(update, event)):
        return update, ()
    if isinstance(event, Offered):
        moved = Update(target, event.deployment, event.manifest)
    elif isinstance(event, Resumed):
        if update.resumptions >= MAX_RESUMPTIONS:
            why = f"the board restarted {update.resumptions} times in the middle of this update"
            return step(update, GaveUp(Reason.TRIAL_INTERRUPTED, why))
        moved = replace(update, phase=target, resumptions=update.resumptions + _counts(update.phase))
    else:
        why_now: Any = event
        moved = replace(update, phase=target, reason=getattr(why_now, "reason", None), detail=getattr(why_now, "detail", ""))
    return moved, _EFFECTS[target](moved)


def _counts(phase: Phase) -> int:
    """Only a restart with the new module running may be its fault; a transfer is resumed as often as it takes."""
    return 1 if phase in (Phase.STAGED, Phase.TRIAL) else 0


def _is_news(update: Update, event: Offered) -> bool:
    """Whether an offer is another than the one that is under way or has ended; a failure of the way may be tried again."""
    if update.deployment != event.deployment:
        return True
    return update.phase is Phase.FAILED and update.reason in RETRYABLE
