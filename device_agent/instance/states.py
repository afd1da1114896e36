"""The states of an update, the events that move it, and one table. Nothing else: docs/states.md is made from this file."""

from dataclasses import dataclass
from enum import Enum

from ota.formats.reasons import Reason


class Phase(Enum):
    """Where an update is; the values are those of reports (ota.formats.report.STATES)."""

    IDLE = "idle"
    OFFERED = "offered"
    FETCHING = "fetching"
    STAGED = "staged"
    TRIAL = "trial"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"


ENDED = (Phase.IDLE, Phase.CONFIRMED, Phase.REJECTED, Phase.FAILED, Phase.ROLLED_BACK)


@dataclass(frozen=True)
class Offered:
    """A verified deployment that this device is part of names a manifest that it does not run."""

    deployment: bytes
    manifest: bytes


@dataclass(frozen=True)
class Verified:
    """The manifest arrived, is signed, meant for this device, and asks for nothing that is not granted."""


@dataclass(frozen=True)
class Refused:
    """The manifest is refused, for a reason that stays."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class Fetched:
    """The blob is on disk, whole, its digest right."""


@dataclass(frozen=True)
class FetchFailed:
    """The manifest or the blob could not be fetched or stored."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class Started:
    """A worker has loaded the new module beside the old one."""


@dataclass(frozen=True)
class StartFailed:
    """The new module does not load, asks for what it may not have, or refuses the old one's state."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class TrialPassed:
    """The new module handled events for the trial period and says that it is well."""


@dataclass(frozen=True)
class TrialFailed:
    """The new module trapped, crashed, fell silent, missed a deadline or says that it is not well."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class Resumed:
    """The agent started and found this update in its journal."""


@dataclass(frozen=True)
class GaveUp:
    """The update was resumed too often: each time the board went down with it."""

    reason: Reason
    detail: str


Event = Offered | Verified | Refused | Fetched | FetchFailed | Started | StartFailed | TrialPassed | TrialFailed | Resumed | GaveUp

TRANSITIONS: dict[tuple[Phase, type], Phase] = {
    **{(phase, Offered): Phase.OFFERED for phase in (*ENDED, Phase.OFFERED, Phase.FETCHING)},
    (Phase.OFFERED, Verified): Phase.FETCHING,
    (Phase.OFFERED, Refused): Phase.REJECTED,
    (Phase.OFFERED, FetchFailed): Phase.FAILED,
    (Phase.FETCHING, Fetched): Phase.STAGED,
    (Phase.FETCHING, FetchFailed): Phase.FAILED,
    (Phase.STAGED, Started): Phase.TRIAL,
    (Phase.STAGED, StartFailed): Phase.FAILED,
    (Phase.TRIAL, StartFailed): Phase.FAILED,
    (Phase.TRIAL, TrialPassed): Phase.CONFIRMED,
    (Phase.TRIAL, TrialFailed): Phase.ROLLED_BACK,
    **{(phase, Resumed): Phase.OFFERED for phase in (Phase.OFFERED, Phase.FETCHING, Phase.STAGED, Phase.TRIAL)},
    **{(phase, GaveUp): Phase.ROLLED_BACK for phase in (Phase.OFFERED, Phase.FETCHING, Phase.STAGED, Phase.TRIAL)},
}
