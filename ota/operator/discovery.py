"""Discovers unknown boards by wildcard subscriptions, on brokers that truncate the answers to wildcards.

Each board's `online` topic lies in one of 4,096 buckets (ota.formats.topics.online). A bucket that brings as many messages as a
broker might have cut is read again one digit deeper; one that can't be divided is a gap. Names are checked against the bucket.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ota.formats import topics
from ota.formats.fields import is_name
from ota.operator.broker import Broker
from ota.operator.pages import CHECK, CUT_MESSAGES, Page
from ota.operator.signers import MAX_BOARDS

AIM = 36  # messages a page of wildcards is to bring: it seldom has CUT_MESSAGES then
DIGITS = "0123456789abcdef"
NO_WILDCARDS = "this broker hands out nothing retained to wildcards: boards that are not in the roster are not found"
TOO_MANY = f"there are more than {MAX_BOARDS} names of boards on the broker, and some are left out: does somebody invent them?"


@dataclass
class Discovered:
    """Boards by name, each with whether it is connected. `gaps` says why there may be more of them."""

    known: Collection[str] = ()  # before
    online: dict[str, bool] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    possible: bool = True
    strangers: int = 0  # how many of them were not

    def take(self, name: str, *, online: bool) -> None:
        """A board, unless it is new and there are too many: those that are known stay."""
        if name not in self.known and name not in self.online:
            if len(self.known) + self.strangers >= MAX_BOARDS:
                self.gaps += [TOO_MANY] if TOO_MANY not in self.gaps else []
                return
            self.strangers += 1
        self.online[name] = online


def discover(broker: Broker, known: Collection[str]) -> Discovered:
    """Reads every bucket; how many boards are `known` makes it choose how deep to begin. Raises BrokerError."""
    found, expected = Discovered(known), len(known)
    if not broker.limits.wildcards:
        return Discovered(possible=False)
    level, each = _depth(broker, found, expected)
    if found.gaps:  # no bucket's end can be known then, and waiting for that of each of them would take minutes
        (page,) = broker.read([Page((topics.online_in(""),))])
        _take(found, page)
        return found
    buckets = _below("", level)
    while buckets:
        together = max(1, int(AIM / each))
        again: list[str] = []
        pages = (Page(tuple(map(topics.online_in, buckets[at : at + together]))) for at in range(0, len(buckets), together))
        for page in broker.read(pages):
            _take(found, page)
            if page.may_be_cut:
                again += page.filters
        buckets, each = _divided(found, [_digits(one) for one in again], apart=together > 1), AIM
    if not found.online and not found.gaps:
        found.possible = _wildcards_work(broker, found)
    return found


def _depth(broker: Broker, found: Discovered, expected: int) -> tuple[int, float]:
    """How many digits a bucket needs so that it is not cut, and how many boards are in one then."""
    level = next(each for each in range(topics.BUCKET_DIGITS + 1) if expected / 16**each <= AIM or each == topics.BUCKET_DIGITS)
    while True:
        (page,) = broker.read([Page((topics.online_in("0" * level),))])
        _take(found, page)
        if not page.may_be_cut or level == topics.BUCKET_DIGITS:
            return level, max(1.0, expected / 16**level, 1.5 * len(page.found))
        level += 1


def _below(digits: str, level: int) -> list[str]:
    buckets = [digits]
    while len(buckets[0]) < level:
        buckets = [each + digit for each in buckets for digit in DIGITS]
    return buckets


def _divided(found: Discovered, cut: Sequence[str], *, apart: bool) -> list[str]:
    """Buckets to read instead of those that may have been cut: each alone, or if it was alone, what it is made of."""
    if apart:
        return list(cut)
    for each in cut:
        if len(each) == topics.BUCKET_DIGITS:
            found.gaps.append(f"{CUT_MESSAGES} boards or more have names in bucket {each}: the broker may have left out some")
    return [each + digit for each in cut if len(each) < topics.BUCKET_DIGITS for digit in DIGITS]


def _digits(wildcards: str) -> str:
    return "".join(wildcards.removeprefix(topics.online_in("").rstrip("#")).rstrip("/#").split("/"))


def _take(found: Discovered, page: Page) -> None:
    for message in page.found.values():
        name = message.topic.rpartition("/")[2]
        if message.payload and is_name(name) and topics.online(name) == message.topic:
            found.take(name, online=message.payload == topics.ONLINE)
    for why in sorted(set(page.unknown.values())):
        if why not in found.gaps:
            found.gaps.append(why)


def _wildcards_work(broker: Broker, found: Discovered) -> bool:
    """Nothing was found: is that because nothing is there? Asks with a retained message of our own, which is taken away again."""
    place = f"{CHECK}/{secrets.token_hex(8)}"
    broker.publish_all([(f"{place}/probe", b"1")])
    try:
        (page,) = broker.read([Page((f"{place}/+",))])
    finally:
        broker.publish_all([(f"{place}/probe", b"")])
    found.gaps += sorted(set(page.unknown.values()))
    return bool(page.found) or bool(page.unknown)
