"""Whether a staged update may begin now. No I/O: the time, the zone and what is known of the clock are parameters.

The download is over by then. What is judged is when the board may change what it runs: an entry's window, by the board's own clock
and zone, with the network or without. A window that closes before the change began is waited for again.
"""

from dataclasses import dataclass
from datetime import datetime

from ota.formats.deployment import Entry
from ota.formats.reasons import Reason
from ota.formats.window import Window

__all__ = ["Now", "Waits", "why_wait"]


@dataclass(frozen=True)
class Now:
    """What a board knows of the time."""

    local: datetime  # by the board's zone
    utc: datetime
    trusted: bool  # whether there is a reason to believe the clock
    unknown_zone: str = ""  # the board's zone where its rules are not on the board: `local` is UTC then


@dataclass(frozen=True)
class Waits:
    """Why a staged update has not begun: a code for programs, a text for people."""

    reason: Reason
    detail: str


def why_wait(deployment: bytes, entry: Entry | None, now: Now) -> Waits | None:
    """What a staged update of this deployment waits for, None when it may begin. `entry`: the one in force for its instance.

    Without that there is no telling which window holds, so it waits.
    """
    if entry is None or entry.deployment_id != deployment:
        return Waits(Reason.DOCUMENT_AWAITED, "waits for the document of its deployment")
    if entry.paused:
        return Waits(Reason.DEPLOYMENT_STOPPED, "waits: its deployment is paused")
    return _closed(entry.window, now) if entry.window is not None else None


def _closed(window: Window, now: Now) -> Waits | None:
    if not now.trusted:
        why = Waits(Reason.WINDOW_UNKNOWN, f"waits for the time to be known, to tell its window, {window}")
        return None if window.without_clock else why
    if now.unknown_zone and not window.utc:
        lacks = f"this board has no rules of its zone, {now.unknown_zone}"
        why = Waits(Reason.WINDOW_UNKNOWN, f"waits: {lacks}, to tell its window, {window}")
        return None if window.without_clock else why
    time = now.utc if window.utc else now.local
    is_open = window.is_open(time.weekday(), time.hour * 60 + time.minute)
    return None if is_open else Waits(Reason.WINDOW_CLOSED, f"waits for its window, {window}")
