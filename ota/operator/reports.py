"""Reads what boards publish of themselves: the last report of each and of its instances, and whether it is connected.

A reading never passes for more than it is: a board that there should be and that did not answer is listed as unknown, and
everything that may have been left out is a gap.
"""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ota.formats import topics
from ota.formats.fields import is_name
from ota.formats.reasons import Reason, Refused
from ota.formats.report import InstanceReport, Report, Summary
from ota.formats.signed_report import REPORT, Statement
from ota.operator import presence
from ota.operator.broker import Answer, Broker, Incoming
from ota.operator.discovery import NO_WILDCARDS, TOO_MANY, Discovered, discover
from ota.operator.ownership import FIRST_ROOT, foreign
from ota.operator.pages import Page
from ota.operator.roster import Roster
from ota.operator.session import NoConnectionError
from ota.operator.signers import MAX_BOARDS, Signers

REFRESH_S = 30.0  # between readings while boards are followed; ten times as long as one takes, if that is longer
REPORT_BYTES = 1024  # of a usual report
TOGETHER = 2048  # reports that are verified at once
NAMED = 4  # boards in a message


@dataclass(frozen=True)
class Seen:
    """What an instance of a board says. Without a report it never reported, or `unknown` says why that can't be told."""

    report: InstanceReport | None = None
    unknown: str = ""
    unreadable: bool = False  # it is unknown for what it says, not for trouble with the broker


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
    refused: str = ""  # why something that came as this board's later is not believed
    instances: Mapping[str, Seen] = field(default_factory=dict)  # those that were asked for


