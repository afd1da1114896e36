"""Whether the operator's clock can be right. What it says goes into signed documents and sequence numbers, which never go back."""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass

from ota.errors import OtaError
from ota.formats.released import RELEASED_S
from ota.formats.report import Report

__all__ = ["ClockError", "Evidence", "check"]

SLACK_S = 86_400  # between clocks that are right
BOARDS_AHEAD_S = 2 * 86_400  # of the boards that are connected now
SILENT_AHEAD_S = 90 * 86_400  # of the last thing that was signed, when no board is there to compare with


class ClockError(OtaError):
    """The clock contradicts what is known."""


@dataclass(frozen=True)
class Evidence:
    """What is known of the time, in seconds since 1970."""

    signed_s: int  # the newest time in what this workspace's keys signed; 0: nothing
    boards_s: int = 0  # the median of what boards that are connected say; 0: none

    def with_boards(self, reports: Iterable[Report]) -> "Evidence":
        """Together with the clocks of boards; those of boards whose clock was never set do not count."""
        times = [each.time_s for each in reports if each.time_s >= RELEASED_S]
        return Evidence(self.signed_s, int(statistics.median(times)) if times else 0)


def check(now_s: int, evidence: Evidence) -> None:
    """Raises ClockError when the time can't be right."""
    floor_s = max(RELEASED_S, evidence.signed_s)
    if now_s < floor_s - SLACK_S:
        what = "this workspace signed something" if evidence.signed_s > RELEASED_S else "this program was released"
        raise _error(now_s, f"{what} on {_day(floor_s)}")
    if evidence.boards_s:
        if now_s > evidence.boards_s + BOARDS_AHEAD_S:
            raise _error(now_s, f"the clocks of the connected boards say {_day(evidence.boards_s)}")
    elif evidence.signed_s and now_s > evidence.signed_s + SILENT_AHEAD_S:
        raise _error(
            now_s, f"the last thing that was signed here is of {_day(evidence.signed_s)}, and no board is connected to compare"
        )


def _error(now_s: int, against: str) -> ClockError:
    return ClockError(
        f"the clock of this machine says {_day(now_s)}, but {against}. Sequence numbers follow the clock and never go back:"
        " set the clock, or give --clock-is-right"
    )


def _day(time_s: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
    except (OverflowError, ValueError, OSError):
        return f"{time_s} s since 1970"
