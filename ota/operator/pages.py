"""Reading retained messages in pages, in a way that no broker's queue can cut and no slow network can hide.

A page is one SUBSCRIBE packet. A page of exact topics is done when each of them has answered. What does not answer is decided by a
fence: a message of our own, published after SUBACK, that comes back, and a grace period after it for brokers that keep no order
between topics. Nothing is concluded from silence: what no fence decided is unknown, with the reason.

No more topics are open at a time than the smallest known window: rumqttd delivers 100 messages, then no more on that connection.
A page of wildcards that brings as many as could have been a cut says so, and what follows is read on a new connection.
"""

import collections
import contextlib
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from paho.mqtt.reasoncodes import ReasonCode

from ota.formats import topics
from ota.operator.session import FIRST_FAILURE, Incoming, NoConnectionError, Session, named

OPEN_TOPICS = 96  # in all open pages; the smallest limit known is 100
PAGE_BYTES = 1 << 20
CUT_MESSAGES = 60  # a page of wildcards that brings so many may have been cut
FOUND_LIMIT, FOUND_BYTES = (
    4096,
    64,
)  # messages that a page of wildcards keeps, and the beginning of each: anybody may put some there
SMALLEST_PAGE = 4
IDLE_S = 0.005  # nothing came for a page for so long: time to ask where the end is
GRACE_MIN_S, GRACE_MAX_S = 0.05, 5.0
UNFENCED_S = 1.0  # of silence end a page for which there is no fence: what did not come is unknown
UNFENCED_MIN_S, UNFENCED_TIMES = 0.2, 8  # the same where messages came, and how many times longer than the slowest of them took
UNFENCED_FOR_S = 120.0  # none is sent for so long once they did not come back
TRIES = 4  # connections that break or stall, one after the other, without a page that was decided
CHECK = f"{topics.PREFIX}/check"
ALLOW = ": this user must be allowed to write and read there (docs/broker.md)"


@dataclass(frozen=True)
class Answer:
    """What is known of one topic: its message, that it has none (`payload` is None), or nothing (`unknown` says why)."""

    topic: str
    payload: bytes | None = None
    unknown: str = ""
    live: bool = False  # it was published while we listened
    at_s: float = 0.0  # when it came, by the monotonic clock


@dataclass
class Page:
    """Filters that are asked for in one packet, and what came of them. The only wildcard is `+`, for whole levels."""

    filters: tuple[str, ...]
    found: dict[str, Incoming] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)  # filters that did not answer, and why
    mid: int = 0
    granted: bool = False
    granted_s: float = 0.0  # monotonic
    fence: int = 0  # number of the marker that ends it
    grace_end: float | None = None  # monotonic

    def __post_init__(self) -> None:
        self.exact = _fixed(self.filters[0]) == self.filters[0]
        self.open = set(self.filters)  # filters that are not decided

    @property
    def may_be_cut(self) -> bool:
        """Whether wildcards brought as many messages as a broker might have cut."""
        return not self.exact and len(self.found) >= CUT_MESSAGES

    @property
    def expected(self) -> int:
        """How many messages may still come: none to speak of once the fence is behind it. Wildcards are read alone."""
        return 0 if self.grace_end is not None else len(self.open) if self.exact else OPEN_TOPICS

    def take(self, message: Incoming) -> None:
        """A live message is never replaced by a retained one, which is older."""
        before = self.found.get(message.topic)
        if not self.exact:  # what is asked of them is who is there
            if before is None and len(self.found) >= FOUND_LIMIT:
                return
            message = replace(message, payload=message.payload[:FOUND_BYTES], about=())
        if before is None or before.retained or not message.retained:
            self.found[message.topic] = message
            self.open.discard(message.topic)

    def leave_out(self, filters: Collection[str]) -> None:
        """They are asked for with another page."""
        self.filters = tuple(each for each in self.filters if each not in filters)
        self.open.difference_update(filters)

    def give_up(self, why: str) -> None:
        """What is not decided stays unknown."""
        self.unknown.update(dict.fromkeys(self.open, why))
        self.open.clear()

    def answers(self) -> Iterator[Answer]:
        """One for each exact topic."""
        for each in self.filters:
            if each in self.unknown:
                yield Answer(each, unknown=self.unknown[each])
            elif (message := self.found.get(each)) is not None and message.payload:
                yield Answer(each, message.payload, live=not message.retained, at_s=message.at_s)
            else:
                yield Answer(each)


