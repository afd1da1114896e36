"""A rollout in steps: how a step stands by what its boards say, and which step comes next."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ota.formats.deployment import FRACTION_ALL, Entry
from ota.operator.waiting import Kind, Outcome

__all__ = ["MAX_STEPS", "Limit", "Verdict", "following", "members", "verdict"]

MAX_STEPS = 100


class Verdict(Enum):
    """How a step stands."""

    PASSED = "passed"
    FAILED = "failed"  # on more boards than may
    WAITING = "waiting"  # nothing stands against it but windows and owners
    OPEN = "open"  # it has not ended on every board that counts, or not all of them are known
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Limit:
    """On how many boards of a step it may fail: a number, or a share of them in millionths."""

    boards: int = 0
    share_ppm: int | None = None

    def exceeded(self, outcome: Outcome) -> bool:
        """Whether it failed on more. Of an outcome that is not whole yet a share may be exceeded too early, never too late."""
        failed = outcome.counts[Kind.FAILED]
        if self.share_ppm is None:
            return failed > self.boards
        return failed * FRACTION_ALL > self.share_ppm * (outcome.counts.total() - outcome.counts[Kind.OVERRIDDEN])

    def __str__(self) -> str:
        return f"{self.boards}" if self.share_ppm is None else f"{self.share_ppm / 10_000:g} %"


def verdict(outcome: Outcome, limit: Limit) -> Verdict:
    """By what is known of the boards; unknown is never counted as good."""
    counts = outcome.counts
    if outcome.superseded:
        return Verdict.SUPERSEDED
    if limit.exceeded(outcome):
        return Verdict.FAILED
    absent = (Kind.OFFLINE, Kind.SILENT) if outcome.only_online else ()
    ended = counts[Kind.CONFIRMED] + sum(counts[each] for each in (Kind.FAILED, Kind.OVERRIDDEN, *absent))
    if outcome.gaps or ended + counts[Kind.WAITING] < counts.total() or not counts[Kind.CONFIRMED] + counts[Kind.WAITING]:
        return Verdict.OPEN
    return Verdict.WAITING if counts[Kind.WAITING] else Verdict.PASSED


def following(entry: Entry, steps: Sequence[int]) -> int | None:
    """The share, in millionths, of the first step that is wider than what an entry has; None after the last."""
    return next((each for each in steps if each > entry.fraction_ppm), None)


def members(entry: Entry, share_ppm: int, boards: Iterable[str]) -> list[str]:
    """Those of the boards that an entry is for once it is as wide."""
    wider = replace(entry, fraction_ppm=share_ppm)
    return sorted(name for name in boards if wider.includes(name))