class View:
    """What is known of every board, as far as it was read and followed. `gaps` says why boards may be missing."""

    def __init__(
        self,
        broker: Broker,
        roster: Roster,
        *,
        only: Collection[str] | None = None,
        instances: Collection[str] = (),
        also: Collection[str] = (),
        of_board: Callable[[str], Collection[str]] = lambda name: (),
        heard: Callable[[str, bytes], None] = lambda topic, payload: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Of every board, or of those in `only`, which need no discovery.

        While boards are followed, the reports of these `instances` are read too, and `heard` gets what is and comes under the
        topics in `also` and, of each board, in `of_board`.
        """
        self._broker, self._roster, self._clock = broker, roster, clock
        self._only, self._instances = only, tuple(instances)
        self._also, self._of_board, self._heard = frozenset(also), of_board, heard
        self.devices: dict[str, Device] = {}
        self.gaps: list[str] = []
        self.undiscovered: list[str] = []  # of the gaps: why there may be boards of unknown names
        self.foreign = ""  # that the broker is another workspace's: nothing that is read there is remembered
        self._kept: set[str] = set()  # boards whose topics are followed on the present connection
        self._kept_also: set[str] = set()  # of the topics in `also`
        self._kept_on = 0
        self.expect(only or ())

    @property
    def complete(self) -> bool:
        """Whether every board that there may be is in it, and none is unknown."""
        return not self.gaps

    @property
    def refused(self) -> list[str]:
        """What came as a known board's and is not believed; boards that share a key; journals that were changed."""
        found = [f"{name}: {each.refused}" for name, each in sorted(self.devices.items()) if each.refused]
        for name, each in sorted(self.devices.items()):
            if each.report is not None and (others := self._roster.signers.clones(name)):
                found.append(f"{name}: {Reason.DEVICE_CLONED.value}: {', '.join(others[:NAMED])} signs with the same key")
            if changed := self._roster.signers.changed(name):
                found.append(f"{name}: {Reason.JOURNAL_CHANGED.value}: row {changed.row}: {changed.text}")
        return found

    def expect(self, names: Iterable[str]) -> None:
        """There are to be boards of these names."""
        for name in names:
            self.devices.setdefault(name, Device(name))

    def read(self) -> None:
        """Finds the boards and reads their reports. Raises BrokerError."""
        found = self._discovered()
        self._renew()
        names = sorted((self._known() | found.online.keys()) - self._kept)
        online = {name: found.online[name] for name in names if name in found.online}
        silent = {topics.online(name): name for name in names if name not in online}
        for answer in self._broker.retained([FIRST_ROOT, *silent], each_bytes=1):
            if answer.topic == FIRST_ROOT:
                self.foreign = foreign(self._roster.workspace, answer.payload)
            else:
                online[silent[answer.topic]] = answer.payload == topics.ONLINE
        reports = {topics.report(name): name for name in names}
        with contextlib.ExitStack() as stack:
            for answer in self._verified(self._broker.retained(reports, each_bytes=REPORT_BYTES), reports, stack):
                self._answered(reports[answer.topic], answer, online[reports[answer.topic]])
        for message in self._broker.messages(0):
            self.take(message)
        why = Counter(each.unknown for each in self.devices.values() if each.unknown)
        self.undiscovered = found.gaps
        self.gaps = [f"{self.foreign}, and so are the boards there"] if self.foreign else []
        self.gaps += found.gaps + [
            f"{count} board{'s are' if count > 1 else ' is'} unknown: {each}" for each, count in why.most_common()
        ]
        if not self.foreign:
            self.remember()

    def remember(self) -> None:
        """Writes what was read, where that can be written: a disk that is full or read-only hides no board."""
        try:
            self._roster.save()
        except OSError as error:
            self.gaps.append(
                f"what was read can't be remembered: {error.filename or self._roster.workspace.folder}: {error.strerror}"
            )

    def _verified(self, answers: Iterator[Answer], names: Mapping[str, str], stack: contextlib.ExitStack) -> Iterator[Answer]:
        """The same answers, by topic of a board's name: while the reports in some are verified, the next ones are read."""
        signers, before = self._roster.signers, None
        while some := list(itertools.islice(answers, TOGETHER)):
            came = [(names[each.topic], each.payload) for each in some if each.payload is not None]
            begun = signers.begin(came, int(self._clock()))
            stack.callback(begun.ahead.close)
            if before is not None:
                signers.use(before[0])
                yield from before[1]
            before = begun, some
        if before is not None:
            signers.use(before[0])
            yield from before[1]

    def _discovered(self) -> Discovered:
        if self._only is not None:
            return Discovered()
        found = discover(self._broker, self._known())
        if not found.possible:
            if self._roster.listed is None:
                found.gaps.append(NO_WILDCARDS)
            if self._broker.limits.wildcards:
                self._broker.subscribe(topics.online_in(""), topics.report("+"))  # who speaks meanwhile is heard
        return found

    def _known(self) -> set[str]:
        return self.devices.keys() | (self._roster.names if self._only is None else set())

    def _renew(self) -> None:
        """What was kept open on an earlier connection is gone."""
        if self._kept_on != self._broker.connections:
            self._kept.clear()
            self._kept_also.clear()

    def read_instances(self, wanted: Mapping[str, Iterable[str]]) -> None:
        """Reads the reports of instances, by board. Raises BrokerError."""
        by_topic = {topics.instance_report(name, each): (name, each) for name, found in wanted.items() for each in found}
        for answer in self._broker.retained(by_topic, each_bytes=REPORT_BYTES):
            self._answered_of_instance(*by_topic[answer.topic], answer)
        self.gaps += [
            f"{name}: {each.unknown}" for name in wanted for each in self.devices[name].instances.values() if each.unknown
        ]

    def keep(self, names: Iterable[str]) -> None:
        """Reads the topics of boards and goes on listening to them, for as long as the connection holds."""
        self._renew()
        connection = self._broker.connections
        wanted = sorted(set(names) - self._kept)
        boards = {topic(name): name for name in wanted for topic in (topics.online, topics.report)}
        parts = {topics.instance_report(name, each): (name, each) for name in wanted for each in self._instances}
        others = [*(self._also - self._kept_also), *(topic for name in wanted for topic in self._of_board(name))]
        answers: dict[str, dict[str, Answer]] = {}
        unheard: set[str] = set()
        for answer in self._broker.retained([*others, *boards, *parts], each_bytes=REPORT_BYTES, keep=True):
            if answer.topic in boards:
                answers.setdefault(boards[answer.topic], {})[answer.topic] = answer
            elif answer.topic in parts:
                self._answered_of_instance(*parts[answer.topic], answer)
            elif answer.unknown:
                unheard.add(answer.topic)
            else:
                self._heard(answer.topic, answer.payload or b"")
        for name, each in answers.items():
            self._answered(name, each[topics.report(name)], each[topics.online(name)].payload == topics.ONLINE)
        self._kept_also |= self._also - unheard
        self._kept |= {name for name in wanted if self._is_known(name) and unheard.isdisjoint(self._of_board(name))}
        self._kept_on = connection  # should there be a new one since, all of them are read again

    def _is_known(self, name: str) -> bool:
        """Whether all was read; what is unknown is read again."""
        device = self.devices[name]
        return not device.unknown and not any(each.unknown for each in device.instances.values())

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
                else:
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
        name, instance = _subject(message.topic)
        if not name or not self._may_be(name):
            return None
        answer = Answer(message.topic, message.payload or None, live=not message.retained)
        device = self.devices.get(name, Device(name))
        if instance:
            self._answered_of_instance(name, instance, answer)
        elif message.topic == topics.online(name):
            self.devices[name] = replace(device, online=message.payload == topics.ONLINE)
        elif message.payload:
            self._answered(name, answer, device.online)
        else:
            return None
        return self.devices[name]

    def _may_be(self, name: str) -> bool:
        """Whether a board that speaks is listed: not when it is new and there are too many."""
        if name in self.devices or len(self.devices) < MAX_BOARDS:
            return True
        self.gaps += [TOO_MANY] if TOO_MANY not in self.gaps else []
        return False

    def _answered(self, name: str, answer: Answer, online: bool) -> None:
        before = self.devices.get(name, Device(name))
        device = Device(name, online=online, instances=before.instances, refused=before.refused)
        if answer.unknown or answer.payload is None:
            self.devices[name] = replace(device, unknown=answer.unknown)
            return
        try:
            report = self._roster.signers.report(name, answer.payload, int(self._clock()))
        except Refused as error:
            if before.report is None:
                self.devices[name] = replace(device, unknown=f"its report is not believed: {error}", unreadable=True)
            elif answer.live or error.reason is not Reason.REPORT_REPLAYED:  # else it came before the one that we have
                self.devices[name] = replace(before, online=online, refused=f"a report of it is not believed: {error}")
            return
        came_s, ahead_s = self._roster.sight(report, int(self._clock()), live=answer.live)
        self.devices[name] = replace(device, report=report, came_s=came_s, clock_ahead_s=ahead_s, live=answer.live)

    def _answered_of_instance(self, name: str, instance: str, answer: Answer) -> None:
        device = self.devices.get(name, Device(name))
        before = device.instances.get(instance, Seen()).report
        seen = self._seen(device, instance, answer)
        if before is not None and seen.unreadable:  # what came first stays
            self.devices[name] = replace(device, refused=seen.unknown) if answer.live else device
            return
        instances = {**device.instances, instance: seen}
        self.devices[name] = replace(device, instances=instances, live=device.live or (answer.live and not seen.unreadable))

    def _seen(self, device: Device, instance: str, answer: Answer) -> Seen:
        if answer.unknown or answer.payload is None:
            return Seen(unknown=answer.unknown)
        name, said = device.name, device.report.instances if device.report is not None else ()
        before = device.instances.get(instance, Seen()).report
        least = max((each.counter for each in (*said, before) if each is not None and _named(each) == instance), default=0)
        try:
            report = self._roster.signers.instance_report(name, answer.payload, least, int(self._clock()))
            if report.instance != instance:
                raise Refused(Reason.REPORT_FORGED, f"it is that of instance {report.instance!r}")
        except Refused as error:
            return Seen(unknown=f"the report of instance {instance} is not believed: {error}", unreadable=True)
        return Seen(report)


def _named(said: Summary | InstanceReport) -> str:
    return said.name if isinstance(said, Summary) else said.instance


def _subject(topic: str) -> tuple[str, str]:
    """The board that a topic's report or presence is of, and the instance if it is of one; empty for what is neither."""
    levels = topic.split("/")
    if len(levels) > 4 and levels[-3] == "instance":
        name, instance = levels[-4], levels[-2]
        ours = is_name(name) and is_name(instance) and topic == topics.instance_report(name, instance)
        return (name, instance) if ours else ("", "")
    if is_name(levels[-1]) and topic == topics.online(levels[-1]):
        return levels[-1], ""
    name = levels[-2] if len(levels) > 1 else ""
    return (name, "") if is_name(name) and topic == topics.report(name) else ("", "")


def follow_one(broker: Broker, signers: Signers, name: str, timeout_s: float) -> Iterator[tuple[Report, bool]]:
    """One board's reports and whether it is connected, as they change, until `timeout_s` is over. Raises BrokerError.

    What `signers` does not believe is passed over.
    """
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
                with contextlib.suppress(Refused):
                    report = signers.report(name, payload, int(time.time()))
            if report is not None:
                yield report, online


def _instances(payload: bytes | None) -> Iterable[str]:
    """Those that a report names, whoever wrote it."""
    with contextlib.suppress(Refused):
        report = Report.from_bytes(Statement.from_bytes(payload or b"", REPORT).claimed)
        return [each.name for each in report.instances]
    return ()


def leftovers(broker: Broker, name: str) -> list[str]:
    """The topics under which a board left something, instances that were removed among them. Raises BrokerError."""
    found = presence.read(broker, (topics.report(name), topics.online(name)), REPORT_BYTES)
    parts = {topics.instance_report(name, each) for each in _instances(found[topics.report(name)])}
    left = {topic for topic, payload in presence.read(broker, parts, REPORT_BYTES).items() if payload is not None}
    if broker.limits.wildcards:
        (page,) = broker.read([Page((topics.instance_reports(name),))])
        left |= {topic for topic, message in page.found.items() if message.payload}
    return [topic for topic, payload in found.items() if payload is not None] + sorted(left)
