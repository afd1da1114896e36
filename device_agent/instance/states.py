"""The states of an update, the events that move it, and one table. Nothing else: docs/states.md is made from this file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from ota.formats.deployment import Entry, release_id
from ota.formats.manifest import AnyVerified
from ota.formats.reasons import Reason


class Phase(Enum):
    """Where an update is; the values are those of reports (ota.formats.report.STATES)."""

    IDLE = "idle"
    OFFERED = "offered"
    FETCHING = "fetching"
    STAGED = "staged"
    STARTING = "starting"
    TRIAL = "trial"
    PASSED = "passed"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"


ENDED = (Phase.IDLE, Phase.CONFIRMED, Phase.REJECTED, Phase.FAILED, Phase.ROLLED_BACK)


@dataclass(frozen=True)
class UpdateId:
    """Which update an event is about. Tasks outlive the update that began them: what they report must not move another one."""

    deployment: bytes
    manifest: bytes
    number: int  # grows with each offer and each resumption in this process


@dataclass(frozen=True)
class Offered:
    """A verified deployment that this device is part of has this entry for the instance. The one event that begins an update."""

    deployment: bytes
    manifest: bytes  # empty: the instance is to be removed
    config: Mapping[str, str] = field(default_factory=dict)
    together: tuple[str, ...] = ()  # the set that the instance changes with
    again: bool = False  # also if this board, as it was before the agent started, did not take it or went down with it

    @classmethod
    def of_entry(cls, entry: Entry, *, again: bool = False) -> "Offered":
        """What an entry of a deployment offers."""
        return cls(entry.deployment_id, entry.manifest_digest, entry.config, entry.together, again)

    @property
    def release(self) -> bytes:
        """What identifies module and configuration."""
        return release_id(self.manifest, self.config) if self.manifest else b""


@dataclass(frozen=True)
class Matched:
    """Module and configuration that are offered are the confirmed ones: there is nothing to do."""

    of: UpdateId


@dataclass(frozen=True)
class Withdrawn:
    """The entry names no manifest: the instance is to be removed, and there is nothing to fetch."""

    of: UpdateId


@dataclass(frozen=True)
class Verified:
    """The manifest arrived, is signed, meant for this device, and asks for nothing that is not granted."""

    of: UpdateId
    verified: AnyVerified


@dataclass(frozen=True)
class Refused:
    """The manifest is refused, for a reason that stays."""

    of: UpdateId
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Fetched:
    """The blob is on disk, whole, its digest right."""

    of: UpdateId


@dataclass(frozen=True)
class FetchFailed:
    """The manifest or the blob could not be fetched or stored."""

    of: UpdateId
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Cleared:
    """The board may change what it runs now: the window is open, and of its set it is this instance's turn."""

    of: UpdateId


@dataclass(frozen=True)
class Removed:
    """A removal may happen now: there is nothing to start and nothing to try."""

    of: UpdateId


@dataclass(frozen=True)
class Started:
    """A worker has loaded the new module beside the old one."""

    of: UpdateId


@dataclass(frozen=True)
class StartFailed:
    """The new module does not load, asks for what it may not have, or refuses the old one's state."""

    of: UpdateId
    reason: Reason
    detail: str


@dataclass(frozen=True)
class TrialPassed:
    """The new module ran for the trial period, handled as many events as its manifest asks for, and says that it is well."""

    of: UpdateId
    events: int = 0  # that it handled on trial
    detail: str = ""  # what the operator should know of this trial


@dataclass(frozen=True)
class MemberPassed:
    """As `TrialPassed`, of a member of a set: it goes on running on trial until all members have passed."""

    of: UpdateId
    events: int = 0
    detail: str = ""


@dataclass(frozen=True)
class SetConfirmed:
    """All members of the set have passed: they are confirmed in one transaction."""

    of: UpdateId


@dataclass(frozen=True)
class SetFailed:
    """Another member of the set failed: this one goes back, too."""

    of: UpdateId
    reason: Reason
    detail: str


@dataclass(frozen=True)
class TrialFailed:
    """The new module trapped, crashed, fell silent, missed a deadline or says that it is not well."""

    of: UpdateId
    reason: Reason
    detail: str
    events: int = 0


