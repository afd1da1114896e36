"""Reads what boards publish: the last report of each, whether it is connected, logs and messages.

A reading never passes for more than it is: a board that there should be and that did not answer is listed as unknown, and
everything that may have been left out is a gap.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from ota.formats import topics
from ota.formats.fields import is_name
from ota.formats.reasons import Refused
from ota.formats.report import LogRecord, Message, Report, decode_logs, decode_messages
from ota.operator.broker import Answer, Broker, Incoming
from ota.operator.discovery import NO_WILDCARDS, discover
from ota.operator.roster import Roster
from ota.operator.session import NoConnectionError

REFRESH_S = 30.0  # between readings while boards are followed; ten times as long as one takes, if that is longer
REPORT_BYTES = 1024  # of a usual report


@dataclass(frozen=True)
class Device:
    """A board as the broker and we know it. Without a report it never reported, or `unknown` says why that can't be told."""

    name: str
    report: Report | None = None
    online: bool = False  # what the broker says of its connection: a hint, brokers forget it or say it too late
    unknown: str = ""
    came_s: float = 0.0  # when its report came, in seconds since 1970 by our clock
    clock_ahead_s: int = 0  # of its own clock, when that is far from ours
    live: bool = False  # its report came while we listened
    unreadable: bool = False  # it is unknown for what it says, not for trouble with the broker


