"""What the board knows of the time: whether its clock can be believed, and what it says in the board's zone."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from device_agent.desired.clock import since_start_s
from device_agent.instance.gate import Now
from ota.formats.deployment import CLOCK_SLACK_S
from ota.formats.released import RELEASED_S

__all__ = ["BoardClock", "unknown_zone"]

RTC, SYNCHRONISED = Path("/sys/class/rtc"), Path("/run/systemd/timesync/synchronized")
LOCALTIME = Path("/etc/localtime")
ZONES = tuple(map(Path, ("/usr/share/zoneinfo", "/share/zoneinfo", "/etc/zoneinfo")))  # where the C libraries look
_RULES = re.compile(
    r"([A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)[+-]?[0-9]"
)  # POSIX: the zone's own rules, such as CET-1CEST,M3.5.0,M10.5.0/3
_UTC = frozenset(("", "UTC", "GMT", "UCT", "Zulu", "Universal", "Etc/UTC", "Etc/GMT"))


def unknown_zone(environment: Mapping[str, str] = os.environ, localtime: Path = LOCALTIME, zones: Sequence[Path] = ZONES) -> str:
    """The board's zone where there are no rules for it, and the C library takes UTC in its place without a word; "" elsewhere."""
    name = environment.get("TZ")
    if name is None:
        linked = str(localtime.readlink()) if localtime.is_symlink() and not localtime.exists() else ""
        name = linked.rpartition("zoneinfo/")[2]
    name = name.removeprefix(":")
    folders = (Path(environment["TZDIR"]),) if "TZDIR" in environment else zones
    known = name in _UTC or _RULES.match(name) or any((each / name).is_file() for each in folders)
    return "" if known else name


class BoardClock:
    """The board's clock, with a floor: the time is not before this version was made, before the newest signed document that was
    accepted was issued, and not before what was kept of the time.

    A clock behind its floor is wrong. One that is not is believed for one of these reasons: it was set while the agent ran, systemd
    says that it is synchronised, the board has a battery-backed clock that keeps the time, or its owner says so (`clock.trusted`).
    A clock that only goes on from where the last shutdown left it has none of them. What was kept of the time yields to a clock
    that was set since: it may have been kept while the clock was ahead. Signed documents don't.
    """

    def __init__(
        self,
        proven_s: Callable[[], int],
        trusted: bool = False,
        zone: tzinfo | None = None,
        time_s: Callable[[], float] = time.time,
        rtc: Path = RTC,
        synchronised: Path = SYNCHRONISED,
        kept_s: int = 0,
        since_start_s: Callable[[], float] = since_start_s,
    ) -> None:
        """`proven_s`: when the newest signed document that was accepted was issued. `zone`: None for the system's. `kept_s`: what
        `to_keep` said last.
        """
        self._proven_s, self._trusted, self._zone, self._time_s = proven_s, trusted, zone, time_s
        self._rtc, self._synchronised, self._kept_s = rtc, synchronised, kept_s
        self._was_set = False
        self._since_start_s, self._start_s = since_start_s, 0.0  # when the board was started, at the earliest

    def set(self) -> None:
        """The clock was set, by NTP or by hand."""
        self._was_set = True

    def now(self) -> Now:
        """The time, now."""
        lacking = ""
        if self._zone is None:
            time.tzset()  # the zone may have been changed
            lacking = unknown_zone()
        now_s = self._time_s()
        return Now(datetime.fromtimestamp(now_s, self._zone), datetime.fromtimestamp(now_s, UTC), self._believed(now_s), lacking)

    @property
    def floor_s(self) -> int:
        """It is not earlier; seconds since 1970."""
        proven_s = max(RELEASED_S, self._proven_s())
        return proven_s if self._has_a_source(self._time_s(), proven_s) else max(proven_s, self._kept_s)

    def reached_s(self) -> float:
        """The time for what must not wait for a clock that stands still: that of its floor and since then, where that is later.

        A clock that somebody has set is taken at its word.
        """
        now_s, since_s = self._time_s(), self._since_start_s()
        if self._has_a_source(now_s, max(RELEASED_S, self._proven_s())):
            return now_s
        self._start_s = max(self._start_s, self.floor_s - since_s)
        return max(now_s, self._start_s + since_s)

    def to_keep(self) -> int | None:
        """The time to keep for the next start, in seconds since 1970; None where the clock is not believed."""
        now_s = self._time_s()
        if not self._believed(now_s):
            return None
        self._kept_s = int(now_s)
        return self._kept_s

    def _believed(self, now_s: float) -> bool:
        earliest_s = self.floor_s - CLOCK_SLACK_S
        return now_s >= earliest_s and (self._has_a_source(now_s, self.floor_s) or self._has_battery(earliest_s))

    def _has_a_source(self, now_s: float, proven_s: int) -> bool:
        """Whether somebody who knows the time has set the clock, as far as that can be so."""
        return now_s >= proven_s - CLOCK_SLACK_S and (self._trusted or self._was_set or self._synchronised.exists())

    def _has_battery(self, earliest_s: int) -> bool:
        """One whose battery is empty begins at 1970 or 2000."""
        with suppress(OSError):
            for each in self._rtc.iterdir():
                with suppress(OSError, ValueError):
                    if int((each / "since_epoch").read_text()) >= earliest_s:
                        return True
        return False