@dataclass(frozen=True)
class Endured:
    """The new module has run on trial for so long that the board does not go down because of it: earlier restarts don't count."""

    of: UpdateId


@dataclass(frozen=True)
class Stopped:
    """The operator paused this update's deployment, let it expire or replaced it. A trial that is under way goes on."""

    of: UpdateId
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Resumed:
    """The agent started and found this update in its journal."""

    of: UpdateId


@dataclass(frozen=True)
class Continued:
    """The agent started and found this update in its journal, on a trial that began before the restart and goes on."""

    of: UpdateId
    verified: AnyVerified


@dataclass(frozen=True)
class Lapsed:
    """The agent started and found this update in its journal, but its deployment was stopped or has expired."""

    of: UpdateId
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Suspended:
    """The agent is about to stop in good order: what comes next is no fault of the new module."""

    of: UpdateId


@dataclass(frozen=True)
class GaveUp:
    """The update was resumed too often: each time the board went down with it."""

    of: UpdateId
    reason: Reason
    detail: str


Event = (
    Offered
    | Matched
    | Withdrawn
    | Verified
    | Refused
    | Fetched
    | FetchFailed
    | Cleared
    | Removed
    | Started
    | StartFailed
    | TrialPassed
    | MemberPassed
    | SetConfirmed
    | SetFailed
    | TrialFailed
    | Endured
    | Stopped
    | Resumed
    | Continued
    | Lapsed
    | Suspended
    | GaveUp
)

BEGUN = (Phase.OFFERED, Phase.FETCHING, Phase.STAGED, Phase.STARTING)
"""Under way, but not on trial yet."""
ON_TRIAL = (Phase.TRIAL, Phase.PASSED)
"""The new module is the one that is fed, and may go back."""
LOADED = (Phase.STARTING, *ON_TRIAL)
"""The new module is loaded: a restart of the board may be its fault."""

TRANSITIONS: dict[tuple[Phase, type], Phase] = {
    **{(phase, Offered): Phase.OFFERED for phase in (*ENDED, *BEGUN)},
    **{(phase, Matched): Phase.CONFIRMED for phase in (*ENDED, *BEGUN)},
    **{(phase, Withdrawn): Phase.STAGED for phase in (*ENDED, *BEGUN)},
    (Phase.OFFERED, Verified): Phase.FETCHING,
    (Phase.OFFERED, Refused): Phase.REJECTED,
    (Phase.OFFERED, FetchFailed): Phase.FAILED,
    (Phase.FETCHING, Fetched): Phase.STAGED,
    (Phase.FETCHING, FetchFailed): Phase.FAILED,
    (Phase.STAGED, Cleared): Phase.STARTING,
    (Phase.STAGED, Removed): Phase.CONFIRMED,
    (Phase.STAGED, MemberPassed): Phase.PASSED,
    (Phase.STARTING, Started): Phase.TRIAL,
    (Phase.STARTING, StartFailed): Phase.FAILED,
    (Phase.TRIAL, StartFailed): Phase.FAILED,
    (Phase.TRIAL, TrialPassed): Phase.CONFIRMED,
    (Phase.TRIAL, MemberPassed): Phase.PASSED,
    (Phase.TRIAL, Endured): Phase.TRIAL,
    (Phase.TRIAL, Continued): Phase.TRIAL,
    (Phase.PASSED, SetConfirmed): Phase.CONFIRMED,
    **{(phase, TrialFailed): Phase.ROLLED_BACK for phase in ON_TRIAL},
    **{(phase, SetFailed): Phase.FAILED for phase in BEGUN},
    **{(phase, SetFailed): Phase.ROLLED_BACK for phase in ON_TRIAL},
    **{(phase, Stopped): Phase.FAILED for phase in BEGUN},
    **{(phase, Resumed): Phase.OFFERED for phase in (*BEGUN, *ON_TRIAL)},
    **{(phase, Lapsed): Phase.FAILED for phase in (*BEGUN, *ON_TRIAL)},
    **{(phase, Suspended): Phase.OFFERED for phase in LOADED},
    **{(phase, GaveUp): Phase.ROLLED_BACK for phase in (*BEGUN, *ON_TRIAL)},
}
