"""Subscription identifiers of inputs that overlap (MQTT 5, section 3.8.2.1.2): a message that several of them match is taken once.

A broker may send such a message once for each subscription. Each copy says by which it came; the one of the subscription that was
made first is taken. That one has matched every message that a later one has, also those that wait at the broker.
"""

import secrets
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping

from device_agent.broker.packets import Arrived
from device_agent.broker.subscription import Kind
from ota.formats import topics

RANDOM_BELOW = 1 << 27  # half of the numbers that there are (MQTT 5, section 3.8.2.1.2)
__all__ = ["Identifiers", "is_wild", "overlapping"]


def is_wild(filter_: str) -> bool:
    """Whether a filter has wildcards."""
    return "+" in filter_ or "#" in filter_


def overlapping(filters: Iterable[str]) -> frozenset[str]:
    """Those of which another one may match the same topic."""
    every = list(filters)
    return frozenset(each for each in every if any(each != other and topics.meet(each, other) for other in every))


class Identifiers:
    """Of the subscriptions that a session has. A higher number is a later subscription, and none is used twice.

    The first one is random: what waited at the broker while the agent was restarted came by numbers of the agent before, which must
    not be taken for these. A message that came by such a number is taken.
    """

    def __init__(self, counters: Counter[str] | None = None) -> None:
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._last = secrets.randbelow(RANDOM_BELOW)
        self._of: dict[str, int] = {}
        self._overlap: frozenset[str] = frozenset()

    @property
    def given(self) -> tuple[dict[str, int], int]:
        """Those that subscriptions have, and the last one that was given."""
        return dict(self._of), self._last

    def go_on(self, given: Mapping[str, int], last: int) -> None:
        """The session is that of an agent before."""
        self._of, self._last = dict(given), last

    def begin(self, *, session_present: bool) -> None:
        """A connection begins, whose session may have no subscriptions."""
        if not session_present:
            self._of.clear()

    def arrange(self, wanted: Mapping[str, Kind], denied: Container[str]) -> frozenset[str]:
        """Takes note of the inputs that overlap; returns those that need not be asked for, as a wider one brings them."""
        inputs = [each for each, kind in wanted.items() if kind is Kind.INPUT]
        wide = [each for each in inputs if is_wild(each) and each not in denied]
        covered = frozenset(each for each in inputs if any(each != other and topics.covers(other, each) for other in wide))
        self._overlap = overlapping(each for each in inputs if each not in covered and each not in denied)
        return covered

    def needed(self, asked: Collection[str], held: Iterable[str]) -> dict[str, int]:
        """What is to be asked for with a number of its own, in the order of these: of `asked` what has one or overlaps, and of what
        is `held` what overlaps by now and was asked for without one.
        """
        numbered = sorted(self._of.keys() & set(asked), key=self._of.__getitem__)
        before = [each for each in held if each in self._overlap and each not in self._of]
        return {each: self._give(each) for each in (*numbered, *before, *(each for each in asked if each in self._overlap))}

    def _give(self, filter_: str) -> int:
        if filter_ not in self._of:
            self._last += 1
            self._of[filter_] = self._last
        return self._of[filter_]

    def drop(self, filter_: str) -> None:
        """It was ended or denied. Made once more, it is a later one."""
        self._of.pop(filter_, None)

    def takes(self, arrived: Arrived) -> bool:
        """Whether this copy of a message is the one to take. Retained ones come by the subscription that asks for them alone."""
        came_by = arrived.subscriptions
        if arrived.retained or not came_by or not set(came_by) <= set(self._of.values()):
            return True  # of a subscription that was ended meanwhile, perhaps
        matching = [number for filter_, number in self._of.items() if topics.covers(filter_, arrived.topic)]
        taken = not matching or min(matching) in came_by
        self._counters["copies_dropped"] += not taken
        return taken