class View:
    """What is known of every board, as far as it was read and followed. `gaps` says why boards may be missing."""

    def __init__(
        self,
        broker: Broker,
        roster: Roster,
        also: Collection[str] = (),
        heard: Callable[[str, bytes], None] = lambda topic, payload: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """While boards are followed, `heard` gets what is and comes under the topics in `also`."""
        self._broker, self._roster, self._clock = broker, roster, clock
        self._also, self._heard = frozenset(also), heard
        self.devices: dict[str, Device] = {}
        self.gaps: list[str] = []
        self._kept: set[str] = set()  # boards whose topics are followed on the present connection
        self._kept_on = 0

    @property
    def complete(self) -> bool:
        """Whether every board that there may be is in it, and none is unknown."""
        return not self.gaps

    def read(self) -> None:
        """Finds the boards and reads their reports. Raises BrokerError."""
        broker = self._broker
        found = discover(broker, len(self._roster.names | self.devices.keys()))
        gaps = list(found.gaps)
        if not found.possible:
            if self._roster.listed is None:
                gaps.append(NO_WILDCARDS)
            if broker.limits.wildcards:
                broker.subscribe(topics.online_in(""), topics.report("+"))  # who speaks meanwhile is heard
        if self._kept_on != broker.connections:
            self._kept.clear()
        names = sorted((self._roster.names | self.devices.keys() | found.online.keys()) - self._kept)
        online = {name: found.online[name].payload == topics.ONLINE for name in names if name in found.online}
        silent = {topics.online(name): name for name in names if name not in online}
        for answer in broker.retained(silent, each_bytes=1):
            online[silent[answer.topic]] = answer.payload == topics.ONLINE
        reports = {topics.report(name): name for name in names}
        for answer in broker.retained(reports, each_bytes=REPORT_BYTES):
            self._answered(reports[answer.topic], answer, online[reports[answer.topic]])
        for message in broker.messages(0):
            self.take(message)
        why = Counter(each.unknown for each in self.devices.values() if each.unknown)
        self.gaps = gaps + [f"{count} board{'s are' if count > 1 else ' is'} unknown: {each}" for each, count in why.most_common()]
        self._roster.save()

    def keep(self, names: Iterable[str]) -> None:
        """Reads the topics of boards and goes on listening to them, for as long as the connection holds."""
        connection = self._broker.connections
        if self._kept_on != connection:
            self._kept.clear()
        wanted = sorted(set(names) - self._kept)
        by_topic = {topic(name): name for name in wanted for topic in (topics.online, topics.report)}
        also = self._also if self._kept_on != connection else ()
        answers: dict[str, dict[str, Answer]] = {}
        for answer in self._broker.retained([*also, *by_topic], each_bytes=REPORT_BYTES, keep=True):
            if answer.topic in self._also:
                self._heard(answer.topic, answer.payload or b"")
            else:
                answers.setdefault(by_topic[answer.topic], {})[answer.topic] = answer
        for name, each in answers.items():
            self._answered(name, each[topics.report(name)], each[topics.online(name)].payload == topics.ONLINE)
        self._kept |= {name for name in wanted if not self.devices[name].unknown}  # what is unknown is read again
        self._kept_on = connection  # should there be a new one since, all of them are read again

    def follow(self, timeout_s: float, wanted: Callable[[Device], bool] = lambda _: True) -> Iterator[Device | None]:
        """Boards as they are and as they change, those that are `wanted`, until `timeout_s` is over; None about every second.

        The first of them come after a whole reading; who is new is looked for again and again. Raises BrokerError.
        """
        end = time.monotonic() + timeout_s
        told: dict[str, Device] = {}
        refresh = 0.0
        while True:
            if time.monotonic() >= refresh or self._kept_on != self._broker.connections:
                refresh = self._refreshed(wanted)
                yield from self._changes(told, wanted, self.devices.values())
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            for message in self._broker.messages(min(1.0, left_s)):
                device = self.take(message)
                if device is not None:
                    yield from self._changes(told, wanted, [device])
                elif message.topic in self._also:
                    self._heard(message.topic, message.payload)
            yield None

    def _refreshed(self, wanted: Callable[[Device], bool]) -> float:
        """As `_refresh`; a broker that is away, after a first reading, is waited for."""
        try:
            return self._refresh(wanted)
        except NoConnectionError as error:
            if error.final or not self._kept_on:
                raise
            self.gaps = [f"the last reading failed: {error}"]
            return 0.0

    def _refresh(self, wanted: Callable[[Device], bool]) -> float:
        started = time.monotonic()
        self.read()
        self.keep([each.name for each in self.devices.values() if wanted(each)])
        now = time.monotonic()
        return now + max(REFRESH_S, 10 * (now - started))

    @staticmethod
    def _changes(told: dict[str, Device], wanted: Callable[[Device], bool], devices: Iterable[Device]) -> Iterator[Device]:
        for device in list(devices):
            if wanted(device) and told.get(device.name) != device:
                told[device.name] = device
                yield device

    def take(self, message: Incoming) -> Device | None:
        """A message that came by itself: the board that it is about, None when it is about none."""
        name = message.topic.split("/")[-1 if message.topic == topics.online(message.topic.rpartition("/")[2]) else -2]
        if not is_name(name):
            return None
        device = self.devices.get(name, Device(name))
        if message.topic == topics.online(name):
            self.devices[name] = replace(device, online=message.payload == topics.ONLINE)
        elif message.topic == topics.report(name) and message.payload:
            self._answered(name, Answer(message.topic, message.payload, live=not message.retained), device.online)
        else:
            return None
        return self.devices[name]

    def _answered(self, name: str, answer: Answer, online: bool) -> None:
        if answer.unknown or answer.payload is None:
            self.devices[name] = Device(name, online=online, unknown=answer.unknown)
            return
        try:
            report = Report.from_bytes(answer.payload)
        except Refused as error:
            self.devices[name] = Device(name, online=online, unknown=f"its report can't be read: {error}", unreadable=True)
            return
        if report.device != name:
            self.devices[name] = Device(name, online=online, unknown=f"its report is that of {report.device!r}", unreadable=True)
            return
        came_s, ahead_s = self._roster.sight(report, int(self._clock()), live=answer.live)
        self.devices[name] = Device(name, report, online, "", came_s, ahead_s, answer.live)


def follow_one(broker: Broker, name: str, timeout_s: float) -> Iterator[tuple[Report, bool]]:
    """One board's reports and whether it is connected, as they change, until `timeout_s` is over. Raises BrokerError."""
    report_topic, online_topic = topics.report(name), topics.online(name)
    report, online, kept_on = None, False, 0
    end = time.monotonic() + timeout_s
    while (left_s := end - time.monotonic()) > 0:
        came: list[tuple[str, bytes]] = []
        if kept_on != broker.connections:
            kept = broker.retained((report_topic, online_topic), keep=True)
            came += [(each.topic, each.payload) for each in kept if each.payload is not None]
            kept_on = broker.connections
        else:
            came += [(each.topic, each.payload) for each in broker.messages(min(0.5, left_s))]
        for topic, payload in came:
            if topic == online_topic:
                online = payload == topics.ONLINE
            elif topic == report_topic:
                report = _readable(payload) or report
            if report is not None and report.device == name:
                yield report, online


def _readable(payload: bytes) -> Report | None:
    try:
        return Report.from_bytes(payload)
    except Refused:
        return None


def follow_logs(broker: Broker, timeout_s: float, device: str = "+") -> Iterator[tuple[str, LogRecord | Message]]:
    """Log records and messages of devices, as (device, record)."""
    broker.subscribe(topics.log(device), topics.telemetry(device))
    for message in broker.messages(timeout_s):
        payload = message.payload
        name, kind = message.topic.split("/")[-2:]
        try:
            records = decode_logs(payload) if kind == "log" else decode_messages(payload)
        except Refused:
            continue
        for record in records:
            yield name, record
