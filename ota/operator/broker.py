"""The operator's connection to the broker: publish with acknowledgement, read retained messages, follow topics.

A broken connection is replaced by a new one (ota.operator.session). Nothing that was sent on an earlier one is sent again
unless the broker has not acknowledged it and the caller still waits for it.
"""

import collections
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from paho.mqtt.reasoncodes import ReasonCode

from ota.operator import pages
from ota.operator.pages import Answer, Fences, Packets, Page
from ota.operator.session import FIRST_FAILURE, BrokerError, Incoming, Limits, NoConnectionError, Session, named
from ota.operator.workspace import Settings

__all__ = ["Answer", "Broker", "BrokerError", "Incoming", "Limits", "NoConnectionError"]

WINDOW = 20  # messages that are not acknowledged yet
SLOWEST_BYTES_PER_S = 1024
RECONNECTS = 5  # one after the other, without any progress
RECONNECT_MIN_S, RECONNECT_MAX_S = 0.5, 8.0
WAITING_LIMIT_BYTES = 64 << 20  # of messages that nobody has taken yet; one beyond is dropped
MESSAGE_OVERHEAD_BYTES, PROPERTY_OVERHEAD_BYTES = 500, 200
REPORT_BYTES = 4096
SMALL_BYTES = 1024  # of a message that every broker takes
TOO_LARGE = ": it may take none of that size (mosquitto: message_size_limit; smaller chunks: --chunk-bytes)"
_NOTHING: tuple[int, list[str], float] = (0, [], 0.0)
logger = logging.getLogger(__name__)


