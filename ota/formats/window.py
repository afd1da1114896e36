"""Windows: when a board may change what it runs. Judged on the board, offline, by its own clock and zone."""

import re
from dataclasses import dataclass
from typing import Any

from ota.formats.fields import Fields, Unknown, malformed
from ota.formats.reasons import Reason, Refused

__all__ = ["DAYS", "Window"]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MIN = 1440
_DAYS, _START, _LENGTH, _UTC, _WITHOUT_CLOCK = range(1, 6)
_EVERY_DAY = (1 << len(DAYS)) - 1
_TEXT = re.compile(
    r"(?:(?P<days>[a-z,-]+) +)?(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})"
    r" +(?:(?P<hours>[0-9]{1,4})h)?(?:(?P<minutes>[0-9]{1,4})m)?(?P<utc> +utc)?"
)
_FORM = 'days, start and length such as "mon-fri 02:00 2h" or "sat,sun 23:30 1h30m utc"'


@dataclass(frozen=True)
class Window:
    """Open on each of `days` (0 is Monday) from `start_min` minutes after midnight on, for `length_min` minutes.

    It may go on past midnight.
    """

    days: frozenset[int]
    start_min: int
    length_min: int
    utc: bool = False  # else by the board's zone
    without_clock: bool = False  # whether a board that does not know the time may start at once; else it waits until it does

    def is_open(self, weekday: int, minute: int) -> bool:
        """Whether it is open at a minute of a day."""
        since = minute - self.start_min
        today = weekday in self.days and 0 <= since < self.length_min
        yesterday = (weekday - 1) % len(DAYS) in self.days and since + DAY_MIN < self.length_min
        return today or yesterday

    def opens_within(self, minutes: int, weekday: int, minute: int) -> bool:
        """Whether it is open in one of the `minutes` that begin at a minute of a day."""
        first = weekday * DAY_MIN + minute
        week = len(DAYS) * DAY_MIN
        return any(self.is_open(each % week // DAY_MIN, each % DAY_MIN) for each in range(first, first + min(minutes, week)))

    def __str__(self) -> str:
        """As `from_text` reads it."""
        days = ",".join(DAYS[day] for day in sorted(self.days))
        if len(self.days) > 2 and max(self.days) - min(self.days) == len(self.days) - 1:
            days = f"{DAYS[min(self.days)]}-{DAYS[max(self.days)]}"
        hours, minutes = divmod(self.length_min, 60)
        length = f"{hours}h" * bool(hours) + f"{minutes}m" * bool(minutes)
        return f"{days} {self.start_min // 60:02}:{self.start_min % 60:02} {length}{' utc' * self.utc}"

    @classmethod
    def from_text(cls, text: str, *, utc: bool = False, without_clock: bool = False) -> "Window":
        """Days (every day where none is named), start and length. Raises Refused MALFORMED, WINDOW_NEVER_OPENS."""
        found = _TEXT.fullmatch(text.strip().lower())
        if found is None:
            raise malformed(f"window {text!r}", f"not {_FORM}")
        days = _days(found["days"], text)
        start_min = int(found["hour"]) * 60 + int(found["minute"])
        length_min = int(found["hours"] or 0) * 60 + int(found["minutes"] or 0)
        if int(found["hour"]) > 23 or int(found["minute"]) > 59:
            raise malformed(f"window {text!r}", "it begins at no time of day: a start from 00:00 to 23:59 is expected")
        if not length_min:
            raise Refused(Reason.WINDOW_NEVER_OPENS, f"window {text!r} has no minute: a length such as 2h or 90m is expected")
        if length_min > DAY_MIN:
            raise malformed(f"window {text!r}", f"it is longer than a day: a length up to {DAY_MIN // 60}h is expected")
        return cls(days, start_min, length_min, utc or bool(found["utc"]), without_clock)

    def to_value(self) -> dict[int, Any]:
        """For encoding."""
        return {
            _DAYS: sum(1 << day for day in self.days),
            _START: self.start_min,
            _LENGTH: self.length_min,
            _UTC: self.utc,
            _WITHOUT_CLOCK: self.without_clock,
        }

    @classmethod
    def parse(cls, value: Any, what: str) -> "Window":
        """From decoded CBOR. Raises Refused MALFORMED, MEMBER_UNKNOWN, WINDOW_NEVER_OPENS."""
        fields = Fields(value, what, range(1, 6), Unknown.CRITICAL)
        mask, length_min = fields.number(_DAYS, 0, _EVERY_DAY), fields.number(_LENGTH, 0, DAY_MIN)
        if not mask or not length_min:
            raise Refused(
                Reason.WINDOW_NEVER_OPENS,
                f"{what}: the window has {'no minute' if mask else 'no day'}: one of each at least is expected",
            )
        return cls(
            days=frozenset(day for day in range(len(DAYS)) if mask >> day & 1),
            start_min=fields.number(_START, 0, DAY_MIN - 1),
            length_min=length_min,
            utc=fields.flag(_UTC),
            without_clock=fields.flag(_WITHOUT_CLOCK),
        )


def _days(text: str | None, whole: str) -> frozenset[int]:
    """Names of days and ranges of them, with commas between."""
    if text is None:
        return frozenset(range(len(DAYS)))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (last if dash else first) not in DAYS:
            raise malformed(
                f"window {whole!r}",
                f"{part!r} is neither a day nor a range of days: {', '.join(DAYS)} or one such as mon-fri are expected",
            )
        day = DAYS.index(first)
        found.add(day)
        while dash and day != DAYS.index(last):
            day = (day + 1) % len(DAYS)
            found.add(day)
    return frozenset(found)