class Packets:
    """How many topics the broker takes in one SUBSCRIBE packet. AWS IoT takes eight and announces nothing: it is learned.

    Some brokers cut the connection instead of refusing, and a link that breaks looks the same. So one cut is doubted: fewer topics
    are asked for until some are granted, then as many as before. A second one is believed, of as many topics, or before any answer.
    """

    def __init__(self) -> None:
        self.topics = topics.TOPICS_A_PACKET
        self._before = 0  # what it was before a cut that is doubted; 0: none is
        self._cut = 0  # topics of the packet that was cut last, 0 once as many were granted
        self._silent = False  # nothing was granted since

    def refused(self, count: int) -> bool:
        """The broker did not take a packet of so many topics; whether fewer can be asked for."""
        if count > 1:
            self.topics, self._before, self._silent = min(self.topics, count // 2), 0, True
        return count > 1

    def cut(self, count: int) -> bool:
        """The connection was cut while a packet of so many topics was not answered; whether that is taken for a refusal."""
        if count <= 1:
            return False
        believed = self._silent or 0 < self._cut <= count
        before = 0 if believed else self._before or self.topics
        self.refused(count)
        self._before, self._cut = before, count
        return believed

    def granted(self, count: int) -> None:
        """The broker took a packet of so many topics."""
        self._silent = False
        if self._before:
            self.topics, self._before = self._before, 0
        if count >= self._cut:
            self._cut = 0


class Fences:
    """Whether markers come back from this broker. Where two in a row did not, none is sent for a while: each is waited for."""

    def __init__(self) -> None:
        self._lost, self._again_s = 0, 0.0

    @property
    def impossible(self) -> str:
        """Why there can be none now, empty where there can."""
        return f"our marker below {CHECK} does not come back{ALLOW}" if time.monotonic() < self._again_s else ""

    def passed(self) -> None:
        """What was asked for has come."""
        self._lost = 0

    def lost(self) -> None:
        """The connection ended, or stalled, while one was under way."""
        self._lost += 1
        if self._lost > 1:
            self._again_s = time.monotonic() + UNFENCED_FOR_S


class _Fence:
    """Our own marker on one connection: it shows that everything before it has come."""

    def __init__(self, session: Session, impossible: str, qos: int) -> None:
        """It has the QoS of the pages: a broker keeps no order between one QoS and another."""
        self._session = session
        self.impossible = impossible  # why there can be none
        self.topic = f"{CHECK}/{secrets.token_hex(8)}"
        self._qos = qos
        self._subscribed = 0
        self._granted = False
        self._published = 0
        self._sent_s = 0.0
        self.sent = self.passed = 0

    def begin(self) -> None:
        """Subscribes."""
        if not self.impossible:
            self._subscribed = self._session.subscribe([self.topic], self._qos)

    def ready(self) -> bool:
        """Whether one can be sent now: one at a time is under way."""
        return self._granted and not self.impossible and self.passed == self.sent

    def send(self) -> int:
        """Sends the marker; returns its number."""
        self.sent += 1
        self._sent_s = time.monotonic()
        self._published = self._session.publish(self.topic, b"%d" % self.sent, retain=False)
        return self.sent

    def came(self, message: Incoming) -> None:
        """The marker is back."""
        if message.payload == b"%d" % self.sent and self.passed < self.sent:
            self.passed = self.sent
            self._session.answered_after(message.at_s - self._sent_s)

    def look_at(self, answers: dict[int, list[ReasonCode]]) -> None:
        """What the broker says of subscription and marker."""
        if code := answers.pop(self._subscribed, None):
            self._granted = True
            if code[0].value >= FIRST_FAILURE:
                self.impossible = f"the broker refuses to let us read {CHECK}/#: {named(code[0])}{ALLOW}"
        if (code := answers.pop(self._published, None)) and code[0].value >= FIRST_FAILURE:
            self.impossible = f"the broker refuses to let us write {CHECK}/#: {named(code[0])}{ALLOW}"

    def close(self) -> None:
        if self._subscribed:
            self._session.unsubscribe([self.topic])


class StalledError(NoConnectionError):
    """The connection is there, and nothing comes."""


class Reading:
    """Pages on one connection. `other` takes the messages that belong to no page."""

    def __init__(self, session: Session, other: Callable[[Incoming], None], packets: Packets, *, keep: bool, unfenced: str) -> None:
        """`keep` leaves the subscriptions in place, at QoS 1; `unfenced` says why there can be no fence."""
        self._session, self._other, self._packets, self._keep = session, other, packets, keep
        self._qos = int(keep)  # at QoS 0 nothing is lost on a connection that holds, and nothing needs to be acknowledged
        self._fence = _Fence(session, unfenced, self._qos)
        self.pages: list[Page] = []
        self._exact: dict[str, Page] = {}
        self._wide: dict[str, Page] = {}
        self._refused: list[Page] = []  # to be asked for in smaller packets
        self._heard_s = time.monotonic()  # something came that concerns pages
        self._slowest_s: float | None = None  # how long after its SUBACK a message came at most; None: none did
        self.answered = False  # the broker has said something of a page
        self.ended = False  # every page is decided, nothing is open any more

    def run(self, waiting: "collections.deque[Page]") -> Iterator[Page]:
        """Takes pages from `waiting`, yields each once it is decided. Raises NoConnectionError; `pages` has what was open then."""
        self._fence.begin()
        while waiting or self.pages:
            self._split(waiting)
            while waiting and (not self.pages or sum(each.expected for each in self.pages) + waiting[0].expected <= OPEN_TOPICS):
                self._ask(waiting.popleft())
                self._split(waiting)
            self._session.pump(self._wait_s())
            self._sort()
            self._look_at_answers()
            waiting.extendleft(self._refused)
            self._refused = []
            self._decide(time.monotonic() - self._heard_s)
            yield from self._finished(time.monotonic())
        with contextlib.suppress(NoConnectionError):
            self._fence.close()
        self.ended = True

    @property
    def fenced(self) -> bool:
        """Whether a marker is under way."""
        return self._fence.sent > self._fence.passed

    def _split(self, waiting: "collections.deque[Page]") -> None:
        """Makes the next page small enough for one packet."""
        if waiting and len(waiting[0].filters) > self._packets.topics:
            waiting.extendleft(reversed(_parts(waiting.popleft(), self._packets.topics)))

    @property
    def unanswered(self) -> int:
        """The topics in the largest SUBSCRIBE packet that the broker has not answered."""
        return max((len(each.filters) for each in self.pages if not each.granted), default=0)

    def _ask(self, page: Page) -> None:
        self.pages.append(page)  # first: should the connection be gone, it is asked for on the next one
        page.mid = self._session.subscribe(page.filters, self._qos)
        (self._exact if page.exact else self._wide).update((_fixed(each), page) for each in page.filters)

    def _wait_s(self) -> float:
        """Until something must be done though nothing comes."""
        if any(self._undecided(each) for each in self.pages) and not self.fenced:
            return IDLE_S
        ends = [each.grace_end for each in self.pages if each.grace_end is not None]
        return max(0.0, min(ends) - time.monotonic()) if ends else 1.0

    def _sort(self) -> None:
        arrived = self._session.arrived
        while arrived:
            message = arrived.popleft()
            if message.topic == self._fence.topic:
                self._fence.came(message)
            elif (page := self._page_of(message.topic)) is not None:
                page.take(message)
                late_s = message.at_s - page.granted_s if page.granted else 0.0
                self._slowest_s = max(late_s, self._slowest_s or 0.0)
            else:
                self._other(message)
                continue
            self._heard_s = message.at_s

    def _page_of(self, topic: str) -> Page | None:
        if (page := self._exact.get(topic)) is not None or not self._wide:
            return page
        above = topic
        while "/" in above and page is None:
            above = above.rpartition("/")[0]
            page = self._wide.get(above)
        return page if page is not None and any(topics.covers(each, topic) for each in page.filters) else None

    def _look_at_answers(self) -> None:
        answers = self._session.answers
        for page in self.pages:
            if not page.granted and page.mid in answers:
                page.granted = self.answered = True
                self._heard_s = page.granted_s = time.monotonic()
                refused = [
                    each for each in zip(page.filters, answers.pop(page.mid), strict=False) if each[1].value >= FIRST_FAILURE
                ]
                again = [each for each, code in refused if code.value in topics.TOO_MANY_TOPICS]
                if not again:
                    self._packets.granted(len(page.filters))
                elif self._packets.refused(len(page.filters)):
                    self._refused.append(Page(tuple(again)))
                    page.leave_out(again)
                for each, code in refused:
                    if each in page.open:
                        page.unknown[each] = f"the broker refused the subscription: {named(code)}"
                        page.open.discard(each)
        self._fence.look_at(answers)

    @property
    def unfenced_s(self) -> float:
        """How much silence ends a page for which there is no fence: less once it is known how fast this broker is."""
        known = self._slowest_s is not None
        usual_s = min(UNFENCED_S, max(UNFENCED_MIN_S, UNFENCED_TIMES * (self._slowest_s or 0.0))) if known else UNFENCED_S
        return min(max(usual_s, 4 * self._session.round_trip_s), self._session.patience_s / 2)

    @staticmethod
    def _undecided(page: Page) -> bool:
        return page.granted and not page.fence and bool(page.open)

    def _decide(self, quiet_s: float) -> None:
        """Nothing came for a while: asks where the end is, or finds that the connection has stalled."""
        undecided = [each for each in self.pages if self._undecided(each)]
        if self._fence.impossible:
            if quiet_s >= self.unfenced_s:
                for page in self.pages:
                    if page.granted and page.grace_end is None:
                        page.give_up(self._fence.impossible)
        elif undecided and self._fence.ready() and (quiet_s >= IDLE_S or not all(each.exact for each in undecided)):
            number = self._fence.send()
            for page in undecided:
                page.fence = number
        if self._session.is_overdue(quiet_s, "for what is retained"):
            raise StalledError(f"no answer in {quiet_s:.0f} s")

    def _finished(self, now: float) -> Iterator[Page]:
        for page in list(self.pages):
            if page.fence and page.fence <= self._fence.passed and page.grace_end is None:
                page.grace_end = now + min(max(GRACE_MIN_S, 2 * self._session.round_trip_s), GRACE_MAX_S)
            if page.granted and (not page.open or (page.grace_end is not None and now >= page.grace_end)):
                self.pages.remove(page)
                for each in page.filters:
                    (self._exact if page.exact else self._wide).pop(_fixed(each), None)
                if page.filters and not self._keep:
                    with contextlib.suppress(NoConnectionError):  # what is decided is decided
                        self._session.unsubscribe(page.filters)
                yield page


def _fixed(topic_filter: str) -> str:
    """The levels before the first wildcard."""
    return re.split("/[+#]", topic_filter, maxsplit=1)[0]


def pages_of(wanted: Sequence[str], each_bytes: int) -> Iterator[Page]:
    """Pages of exact topics whose messages have about `each_bytes`."""
    size = max(1, min(topics.TOPICS_A_PACKET, PAGE_BYTES // max(1, each_bytes)))
    for start in range(0, len(wanted), size):
        yield Page(tuple(wanted[start : start + size]))


def read(
    connect: Callable[[], Session],
    other: Callable[[Incoming], None],
    packets: Packets,
    fences: Fences,
    pages: Iterable[Page],
    *,
    keep: bool = False,
) -> Iterator[Page]:
    """Reads pages over connections that break or stall: what was open is asked for again, in smaller pages, on a new connection.

    `connect` gives the present connection, or a new one when that is closed. Raises BrokerError when none can be had.
    """
    waiting = collections.deque(pages)
    tries, mute = 0, True
    while waiting:
        session = connect()
        reading = Reading(session, other, packets, keep=keep, unfenced=fences.impossible)
        try:
            for page in reading.run(waiting):
                tries, mute = 0, False
                fences.passed()
                yield page
                if page.may_be_cut:
                    break
        except NoConnectionError as error:
            mute &= _was_mute(error, reading)
            if not _is_refusal(error, packets, reading.unanswered):
                tries += 1
                if reading.fenced:
                    fences.lost()
                if error.final:
                    raise
            if tries >= TRIES:
                yield from _given_up([*reading.pages, *waiting], str(error), mute=mute)
                return
        finally:
            if not reading.ended:  # it may have stalled, and what is open on it may still come
                session.close()
        waiting.extendleft(reversed([part for page in reading.pages for part in _again(page, smaller=tries > 0)]))


def _was_mute(error: NoConnectionError, reading: Reading) -> bool:
    return isinstance(error, StalledError) and not reading.answered


def _is_refusal(error: NoConnectionError, packets: Packets, unanswered: int) -> bool:
    """Whether the connection ended because a packet that asks for topics was not answered and had too many; fewer are asked for."""
    if error.cut:
        return packets.cut(unanswered)
    return error.packet and packets.refused(unanswered)


def _given_up(pages: Iterable[Page], why: str, *, mute: bool) -> Iterator[Page]:
    if mute:  # what is asked for next would be waited for as long
        raise NoConnectionError(f"the broker answered no subscription on {TRIES} connections, on the last one {why}")
    for page in pages:
        page.give_up(why)
        yield page


def _again(page: Page, *, smaller: bool) -> list[Page]:
    return _parts(page, max(SMALLEST_PAGE, len(page.filters) // 2) if smaller else len(page.filters))


def _parts(page: Page, size: int) -> list[Page]:
    return [Page(page.filters[start : start + size]) for start in range(0, len(page.filters), size)]