class Broker:
    """Connected while inside `with`. All methods raise BrokerError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: Session | None = None
        self._limits: Limits | None = None
        self.packets, self._fences = Packets(), Fences()
        self.progress: Callable[[int, int], None] = lambda _, __: None  # of each reading: how many topics of how many
        self.connections = 0  # made so far: what was kept open on an earlier one is gone
        self._filters: set[str] = set()
        self._again: tuple[int, list[str], float] = _NOTHING  # the subscription that a new connection began with, and when
        self._waiting: collections.deque[Incoming] = collections.deque()
        self._waiting_bytes = self._dropped = 0

    def __enter__(self) -> Self:
        self._connected()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            self._session.close()
        if self._dropped:
            logger.warning("%d messages came faster than they could be taken, and were dropped", self._dropped)

    @property
    def limits(self) -> Limits:
        """What the broker announced on the last connection, which may have broken since."""
        if self._limits is None:
            self._limits = self._connected().limits
        return self._limits

    @property
    def round_trip_s(self) -> float:
        """As it was measured last."""
        return self._connected().round_trip_s

    def publish_all(self, messages: Sequence[tuple[str, bytes]], progress: Callable[[int], None] = lambda _: None) -> None:
        """Publishes retained messages, in order, and waits until the broker has acknowledged them all; `progress` gets bytes done.

        Before anything is sent it raises BrokerError for a message that is larger than the broker takes. A message that the broker
        refuses (a reason code of 0x80 or more) is named, with the reason.
        """
        self.limits.check(messages)
        todo = collections.deque(messages)
        failures = 0
        while todo:
            flying: dict[int, tuple[str, bytes]] = {}
            try:
                session = self._connected()
                for size in self._publish_on(session, todo, flying):
                    failures = 0
                    progress(size)
            except NoConnectionError as error:
                todo.extendleft(reversed(flying.values()))
                failures += 1
                if error.final or failures > RECONNECTS:
                    what = f"{todo[0][0]} ({len(todo[0][1])} bytes)"
                    hint = TOO_LARGE if failures > RECONNECTS and len(todo[0][1]) > SMALL_BYTES else ""
                    raise BrokerError(f"{error}; it did not acknowledge {what}{hint}") from error
                _before_another(failures, error)

    def publish_heard(self, topic: str, payload: bytes, mark: str, connection: int) -> None:
        """Publishes a retained message, with a mark, on this one of the `connections`: the next one has not listened to its topic.

        Raises NoConnectionError when it is gone; whether the message arrived is not known then.
        """
        session = self._still(connection)
        session.limits.check([(topic, payload)], mark)
        for _ in self._publish_on(session, collections.deque([(topic, payload)]), {}, mark):
            pass

    def _publish_on(
        self, session: Session, todo: "collections.deque[tuple[str, bytes]]", flying: dict[int, tuple[str, bytes]], mark: str = ""
    ) -> Iterator[int]:
        window = min(WINDOW, session.limits.receive_maximum)
        heard_s = time.monotonic()
        while todo or flying:
            while todo and len(flying) < window:
                mid = session.publish(*todo[0], retain=True, mark=mark)
                flying[mid] = todo.popleft()
            session.pump(1.0)
            self._sort(session)
            for mid in [each for each in flying if each in session.answers]:
                code, (topic, payload) = session.answers.pop(mid)[0], flying.pop(mid)
                if code.value >= FIRST_FAILURE:
                    raise BrokerError(f"the broker refused {topic}: {named(code)}")
                heard_s = time.monotonic()
                yield len(payload)
            patience_s = session.patience_s + sum(len(payload) for _, payload in flying.values()) / SLOWEST_BYTES_PER_S
            if session.is_overdue(time.monotonic() - heard_s, f"for {len(flying)} messages to be acknowledged", patience_s):
                raise BrokerError(
                    f"the broker did not acknowledge a message in {patience_s:.0f} s: {next(iter(flying.values()))[0]}"
                )

    def subscribe(self, *filters: str) -> None:
        """Asks for messages, now and after each reconnection. Raises BrokerError when the broker refuses."""
        for failures in itertools.count(1):
            try:
                codes = self._answer_to(filters)
                break
            except NoConnectionError as error:
                _before_another(failures, error)
        self._filters.update(filters)
        self._filters.difference_update(each for each, code in zip(filters, codes, strict=False) if code.value >= FIRST_FAILURE)
        _check_granted(filters, codes)

    def _answer_to(self, filters: Sequence[str]) -> list[ReasonCode]:
        session = self._connected()
        mid, started = session.subscribe(filters), time.monotonic()
        while mid not in session.answers:
            session.pump(1.0)
            self._sort(session)
            if session.is_overdue(time.monotonic() - started, "for a subscription"):
                raise BrokerError(f"the broker did not answer a subscription in {session.patience_s:.0f} s: {', '.join(filters)}")
        return session.answers.pop(mid)

    def messages(self, timeout_s: float, connection: int = 0) -> Iterator[Incoming]:
        """Messages as they come, until `timeout_s` is over. Messages that arrive while it reconnects are lost.

        With one of the `connections` it does not reconnect: it raises NoConnectionError.
        """
        end = time.monotonic() + timeout_s
        failures = 0
        while (left_s := end - time.monotonic()) > 0 or self._waiting:
            if self._waiting:
                message = self._waiting.popleft()
                self._waiting_bytes -= _weight(message)
                yield message
                continue
            try:
                session = self._still(connection) if connection else self._connected()
                session.pump(left_s)
                self._sort(session)
                if failures and not self._again[0]:
                    failures = 0
                    logger.warning("connected to the broker again")
            except NoConnectionError as error:
                if error.final or connection:
                    raise
                if not failures:
                    logger.warning("%s; connecting again, what comes meanwhile is missed", error)
                failures += 1
                time.sleep(min(_pause_s(failures), max(0.0, end - time.monotonic())))

    def retained(self, wanted: Iterable[str], *, each_bytes: int = REPORT_BYTES, keep: bool = False) -> Iterator[Answer]:
        """What is retained under exact topics: one answer for each, in no order. `each_bytes` is about the size of a message.

        With `keep` what is published there later comes by `messages`, for as long as the connection holds.
        """
        topics = list(dict.fromkeys(wanted))
        for page in self.read(pages.pages_of(topics, each_bytes), keep=keep):
            yield from page.answers()

    def retained_one(self, topic: str) -> bytes | None:
        """What is retained under one topic, None when nothing is. Raises BrokerError when that can't be known."""
        (answer,) = self.retained([topic])
        if answer.unknown:
            raise BrokerError(f"what is retained under {topic} can't be known: {answer.unknown}")
        return answer.payload

    def read(self, wanted: Iterable[Page], *, keep: bool = False) -> Iterator[Page]:
        """Pages of topics or wildcards, each once it is decided (ota.operator.pages)."""

        def connect() -> Session:
            for failures in itertools.count(1):
                try:
                    return self._connected()
                except NoConnectionError as error:
                    _before_another(failures, error)
            raise AssertionError

        asked = list(wanted)
        done, total = 0, sum(len(each.filters) for each in asked)
        for page in pages.read(connect, self._keep, self.packets, self._fences, asked, keep=keep):
            done = min(total, done + len(page.filters))
            self.progress(done, total)
            yield page

    def _connected(self) -> Session:
        if self._session is None or self._session.lost:
            self._session = None  # closed, should the next one fail
            try:
                self._session = Session(self._settings)
            except NoConnectionError as error:
                error.final &= not (self.connections and error.cut)  # a proxy closes at once while the broker restarts
                raise
            self._limits = self._session.limits
            self.connections += 1
            self._again = _NOTHING
            if filters := sorted(self._filters):
                self._again = self._session.subscribe(filters), filters, time.monotonic()
        return self._session

    def _still(self, connection: int) -> Session:
        if self._session is None or self._session.lost or self.connections != connection:
            raise NoConnectionError("the connection broke")
        return self._session

    def _sort(self, session: Session) -> None:
        mid, filters, asked_s = self._again
        if mid in session.answers:
            self._again = _NOTHING
            _check_granted(filters, session.answers.pop(mid))
        elif mid and time.monotonic() - asked_s > session.patience_s:
            session.close()  # what is not granted brings nothing: on a new connection it is asked for again
            raise NoConnectionError(f"the broker did not answer a subscription in {session.patience_s:.0f} s: {', '.join(filters)}")
        while session.arrived:
            self._keep(session.arrived.popleft())

    def _keep(self, message: Incoming) -> None:
        """For whoever asks for messages next."""
        if self._waiting_bytes + _weight(message) > WAITING_LIMIT_BYTES:
            self._dropped += 1  # whoever floods the broker must not take the operator's memory
            return
        self._waiting_bytes += _weight(message)
        self._waiting.append(message)


def _check_granted(filters: Sequence[str], codes: Sequence[ReasonCode]) -> None:
    for each, code in zip(filters, codes, strict=False):
        if code.value >= FIRST_FAILURE:
            raise BrokerError(f"the broker refused the subscription to {each}: {named(code)}")


def _weight(message: Incoming) -> int:
    about = sum(len(name) + len(value) + PROPERTY_OVERHEAD_BYTES for name, value in message.about)
    return len(message.topic) + len(message.payload) + len(message.correlation) + about + MESSAGE_OVERHEAD_BYTES


def _pause_s(failures: int) -> float:
    return min(RECONNECT_MIN_S * 2.0 ** (failures - 1), RECONNECT_MAX_S)


def _before_another(failures: int, error: NoConnectionError) -> None:
    """Waits before a new connection is tried, or raises the error when there is no use in it."""
    if error.final or failures > RECONNECTS:
        raise error
    logger.info("%s; connecting again", error)
    time.sleep(_pause_s(failures))
